"""Rendering: goldens that are read in review, and values that survive whatever they hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from ax_recipe import assets
from ax_recipe.plan.plan import Config, Origin
from ax_recipe.plan.render import render
from ax_recipe.recipe import recipe
from ax_recipe.run import preparing

EXPECTED = Path(__file__).parent / "expected"
RECIPES = [path.stem for path in recipe.bundled()]

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)


def golden(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("AX_RECIPE_CACHE", "/cache")
    plan = preparing.for_print(recipe.load(name), None, None)
    text = render(plan.train, name, str(plan.hardware), explain=True)
    return text.replace(str(assets.recipes()), "/recipes")


@pytest.mark.parametrize("name", RECIPES)
def test_each_recipe_renders_as_it_was_reviewed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """UPDATE_EXPECTED=1 writes the goldens anew; their diff is what a review reads."""
    path = EXPECTED / f"{name}.yaml"
    text = golden(name, monkeypatch)
    if os.environ.get("UPDATE_EXPECTED"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_there_is_a_golden_for_every_recipe() -> None:
    assert sorted(path.stem for path in EXPECTED.glob("*.yaml")) == RECIPES


@example({"a": {"\n\n": None, "b": "one\n\n\n\ntwo"}})
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,12}", fullmatch=True), values, max_size=6))
def test_every_value_survives(config: dict[str, object]) -> None:
    text = render(Config(config, {}), "x\ny: z", "# the\nCPU")
    assert (yaml.safe_load(text) or {}) == config


@given(st.text())
def test_no_value_is_read_as_a_template(text: str) -> None:
    hostile = f"{{{{ 7 * 7 }}}}{{% for x in y %}}{text}"
    assert yaml.safe_load(render(Config({"base_model": hostile}, {}), "t", "h")) == {"base_model": hostile}


def test_a_key_left_open_leaves_no_line() -> None:
    assert "lora_r" not in render(Config({"base_model": "x"}, {}), "t", "h")


def test_explain_says_where_a_value_came_from() -> None:
    config = Config({"seed": 7}, {"seed": Origin("recipe", "because", ("train", "seed"))})
    assert "seed: 7  # recipe train.seed: because" in render(config, "t", "h", explain=True)


def test_a_misspelt_name_in_the_template_is_an_error_not_an_empty_value() -> None:
    from jinja2 import UndefinedError

    from ax_recipe.plan.render import environment

    with pytest.raises(UndefinedError):
        environment().from_string("seed: {{ sead }}").render(seed=1)
