"""A tokenizer is read from its files as transformers reads it, however its folder came to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ax_recipe.errors import RecipeError
from ax_recipe.ship import sentencepiece, tokenizer
from ship_folders import CHAT, write_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def change(file: Path, **values: object) -> None:
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(told | values), encoding="utf-8")


NAMED = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT}]


@pytest.mark.parametrize("told", [CHAT, NAMED, {"default": CHAT, "rag": "x"}])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.json"])
def test_a_chat_template_alone_or_among_others(folder: Path, told: object, file: str) -> None:
    change(folder / file, chat_template=told)
    assert tokenizer.load(folder).chat_template == CHAT
    (folder / "chat_template.jinja").write_text("newer", encoding="utf-8")
    assert tokenizer.load(folder).chat_template == "newer"


@pytest.mark.parametrize("told", [[{"name": "rag", "template": CHAT}], ["x"], {}, [], None, 7])
def test_no_chat_template_is_the_default(folder: Path, told: object) -> None:
    change(folder / "tokenizer_config.json", chat_template=told)
    assert tokenizer.load(folder).chat_template is None


def test_the_others_are_known_by_name(folder: Path) -> None:
    change(folder / "tokenizer_config.json", chat_template=NAMED)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/rag.jinja").write_text("x", encoding="utf-8")
    assert tokenizer.other_templates(folder) == ["tool_use", "rag"]


def test_keys_that_are_null_are_as_if_they_were_not_there(folder: Path) -> None:
    change(folder / "tokenizer_config.json", added_tokens_decoder=None, chat_template=None, add_bos_token=None)
    change(folder / "tokenizer.json", added_tokens=None, post_processor=None)
    change(folder / "generation_config.json", eos_token_id=None)
    change(folder / "config.json", eos_token_id=[1, 0])
    found = tokenizer.load(folder)
    assert (found.vocabulary, found.adds_bos, found.tokens.ends) == (4, False, ("<s>",))


def test_a_byte_order_mark_is_no_error_and_other_encodings_are_told(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert tokenizer.load(folder).tokens.eos == "</s>"
    (folder / "chat_template.jinja").write_bytes(b"{# \xe9 #}")
    with pytest.raises(RecipeError, match="not UTF-8"):
        tokenizer.load(folder)


def test_a_config_without_a_vocabulary_still_has_its_template(tmp_path: Path) -> None:
    change(tmp_path / "tokenizer_config.json", chat_template=CHAT, eos_token={"content": "</s>"})
    found = tokenizer.load(tmp_path)
    assert (found.chat_template, found.tokens.eos, found.vocabulary) == (CHAT, "</s>", None)


def piece(text: str, score: float = 0.0) -> bytes:
    """One piece of a SentencePiece model: its text, its score in 4 bytes, its kind."""
    told = text.encode()
    body = b"\x0a" + bytes([len(told)]) + told + b"\x15" + bytes(4) + b"\x18\x03"
    return b"\x0a" + bytes([len(body)]) + body


def test_the_pieces_of_a_sentencepiece_model_are_its_ids(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    long = "x" * 100
    trainer = b"\x12\x81\x01" + b"\x08\x01" + b"y" * 127  # a field of 129 bytes that is none of ours
    pieces = b"".join(piece(word) for word in ("<unk>", "<s>", "</s>", "\u2581ahoy", long))
    (folder / "tokenizer.model").write_bytes(pieces + trainer)
    found = tokenizer.load(folder)
    assert found.ids == {"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581ahoy": 3, long: 4}
    assert found.adds_bos


@pytest.mark.parametrize("data", [b"", b"IQ== 0\nIg== 1\n", piece("<s>")[:-3], b"\x0f\x01", b"\x0a\x02\x0a\x09"])
def test_another_kind_of_tokenizer_model_has_no_pieces(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(data)
    assert sentencepiece.ids(tmp_path) == {}


def test_there_must_be_some_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no tokenizer"):
        tokenizer.load(tmp_path)
