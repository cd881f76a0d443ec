"""Ship the model of a run, or of any folder: made whole, exported, deployed; each with its checks."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from ax_recipe import assets, axolotl, process
from ax_recipe.errors import MissingError, RecipeError, RunFailedError
from ax_recipe.launch import noting, outcomes
from ax_recipe.launch.training import Outcome
from ax_recipe.run import rundir
from ax_recipe.run.rundir import RunDir
from ax_recipe.ship import bench, convert, live, llama, mend, merged, prompter, source
from ax_recipe.ship import deploy as deploying
from ax_recipe.ship import exported as exports
from ax_recipe.ship.convert import Converter
from ax_recipe.ship.deploy import Deployed, Wanted
from ax_recipe.ship.export import Export, Wishes
from ax_recipe.ship.export import export as export_folder
from ax_recipe.ship.exported import Exported
from ax_recipe.ship.live import Proof
from ax_recipe.ship.merged import Check
from ax_recipe.ship.ollama import Ollama, Report
from ax_recipe.survive import footing
from ax_recipe.view.transfer import Transfer

Result = TypeVar("Result")

ADAPTER_EXPORT = "adapter-ollama"
"""Where a run's base is exported to with its adapter beside it, inside the run's folder."""


@dataclass(frozen=True, slots=True)
class ExportTold:
    """What the command line says of an export; it wins over the recipe. An empty ``system`` takes the recipe's away.

    ``llama_cpp`` is where the converter is, ``kind`` the data's type, of a model without a chat template. With
    ``adapter``, the base is exported with the adapter beside it.
    """

    system: str | None = None
    num_ctx: int | None = None
    gguf: Path | None = None
    llama_cpp: Path | None = None
    kind: str | None = None
    adapter: bool = False

    def over(self, recipe: Wishes, python: Path | None) -> Wishes:
        """What the recipe wishes, as changed by the command line; ``python`` is the training environment's."""
        jinja = prompter.chat_template(prompter.of_type(self.kind)) if self.kind else recipe.jinja
        return replace(
            recipe,
            system=recipe.system if self.system is None else self.system or None,
            num_ctx=self.num_ctx or recipe.num_ctx,
            gguf=self.gguf,
            jinja=jinja,
            converter=None if self.gguf and not self.adapter else self._converter(python),
        )

    def _converter(self, python: Path | None) -> Converter | None:
        script = convert.find(self.llama_cpp)
        if script and self.llama_cpp and not python:
            raise MissingError(
                f"{script} needs a python with torch", f"install Axolotl, or name one: {axolotl.VARIABLE}"
            )
        return Converter(script, python) if script and python else None


@dataclass(frozen=True, slots=True)
class DeployTold:
    """What the command line says of a deployment; it wins over the recipe."""

    model: str | None = None
    quantize: str | None = None
    tag: str | None = None
    replaces: bool = False

    def over(self, recipe: Wanted) -> Wanted:
        """What the recipe wants, as changed by the command line."""
        return replace(
            recipe,
            name=self.model or recipe.name,
            quantize=self.quantize or recipe.quantize,
            own=recipe.own and not (self.model or self.tag),
            tag=self.tag,
            replace=self.replaces,
        )


def find(runs: Path, name: str | None) -> RunDir | Path:
    """The folder that ``name`` is, if it is one and no run's; else the run that :func:`rundir.find` finds.

    :raises RecipeError: it is neither.
    """
    if name and Path(name).is_dir() and not rundir.is_run(Path(name)):
        return Path(name).resolve()
    return rundir.find(runs, name, "folder", "a folder is one with a model and its tokenizer")


def make_whole(folder: Path, *, change: bool) -> tuple[Check, ...]:
    """The merge doctor's verdicts on a folder of an Axolotl run; what files can mend is mended where ``change``."""
    folders = source.of_folder(folder)
    return mend.mend(folders) if change else merged.examine(folders)


def model_of(run: RunDir) -> Path:
    """The folder with the whole model of a run.

    :raises RecipeError: it was not merged yet.
    """
    folder = Path(run.read_json(run.orders)["model"])
    if not folder.is_dir():
        raise RecipeError(f"{run.name} has no merged model yet", f"ax-recipe resume {run.word}")
    return folder


def refuse_unmergeable(run: RunDir) -> None:
    """Stop before Axolotl is started to merge what is not there.

    :raises RecipeError: the run has no adapter, or was not made here.
    """
    rundir.refuse_foreign(run)
    footing.refuse_without_adapter(run, run.read_json(run.orders))


def compare(run: RunDir) -> Check:
    """How far the merge's logits are from those of the base with the adapter, measured on the recipe's questions.

    :raises RecipeError: the run has no adapter.
    """
    rundir.refuse_foreign(run)
    orders = run.read_json(run.orders)
    if orders["method"] == "full":
        raise RecipeError(f"{run.name} is a full fine-tune: nothing was merged", "there is nothing to compare")
    footing.refuse_without_adapter(run, orders)
    four_bit = orders["method"] == "qlora"
    questions = orders["checks"]["prompts"] if orders["checks"] else [live.QUESTION]
    answers = {row["prompt"]: row["tuned"] for row in run.read_json(run.answers)} if run.answers.is_file() else {}
    turns = [[("user", text), ("assistant", answers.get(text) or "Yes.")] for text in questions]
    with TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.json"
        file.write_text(json.dumps([[{"role": role, "content": text} for role, text in each] for each in turns]))
        named = {"--base": orders["base"], "--adapter": str(run.output), "--merged": orders["model"]}
        told = [word for pair in named.items() for word in pair] + ["--four-bit"] * four_bit
        found = process.probe(Path(orders["axolotl"]["python"]), assets.probe("compare_logits.py"), *told, str(file))
    return merged.drift(found, four_bit=four_bit)


def export(target: RunDir | Path, out: Path | None, told: ExportTold) -> Export:
    """Export a run into its own folder (and note it there) or into ``out``; any other model into ``out``.

    :raises RecipeError: there is nothing to export, or its chat template cannot be carried over.
    """
    if told.adapter:
        return _export_adapter(target, out, told)
    if isinstance(target, Path):
        folders = source.of_folder(target)
        wishes = told.over(Wishes(trained=folders.trained, base=folders.base), _python())
        return export_folder(folders.merged, out or Path(f"{target.name}-ollama").absolute(), wishes)
    rundir.refuse_foreign(target)
    orders = target.read_json(target.orders)
    wishes = told.over(outcomes.wishes(target, orders), Path(orders["axolotl"]["python"]))

    model = model_of(target)

    def work() -> Export:
        return export_folder(model, out or target.path, wishes)

    return work() if out else _noted(target, "export", work, outcomes.exported)


def _export_adapter(target: RunDir | Path, out: Path | None, told: ExportTold) -> Export:
    """Into ``out``, else beside what is exported of the merge: the run's own export stays as it is."""
    adapter = target if isinstance(target, Path) else target.output
    if isinstance(target, Path):
        recipe, python, place = Wishes(), _python(), Path(f"{target.name}-ollama-adapter").absolute()
    else:
        rundir.refuse_foreign(target)
        orders = target.read_json(target.orders)
        if orders["method"] == "full":
            raise RecipeError(f"{target.name} is a full fine-tune: it has no adapter", "export it without --adapter")
        footing.refuse_without_adapter(target, orders)
        recipe, python = outcomes.wishes(target, orders), Path(orders["axolotl"]["python"])
        recipe, place = replace(recipe, four_bit=orders["method"] == "qlora"), target.path / ADAPTER_EXPORT
    folders = source.of_adapter(adapter)
    wishes = replace(told.over(recipe, python), trained=folders.trained, adapter=adapter)
    return export_folder(folders.merged, out or place, wishes)


def deploy(target: RunDir | Path, host: str | None, told: DeployTold) -> Deployed:
    """Bring a run's model, or an exported folder, into Ollama with progress on the terminal, and prove it there.

    :raises MissingError: there is no Ollama, or it is too old.
    """
    with Ollama(host) as server, Transfer() as shown:
        server.require()
        if isinstance(target, Path):
            python = _python()
            proof = Proof(count=outcomes.counter(python) if python else None)
            wanted = told.over(Wanted(target.name, proof=proof))
            return deploying.deploy(server, exports.read(target), wanted, shown.report)
        run = target
        rundir.refuse_foreign(run)
        wanted = told.over(outcomes.wanted(run, run.read_json(run.orders), server.url))
        return _noted(run, "deploy", lambda: outcomes.deploy(run, server, wanted, shown.report), outcomes.deployed)


def _python() -> Path | None:
    found = axolotl.find_if_any()
    return found.python if found else None


def _noted(run: RunDir, stage: str, work: Callable[[], Result], judge: Callable[[Result], Outcome]) -> Result:
    """Do the work as a stage of the run. What a failed check says is in the result, so it is no error here."""
    results: list[Result] = []

    def staged() -> Outcome:
        results.append(work())
        return judge(results[0])

    try:
        noting.by_hand(run, stage, staged)
    except RunFailedError:
        if not results:
            raise
    return results[0]


def measure(run: RunDir, host: str | None, rounds: int) -> list[bench.Result]:
    """Time the run's model in every form and engine that is at hand, on the recipe's own questions.

    :raises RecipeError: the run has no model yet.
    """
    rundir.refuse_foreign(run)
    orders = run.read_json(run.orders)
    prompts = orders["checks"]["prompts"] if orders["checks"] else [live.QUESTION]
    order, model = bench.Order(prompts, rounds), model_of(run)
    adapter, results = run.output if orders["method"] != "full" else None, []
    try:
        footing.refuse_without_adapter(run, orders)
    except RecipeError as error:
        adapter, results = None, [bench.Result("adapter", "transformers", problem=f"{error.message}; {error.hint}")]
    python = Path(orders["axolotl"]["python"])
    exported = [exports.read(run.path)]
    if (run.path / ADAPTER_EXPORT / "Modelfile").is_file():
        exported.append(exports.read(run.path / ADAPTER_EXPORT))
    results += bench.in_transformers(order, python, model, adapter, orders["base"])
    with Transfer() as shown:
        results += _in_llama_cpp(order, exported, shown.report)
        return results + _in_ollama(order, exported, host, orders["ship"]["model"], shown.report)


def _in_llama_cpp(order: bench.Order, exported: Sequence[Exported], report: Report) -> list[bench.Result]:
    try:
        engine = llama.find()
    except MissingError as error:
        return [bench.Result("any", "llama.cpp", problem=error.message)]
    with TemporaryDirectory(dir=exported[0].folder) as folder:
        found = list(bench.in_llama_cpp(order, engine, bench.forms(exported, Path(folder), report)))
    return found or [bench.Result("any", "llama.cpp", problem="there is no GGUF: export with --llama-cpp DIR")]


def _in_ollama(
    order: bench.Order, exported: Sequence[Exported], host: str | None, name: str, report: Report
) -> list[bench.Result]:
    with Ollama(host) as server:
        try:
            server.require()
        except MissingError as error:
            return [bench.Result("any", "Ollama", problem=error.message)]
        return [row for each in exported for row in bench.in_ollama(order, server, each, name, report)]
