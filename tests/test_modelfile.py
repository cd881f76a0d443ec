"""What is written in a Modelfile is what Ollama reads, and what it cannot carry is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.errors import RecipeError
from ax_recipe.ship.modelfile import (
    Command,
    Modelfile,
    Scalar,
    check_parameters,
    commands,
    is_carried,
    obstacle,
    parse,
    quote,
    render,
    write,
)

TEMPLATE = "{{ range $i, $_ := .Messages }}{{ .Content }}<|close|>\n{{ end }}"
WHOLE = Modelfile(
    "./model",
    TEMPLATE,
    ("<|close|>", "\n\nSailor:"),
    'Say "arr".\nAlways.',
    {"num_ctx": 2048, "temperature": 0.5, "use_mmap": True},
)


def test_a_modelfile_looks_like_one() -> None:
    assert render(WHOLE) == (
        "FROM ./model\n"
        f'TEMPLATE """{TEMPLATE}"""\n'
        'PARAMETER stop """<|close|>"""\n'
        'PARAMETER stop """\n\nSailor:"""\n'
        "PARAMETER num_ctx 2048\n"
        "PARAMETER temperature 0.5\n"
        "PARAMETER use_mmap true\n"
        'SYSTEM """Say "arr".\nAlways."""\n'
    )


def test_it_reads_back(tmp_path: Path) -> None:
    assert parse(render(WHOLE)) == WHOLE
    write(WHOLE, tmp_path / "Modelfile")
    assert b"\r" not in (tmp_path / "Modelfile").read_bytes()


def test_the_adapter_and_odd_paths_are_written() -> None:
    for source in ("/a b/c.gguf", "llama3.2:1b", " edge", '"quoted', "C:\\models\\x"):
        value = Modelfile(source, adapter=f"./{source}.lora")
        assert parse(render(value)) == value


def test_what_it_cannot_carry_is_a_comment_and_goes_through_the_api() -> None:
    value = Modelfile(
        "./model", TEMPLATE, ("<|close|>", "\u00a0end"), "A family: 👨\u200d👩\u200d👧", notes=("One.\nTwo.",)
    )
    text = render(value)
    assert text.startswith("# One.\n# Two.\n# SYSTEM is left out here (a Modelfile drops U+200D)")
    assert "# The stop '\\xa0end' is left out here" in text
    assert parse(text) == Modelfile("./model", TEMPLATE, ("<|close|>",))
    assert value.request()["system"] == value.system
    assert value.request()["parameters"] == {"stop": ["<|close|>", "\u00a0end"]}


def test_a_template_that_cannot_be_carried_is_refused() -> None:
    with pytest.raises(RecipeError, match="U\\+200D"):
        render(Modelfile("x", "\u200d"))


PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.sampled_from(['"', '"""', "\n", "\r\n", " "])
)
ANY = st.lists(PIECES, max_size=8).map("".join)


@given(ANY)
def test_a_text_reads_back_or_is_refused(text: str) -> None:
    if obstacle(text) is None:
        assert commands(f"FROM x\nSYSTEM {quote(text)}\nPARAMETER seed 1\n")[1:] == (
            Command("system", text),
            Command("parameter", "1", "seed"),
        )
    else:
        with pytest.raises(RecipeError, match="cannot stand in a Modelfile"):
            quote(text)


@given(ANY)
def test_no_refusal_is_needless(text: str) -> None:
    """Where we refuse, the quoted text does not read back."""
    if obstacle(text) is not None:
        try:
            read = commands(f'FROM x\nSYSTEM """{text}"""\nPARAMETER seed 1\n')
        except RecipeError:
            return
        assert read[1] != Command("system", text) or len(read) != 3


@given(
    template=ANY.filter(lambda text: text and obstacle(text) is None),
    system=ANY.filter(bool),
    stops=st.lists(ANY.filter(bool), unique=True, max_size=3),
    num_ctx=st.integers(1, 1 << 40),
    temperature=st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_modelfile_reads_back(
    template: str, system: str, stops: list[str], num_ctx: int, temperature: float
) -> None:
    parameters: dict[str, Scalar] = {"num_ctx": num_ctx, "temperature": temperature}
    read = parse(render(Modelfile("./model", template, tuple(stops), system, parameters)))
    assert read.system == (system if obstacle(system) is None else None)
    assert read.stops == tuple(stop for stop in stops if obstacle(stop) is None)
    assert (read.source, read.template, read.parameters) == ("./model", template, parameters)


READ = {
    "from x\n": ("from", "x"),
    "FROM x # c\n": ("from", "x # c"),
    "\ufeffFROM x\r\n": ("from", "x"),
    "# c\n  \n\tFROM\tx": ("from", "x"),
    "FROM 'x'": ("from", "'x'"),
    'FROM "x"': ("from", "x"),
    'FROM "x\ny"\n': ("from", "x\ny"),
    'FROM """x """\n': ("from", "x "),
    'FROM """a"""b\n"""': ("from", 'a"""b\n'),
    "FROM a\u200db\u00a0c": ("from", "abc"),
    "FROM ": ("from", ""),
}
UNREAD = {
    "": "no FROM",
    "SYSTEM x": "no FROM",
    "FROM": "must be one of",
    "FROM\nx": "must be one of",
    "FRO x": "must be one of",
    "FROM x\nSYSTEM\n": "line 2",
    'FROM x\nSYSTEM "a" b': "never closed",
    'FROM x\nSYSTEM """a""': "never closed",
    "FROM x\nPARAMETER  seed 1": "needs a name",
    "FROM x\nPARAMETER seed": "needs a name",
    "FROM x\nMESSAGE User hi": "role of a MESSAGE",
}


@pytest.mark.parametrize(("text", "first"), READ.items())
def test_the_grammar_is_ollamas(text: str, first: tuple[str, str]) -> None:
    assert commands(text) == (Command(*first),)


@pytest.mark.parametrize(("text", "reason"), UNREAD.items())
def test_what_ollama_refuses_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        commands(text)


@pytest.mark.parametrize(
    "text", ["FROM x\nRENDERER y", "FROM x\nFROM y", "FROM x\nPARAMETER nope 1", "FROM x\nPARAMETER seed x"]
)
def test_what_is_never_written_is_not_parsed(text: str) -> None:
    with pytest.raises(RecipeError):
        parse(text)


WRONG: dict[str, tuple[dict[str, Scalar], str]] = {
    "near": ({"num_cxt": 1}, "num_ctx"),
    "text": ({"temperature": "hot"}, "is a number"),
    "float": ({"num_ctx": 2.5}, "whole number"),
    "bool": ({"num_ctx": True}, "whole number"),
    "nan": ({"top_p": float("nan")}, "is a number"),
    "flag": ({"use_mmap": 1}, "true or false"),
    "stop": ({"stop": "x"}, "chat template"),
    "wide": ({"seed": 2**63}, "whole number"),
}


@pytest.mark.parametrize(("parameters", "reason"), WRONG.values(), ids=WRONG)
def test_a_wrong_parameter_is_refused(parameters: dict[str, Scalar], reason: str) -> None:
    with pytest.raises(RecipeError) as caught:
        check_parameters(parameters)
    assert reason in str(caught.value)


def test_what_go_prints_is_carried() -> None:
    assert all(map(is_carried, "aé世👩\uff5c\u2581 \t\r\n"))
    assert not any(map(is_carried, "\x00\x0b\x7f\u00a0\u00ad\u200d\u2028\u3000\ufeff\ue000\U000e0001"))
