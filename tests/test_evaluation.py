"""What is said of a model against its base, and when a recipe's bar is met: from the files of a run alone."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ax_recipe.recipe import scoring
from ax_recipe.results import evaluation
from ax_recipe.run.rundir import RunDir
from ax_recipe.view import evaluation as view

TARGETS = {"loss": None, "eval_loss": None, "forgotten": None}
STAGES = {"stages": [{"name": "evaluate", "skip": ""}]}
Cost = tuple[int, float]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def orders(**more: Any) -> dict[str, Any]:
    return {
        "base": "/base",
        "model": "/run/merged",
        "method": "lora",
        "checks": None,
        "targets": TARGETS,
        **STAGES,
        **more,
    }


def costs(mean: float, count: int = 30, seed: int = 0) -> list[Cost]:
    draw = random.Random(seed)
    return [(20, 20 * draw.gauss(mean, 0.4)) for _ in range(count)]


def told(run: RunDir, which: str, rows: Sequence[Cost], *, adapter: bool = False, model: str = "/base") -> None:
    with run.losses.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"set": which, "model": model, "adapter": adapter, "rows": rows}) + "\n")


def answered(run: RunDir, good: int, bad: int, base_good: int = 0) -> None:
    rows = [
        {"prompt": f"{n}?", "base": "arr" if n < base_good else "no", "tuned": "arr" if n < good else "no"}
        for n in range(good + bad)
    ]
    run.answers.write_text(json.dumps(scoring.judged(rows, [{"contains": "arr"}] * len(rows))), encoding="utf-8")


def test_base_and_tuned_are_told_apart_on_the_same_rows(run: RunDir) -> None:
    told(run, "held_out", costs(2.0, seed=1), adapter=True)
    told(run, "held_out", costs(4.0))
    told(run, "general", costs(3.0), adapter=True)
    told(run, "general", costs(3.0))
    found = evaluation.read(run, "adapter", orders())
    assert found.held_out
    assert found.general
    assert found.held_out.verdict == "better"
    assert found.held_out.losses.change.value == pytest.approx(-2, abs=0.3)
    assert found.general.verdict == "same"
    assert evaluation.change_in_words(found.held_out).startswith("better than the base by 1.920 [1.")


def test_the_newest_scores_count_and_another_cut_of_the_rows_is_no_pair(run: RunDir) -> None:
    told(run, "held_out", costs(4.0))
    told(run, "held_out", costs(9.0, seed=1), adapter=True)
    told(run, "held_out", costs(2.0, seed=2), adapter=True)
    found = evaluation.read(run, "adapter", orders()).held_out
    assert found
    assert found.verdict == "better"
    told(run, "held_out", [(21, cost) for _, cost in costs(2.0)], adapter=True)
    assert evaluation.read(run, "adapter", orders()).held_out is None


def test_a_merged_model_is_told_by_its_folder_and_a_full_fine_tune_too(run: RunDir) -> None:
    told(run, "held_out", costs(4.0))
    told(run, "held_out", costs(2.0, seed=1), model="/run/merged")
    assert [each.form for each in evaluation.every(run, orders())] == ["merged"]
    assert evaluation.form_of(orders(method="full")) == "merged"


def test_answers_and_their_shares(run: RunDir) -> None:
    answered(run, 9, 1)
    found = evaluation.read(run, "merged", orders()).answers
    assert found
    assert (found.tuned, found.base, found.asked, found.verdict) == (9, 0, 10, "better")
    answered(run, 1, 1)
    few = evaluation.read(run, "merged", orders()).answers
    assert few
    assert few.verdict == "unclear", "two questions cannot tell"


def test_lm_eval_results_are_read_with_their_errors(run: RunDir) -> None:
    for who, score in (("base", 0.30), ("merged", 0.42)):
        folder = evaluation.tasks_folder(run, who) / "lm_eval_results" / "x"
        folder.mkdir(parents=True)
        metrics = {
            "alias": "tiny",
            "acc,none": score,
            "acc_stderr,none": 0.01,
            "bleu,none": 3.0,
            "bleu_stderr,none": "N/A",
        }
        (folder / "results_1.json").write_text(json.dumps({"results": {"tiny": metrics}}), encoding="utf-8")
    (task,) = evaluation.read(run, "merged", orders()).tasks
    assert (task.name, task.metric, task.base, task.verdict) == ("tiny", "acc", (0.30, 0.01), "better")


@pytest.mark.parametrize(
    ("targets", "after", "loss", "missed"),
    [
        ({}, 2.0, None, []),
        ({}, 4.0, None, ["held-out loss against the base"]),
        ({"eval_loss": 2.5}, 2.0, None, []),
        ({"eval_loss": 1.5}, 2.0, None, ["held-out loss"]),
        ({"loss": [0.5, 0.8]}, 2.0, 0.7, []),
        ({"loss": [0.5, 0.8]}, 2.0, 0.9, ["training loss"]),
        ({"loss": [0.5, 0.8]}, 2.0, None, ["training loss"]),
        ({"forgotten": 0.1}, 2.0, None, ["rise of the loss on general text"]),
    ],
)
def test_the_bar_is_what_the_recipe_asks_and_to_beat_the_base(
    run: RunDir, targets: dict[str, Any], after: float, loss: float | None, missed: list[str]
) -> None:
    told(run, "held_out", costs(4.0))
    told(run, "held_out", costs(after, seed=1), adapter=True)
    told(run, "general", costs(3.0))
    told(run, "general", costs(3.5, seed=3), adapter=True)
    asked = orders(targets={**TARGETS, **targets})
    bars = evaluation.bars(evaluation.read(run, "adapter", asked), asked, loss)
    assert [bar.name for bar in bars if not bar.met] == missed


def test_a_bar_that_was_not_measured_is_not_met(run: RunDir) -> None:
    asked = orders(checks={"prompts": ["?"], "at_least": 1}, targets={**TARGETS, "eval_loss": 2.0})
    bars = evaluation.bars(evaluation.read(run, "adapter", asked), asked, None)
    against = "held-out loss against the base"
    assert [bar.name for bar in bars] == [against, "held-out loss", "answers as taught"]
    assert not [bar for bar in bars if bar.met or bar.found]
    keeps_none = {**asked, "stages": [{"name": "evaluate", "skip": "the recipe keeps no rows for it"}]}
    bars = evaluation.bars(evaluation.read(run, "adapter", keeps_none), keeps_none, None)
    assert against not in [bar.name for bar in bars]
    told(run, "general", costs(3.0))
    told(run, "general", costs(3.0), adapter=True)
    bars = evaluation.bars(evaluation.read(run, "adapter", asked), asked, None)
    assert against not in [bar.name for bar in bars], "rows of preferences have no loss"
    (only,) = evaluation.bars(evaluation.read(run, "ollama", asked), asked, None)
    assert only.name == "answers as taught", "Ollama tells no losses"


def test_it_is_shown_in_lines(run: RunDir) -> None:
    told(run, "held_out", costs(4.0))
    told(run, "held_out", costs(2.0, seed=1), adapter=True)
    answered(run, 2, 1)
    asked = orders(checks={"prompts": ["?"] * 3, "at_least": 3})
    for form in ("adapter", "merged"):
        found = evaluation.read(run, form, asked)
        text = "\n".join(view.lines(found, evaluation.bars(found, asked, None)))
        assert max(map(len, text.splitlines())) < 140
        if form == "adapter":
            assert "held-out perplexity" in text
            assert "better (30 rows, 600 tokens)" in text
        else:
            assert "2 of 3" in text
            assert "no tuned: no   ('arr' is not in it)" in text
            assert "MISSED  answers as taught: wanted at least 3 of 3, found 2 of 3" in text


def test_json_has_no_infinity(run: RunDir) -> None:
    told(run, "held_out", costs(4.0, 2))
    told(run, "held_out", costs(2.0, 2), adapter=True)
    found = evaluation.read(run, "adapter", orders())
    text = json.dumps(evaluation.as_json(found, ()), allow_nan=False)
    assert json.loads(text)["held_out"]["losses"]["change"]["low"] is None
    assert found.held_out
    assert evaluation.change_in_words(found.held_out) == "2 rows are too few to tell"
