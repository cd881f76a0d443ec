"""A model's shape from its config.json: exact where its layers are counted, honest where they are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.forecast import architecture
from ax_recipe.recipe import recipe

TABLE = json.loads(Path(architecture.__file__).with_name("architectures.json").read_text(encoding="utf-8"))
LLAMA = TABLE[0]["config"]


def write(folder: Path, config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging"))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: str(row["ids"][0]))
def test_parameters_are_counted_exactly(row: dict[str, Any]) -> None:
    """Beside the totals that the models' own pages name."""
    for name in row["ids"]:
        assert architecture.find(name).parameters == row["parameters"], name


def test_the_table_names_every_model_once() -> None:
    names = [name.lower() for name in architecture.shipped()]
    assert len(names) == len(set(names)) >= 60


def test_every_bundled_base_of_the_hub_is_shipped() -> None:
    bases = [recipe.load(path.stem).base for path in recipe.bundled()]
    from_hub = [base for base in bases if isinstance(base, str)]
    assert len(from_hub) >= 2
    assert all(architecture.find(base).outside is None for base in from_hub)


def test_the_case_of_a_hub_id_does_not_matter() -> None:
    assert architecture.find("NOUSRESEARCH/meta-llama-3.1-8b").layers == 32


def test_a_local_folder_wins_over_the_table(tmp_path: Path) -> None:
    write(tmp_path / "qwen" / "qwen3-8b", {**LLAMA, "num_hidden_layers": 2})
    assert architecture.find("qwen/qwen3-8b", tmp_path).layers == 2
    assert architecture.find("qwen/qwen3-8b").layers == 36


def test_the_hub_cache_is_looked_through(tmp_path: Path) -> None:
    write(tmp_path / "hugging/hub/models--me--mine/snapshots/abc", {**LLAMA, "num_hidden_layers": 3})
    assert architecture.find("me/mine").layers == 3


def test_widths_follow_the_heads() -> None:
    shape = architecture.find("google/gemma-3-1b-it")
    assert (shape.q, shape.kv, shape.tied, shape.norms, shape.has_qk_norm) == (1024, 256, True, 4, True)
    assert shape.sliding_window == 512
    assert architecture.find("Qwen/Qwen2.5-7B").sliding_window is None
    assert set(architecture.find("microsoft/phi-4").linears) == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}


def test_a_left_out_head_dim_and_kv_heads_have_transformers_defaults() -> None:
    few = {key: value for key, value in LLAMA.items() if key not in {"head_dim", "num_key_value_heads"}}
    shape = architecture.from_config(few, "few")
    assert (shape.head_dim, shape.kv_heads) == (128, 32)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"model_type": "mixtral", "num_local_experts": 8}, "experts"),
        ({"model_type": "qwen3_moe", "num_experts": 128, "moe_intermediate_size": 768}, "experts"),
        ({"model_type": "deepseek_v3", "kv_lora_rank": 512}, "latent"),
        ({"model_type": "gemma3", "vision_config": {}, "text_config": LLAMA}, "text"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "linear attention"),
        ({"model_type": "gpt2"}, "architecture"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantised already"),
    ],
)
def test_other_kinds_of_model_are_outside_with_a_lower_bound(more: dict[str, Any], word: str) -> None:
    shape = architecture.from_config({**LLAMA, **more}, "other")
    assert word in str(shape.outside)
    assert shape.parameters > shape.vocab * shape.hidden


def test_what_gemma_3_leaves_out_is_known() -> None:
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    shape = architecture.from_config({**text, "head_dim": 256}, "few")
    assert (shape.vocab, shape.heads, shape.kv_heads) == (262208, 8, 4)


def test_a_number_that_is_missing_is_named() -> None:
    with pytest.raises(RecipeError, match="does not say num_attention_heads") as refused:
        architecture.from_config({"model_type": "gpt2", "n_head": 12}, "small")
    assert "gpt2" in str(refused.value.hint)


def test_all_experts_count() -> None:
    few, many = (
        architecture.from_config({**LLAMA, "model_type": "mixtral", "num_local_experts": n}, "m") for n in (2, 8)
    )
    assert many.parameters - few.parameters == 6 * 3 * 32 * 4096 * 14336


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"num_attention_heads": "many"}'])
def test_a_broken_config_is_the_persons_to_mend(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError, match=r"config\.json"):
        architecture.find(str(tmp_path))


def test_what_is_nowhere_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="not known here"):
        architecture.find("me/mine")
    with pytest.raises(MissingError, match=r"no config\.json"):
        architecture.find(str(tmp_path))
