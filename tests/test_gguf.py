"""A GGUF's head is read by hand, and what it says is held against the model that was trained."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.errors import RunFailedError
from ax_recipe.ship import gguf, tokenizer
from ax_recipe.ship.files import read_json
from ship_folders import CHAT, WORDS, gguf_keys, write_gguf, write_model, write_tokenizer


def verdicts(folder: Path, **changes: object) -> dict[str, tuple[str, str]]:
    write_model(folder)
    write_tokenizer(folder, chat=CHAT)
    write_gguf(folder / "model.gguf", gguf_keys(**changes))
    config = read_json(folder / "config.json")
    checks = gguf.examine(folder / "model.gguf", tokenizer.load(folder), CHAT, config, adds_bos=False)
    return {check.name: (check.verdict, check.detail) for check in checks}


def test_the_head_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, gguf_keys(), {"a": (0, 8), "b": (12, 512)})
    found = gguf.read(path)
    assert found.types == {"a": "F32", "b": "Q4_K"}
    assert found.is_quantised
    assert found.keys["tokenizer.ggml.tokens"] == list(WORDS)
    assert found.keys["tokenizer.ggml.token_type"] == [3, 3, 1, 1]
    assert found.of_architecture("rope.freq_base") == 5e5


def test_a_good_file_passes(tmp_path: Path) -> None:
    assert {verdict for verdict, _ in verdicts(tmp_path).values()} == {"ok"}


@pytest.mark.parametrize(
    ("change", "name", "verdict", "said"),
    [
        ({"tokenizer__chat_template": None}, "gguf template", "warning", "none in it"),
        ({"tokenizer__chat_template": "{{ messages }}"}, "gguf template", "warning", "not the trained one"),
        ({"tokenizer__chat_template": "{% if tools %}"}, "gguf template", "error", "in place of the TEMPLATE"),
        ({"tokenizer__ggml__eos_token_id": 0}, "gguf end", "error", "it has 0"),
        ({"tokenizer__ggml__pre": "default"}, "gguf pre-tokenizer", "error", "no model's own"),
        ({"tokenizer__ggml__pre": None}, "gguf pre-tokenizer", "error", "no model's own"),
        ({"tokenizer__ggml__add_bos_token": True}, "gguf begin", "error", "unlike in training"),
        ({"tokenizer__ggml__add_bos_token": None}, "gguf begin", "warning", "does not say"),
        ({"llama__rope__freq_base": None}, "gguf rope", "error", "trained was 500000"),
        ({"tokenizer__ggml__tokens": ["<s>", "</s>", "b", "a"]}, "gguf tokens", "error", "2 of the tokenizer's"),
    ],
)
def test_what_differs_from_training_is_told(
    tmp_path: Path, change: dict[str, object], name: str, verdict: str, said: str
) -> None:
    keys = {key.replace("__", "."): value for key, value in change.items()}
    found = verdicts(tmp_path, **{key.replace(".", "__"): value for key, value in keys.items()})
    assert found[name][0] == verdict
    assert said in found[name][1]
    assert {other for other, (how, _) in found.items() if how != "ok"} == {name}


@given(st.data())
def test_a_file_cut_anywhere_is_told_as_such(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cut") / "model.gguf"
    write_gguf(path, gguf_keys())
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(RunFailedError, match=r"no whole|no GGUF|cut short"):
        gguf.read(path)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "model.gguf"
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + tail)
    with suppress(RunFailedError):
        assert gguf.read(path).file == path
