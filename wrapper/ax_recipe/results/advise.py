"""After a run: at most three things to change in its recipe, in order, each with its reason and how sure it is."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ax_recipe.errors import RecipeError
from ax_recipe.forecast import hardware
from ax_recipe.observe import measures
from ax_recipe.observe.alerts import Given
from ax_recipe.observe.rules import BY_NAME
from ax_recipe.recipe import recipe
from ax_recipe.recipe.document import Keys
from ax_recipe.recipe.edit import edited
from ax_recipe.recipe.recipe import Recipe
from ax_recipe.results.story import Story, best_evaluation, peak
from ax_recipe.run import origin, rundir

MOST = 3
Sure = Literal["sure", "likely", "worth a try"]


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing to do before the next run; without ``changes`` it is something to measure or to look at."""

    reason: str
    sure: Sure
    changes: Mapping[Keys, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Case:
    """What the rules of advice look at: the run, its recipe, and every alert that it ever had."""

    story: Story
    recipe: Recipe
    alerts: frozenset[str]

    @property
    def micro_batch(self) -> int:
        return int(self.story.config.get("micro_batch_size") or 1)

    @property
    def late_loss(self) -> float | None:
        ends = measures.ends(self.story.state)
        recent = list(self.story.state.windows.losses.values)
        return None if ends is None else self.story.state.windows.losses.late(min(measures.SETTLED, len(recent)))


def advise(story: Story) -> list[Advice]:
    """The advice on ``story``, most pressing first; a key that one changes is left alone by those after it."""
    given = {alert.rule for alert in (*story.judgement.alerts, *story.state.past)}
    case = _Case(story, origin.recipe_of(story.run), frozenset(given))
    chosen: list[Advice] = []
    for rule in (_memory, _divergence, _labels, _held_out, _overfit, _plateau, _underfit, _longer, _room, _latency):
        for advice in rule(case):
            taken = {keys for each in chosen for keys in each.changes}
            if len(chosen) < MOST and not taken & set(advice.changes):
                chosen.append(advice)
    return chosen


def _memory(case: _Case) -> Iterator[Advice]:
    if not case.alerts & {"out_of_memory", "near_out_of_memory"}:
        return
    words = "It ran out of memory" if "out_of_memory" in case.alerts else "Memory was nearly full"
    train = case.recipe.train
    if case.micro_batch > 1:
        half = {("train", "micro_batch_size"): case.micro_batch // 2}
        yield Advice(f"{words}: half the rows in a pass; the batch of a step stays as it is.", "sure", half)
    elif not case.story.config.get("gradient_checkpointing"):
        yield Advice(f"{words}: recompute activations.", "sure", {("train", "gradient_checkpointing"): True})
    else:
        shorter = {("train", "sequence_len"): max(128, train.sequence_len // 2)}
        yield Advice(f"{words}, with one row in a pass: shorter rows.", "likely", shorter)


def _divergence(case: _Case) -> Iterator[Advice]:
    if case.alerts & {"not_finite", "divergence", "lasting_spike", "grad_explosion"}:
        half = {("train", "learning_rate"): _round(case.recipe.train.learning_rate / 2)}
        yield Advice("Loss or gradients ran away: half the peak learning rate.", "likely", half)


def _labels(case: _Case) -> Iterator[Advice]:
    if not case.alerts & {"zero_loss", "frozen"} or "not_finite" in case.alerts:
        return
    name = case.recipe.name
    yield Advice(f"Nothing was learnt: see which tokens have a label with `ax-recipe data {name}`.", "sure")
    if case.recipe.train.sample_packing:
        changes = {("train", "sample_packing"): False}
        yield Advice("Packing may have met an attention that cannot keep rows apart.", "worth a try", changes)


def _held_out(case: _Case) -> Iterator[Advice]:
    if not case.recipe.held_out and not case.recipe.val_set_size and not case.story.state.eval_losses.points:
        changes = {("val_set_size",): 0.02}
        yield Advice("No rows are held out, so overfitting cannot be seen: keep 2 %.", "sure", changes)


def _overfit(case: _Case) -> Iterator[Advice]:
    story, train = case.story, case.recipe.train
    best = best_evaluation(story.state)
    if "overfit" in case.alerts and best and story.state.total_steps:
        epochs = math.ceil(best[0] / story.state.total_steps * train.num_epochs)
        words = f"Held-out loss was best at step {best[0]:.0f} ({best[1]:.3g}) and rose afterwards: stop about there."
        if 0 < epochs < train.num_epochs and not train.max_steps:
            yield Advice(words, "likely", {("train", "num_epochs"): epochs})
    elif case.alerts & {"below_target", "memorising"} and train.num_epochs > 1 and not train.max_steps:
        words = "The loss says that rows are being memorised: one epoch less."
        yield Advice(words, "worth a try", {("train", "num_epochs"): _less(train.num_epochs)})
        return
    if "overfit" in case.alerts and case.recipe.method != "full" and case.recipe.lora.dropout < 0.05:
        yield Advice("Overfitting: more dropout.", "worth a try", {("lora", "dropout"): 0.05})


def _plateau(case: _Case) -> Iterator[Advice]:
    reading = measures.above_target(Given(case.story.state, case.story.target), BY_NAME["above_target"])
    if reading is None or not reading.holds:
        return
    train = case.recipe.train
    words = reading.words
    reason = f"The loss is flat at {words['value']} since step {words['since']}, above the target of {words['high']}: "
    if train.max_steps:
        more: dict[Keys, Any] = {("train", "max_steps"): round(1.5 * train.max_steps)}
    else:
        more = {("train", "num_epochs"): train.num_epochs + 1}
    slower = {("train", "learning_rate"): _round(train.learning_rate * 0.85)}
    low = " Or 2 to 5 times the rate: it is low." if train.learning_rate < 1e-4 else ""
    yield Advice(f"{reason}one epoch more, with a 15 % lower peak learning rate.{low}", "likely", {**more, **slower})


def _underfit(case: _Case) -> Iterator[Advice]:
    target, late = case.story.target, case.late_loss
    if target is None or late is None or late <= target[1] or case.recipe.method == "full":
        return
    scored = case.story.state.eval_loss
    if case.recipe.lora.dropout > 0.03 and (scored is None or scored < 1.1 * late):
        words = f"It underfits (loss {late:.3g}, target {target[1]:g}, held-out rows no worse): less dropout."
        yield Advice(words, "worth a try", {("lora", "dropout"): 0.03})


def _longer(case: _Case) -> Iterator[Advice]:
    """Still falling when it ended, and far enough to matter."""
    story, train, late = case.story, case.recipe.train, case.late_loss
    reading = measures.still_falling(story.state)
    if reading is None or late is None or train.max_steps or story.state.status != "finished":
        return
    above = story.target is None or late > story.target[1]
    best = best_evaluation(story.state)
    newest = story.state.eval_losses.last
    better = best is None or newest is None or newest <= best[1]
    if reading.value > reading.limit and above and better and "overfit" not in case.alerts:
        held = "" if newest is None else ", and held-out loss with it"
        words = f"The loss still fell by {reading.value:.2g} over the last fifth{held}: one epoch more."
        yield Advice(words, "worth a try", {("train", "num_epochs"): train.num_epochs + 1})


def _room(case: _Case) -> Iterator[Advice]:
    reserved = peak(case.story, "reserved_gib")
    card = _card_gib(str(case.story.orders["hardware"]))
    checkpointed = case.story.config.get("gradient_checkpointing")
    if reserved and card and reserved < 0.4 * card and checkpointed:
        words = (
            f"{reserved:.0f} of {card:.0f} GiB are used: without recomputing activations a step takes a quarter less."
        )
        yield Advice(words, "worth a try", {("train", "gradient_checkpointing"): False})


def _card_gib(text: str) -> float | None:
    kind = hardware.KINDS.get(text.partition("x")[2])
    return kind.memory_gib if kind else None


def _latency(case: _Case) -> Iterator[Advice]:
    if case.story.state.status == "finished" and case.recipe.method != "full":
        words = "Compare the merged model's speed and answers with the adapter's before you ship it"
        yield Advice(f"{words}: `ax-recipe bench {case.story.run.word}`. The merge should be no slower.", "sure")


def _round(rate: float) -> float:
    return float(f"{rate:.2g}")


def _less(epochs: float) -> float:
    return epochs - 1 if epochs >= 2 else 1


def text_of(story: Story) -> str:
    """The recipe of the run with the changes it was started with."""
    changes = dict(map(recipe.parse_change, story.orders.get("changes", ())))
    return edited(story.run.read_text(story.run.recipe), changes)


def diff(text: str, advice: Advice) -> list[str]:
    """The lines of the recipe that an advice changes; where only a person can change them, why."""
    try:
        after = edited(text, advice.changes)
    except RecipeError as error:
        return str(error).splitlines()
    lines = difflib.unified_diff(text.splitlines(), after.splitlines(), n=1, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def next_recipe(story: Story, advice: Sequence[Advice], name: str) -> Path:
    """Write the recipe of the next run: all the advice in it, comments kept; checked as every recipe is.

    Data that lies beside the old recipe is named by its full path where the new one lies elsewhere.

    :raises RecipeError: the file is there already.
    """
    target = recipe.new_file(name)
    old = origin.recipe_of(story.run)
    changes = {keys: value for each in advice for keys, value in each.changes.items()}
    if target.absolute().parent != old.file.absolute().parent:
        changes |= {keys: str(path) for keys, path in recipe.local_files(old)}
    reasons = [f"# {each.reason}" for each in advice if each.changes]
    head = "\n".join([f"# After {story.run.name}:", *reasons]) + "\n" if reasons else ""
    rundir.write(target, head + edited(text_of(story), changes))
    recipe.load(str(target))
    return target


def show(story: Story, advice: Sequence[Advice]) -> Iterator[str]:
    """What ``advise`` prints."""
    if not advice:
        yield f"{story.run.name}: nothing to change. {story.judgement.verdict}"
        return
    text = text_of(story)
    for number, each in enumerate(advice, 1):
        yield f"{number}. {each.reason} ({each.sure})"
        yield from (f"     {line}" for line in diff(text, each))
