"""A chat template's Go twin renders to the same bytes, or there is none."""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import go_checker
from ax_recipe.errors import RecipeError
from ax_recipe.ship import conversations, prompter
from ax_recipe.ship.chat_template import SpecialTokens, derive
from ax_recipe.ship.gotemplate import Program
from ax_recipe.ship.hf_jinja import HfTemplate, RefusedError
from ax_recipe.ship.modelfile import obstacle
from conftest import installed_axolotl

FOLDER = Path(__file__).parent / "chat_templates"
TOKENS = SpecialTokens("<s>", "</s>", ("<s>", "</s>", "<|turn|>", "<|close|>", "<|head|>", "<|body|>", "[ASK]"))

# name: how the system message is taken, the stops, whether BOS is rendered
SHAPES = {
    "awkward_text": ("first", ('}\u200d"""', "</s>", "{{user}} {", "{{assistant}} {"), False),
    "by_message": ("first", ("<|close|>", "</s>"), False),
    "dated": ("first", ("<|close|>", "</s>"), True),
    "default_system": ("first", ("<|close|>", "</s>"), False),
    "no_system": ("refused", ("<end>", "</s>"), True),
    "plain_words": ("first", ("</s>", "Sailor:", "Parrot:"), False),
    "system_in_first_user": ("first", ("</s>", "[ASK]"), True),
    "system_in_last_user": ("last user", ("</s>", "[ASK]"), True),
    "system_marked_in_last_user": ("last user", ("</s>", "[ASK]"), True),
    "thoughtful": ("first", ("<|close|>", "</s>"), False),
    "trimmed": ("first", ("<|close|>", "</s>"), True),
}


def jinja(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def test_every_shape_is_tested() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir()) == sorted(SHAPES)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_carried_over(name: str) -> None:
    system, stops, _ = SHAPES[name]
    go = derive(jinja(name), TOKENS, adds_bos=False)
    assert (go.system, go.stops) == (system, stops)
    assert go.compared >= 24
    assert obstacle(go.template) is None
    assert [warning for warning in go.warnings if "differs" in warning] == []


@pytest.mark.parametrize("name", SHAPES)
def test_the_bos_is_left_to_an_engine_that_adds_it(name: str) -> None:
    without, with_bos = (derive(jinja(name), TOKENS, adds_bos=adds).template for adds in (True, False))
    assert "<s>" not in without
    assert ("<s>" in with_bos) is SHAPES[name][2]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).map(str.strip).filter(bool)


@pytest.mark.parametrize("name", SHAPES)
@given(texts=st.lists(TEXT, min_size=1, max_size=8), system=st.booleans())
def test_any_conversation_renders_alike(name: str, texts: list[str], system: bool) -> None:
    shape = ("s" if system else "") + "ua" * 4
    messages = conversations.make(shape[: len(texts)].removesuffix("a"), tuple(texts))
    if not messages or messages[-1]["role"] != "user":
        return
    try:
        clock = {"%Y-%m-%d": "2026-02-03"}
        trained = trained_with(name).render(messages, clock=lambda form: clock.get(form, "03 Feb 2026"))
    except RefusedError:
        assert name == "no_system"
        return
    # Python's strip takes more than the white space of ASCII; texts here have none at their ends.
    assert go_program(name)(messages, today="2026-02-03") == trained


@cache
def trained_with(name: str) -> HfTemplate:
    return HfTemplate(jinja(name), TOKENS.variables())


@cache
def go_program(name: str) -> Program:
    return Program(derive(jinja(name), TOKENS, adds_bos=False).template)


REFUSED = {
    "{% for message in messages %}": "not valid Jinja",
    "{{ raise_exception('never') }}": "never",
    "{% for tool in tools %}{{ tool }}{% endfor %}": "not iterable",
    "{{ '' + functions }}": "'functions' is undefined",
    "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}": "once and in order",
    "{% for m in messages %}{{ loop.index }}{{ m.content }}{% endfor %}": "several ways",
    "{{ messages | length }}{{ messages[-1].content }}": "once and in order",
    "{% for m in messages %}{{ m.role }}{{ m.content | replace('o', '0') }}{% endfor %}": "no Go template",
    "{% for m in messages %}{{ m.role }}{{ m.content }}{{ '!' if 'four' in m.content }}{% endfor %}": "plain words",
    "{{ strftime_now('%A') }}{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}": "%A",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items())
def test_a_template_without_a_twin_is_refused(text: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        derive(text, TOKENS, adds_bos=False)


OTHERWISE = {
    "{{ tools | length }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}": ("without tools", "0"),
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content[0].text }}{% endfor %}": ("parts", ""),
}


@pytest.mark.parametrize(("text", "told"), OTHERWISE.items())
def test_what_a_template_needs_beside_texts_is_given_and_told(text: str, told: tuple[str, str]) -> None:
    go = derive(text, TOKENS, adds_bos=False)
    assert told[0] in go.warnings[0]
    assert Program(go.template)(conversations.make("u", ("Ahoy",))) == f"{told[1]}<|user|>Ahoy"


def test_answers_that_nothing_ends_are_carried_over() -> None:
    text = (
        "{% for m in messages %}{{ '[ASK] ' + m.content + ' [/ASK]' if m.role == 'user' else m.content }}{% endfor %}"
    )
    go = derive(text, TOKENS, adds_bos=False)
    assert (go.system, go.stops) == ("first", ("[ASK]", "</s>"))


def test_a_template_sees_nothing_of_python() -> None:
    for text in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(RefusedError, match="unsafe"):
            HfTemplate(text, {}).render([])


@pytest.mark.parametrize("kind", prompter.FORMATS)
def test_plain_instructions_are_carried_over(kind: str) -> None:
    form = prompter.of_type(kind)
    go = derive(prompter.chat_template(form), TOKENS, adds_bos=True)
    one = Program(go.template)(conversations.make("u", ("Sing.",)))
    system = form.system_turn.replace("{system}", form.system) if form.system else ""
    assert one == system + form.turn.replace("{instruction}", "Sing.")
    assert go.stops[0] in ("</s>", "<|im_end|>")
    assert "</s>" in go.stops


def test_alpaca_stops_at_the_next_instruction() -> None:
    go = derive(prompter.chat_template(prompter.of_type("alpaca.load")), TOKENS, adds_bos=True)
    assert go.stops == ("</s>", "### Instruction:", "### Response:")
    with pytest.raises(RecipeError, match="known are"):
        prompter.of_type("sharegpt")


@pytest.mark.slow
def test_go_itself_agrees(go_program: Path) -> None:
    """Every conversation of every shape, rendered by Go's text/template, is what the Jinja renders."""
    questions, expected = [], []
    for name in SHAPES:
        go, trained = derive(jinja(name), TOKENS, adds_bos=False), HfTemplate(jinja(name), TOKENS.variables())
        for conversation in conversations.core(system=go.system != "refused"):
            questions.append((go.template, conversation.messages, "2026-02-03"))
            clock = {"%Y-%m-%d": "2026-02-03", "%d %b %Y": "03 Feb 2026"}
            expected.append(trained.render(conversation.messages, clock=clock.__getitem__))
    assert go_checker.answers(go_program, questions) == expected
    assert len(expected) > 200


_RENDER = """
import json, sys
from transformers.utils.chat_template_utils import render_jinja_template
for line in sys.stdin:
    text, messages, tokens = json.loads(line)
    print(json.dumps(render_jinja_template([messages], chat_template=text, add_generation_prompt=True, **tokens)[0][0]))
"""


@pytest.mark.axolotl
@pytest.mark.slow
def test_all_templates_of_axolotl_are_carried_over(go_program: Path) -> None:
    """Each of Axolotl's own chat templates has a twin: our Jinja is transformers', and our Go is Go's."""
    axolotl = installed_axolotl()
    assert axolotl
    python = axolotl.with_name("python")
    places = axolotl.parent.parent.glob("lib/python*/site-packages/axolotl/utils/chat_templates/templates")
    folder = next(places, None)
    assert folder
    lines, ours, questions = [], [], []
    for path in sorted(folder.glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        go = derive(text, TOKENS, adds_bos=False)
        if "strftime_now" in text:
            continue
        for conversation in conversations.core(system=go.system != "refused"):
            lines.append(json.dumps([text, conversation.messages, TOKENS.variables()]))
            ours.append(Program(go.template)(conversation.messages))
            questions.append((go.template, conversation.messages, "2026-02-03"))
    done = subprocess.run([python, "-c", _RENDER], input="\n".join(lines), capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in done.stdout.splitlines()] == ours
    assert go_checker.answers(go_program, questions) == ours
    assert len(list(folder.glob("*.jinja"))) >= 36
