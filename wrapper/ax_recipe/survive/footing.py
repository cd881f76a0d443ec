"""What a stage stands on when a run goes on: the checkpoint to train from, the base and the Axolotl as they were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ax_recipe import axolotl
from ax_recipe.errors import RecipeError, RunFailedError
from ax_recipe.forecast.architecture import hub_cache
from ax_recipe.recipe import recipe
from ax_recipe.run import origin
from ax_recipe.run.rundir import RunDir
from ax_recipe.survive import checkpoints, proof
from ax_recipe.survive.checkpoints import Checkpoint
from ax_recipe.survive.proof import Mark

Orders = Mapping[str, Any]
# Who reads the base again once it was trained on.
_READS_BASE = ("train", "evaluate", "merge", "check-merge", "chat")
_FILES = ("*.safetensors", "*.bin", "*.json", "*.model", "*.jinja")
_BASE, _DATA = "base-model", "data"


def checkpoint(run: RunDir) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint that training goes on from, and in words what was found; torn ones are set aside."""
    found, torn = checkpoints.settle(run.output, *run.ranks)
    words = [str(each) for each in torn]
    return found, [*words, f"goes on from {found.path.name}"] if found else words


def refuse_without_adapter(run: RunDir, orders: Orders) -> None:
    """Stop before anything is started that would take its time to find no adapter.

    :raises RecipeError: a file of it is not there; what makes it anew is said.
    """
    files = () if orders["method"] == "full" else ("adapter_model.safetensors", "adapter_config.json")
    gone = next((path for name in files if not (path := run.output / name).is_file()), None)
    if gone is None:
        return
    hint = f"ax-recipe watch {run.word} shows how far it is"
    if not run.worker:
        found = checkpoints.newest(run.output, *run.ranks)
        hint = f"ax-recipe resume {run.word} {f'makes it anew from {found.path.name}' if found else 'trains it'}"
    raise RecipeError(f"{run.name} has no adapter: {gone} is not there", hint)


def note(run: RunDir, orders: Orders) -> None:
    """Write down what base and data are as training begins, so that others under their names are known for that."""
    _note_base(run, orders)
    run.write_json(run.proof(_DATA), {"files": {str(path): asdict(proof.mark(path)) for path in _data(run)}})


def _data(run: RunDir) -> Iterator[Path]:
    """The local files whose rows are trained on."""
    named = recipe.local_files(origin.recipe_of(run))
    return (path for key, path in named if key[0] == "data" and path.is_file())


def refuse_other_data(run: RunDir) -> None:
    """Stop before training goes on with other rows than it began with: the checkpoint's place among them means nothing.

    :raises RunFailedError: a file is not what it was.
    """
    path = run.proof(_DATA)
    wrong = next(_differences(run.read_json(path), ""), "") if path.is_file() else ""
    if wrong:
        raise RunFailedError(
            f"the data is not what the training began with: {wrong}",
            f"put it back as it was, or begin anew with it: ax-recipe reproduce {run.word}",
        )


def _note_base(run: RunDir, orders: Orders) -> None:
    value = _local(orders) if Path(orders["base"]).is_dir() else {"revision": _revision(orders["base"])}
    proof.put(run, _BASE, value)


def _local(orders: Orders) -> dict[str, Any]:
    folder = Path(orders["base"])
    files = sorted({path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()})
    return {"files": {str(path): asdict(proof.mark(path)) for path in files}}


def _revision(repository: str) -> str | None:
    """The commit of a hub's repository that lies in the cache, where transformers takes it from."""
    ref = hub_cache() / f"models--{repository.replace('/', '--')}" / "refs" / "main"
    return ref.read_text(encoding="utf-8").strip() if ref.is_file() else None


def refuse_other_base(run: RunDir, orders: Orders, stage: str) -> None:
    """Stop before an adapter meets a base that it was not trained on: the result would be wrong without a word.

    :raises RunFailedError: the base is another one now.
    """
    path = run.proof(_BASE)
    if stage not in _READS_BASE or orders["method"] == "full" or not path.is_file():
        return
    wrong = next(_differences(run.read_json(path), orders["base"]), "")
    if wrong:
        raise RunFailedError(
            f"the base model is not the one that was trained on: {wrong}",
            f"put it back as it was, or train on the new one: ax-recipe reproduce {run.word}",
        )


def _differences(then: Mapping[str, Any], base: str) -> Iterator[str]:
    for path, made in then.get("files", {}).items():
        if wrong := proof.difference(Path(path), Mark(**made)):
            yield wrong
    revision = then.get("revision")
    if revision and (now := _revision(base)) and now != revision:
        yield f"{base} was at commit {revision[:12]}, and is at {now[:12]}"


def version(orders: Orders) -> str:
    """The Axolotl that the run would start now.

    :raises MissingError: it is gone.
    """
    return axolotl.find(orders["axolotl"]["command"]).version


def other_axolotl(orders: Orders) -> list[str]:
    """Say that Axolotl was exchanged since the run was planned; it goes on.

    Adapters and checkpoints are peft's and transformers', which read their older ones.

    :raises MissingError: it is gone.
    """
    then, now = orders["axolotl"]["version"], version(orders)
    return [] if then == now else [f"Axolotl was {then} when this run was planned, and is {now}"]
