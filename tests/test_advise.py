"""Advice after a run: the person's own rules, at most three, and a next recipe that keeps its author's words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import faults
import stories
from ax_recipe.errors import RecipeError
from ax_recipe.observe.events import Config, Crashed, Evaluation, Event, Metrics
from ax_recipe.recipe import recipe
from ax_recipe.recipe.edit import edited
from ax_recipe.results import advise, story
from conftest import Invoke

pytestmark = pytest.mark.usefixtures("fake_axolotl")
PATHS = [each.stem for each in recipe.bundled()]


def advice(tmp_path: Path, events: Iterable[Event] | None = None, text: str = stories.RECIPE) -> list[advise.Advice]:
    return advise.advise(story.read(stories.made(stories.written(tmp_path, text), events)))


def changes(found: list[advise.Advice]) -> dict[str, object]:
    return {".".join(map(str, keys)): value for each in found for keys, value in each.changes.items()}


def test_a_plateau_above_the_target_asks_for_an_epoch_at_a_lower_rate_and_less_dropout(tmp_path: Path) -> None:
    found = advice(tmp_path, [e for e in faults.flat(400, 3.2) if not isinstance(e, Evaluation)])
    assert changes(found[:2]) == {"train.num_epochs": 5, "train.learning_rate": 8.5e-4, "lora.dropout": 0.03}
    assert "flat at 3.17 since step 417" in found[0].reason
    assert [each.sure for each in found[:2]] == ["likely", "worth a try"]


def test_a_run_in_its_band_is_left_alone_but_for_the_merge(tmp_path: Path) -> None:
    found = advice(tmp_path)
    assert changes(found) == {}
    assert "ax-recipe bench" in found[-1].reason


def test_no_held_out_rows_come_first(tmp_path: Path) -> None:
    text = stories.RECIPE.replace("held_out: [{path: rows.jsonl, type: chat_template}]\n", "")
    found = advice(tmp_path, [e for e in faults.long() if not isinstance(e, Evaluation)], text)
    assert changes(found[:1]) == {"val_set_size": 0.02}
    assert found[0].sure == "sure"


def logged(loss: Callable[[int], float], *, scored: bool) -> list[Event]:
    """A run of 91 logs, one in ten steps, that fell to ``loss(step)`` with a little noise."""
    events = faults.changed(lambda step, old: {**old, "loss": loss(step) + 0.02 * math.sin(step)})
    kept = [each for each in events if not isinstance(each, Metrics) or not (each.step or 0) % 10]
    return [each for each in kept if scored or not isinstance(each, Evaluation)]


def test_a_loss_that_still_falls_at_the_end_asks_for_an_epoch(tmp_path: Path) -> None:
    falling = advice(tmp_path / "a", logged(lambda step: 7 - step / 200, scored=False))
    (longer,) = [each for each in falling if "still fell" in each.reason]
    assert "by 0.6 over the last fifth: one epoch more" in longer.reason  # no word of rows that nobody held out
    assert longer.changes == {("train", "num_epochs"): 5}
    settled = advice(tmp_path / "b", logged(lambda step: 7 - min(step, 600) / 200, scored=False))
    assert not [each for each in settled if "still fell" in each.reason]


def test_overfitting_ends_where_the_held_out_loss_was_best(tmp_path: Path) -> None:
    found = advice(tmp_path, faults.scores(3.0, 2.4, 2.2, 2.3, 2.5, 2.9))
    assert changes(found)["train.num_epochs"] == 2


def test_divergence_halves_the_rate(tmp_path: Path) -> None:
    found = advice(tmp_path, faults.scaled("loss", 450, lambda n: 1.01**n))
    assert changes(found)["train.learning_rate"] == 5e-4


def test_out_of_memory_halves_the_rows_of_a_pass_first(tmp_path: Path) -> None:
    text = stories.RECIPE.replace("train:\n", "train:\n  micro_batch_size: 8\n")
    crash = [*faults.only(faults.long(), 100), Crashed("torch.OutOfMemoryError: CUDA out of memory.")]
    run = stories.made(stories.written(tmp_path, text), crash, ended="failed")
    with run.log("train", 1).open("a") as log:
        log.write("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n")
    found = advise.advise(story.read(run))
    assert changes(found[:1]) == {"train.micro_batch_size": 4}


@pytest.mark.slow
@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.what)
def test_there_are_never_more_than_three_and_all_can_be_written(fault: faults.Fault, tmp_path: Path) -> None:
    run = stories.made(stories.written(tmp_path), [e for e in fault.make() if not isinstance(e, Config)])
    told = story.read(run)
    found = advise.advise(told)
    assert len(found) <= advise.MOST
    text = "\n".join(advise.show(told, found))
    for each in found:
        assert each.reason in text
        assert not each.changes or any(line.startswith("+") for line in advise.diff(advise.text_of(told), each))
    advise.next_recipe(told, found, str(tmp_path / "next.yaml"))


def test_the_next_recipe_keeps_comments_loads_and_renders(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = stories.written(tmp_path / "here")
    run = stories.made(file, faults.flat(400, 3.2), changes=("lora.r=64",))
    monkeypatch.chdir(tmp_path)
    done = invoke("advise", run.name, "--write", "next")
    assert done.exit_code == 0
    assert "+  num_epochs: 5" in done.output
    text = (tmp_path / "next.yaml").read_text()
    for words in ("# A recipe with words of its author in it.", "# as ever", "# a small model bears it", run.name):
        assert words in text
    config = yaml.safe_load(invoke("render", "next.yaml").stdout)
    assert (config["num_epochs"], config["lora_r"]) == (5, 64)
    assert config["datasets"][0]["path"] == str(tmp_path / "here" / "rows.jsonl")
    assert invoke("advise", run.name, "--write", "next").exit_code == 2, "it is there already"


KEYS = st.sampled_from(
    [("train", "num_epochs"), ("train", "learning_rate"), ("lora", "dropout"), ("val_set_size",), ("targets", "loss"),
     ("axolotl", "a", "b"), ("data", 0, "path"), ("ship", "system"), ("train", "gradient_checkpointing")]
)  # fmt: skip
VALUES = st.one_of(st.integers(-5, 5), st.floats(0, 1), st.booleans(), st.text(max_size=20), st.lists(st.integers()))


@given(st.sampled_from(PATHS), st.dictionaries(KEYS, VALUES, max_size=5))
def test_an_edited_recipe_says_what_was_meant_and_keeps_every_comment(
    name: str, new: dict[tuple[str, ...], object]
) -> None:
    text = recipe.find(name).read_text(encoding="utf-8")
    after = edited(text, new)
    value = yaml.safe_load(after)
    for keys, wanted in new.items():
        found = value
        for key in keys:
            found = found[key]
        assert found == wanted
    comments = [line.partition("#")[2] for line in text.splitlines() if " #" in line or line.startswith("#")]
    assert all(comment in after for comment in comments)


@pytest.mark.parametrize(
    ("text", "keys", "value", "wanted"),
    [
        ("a: 1\nb:\nc: 2\n", ("b", "k"), 2, "a: 1\nb: {k: 2}\nc: 2\n"),
        ("a: |\n  x\n  y\n", ("b",), 1, "a: |\n  x\n  y\nb: 1\n"),
        ("a: {}\n", ("a", "k"), True, "a: {k: true}\n"),
        ("a: [1, 2]  # why\n", ("a",), [3], "a: [3]  # why\n"),
        ("a:\n  - p: 1\n    q: 2\n", ("a", 0, "r"), 3, "a:\n  - p: 1\n    q: 2\n    r: 3\n"),
        ("a: 1", ("b", "c"), 1e-5, "a: 1\nb:\n  c: 1.0e-05\n"),
    ],
)
def test_an_edit_touches_nothing_else(text: str, keys: tuple[str, ...], value: object, wanted: str) -> None:
    assert edited(text, {keys: value}) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "train: {learning_rate: &rate 1.0e-4}\nother: *rate\n",
        "train: &room\n  num_epochs: 2\nbase: {train: *room}\n",
    ],
)
def test_what_an_alias_stands_for_is_left_to_its_author(text: str) -> None:
    changes = {("train", "learning_rate"): 5e-5}
    with pytest.raises(RecipeError, match=r"an alias .* stands in the way of train\.learning_rate"):
        edited(text, changes)
    assert "write the value out" in advise.diff(text, advise.Advice("", "sure", changes))[-1]
