"""Our reading of Go templates says what Go says."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import go_checker
from ax_recipe.ship.gotemplate import GoTemplateError, collate, quote, render

CONVERSATION = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": " Grüße\n"},
    {"role": "assistant", "content": "Ahoy {{ .System }}"},
    {"role": "user", "content": ""},
    {"role": "user", "content": "And\t世界? 👩‍👧"},
]
TRIM = (
    '{{ define "trim" }}{{ if . }}{{ if eq (slice . 0 1) " " "\\n" }}{{ template "trim" slice . 1 }}'
    '{{ else if eq (slice . (len (slice . 1))) " " "\\n" }}{{ template "trim" slice . 0 (len (slice . 1)) }}'
    "{{ else }}{{ . }}{{ end }}{{ end }}{{ end }}"
)
LAST = "{{ range $i, $m := .Messages }}{{ $last := eq (len (slice $.Messages $i)) 1 }}\n{{- "
TEMPLATES = {
    "plain text }} { % }": "plain text }} { % }",
    "{{ .System }}|{{ $.System }}": "Be short.|Be short.",
    "a {{- .System -}} \n b": "aBe short.b",
    '{{ "{{" }}{{ `raw "}}` }}{{ "\\u00e9\\U0001f600\\x41\\"\\\\\\n" }}': '{{raw "}}é😀A"\\\n',
    "{{ if .System }}yes{{ else }}no{{ end }}{{ if not .System }}yes{{ end }}": "yes",
    '{{ if eq .System "a" }}1{{ else if eq .System "b" "Be short." }}2{{ else }}3{{ end }}': "2",
    '{{ if ne (index .Messages 0).Role "system" }}1{{ else }}{{ (index $.Messages 2).Content }}{{ end }}': (
        "Ahoy {{ .System }}"
    ),
    "{{ currentDate }} {{ slice currentDate 0 4 }} {{ slice currentDate 8 10 }}": "2026-01-31 2026 31",
    LAST + "if and $last $m.Content }}{{ .Content }}{{ end }}{{ end }}": "\n\nAnd\t世界? 👩‍👧",
    LAST + 'if and $i (eq .Role "user") }}<{{ slice .Content 0 2 }}>{{ end }}{{ end }}': "< G><\n\n>",
    TRIM + '{{ range $i, $_ := .Messages }}[{{ template "trim" .Content }}]{{ end }}': (
        "[Be short.][Grüße][Ahoy {{ .System }}][And\t世界? 👩‍👧]"
    ),
}
WRONG = {
    "{{ .System": "unclosed",
    "{{ }}": "missing value",
    "{{ if .System }}": "unexpected end",
    "{{ end }}": "unexpected",
    "{{ .Nothing }}": "no field",
    "{{ $nothing }}": "undefined variable",
    "{{ index .Messages 9 }}": "out of range",
    '{{ slice "abc" 2 9 }}': "out of range",
    "{{ eq 1 .System }}": "incompatible",
    "{{ printf .System }}": "not known",
    "{{ .Messages }}": "only text",
    '{{ template "none" . }}': "not defined",
    "{{ with .System }}": "not known",
    "{{ range .Messages }}{{ end }}": "only `range",
    "{{ $a = .System }}": "unexpected",
    '{{ "\\q" }}': "escape",
    "{{ eq (len .System 1 }}": "unclosed",
}


@pytest.mark.parametrize(("template", "text"), TEMPLATES.items())
def test_renders_as_go_would(template: str, text: str) -> None:
    assert render(template, CONVERSATION) == text


@pytest.mark.parametrize(("template", "reason"), WRONG.items())
def test_refuses_what_it_does_not_know(template: str, reason: str) -> None:
    with pytest.raises(GoTemplateError, match=reason):
        render(template, CONVERSATION)


def test_neighbours_of_one_role_are_joined_and_systems_gathered() -> None:
    system, messages = collate([*CONVERSATION, {"role": "system", "content": "Be kind."}])
    assert system == "Be short.\n\nBe kind."
    assert [message["Role"] for message in messages] == ["system", "user", "assistant", "user", "system"]
    assert messages[3]["Content"] == "\n\nAnd\t世界? 👩‍👧"


@given(st.text())
def test_every_text_can_be_quoted(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    quoted = quote(text)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert render("{{ %s }}" % quoted, []) == text  # noqa: UP031 - braces


@pytest.mark.slow
def test_go_itself_agrees(go_program: Path) -> None:
    texts = ["\u200d\u00a0", "😀\x07", '"\\\n\t', "\ufeff\U000e0001"]
    quoted = [("{{ %s }}" % quote(text), text) for text in texts]  # noqa: UP031 - braces
    expected = [*TEMPLATES.items(), *quoted]
    found = go_checker.answers(go_program, [(template, CONVERSATION, "2026-01-31") for template, _ in expected])
    assert found == [text for _, text in expected]
