"""What a stage has made, written down when it was done, and held against what is there when the run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ax_recipe.errors import MissingError
from ax_recipe.run.rundir import RunDir, RunState, StageRecord, write

Orders = Mapping[str, Any]
# Read whole each time; of a larger file that has its size and time, the 16 GB of a merged 8B model for one, nothing
# is read: hashing them costs a minute at each resume. One whose time is another is read before it counts as changed.
SMALL = 2**26
_MODEL = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer*", "*.jinja")
_ADAPTER = ("adapter_model*", "adapter_config.json", "tokenizer*", "*.jinja")


@dataclass(frozen=True, slots=True)
class Mark:
    """One file: bytes, nanoseconds since 1970, and the digest of all that is in it."""

    size: int
    mtime_ns: int
    sha256: str


def mark(path: Path) -> Mark:
    """Read the whole of ``path``, in small pieces."""
    status = path.stat()
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return Mark(status.st_size, status.st_mtime_ns, digest.hexdigest())


def difference(path: Path, then: Mark) -> str:
    """How ``path`` is not what it was, or nothing."""
    try:
        status = path.stat()
        if status.st_size != then.size:
            return f"{path} has {status.st_size} bytes instead of {then.size}"
        if status.st_size > SMALL and status.st_mtime_ns == then.mtime_ns:
            return ""
        return "" if mark(path).sha256 == then.sha256 else f"{path} was changed"
    except FileNotFoundError:
        return f"{path} is gone"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _made(run: RunDir, orders: Orders, stage: str) -> list[Path]:
    """The files that a stage leaves for those after it."""
    model = Path(orders["model"])
    places: dict[str, tuple[Path, tuple[str, ...]]] = {
        "base": (Path(orders["base"]), ("model.safetensors", "config.json", "tokenizer.json")),
        "train": (run.output, _MODEL if orders["method"] == "full" else _ADAPTER),
        "evaluate": (run.output, ("eval_summary.csv",)),
        "merge": (model, _MODEL),
        "export": (run.path, (run.modelfile.name, "model/*.json", "model/*.gguf")),
        "deploy": (run.path, (run.deployed.name,)),
        "chat": (run.path, (run.answers.name,)),
    }
    folder, patterns = places.get(stage, (run.path, ()))
    return sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()})


def _sources(orders: Orders, stage: str) -> tuple[str, ...]:
    """The stages from whose files a stage makes its own."""
    model = "train" if orders["method"] == "full" else "merge"
    return {
        "evaluate": ("train",),
        "merge": ("train",),
        "check-merge": (model,),
        "export": (model,),
        "deploy": ("export",),
        "chat": (model,),
    }.get(stage, ())


def take(run: RunDir, orders: Orders, record: StageRecord) -> None:
    """Write the proof of a stage that was done well, as ``record`` says."""
    if record.name == "check-merge":  # which mends what the stage before it has made
        _renew(run, orders, _sources(orders, record.name)[0])
    value = {
        **asdict(record),
        "files": {str(path): asdict(mark(path)) for path in _made(run, orders, record.name)},
        "from": {source: _digest(run, source) for source in _sources(orders, record.name)},
    }
    put(run, record.name, value)


def put(run: RunDir, name: str, value: Mapping[str, Any]) -> None:
    """Write down what something is, for later.

    :raises MissingError: the disk is full or the folder cannot be written to.
    """
    try:
        run.proof(name).parent.mkdir(exist_ok=True)
    except OSError as error:
        raise MissingError(f"{run.path}: cannot be written: {error.strerror}", "free some space") from error
    run.write_json(run.proof(name), value)


def _renew(run: RunDir, orders: Orders, stage: str) -> None:
    value = read(run, stage)
    if value:
        files = {str(path): asdict(mark(path)) for path in _made(run, orders, stage)}
        put(run, stage, {**value, "files": files})


def read(run: RunDir, stage: str) -> dict[str, Any]:
    """The proof of a stage; empty where there is none, or half of one."""
    try:
        value = run.read_json(run.proof(stage))
    except MissingError:
        return {}
    return value if {"files", "from", "name"} <= value.keys() else {}


def _digest(run: RunDir, stage: str) -> str:
    files = {path: made["sha256"] for path, made in read(run, stage).get("files", {}).items()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def move(run: RunDir, moved: Callable[[str], str]) -> None:
    """What was proven of files that lie elsewhere now; ``moved`` puts the new places into a text."""
    paths = sorted(run.path.glob("proofs/*.json"))
    before = {path.stem: _digest(run, path.stem) for path in paths}
    for path in paths:
        write(path, moved(path.read_text(encoding="utf-8")))
    for stage in before:
        if value := read(run, stage):
            then = value["from"]
            same = {name: _digest(run, name) if then[name] == before.get(name) else then[name] for name in then}
            put(run, stage, {**value, "from": same})


def flaw(run: RunDir, stage: str) -> str:
    """Why what a stage was done for no longer holds, or nothing."""
    value = read(run, stage)
    if not value:
        return "nothing proves that it was done"
    for path, made in value["files"].items():
        wrong = difference(Path(path), Mark(**made))
        if wrong:
            return wrong
    return next((f"{name} was done again" for name, then in value["from"].items() if _digest(run, name) != then), "")


def standing(run: RunDir) -> RunState:
    """The state as it would go on: what was done and no longer holds, or is no more there, waits to be done again.

    Of a run that goes on, its runner has looked at what lies before its stage.
    """
    state = run.current_state()
    going = max((number for number, stage in enumerate(state.stages) if stage.state == "running"), default=-1)
    for stage in state.stages[going + 1 :]:
        if stage.state == "done" and (wrong := flaw(run, stage.name)):
            state = state.with_stage(replace(stage, state="waiting", detail=f"to be done again: {wrong}"))
    return state


def repaired(run: RunDir) -> RunState:
    """The state of a run whose state.json cannot be read, as its plan and its proofs tell it."""
    orders = run.read_json(run.orders)
    return RunState(orders["recipe"], tuple(_proven(run, stage["name"]) for stage in orders["stages"]))


def _proven(run: RunDir, stage: str) -> StageRecord:
    value = read(run, stage)
    attempts = [int(path.name.split(".")[1]) for path in run.path.glob(f"logs/{stage}.*.log")]  # those of nodes, too
    fields = StageRecord.__dataclass_fields__.keys() & value.keys()
    if fields:
        return StageRecord(**{name: value[name] for name in fields})
    return StageRecord(stage, attempt=max(attempts, default=0))
