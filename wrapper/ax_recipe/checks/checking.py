"""All that can be wrong with a recipe or a raw Axolotl YAML: the schema, our own checks, then Axolotl's validation."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe.axolotl import Axolotl
from ax_recipe.axolotl import schema as axolotl_schema
from ax_recipe.checks import all as checks
from ax_recipe.checks import foreign, planned, rows, validation
from ax_recipe.checks.subject import Subject
from ax_recipe.errors import Problem, ProblemsError, RecipeError
from ax_recipe.forecast.hardware import Hardware, target
from ax_recipe.plan import plan as plans
from ax_recipe.plan.plan import Plan
from ax_recipe.recipe import recipe as recipes
from ax_recipe.recipe import schema, secret
from ax_recipe.recipe.recipe import Recipe
from ax_recipe.run import preparing

# What is wrong with one key, or the data that it names, whatever the others say; names that the base does not have, two
# keys that say one thing, what the GPU does not compute in, and code that is none of Axolotl's.
_ALONE = frozenset(f"AX{number:03}" for number in range(1, 25)) - {"AX022"}
_ALONE |= {"AX029", "AX033", "AX034", "AX035", "AX043", "AX056"}


@dataclass(frozen=True, slots=True)
class Checked:
    """What the quick passes found: the problems, and the configs that Axolotl may be asked about."""

    name: str
    problems: tuple[Problem, ...]
    subjects: tuple[Subject, ...]

    @property
    def wrong(self) -> bool:
        """Whether one of the problems is an error."""
        return has_error(self.problems)


def has_error(problems: Sequence[Problem]) -> bool:
    """Whether one of them is an error."""
    return any(problem.severity == "error" for problem in problems)


def quick(name: str, gpus: str | None, axolotl: Axolotl | None, changes: Sequence[str] = ()) -> Checked:
    """The schema and our own checks, in well under a second.

    :param gpus: the hardware it is to run on; None for what the recipe, or this machine, says.
    :raises RecipeError: there is no such recipe, or no such hardware.
    :raises MissingError: the file cannot be read.
    """
    try:
        found = looked(name, gpus, axolotl, changes)
    except ProblemsError as error:
        return Checked(name, tuple(_with_hidden(error.problems, name, gpus, axolotl, changes)), ())
    problems = [problem for subject, known in found for problem in (*known, *checks.examine(subject))]
    secrets = {problem.key for problem in problems if problem.code == secret.CODE}
    shown = [each for each in problems if each.code != "AX001" or each.key not in secrets]
    return Checked(name, tuple(dict.fromkeys(shown)), tuple(subject for subject, _ in found))


def _with_hidden(
    known: Sequence[Problem], name: str, gpus: str | None, axolotl: Axolotl | None, changes: Sequence[str]
) -> list[Problem]:
    """What stops a recipe from being planned, and what that hides: it is looked at without the keys that are wrong.

    Only what is wrong by itself is added; what keys are to each other may come of those that are left out.
    """
    found, left_out = list(known), set[str]()
    while wrong := {each.key for each in found if each.key and each.severity == "error"} - left_out:
        left_out |= wrong
        try:
            made = list(_of_recipe(name, gpus, axolotl, changes, left_out))
        except ProblemsError as error:
            found += [each for each in error.problems if each not in found and not _follows(each, left_out)]
        else:
            more = [each for subject, its in made for each in (*its, *checks.examine(subject)) if each.code in _ALONE]
            found += [each for each in dict.fromkeys(more) if not _follows(each, left_out)]
            break
    own = str(recipes.find(name))
    return sorted(found, key=lambda each: (each.file != own, each.file or "", each.line or 0))


def _follows(problem: Problem, left_out: Collection[str]) -> bool:
    """Whether it is about a key that was left out, or says that one is missing."""
    key = problem.key or ""
    missing = problem.code == "AX004" and any(each.startswith(key) for each in left_out)
    return missing or any(key == each or key.startswith((f"{each}.", f"{each}[")) for each in left_out)


def slow(checked: Checked) -> list[Problem]:
    """What Axolotl's own validation adds; nothing where no Axolotl is installed.

    :raises MissingError: the training environment's python fails.
    """
    return list(dict.fromkeys(problem for subject in checked.subjects for problem in _asked(subject, checked.problems)))


def ask_before(plan: Plan, axolotl: Axolotl, say: Callable[[str], None]) -> None:
    """Stop a run that Axolotl's own validation refuses, minutes before Axolotl would.

    A bundled recipe as it came is not asked about: tests have, for every kind of hardware, and the seconds that it
    takes would be lost on each machine. Any other is asked about once, and the answer is remembered.

    :raises ProblemsError: with what it refuses.
    """
    if plan.recipe.file in recipes.bundled() and not plan.recipe.changes:
        return
    subjects = list(planned.subjects(plan, axolotl))
    if not all(validation.is_known(*_question(subject), axolotl) for subject in subjects):
        say(f"asking Axolotl {axolotl.version} whether it takes this config ...")
    found = [problem for subject in subjects for problem in _asked(subject, ())]
    preparing.refuse_problems([problem for problem in found if problem.severity == "error"])


def _question(subject: Subject) -> tuple[Mapping[str, Any], Hardware]:
    """What Axolotl is asked: where a run writes is its own affair, and would make each run another question."""
    keys = {**foreign.without_plugins(subject.keys)}
    for name in ("output_dir", "dataset_prepared_path"):
        if isinstance(keys.get(name), str) and keys[name]:
            keys[name] = f"./{name}"
    return keys, subject.hardware


def _asked(subject: Subject, known: Sequence[Problem]) -> Iterator[Problem]:
    if subject.axolotl is None:
        return
    known_keys = {problem.key for problem in known if problem.key}
    for saying in validation.ask(*_question(subject), subject.axolotl):
        code = "AX050" if saying.severity == "error" else "AX051"
        message = " ".join(saying.message.split())
        problem = subject.problem(code, saying.key, message, None, saying.severity)
        if problem.key not in known_keys:  # said already, and with a fix
            yield problem


def looked(
    name: str, gpus: str | None, axolotl: Axolotl | None, changes: Sequence[str]
) -> list[tuple[Subject, list[Problem]]]:
    """The configs that a recipe or an Axolotl YAML stands for, each with what is wrong with its keys by the schema."""
    if document := recipes.axolotl_yaml(name, changes):
        found = [*schema.check(document, axolotl_schema(axolotl)["schema"]), *secret.find(document)]
        return [(Subject(document, target(gpus), Path(name).expanduser().resolve().parent, axolotl), found)]
    return list(_of_recipe(name, gpus, axolotl, changes))


def subjects(name: str, gpus: str | None, axolotl: Axolotl | None, changes: Sequence[str] = ()) -> list[Subject]:
    """Those configs, the fine-tune last; whatever their keys are."""
    return [subject for subject, _ in looked(name, gpus, axolotl, changes)]


def foreign_code(name: str, gpus: str | None, axolotl: Axolotl | None, changes: Sequence[str]) -> list[Problem]:
    """What in a recipe or an Axolotl YAML would run code that did not come with Axolotl (AX056), warnings all."""
    return [problem for subject in subjects(name, gpus, axolotl, changes) for problem in foreign.code(subject)]


def _of_recipe(
    name: str, gpus: str | None, axolotl: Axolotl | None, changes: Sequence[str], left_out: Collection[str] = ()
) -> Iterator[tuple[Subject, list[Problem]]]:
    recipe = recipes.load(name, changes, left_out)
    try:
        preparing.wanted_hardware(recipe)
    except RecipeError as error:
        raise _refused(recipe, "gpus", error.message.removeprefix("--gpus "), error.hint) from error
    hardware = preparing.hardware_for(recipe, gpus)
    base = preparing.base_folder(recipe, axolotl)
    try:
        places = (f"./outputs/{recipe.name}", "last_run_prepared", str(base))
        plan = plans.make(recipe, hardware, *places, preparing.missing(axolotl, hardware))
    except RecipeError as error:
        key, _, message = error.message.partition(": ")
        raise _refused(recipe, key, message, error.hint) from error
    known = preparing.problems(plan, axolotl)
    for index, subject in enumerate(planned.subjects(plan, axolotl)):
        yield subject, known if index == 0 else []


def _refused(recipe: Recipe, key: str, message: str, hint: str | None) -> ProblemsError:
    line = recipe.document.line(tuple(key.split(".")))
    return ProblemsError([Problem("AX010", "error", message, recipe.document.file, line, key, hint)])


def as_json(problems: Sequence[Problem]) -> dict[str, Any]:
    """The problems as ``check --json`` prints them."""
    fields = ("code", "severity", "file", "line", "key", "message", "suggestion")
    return {"problems": [{name: getattr(problem, name) for name in fields} for problem in problems]}


def summary(problems: Sequence[Problem]) -> str:
    """How many of each, in words."""
    counts = {word: sum(problem.severity == word for problem in problems) for word in ("error", "warning")}
    words = [f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts.items() if count]
    return ", ".join(words) or "no problem found"


def unread(checked: Checked) -> str | None:
    """What a person is told of data that is too large to be read in a moment."""
    names = dict.fromkeys(name for subject in checked.subjects for name in rows.unread(subject))
    looked = f"only the first {rows.SAMPLE} rows were looked at: `ax-recipe data {checked.name}` reads them all"
    return f"of {', '.join(names)} {looked}" if names else None


def asks(checked: Checked, *, everything: bool) -> bool:
    """Whether Axolotl's own validation is worth its seconds.

    It stops at the first thing that it does not like, so where errors are known it comes after they are mended.
    """
    return any(subject.axolotl for subject in checked.subjects) and (everything or not checked.wrong)


def waits(checked: Checked, *, everything: bool) -> str | None:
    """What a person is told about Axolotl's own validation."""
    last = checked.subjects[-1] if checked.subjects else None
    if last and last.axolotl is None:
        return "no axolotl is installed here: its own validation was left out"
    if last and last.axolotl and asks(checked, everything=everything):
        return f"asking Axolotl {last.axolotl.version}, for {last.hardware} ..."
    mended = "Axolotl's own validation stops at its first complaint: it is asked once these are mended, or with --all"
    return mended if last else None
