"""A typo cannot pass: unknown keys, wrong values, absent plugins are found and answered; right ones are left alone."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ax_recipe import assets
from ax_recipe.codes import CODES
from ax_recipe.errors import Problem
from ax_recipe.recipe.document import parse
from ax_recipe.recipe.schema import check, keys, taken
from ax_recipe.recipe.words import RENAMED

SCHEMA: dict[str, Any] = json.loads((assets.schemas() / "axolotl-0.19.0.json").read_text("utf-8"))["schema"]
LIGER = "axolotl.integrations.liger.LigerPlugin"

CONFIG = f"""\
base_model: NousResearch/Meta-Llama-3.1-8B
plugins:
  - {LIGER}
liger_rope: true
load_in_4bit: true
adapter: qlora
lora_r: 64
lora_target_linear: true
chat_template: llama3
datasets:
  - path: winglian/pirate-ultrachat-10k
    type: chat_template
    field_messages: messages
    message_property_mappings: {{role: role, content: content}}
    roles: {{assistant: [gpt]}}
  - path: more.jsonl
    ds_type: json
    type: alpaca
val_set_size: 0.005
learning_rate: 2e-4
lr_scheduler: cosine
optimizer: adamw_torch_fused
micro_batch_size: 2
gradient_accumulation_steps: 4
num_epochs: 2
bf16: auto
gradient_checkpointing: true
fsdp_config:
  auto_wrap_policy: TRANSFORMER_BASED_WRAP
  reshard_after_forward: true
special_tokens:
  pad_token: <|end_of_text|>
dynamic_checkpoint: {{enabled: true, check_interval: 1}}
max_memory: {{0: 20GiB, cpu: 100GiB}}
"""
VALID: dict[str, Any] = yaml.safe_load(CONFIG)
PLAIN = {"base_model": "m", "learning_rate": 1e-4}


def problems(text: str, **more: Any) -> list[Problem]:
    return check(parse(text, "c.yml"), SCHEMA, **more)


def one(value: dict[str, Any], schema: dict[str, Any] = SCHEMA) -> Problem:
    (problem,) = check({**PLAIN, **value} if schema is SCHEMA else value, schema)
    return problem


def test_a_right_config_has_no_problem() -> None:
    assert problems(CONFIG) == []


def test_all_problems_come_at_once_by_line_with_what_to_write_instead() -> None:
    text = """\
base_model: m
learning_rate: fast
lora_rank: 8
datasets:
  - path: a
    tipe: alpaca
    field_mesages: x
micro_batch_size: two
micro_batch_size: 2
chat_template: llama-3
plugins: [axolotl.integrations.lyger.LigerPlugin]
liger_rope: true
trl:
  betta: 0.1
"""
    found = [(each.line, each.code, each.key, (each.suggestion or "").split("? ")[0]) for each in problems(text)]
    assert found == [
        (2, "AX002", "learning_rate", ""),
        (3, "AX001", "lora_rank", "Did you mean `lora_r`?"),
        (6, "AX001", "datasets[0].tipe", "Did you mean `type`?"),
        (7, "AX001", "datasets[0].field_mesages", "Did you mean `field_messages`?"),
        (9, "AX005", "micro_batch_size", "Remove line 8 or line 9."),
        (10, "AX003", "chat_template", "Did you mean `llama3`"),
        (11, "AX008", "plugins[0]", f"Did you mean `{LIGER}`?"),
        (12, "AX007", "liger_rope", f"Add `- {LIGER}` to `plugins:`."),
        (14, "AX001", "trl.betta", "Did you mean `beta`?"),
    ]


@pytest.mark.parametrize(
    ("value", "code", "key", "message", "suggestion"),
    [
        ({"sequence_len": "4k"}, "AX002", "sequence_len", "expected a whole number, found '4k' (text)", None),
        ({"warmup_steps": 0.1}, "AX002", "warmup_steps", "expected a whole number, found 0.1 (a number)", None),
        ({"output_dir": None}, "AX002", "output_dir", "expected text, found nothing", "remove the line"),
        ({"save_strategy": False}, "AX002", "save_strategy", "expected text, found false", 'in quotes: "no"'),
        ({"hub_model_id": 7}, "AX002", "hub_model_id", "expected text, found 7", 'in quotes: "7"'),
        ({"plugins": LIGER}, "AX002", "plugins", "expected a list, found", f"`- {LIGER}`"),
        ({"datasets": {"path": "a"}}, "AX002", "datasets", "expected a list", None),
        ({"datasets": []}, "AX010", "datasets", "0 items where 1", None),
        ({"trl": True}, "AX002", "trl", "expected a mapping, found true", None),
        ({"optimizer": "adamw_8bits"}, "AX003", "optimizer", "'adamw_8bits'", "`adamw_8bit`"),
        ({"lr_scheduler": "cosin"}, "AX003", "lr_scheduler", "'cosin'", "`cosine`"),
        ({"adapter": "QLoRA"}, "AX003", "adapter", "'QLoRA'", "`qlora`"),
        ({"attn_implementation": "flash_attn_2"}, "AX003", "attn_implementation", "", "`flash_attention_2`"),
        ({"rl": "dpoo"}, "AX003", "rl", "'dpoo'", "`dpo`"),
        ({"lora_r": "x", "lora_alpha": 1}, "AX002", "lora_r", "found 'x'", None),
        ({"s2_attention": True}, "AX009", "s2_attention", "no longer supported", "Remove"),
        ({"flash_attention": True}, "AX009", "flash_attention", "flash_attention_2", None),
        ({"sample_packng": True}, "AX001", "sample_packng", "drops it in silence", "`sample_packing`"),
        ({"Learning-Rate": 1}, "AX001", "Learning-Rate", "unknown key", "`learning_rate`"),
        ({"max_seq_length": 1}, "AX001", "max_seq_length", "unknown key", "`sequence_len`"),
        ({"zzzzzz": 1}, "AX001", "zzzzzz", "unknown key", None),
        ({True: 1}, "AX001", "True", "read as true", "quotes"),
        ({"trl": {"sample_packing": 1}}, "AX001", "trl.sample_packing", "unknown", "belongs at the top level"),
        ({"field_messages": "x"}, "AX001", "field_messages", "unknown", "belongs inside `datasets:`"),
    ],
)
def test_each_mistake_says_what_was_expected_and_found(
    value: dict[str, Any], code: str, key: str, message: str, suggestion: str | None
) -> None:
    found = one(value)
    assert (found.code, found.key) == (code, key)
    assert message in found.message
    assert (suggestion or "") in (found.suggestion or "")
    assert suggestion is None or found.suggestion


def test_what_is_missing_is_named_with_its_kind() -> None:
    found = check({}, SCHEMA, file="c.yml")
    assert [(each.code, each.file, each.suggestion) for each in found] == [
        ("AX004", "c.yml", "Add `learning_rate:` (text or a number)."),
        ("AX004", "c.yml", "Add `base_model:` (text)."),
    ]


@pytest.mark.parametrize(
    ("rl", "name"),
    [
        (None, "alpaca"),
        (None, "alpaca:chat"),
        (None, "alpaca_chat.load_qa"),
        (None, "bradley_terry.chat_template"),
        (None, "my_module.load_it"),
        ("dpo", "chatml.intel"),
        ("grpo", "my_rewards.transform"),
        ("kto", "llama3.argilla"),
    ],
)
def test_a_strategy_of_axolotl_or_of_ones_own_may_be_a_type(rl: str | None, name: str) -> None:
    assert check({**PLAIN, "rl": rl, "datasets": [{"path": "x", "type": name}]}, SCHEMA) == []


@pytest.mark.parametrize(
    ("rl", "name", "right"),
    [
        (None, "alpacca", "alpaca"),
        (None, "chat_template.default", "chat_template.load"),
        (None, "sharegpt", "chat_template"),
        ("dpo", "chatml.intl", "chatml.intel"),
        ("kto", "llama3.argila", "llama3.argilla"),
        ("orpo", "chat_template.argila", "chat_template.argilla"),
    ],
)
def test_a_type_that_no_strategy_has_is_refused_by_what_rl_says(rl: str | None, name: str, right: str) -> None:
    found = one({"rl": rl, "datasets": [{"path": "x", "type": name}]})
    assert (found.code, found.key) == ("AX003", "datasets[0].type")
    assert f"`{right}`" in (found.suggestion or "")


def test_a_type_may_be_a_mapping_whose_keys_are_checked() -> None:
    own = {"field_instruction": "q", "field_output": "a", "format": "{instruction}"}
    assert check({**PLAIN, "datasets": [{"path": "x", "type": own}]}, SCHEMA) == []
    found = one({"datasets": [{"path": "x", "type": {**own, "field_instrction": "q"}}]})
    assert (found.code, found.key) == ("AX001", "datasets[0].type.field_instrction")


def test_a_dataset_key_that_this_rl_does_not_read_is_a_warning() -> None:
    found = one({"rl": "dpo", "datasets": [{"path": "x", "type": "chatml.intel", "roles": {}}]})
    assert (found.code, found.severity, found.key) == ("AX011", "warning", "datasets[0].roles")
    assert check({**PLAIN, "datasets": [{"path": "x", "type": "chat_template", "roles": {}}]}, SCHEMA) == []
    assert one({"datasets": [{"path": "synthetic", "type": "_synthetic", "lenght": 1}]}).code == "AX001"
    assert check({**PLAIN, "datasets": [{"path": "synthetic", "type": "_synthetic", "length": 1}]}, SCHEMA) == []


def test_plugins_by_short_name_of_ones_own_and_ours() -> None:
    assert check({**PLAIN, "plugins": ["liger.LigerPlugin"], "liger_rope": True}, SCHEMA) == []
    assert check({**PLAIN, "plugins": ["mine.Plugin"]}, SCHEMA) == []
    unsure = one({"plugins": ["mine.Plugin"], "my_key": 1})
    assert (unsure.severity, unsure.code) == ("warning", "AX001")
    assert "mine.Plugin" in unsure.message
    (sure,) = check({**PLAIN, "plugins": ["ours.Plugin"], "my_key": 1}, SCHEMA, known_plugins=["ours.Plugin"])
    assert sure.severity == "error"
    assert one({"plugins": ["liger"]}).code == "AX008"
    assert one({"liger_rope": False}).severity == "warning"


@pytest.mark.parametrize(
    "value",
    [
        {"weight_decay": "1e-2"},
        {"learning_rate": "2e-4"},
        {"micro_batch_size": 2.0},
        {"micro_batch_size": "1_000"},
        {"num_epochs": 2},
        {"sample_packing": "yes"},
        {"tf32": 1},
        {"model_type": "AutoModelForCausalLM"},
        {"type_of_model": "AutoModelForCausalLM"},
        {"model_config": {"any": {"thing": 1}}},
        {"fsdp_version": 2, "fsdp_config": {"version": 2, "offload_params": False}},
        {"chat_template": "tokenizer_default_fallback_llama3"},
        {"attn_implementation": "kernels-community/flash-attn3"},
        {"torch_dtype": None},
    ],
)
def test_what_pydantic_takes_is_taken(value: dict[str, Any]) -> None:
    found = [each for each in check({**PLAIN, **value}, SCHEMA) if each.key != "torch_dtype"]
    assert found == []


@pytest.mark.parametrize(
    ("key", "value", "right"),
    [
        ("sample_packing", "no", False),
        ("bf16", "auto", "auto"),
        ("bf16", "false", False),
        ("gradient_checkpointing", "offload", "offload"),
        ("gradient_checkpointing", "True", True),
        ("micro_batch_size", "2", 2),
        ("gradient_accumulation_steps", 4.0, 4),
        ("val_set_size", "5e-2", 0.05),
        ("base_model", "1", "1"),
        ("max_steps", None, None),
        ("eval_sample_packing", 0, False),
    ],
)
def test_what_is_taken_is_what_it_is_taken_for(key: str, value: object, right: object) -> None:
    assert check({**PLAIN, key: value}, SCHEMA) == []
    assert repr(taken({**PLAIN, key: value}, SCHEMA, SCHEMA)[key]) == repr(right)


def test_a_right_config_is_taken_as_it_is() -> None:
    assert taken(PLAIN, SCHEMA, SCHEMA) == PLAIN


def test_an_old_prefix_is_a_warning_and_its_value_is_still_checked() -> None:
    found = check({**PLAIN, "fsdp_config": {"fsdp_offload_params": "maybe"}}, SCHEMA)
    assert [(each.code, each.severity) for each in found] == [("AX009", "warning"), ("AX002", "error")]


RECIPE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["base"],
    "properties": {
        "base": {"type": "string"},
        "lora": {"$ref": "#/$defs/Lora"},
        "gpus": {"anyOf": [{"type": "integer", "minimum": 0}, {"const": "auto"}]},
        "axolotl": {"type": "object"},
        "loss": {"type": "array", "prefixItems": [{"type": "number"}, {"type": "number"}], "maxItems": 2},
        "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
        "name": {"type": "string", "pattern": "^[a-z]+$"},
    },
    "$defs": {"Lora": {"type": "object", "additionalProperties": False, "properties": {"r": {"type": "integer"}}}},
}


@pytest.mark.parametrize(
    ("value", "code", "key"),
    [
        ({}, "AX004", None),
        ({"base": "x", "lora": {"rr": 1}}, "AX001", "lora.rr"),
        ({"base": "x", "gpus": -1}, "AX010", "gpus"),
        ({"base": "x", "gpus": "aut"}, "AX003", "gpus"),
        ({"base": "x", "loss": [1, 2, 3]}, "AX010", "loss"),
        ({"base": "x", "loss": [1, "b"]}, "AX002", "loss[1]"),
        ({"base": "x", "share": 1}, "AX010", "share"),
        ({"base": "x", "share": 0}, "AX010", "share"),
        ({"base": "x", "name": "Not This"}, "AX003", "name"),
    ],
)
def test_any_json_schema_can_be_checked(value: dict[str, Any], code: str, key: str | None) -> None:
    found = one(value, RECIPE)
    assert (found.code, found.key) == (code, key)
    assert "silence" not in found.message
    assert check({"base": "x", "axolotl": {"any": 1}, "gpus": "auto", "loss": [0.5, 1], "share": 0.5}, RECIPE) == []


def test_a_key_is_shown_under_one_name() -> None:
    assert "model_type" in keys(SCHEMA)
    assert "type_of_model" not in keys(SCHEMA)


def test_every_old_name_leads_to_one_that_exists() -> None:
    blocks = [SCHEMA, *SCHEMA["$defs"].values()]
    known = {key for block in blocks for key in block.get("properties", ())} | {"chat_template"}
    assert set(RENAMED.values()) <= known
    assert set(RENAMED) & set(SCHEMA["properties"]) == {"fsdp"}  # which later schemas do not have


def test_every_code_has_a_title_and_every_shipped_schema_can_be_walked() -> None:
    shipped = sorted(assets.schemas().glob("axolotl-*.json"))
    assert shipped
    for path in shipped:
        answer = json.loads(path.read_text("utf-8"))
        assert path.name == f"axolotl-{answer['axolotl']}.json"
        wrong = {key: object() for key in answer["schema"]["properties"]} | {"plugins": list("ab"), "zzz": 1}
        assert {each.code for each in check(wrong, answer["schema"])} <= set(CODES)


def key_paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of the keys that a typo could hit: those of blocks that the schema closes."""
    free = ("message_property_mappings", "roles", "max_memory")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    inner = [each for key, item in items if key not in free for each in key_paths(item, (*path, key))]
    return [*((*path, key) for key in value), *inner] if isinstance(value, dict) else inner


@settings(max_examples=200)
@given(st.sampled_from(key_paths(VALID)), st.integers(0, 40), st.sampled_from(string.ascii_lowercase + "_"), st.data())
def test_a_mistyped_key_never_passes(path: tuple[Any, ...], place: int, letter: str, data: st.DataObject) -> None:
    key = path[-1]
    place %= len(key)
    edits = [
        key[:place] + key[place + 1 :],
        key[:place] + letter + key[place:],
        key[:place] + letter + key[place + 1 :],
    ]
    typo = data.draw(st.sampled_from(edits))
    config = json.loads(json.dumps(VALID))
    block = config
    for part in path[:-1]:
        block = block[part]
    assume(typo not in block)
    block[typo] = block.pop(key)
    assume(not any(typo in each.get("properties", ()) for each in (SCHEMA, *SCHEMA["$defs"].values())))
    about = [each for each in check(config, SCHEMA) if each.code == "AX001" and (each.key or "").endswith(typo)]
    assert [each.severity for each in about] == ["error"]


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(SCHEMA["properties"])), JSONS, min_size=1, max_size=6))
def test_no_value_breaks_the_checker(value: dict[str, Any]) -> None:
    assert all(each.code in CODES and str(each) for each in check(value, SCHEMA))
