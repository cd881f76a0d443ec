"""Faults, injected into real processes: what was done to a run, what must hold, and what held.

    python tests/injected.py [NAME ...]        # all, or those that are named; prints the table of docs/faults.md

The trainer is a stand-in (tests/bin/trainer) that really learns: its result is a digest of the base, the data and each
step, so that a lost, doubled or mixed-up step shows in the end. After every fault a run must come to its end and to the
very result of an unbroken one, leave no process behind, and never call done what is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.machinery
import importlib.util
import os
import platform
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "wrapper")]

from ax_recipe import axolotl  # noqa: E402
from ax_recipe.run import rundir, seal  # noqa: E402
from ax_recipe.run.rundir import RunDir  # noqa: E402
from ax_recipe.survive import policy  # noqa: E402
from ax_recipe.survive.policy import Policy  # noqa: E402
from fake_ollama import serve  # noqa: E402
from ship_folders import CHAT, write_model, write_tokenizer  # noqa: E402

DEADLINE_S = 60.0
CONFIG: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


# CHAT, and a word each: what tests/fake_ollama.py counts.
COUNT = """import json, sys
print(json.dumps({"tokens": len((
    "".join("<|%s|>%s<|end|>" % (row["role"], row["content"]) for row in json.loads(sys.argv[1])) + "<|assistant|>"
).split())}))"""
REAL_S = 240.0
SHORT = ("--set", "base.train.max_steps=5", "--set", "train.max_steps=40", "--set", "train.logging_steps=1")


TITLE = """# Faults

What was done to runs, on real processes, and what held. After a fault a run comes to its end with the very result of an
unbroken one, or it is said why not; no process stays; nothing is called done that is not.
The trainer is a stand-in that learns a digest of base, data and steps, except where it says real Axolotl."""


class NotHereError(Exception):
    """A fault that cannot be injected on this machine: mounts want root."""


def installed_axolotl() -> Path | None:
    """The real one: named by AX_RECIPE_AXOLOTL, beside this python, or on PATH."""
    named, beside = os.environ.get("AX_RECIPE_AXOLOTL"), Path(sys.executable).with_name("axolotl")
    found = named or (str(beside) if beside.is_file() else shutil.which("axolotl"))
    return Path(found) if found else None


def trainer() -> ModuleType:
    """The stand-in as a module: it knows what must have been learnt."""
    loader = importlib.machinery.SourceFileLoader("trainer", str(ROOT / "tests/bin/trainer"))
    spec = importlib.util.spec_from_loader("trainer", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def until(condition: Callable[[], object], what: str, patience_s: float = DEADLINE_S) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, f"it never came to that: {what}"
        time.sleep(0.02)


@dataclass
class Bench:
    """A place with a recipe, its base and data, an environment with the stand-in, and the processes of one fault."""

    folder: Path
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        base, binaries = self.folder / "base", self.folder / "environment" / "bin"
        write_model(base, rows=5, **CONFIG)
        write_tokenizer(base, chat=CHAT)
        row = '{"messages": [{"role": "user", "content": "Ahoy?"}, {"role": "assistant", "content": "Arr."}]}\n'
        self.data.write_text(row * 8, encoding="utf-8")
        data = "[{path: rows.jsonl, type: chat_template}]"
        text = f"base: ./base\ngpus: 0\ndata: {data}\nval_set_size: 0.25\nship: {{model: fault}}\n"
        self.recipe.write_text(text, encoding="utf-8")
        binaries.mkdir(parents=True)
        (binaries.parent / "lib/python3.11/site-packages/axolotl-0.19.0.dist-info").mkdir(parents=True)
        # What its python is asked for: whether it takes the config, and how many tokens the stand-in Ollama counts.
        valid = f"""case "$1" in
        */validate.py) echo '{{"errors": [], "warnings": []}}'; exit;;
        */prompt_tokens.py) exec {sys.executable} -c '{COUNT}' "$3";;
        esac"""
        for name, program in (("axolotl", f"{sys.executable} {ROOT}/tests/bin/trainer"), ("python", sys.executable)):
            (binaries / name).write_text(f'#!/bin/sh\n{valid}\nexec {program} "$@"\n', encoding="utf-8")
            (binaries / name).chmod(0o755)
        self.hold.touch()

    @property
    def data(self) -> Path:
        """The rows that are trained on."""
        return self.folder / "rows.jsonl"

    @property
    def recipe(self) -> Path:
        """The recipe's file."""
        return self.folder / "fault.yaml"

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        return self.folder / "runs"

    @property
    def hold(self) -> Path:
        """As long as it is there, training waits after its third step."""
        return self.folder / "hold"

    @property
    def slow(self) -> Path:
        """As long as it is there, the fourth checkpoint is half written."""
        return self.folder / "slow"

    @property
    def run(self) -> RunDir:
        """The one run."""
        return rundir.find(self.runs, None)

    def environment(self, **more: str) -> dict[str, str]:
        """What the commands are started with; FAULT_BENCH marks all that comes of them, whatever becomes of it."""
        mine = {
            "PYTHONPATH": str(ROOT / "wrapper"),
            "AX_RECIPE_RUNS": str(self.runs),
            "AX_RECIPE_CACHE": str(self.folder / "cache"),
            "AX_RECIPE_AXOLOTL": str(self.folder / "environment"),
            "OLLAMA_HOST": "http://127.0.0.1:9",
            "FAULT_BENCH": str(self.folder),
            "FAULT_HOLD": str(self.hold),
            "FAULT_SLOW": str(self.slow),
        }
        return {**os.environ, **mine, **self.extra, **more}

    def command(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end; no traceback is ever a person's to read."""
        argv = [sys.executable, "-m", "ax_recipe", *arguments]
        done = subprocess.run(
            argv, env=self.environment(**more), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=DEADLINE_S,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *arguments: str, terminal: int | None = None, **more: str) -> subprocess.Popen[bytes]:
        """Start the command in the background."""
        argv = [sys.executable, "-m", "ax_recipe", *arguments]
        quiet = subprocess.DEVNULL if terminal is None else terminal
        with (self.folder / "said").open("ab") as said:
            child = subprocess.Popen(
                argv, env=self.environment(**more), stdin=quiet, stdout=quiet,
                stderr=said if terminal is None else terminal, start_new_session=True,
            )  # fmt: skip
        self.children.append(child)
        return child

    def begin(self, stage: str = "evaluate", **more: str) -> subprocess.Popen[bytes]:
        """Start a run, and wait until it waits after its third step."""
        child = self.start("run", str(self.recipe), "--until", stage, terminal=None, **more)
        self.reaches(3)
        return child

    def reaches(self, step: int) -> None:
        """Wait until the training has told of a step."""
        word = f'"step": {step},'
        until(
            lambda: rundir.every(self.runs) and self.run.events.exists() and word in self.run.events.read_text(), word
        )

    def trains(self) -> psutil.Process:
        """The process that trains: the launcher, where there is one."""
        mine = self._living(lambda each: "tests/bin/trainer" in " ".join(each.cmdline()))
        return min(mine, key=lambda each: (each.create_time(), each.pid))

    def ranks(self) -> list[psutil.Process]:
        """The processes that the launcher started."""
        return self._living(lambda each: "FAULT_RANK" in each.environ())

    def alive(self) -> list[psutil.Process]:
        """Every process that came of this place, found without ax-recipe's own means."""
        return self._living(lambda _: True)

    def _living(self, wanted: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):  # it may end between two questions
                mine = process.environ().get("FAULT_BENCH") == str(self.folder) and wanted(process)
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def state(self, stage: str = "train") -> str:
        """What a stage's state is now."""
        return str(self.run.current_state().stage(stage).state)

    def detail(self, stage: str = "train") -> str:
        """What is said of a stage."""
        return self.run.current_state().stage(stage).detail

    def ended(self) -> None:
        """Wait until no process is left, but for those that zombies are of."""
        until(lambda: not self.alive(), "no process is left")

    def ended_or_not_done(self) -> None:
        """Wait until the runner has let go; the training is not done."""
        until(lambda: self.run.holder() is None, "the runner ended")
        assert self.state() in ("failed", "interrupted"), self.state()

    def finish(self, stage: str = "evaluate", *options: str, **more: str) -> str:
        """Go on to the end of ``stage``: the result must be that of an unbroken run. Gives what was said."""
        self.hold.unlink(missing_ok=True)
        self.slow.unlink(missing_ok=True)
        done = self.command("resume", self.run.name, "--until", stage, *options, **more)
        assert self.state(stage) == "done", f"{self.state(stage)}: {done.stderr}"
        self.right()
        return done.stderr

    def right(self) -> None:
        """What was learnt is what an unbroken run learns, and nobody is left."""
        module, config = trainer(), yaml.safe_load(self.run.axolotl_yaml.read_text(encoding="utf-8"))
        assert module.held(self.run.output) == module.learnt(config, module.STEPS), "a silent wrong result"
        self.ended()

    def close(self) -> list[str]:
        """End what is left; give it, for an orphan is a fault of ours."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            child.wait()
        said = self.folder / "said"
        assert not said.is_file() or b"Traceback" not in said.read_bytes(), said.read_text("utf-8", "replace")
        left = [" ".join(each.cmdline()) for each in self.alive()]
        for each in self.alive():
            with contextlib.suppress(psutil.Error):
                each.kill()
        return left


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    done: str
    must: str
    inject: Callable[[Bench], str]


FAULTS: dict[str, Fault] = {}


def fault(done: str, must: str) -> Callable[[Callable[[Bench], str]], Callable[[Bench], str]]:
    """Put a function into the table: it does the fault, asserts what must hold, and says what held."""

    def noted(inject: Callable[[Bench], str]) -> Callable[[Bench], str]:
        name = inject.__name__.replace("_", "-")
        FAULTS[name] = Fault(name, done, must, inject)
        return inject

    return noted


# --- killed ---


@fault("kill -9 of the viewer (`ax-recipe run`) while it trains", "the run goes on to its end by itself")
def killed_viewer(bench: Bench) -> str:
    viewer = bench.begin()
    viewer.kill()
    viewer.wait()
    assert bench.state() == "running"
    bench.hold.unlink()
    until(lambda: bench.state("evaluate") == "done", "the run ends")
    bench.right()
    return "it ended by itself: done"


@fault("kill -9 of the runner", "status says so; resume lets the orphan save, and goes on from there")
def killed_runner(bench: Bench) -> str:
    bench.begin()
    holder = bench.run.holder()
    assert holder
    os.kill(holder, signal.SIGKILL)
    until(lambda: bench.run.holder() is None, "the lock is free")
    assert bench.state() == "interrupted"
    assert bench.trains().is_running()
    said = bench.finish()
    assert "goes on from checkpoint-" in said + bench.detail()
    return f"interrupted; {_from(bench)}"


@fault("kill -9 of the trainer", "the stage is failed, never done; resume goes on from the newest checkpoint")
def killed_trainer(bench: Bench) -> str:
    bench.begin()
    bench.trains().kill()
    bench.ended_or_not_done()
    bench.finish()
    return _from(bench)


@fault("kill -9 of a launcher, whose ranks train on alone", "the ranks are found and ended; resume goes on")
def killed_launcher(bench: Bench) -> str:
    bench.begin(FAULT_RANKS="2")
    until(lambda: len(bench.ranks()) == 2, "two ranks train")
    bench.trains().kill()
    bench.ended_or_not_done()
    until(lambda: not bench.ranks(), "no rank trains on")
    bench.finish(FAULT_RANKS="2")
    return f"both ranks ended; {_from(bench)}"


@fault("kill -9 of one rank of two", "the other one ends, too; resume goes on")
def killed_rank(bench: Bench) -> str:
    bench.begin(FAULT_RANKS="2")
    until(lambda: len(bench.ranks()) == 2, "two ranks train")
    bench.ranks()[1].kill()
    bench.ended_or_not_done()
    until(lambda: not bench.ranks(), "no rank trains on")
    bench.finish(FAULT_RANKS="2")
    return _from(bench)


@fault("kill -9 of every process at once, as a power cut does", "resume goes on from the newest whole checkpoint")
def killed_all(bench: Bench) -> str:
    bench.begin()
    for process in bench.alive():
        with contextlib.suppress(psutil.Error):
            process.kill()
    bench.children[0].wait()
    bench.ended()
    assert bench.state() == "interrupted"
    bench.finish()
    return _from(bench)


@fault("the same, and its process ids are somebody else's after a reboot", "the lock's owner is not believed")
def reused_process_id(bench: Bench) -> str:
    killed_all(bench)
    (bench.run.path / "lock").write_text(f"{os.getpid()} ", encoding="ascii")
    assert bench.run.holder() is None
    shutil.rmtree(bench.run.path / "proofs")
    bench.finish()
    return "a lock that nobody holds is nobody's, whatever is written in it"


# --- stopped ---


@fault("SIGTERM to the runner while a checkpoint is half written", "the checkpoint is whole when it has ended")
def stopped_while_saving(bench: Bench) -> str:
    bench.slow.touch()
    bench.hold.unlink()
    bench.start("run", str(bench.recipe), "--until", "evaluate")
    bench.reaches(4)
    until(lambda: (bench.run.output / "checkpoint-4" / "adapter_model.safetensors").exists(), "it saves")
    holder = bench.run.holder()
    assert holder
    os.kill(holder, signal.SIGTERM)
    until(bench.run.stop_file.exists, "the stop file")
    bench.slow.unlink()
    until(lambda: bench.run.holder() is None, "it ended")
    assert bench.state() == "interrupted"
    assert "checkpoint-4 is whole" in bench.detail()
    bench.finish()
    return _from(bench)


@fault("SIGTERM to the trainer alone, as a batch system's", "a whole checkpoint; interrupted, not failed, not done")
def terminated_trainer(bench: Bench) -> str:
    bench.begin()
    bench.trains().terminate()
    until(lambda: bench.run.holder() is None, "it ended")
    assert bench.state() == "interrupted", bench.state()
    bench.finish()
    return f"interrupted; {_from(bench)}"


@fault("SIGINT to the trainer: Axolotl saves bare weights and exits 0", "that is not called done; resume goes on")
def interrupted_trainer(bench: Bench) -> str:
    bench.begin()
    bench.trains().send_signal(signal.SIGINT)
    until(lambda: bench.run.holder() is None, "it ended")
    assert bench.state() in ("interrupted", "failed"), bench.state()
    state = bench.state()
    bench.finish()
    return f"{state}: {_from(bench)}"


@fault("the terminal is closed (its pseudo-terminal goes)", "only the viewer ends")
def closed_terminal(bench: Bench) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, 0x5414, b"\x18\x00\x50\x00" + bytes(4))  # TIOCSWINSZ: 24 rows, 80 columns
    viewer = bench.start("run", str(bench.recipe), "--until", "evaluate", terminal=theirs, TERM="xterm")
    os.close(theirs)
    os.set_blocking(ours, False)

    def read() -> bool:
        with contextlib.suppress(BlockingIOError, OSError):
            while os.read(ours, 65536):
                pass
        return (
            bool(rundir.every(bench.runs))
            and bench.run.events.exists()
            and '"step": 3,' in bench.run.events.read_text()
        )

    until(read, "step 3 on a screen")
    os.close(ours)
    viewer.send_signal(signal.SIGHUP)  # which the kernel sends to the session of a terminal that is closed
    viewer.wait(DEADLINE_S)
    assert bench.state() == "running"
    bench.hold.unlink()
    until(lambda: bench.state("evaluate") == "done", "the run ends")
    bench.right()
    return "it ended by itself: done"


@fault("a stop file of another day lies in the folder", "the training that goes on is not stopped by it")
def stale_stop_file(bench: Bench) -> str:
    bench.begin()
    for process in bench.alive():
        with contextlib.suppress(psutil.Error):
            process.kill()
    bench.children[0].wait()
    bench.run.stop_file.touch()
    bench.finish()
    return _from(bench)


# --- files ---


@fault("kill -9 of the trainer while it writes checkpoint 4", "the torn one is set aside; it goes on from the third")
def torn_by_kill(bench: Bench) -> str:
    bench.slow.touch()
    bench.hold.unlink()
    bench.start("run", str(bench.recipe), "--until", "evaluate")
    bench.reaches(4)
    until(lambda: (bench.run.output / "checkpoint-4" / "adapter_model.safetensors").exists(), "it saves")
    bench.trains().kill()
    bench.ended_or_not_done()
    bench.finish()
    assert (bench.run.output / "torn-checkpoint-4").is_dir()
    return f"{_from(bench)}; torn-checkpoint-4 kept"


@fault("optimizer.pt of the newest checkpoint is cut in half", "it is set aside; the one before it is taken")
def torn_optimizer(bench: Bench) -> str:
    killed_at_3(bench)
    path = bench.run.output / "checkpoint-3" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    bench.finish()
    assert "checkpoint-2" in _from(bench)
    return _from(bench)


@fault("every checkpoint is torn", "it begins again, and says so; none is deleted")
def all_torn(bench: Bench) -> str:
    killed_at_3(bench)
    for path in bench.run.output.glob("checkpoint-*/adapter_model.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])
    said = bench.finish()
    assert "set aside" in said
    assert len(list(bench.run.output.glob("torn-*"))) == 3
    return "three set aside; trained from the first step"


@fault("the disk is full as a checkpoint is written (ENOSPC in the trainer)", "failed, named; resume after making room")
def full_disk_in_the_trainer(bench: Bench) -> str:
    bench.hold.unlink()
    done = bench.command("run", str(bench.recipe), "--until", "evaluate", FAULT_DO="full")
    assert done.returncode == 1
    assert "disk" in done.stderr
    bench.finish()
    return f"named a full disk; {_from(bench)}"


@fault("the run's file system is full (a tmpfs of 200 MiB)", "said in words; after making room resume goes on")
def full_file_system(bench: Bench) -> str:
    bench.runs.mkdir()
    with mounted(bench.runs, "-t", "tmpfs", "-o", "size=200m", "tmpfs"):
        viewer = bench.begin()
        ballast = bench.runs / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while file.write(bytes(65536)):
                pass
        bench.hold.unlink()
        assert viewer.wait(DEADLINE_S) != 0
        bench.ended()
        assert bench.state() in ("failed", "interrupted")
        ballast.unlink()
        bench.finish()
        return _from(bench)


@fault("files may grow to 200 kB only (RLIMIT_FSIZE) on a run that logs more", "failed in words; resume goes on")
def file_size_limit(bench: Bench) -> str:
    bench.hold.unlink()
    bench.extra["FAULT_DO"] = "talkative"
    argv = [
        "prlimit",
        "--fsize=200000",
        sys.executable,
        "-m",
        "ax_recipe",
        "run",
        str(bench.recipe),
        "--until",
        "evaluate",
    ]
    if not shutil.which("prlimit"):
        raise NotHereError("no prlimit here")
    done = subprocess.run(argv, env=bench.environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode
    assert bench.state() == "failed"
    bench.extra.clear()
    bench.finish()
    return _from(bench)


@fault("the log of the next attempt cannot be written", "failed in words, no traceback; resume goes on")
def unwritable_log(bench: Bench) -> str:
    killed_at_3(bench)
    blocked = bench.run.log("train", 2)
    blocked.mkdir()
    bench.hold.unlink()
    done = bench.command("resume", "--until", "evaluate")
    assert done.returncode, done.stderr
    assert bench.state() != "done"
    blocked.rmdir()
    bench.finish()
    return f"{bench.run.log('train', 2).name} named; {_from(bench)}"


@fault("state.json is cut in half", "it is written anew from plan and proofs; nothing is done twice")
def torn_state(bench: Bench) -> str:
    bench.hold.unlink()
    bench.command("run", str(bench.recipe), "--until", "evaluate")
    text = bench.run.state.read_text()
    bench.run.state.write_text(text[: len(text) // 2])
    bench.finish()
    assert bench.run.current_state().stage("train").attempt == 1
    return "proven stages stay done"


@fault("a proof is cut in half", "that stage alone is proven anew; the result is the same")
def torn_proof(bench: Bench) -> str:
    bench.hold.unlink()
    bench.command("run", str(bench.recipe), "--until", "evaluate")
    path = bench.run.proof("train")
    path.write_text(path.read_text()[:40])
    bench.finish()
    return bench.detail()[:60].split("\n")[0]


@fault("events.jsonl gets a line of rubbish and loses the end of its last", "read as far as it can be; resume goes on")
def corrupted_events(bench: Bench) -> str:
    killed_at_3(bench)
    text = bench.run.events.read_text()
    bench.run.events.write_bytes(b'\x00\xff{"event": "step", "step": "many"}\n' + text.encode()[:-20])
    assert bench.command("status", bench.run.name).returncode == 0
    bench.finish()
    return _from(bench)


@fault("the log is cut to nothing under the viewer", "the viewer goes on, and so does the run")
def truncated_log(bench: Bench) -> str:
    viewer = bench.begin()
    os.truncate(bench.run.log("train", 1), 0)
    bench.hold.unlink()
    assert viewer.wait(DEADLINE_S) == 0
    bench.right()
    return "exit 0, done"


@fault("the log is renamed under the viewer, and another one begun", "the viewer goes on, and so does the run")
def rotated_log(bench: Bench) -> str:
    viewer = bench.begin()
    log = bench.run.log("train", 1)
    log.rename(log.with_name("train.1.log.1"))
    log.write_text("a new log\n")
    bench.hold.unlink()
    assert viewer.wait(DEADLINE_S) == 0
    bench.right()
    return "exit 0, done"


@fault("the run's folder is deleted while it trains", "nothing of it trains on; the next run is none the worse")
def deleted_folder(bench: Bench) -> str:
    viewer = bench.begin()
    shutil.rmtree(bench.run.path)
    bench.hold.unlink()
    viewer.wait(DEADLINE_S)
    bench.ended()
    assert rundir.every(bench.runs) == []
    bench.command("run", str(bench.recipe), "--until", "evaluate")
    bench.right()
    return "all processes ended; the next run is done"


@fault("the run's folder becomes read-only (mounted so)", "said in words; resume goes on when it can be written")
def read_only_folder(bench: Bench) -> str:
    killed_at_3(bench)
    bench.hold.unlink()
    with mounted(bench.runs, "--bind", str(bench.runs)):
        mount("-o", "remount,ro,bind", str(bench.runs))
        done = bench.command("resume", "--until", "evaluate")
        assert done.returncode in (1, 3), done
    bench.finish()
    return f"exit {done.returncode}; {_from(bench)}"


# --- what it stands on ---


@fault("Axolotl is upgraded between training and evaluation", "said; the run goes on")
def upgraded_axolotl(bench: Bench) -> str:
    bench.hold.unlink()
    bench.command("run", str(bench.recipe), "--until", "train")
    (installed,) = (bench.folder / "environment").glob("lib/*/*/axolotl-*")
    installed.rename(installed.with_name("axolotl-0.20.0.dist-info"))
    said = bench.finish()
    assert "Axolotl was 0.19.0 when this run was planned, and is 0.20.0" in said
    return "said, and done"


@fault("another base under the same name between training and merge", "refused, named; put back, it goes on")
def other_base(bench: Bench) -> str:
    bench.hold.unlink()
    bench.command("run", str(bench.recipe), "--until", "evaluate")
    path = bench.folder / "base" / "model.safetensors"
    kept = path.read_bytes()
    path.write_bytes(kept[:-4] + b"\0\0\0\0")
    done = bench.command("resume", "--until", "merge")
    assert done.returncode == 1
    assert "the base model is not the one that was trained on" in done.stderr
    assert bench.state("merge") == "failed"
    path.write_bytes(kept)
    bench.finish("merge")
    return "refused: the base is not the one that was trained on"


@fault("another base under the same name while a run is interrupted", "refused, named; put back, it goes on")
def other_base_in_between(bench: Bench) -> str:
    killed_at_3(bench)
    path = bench.folder / "base" / "model.safetensors"
    kept = path.read_bytes()
    path.write_bytes(kept[:-4] + b"\0\0\0\0")
    bench.hold.unlink()
    done = bench.command("resume", "--until", "evaluate")
    assert done.returncode == 1
    assert "the base model is not the one that was trained on" in done.stderr
    path.write_bytes(kept)
    bench.finish()
    return "refused: the base is not the one that was trained on"


@fault("the data is deleted between two attempts at the training", "failed, the file named; put back, it goes on")
def deleted_data(bench: Bench) -> str:
    killed_at_3(bench)
    kept = bench.data.read_bytes()
    bench.data.unlink()
    bench.hold.unlink()
    done = bench.command("resume", "--until", "evaluate")
    assert done.returncode == 1
    assert str(bench.data) in done.stderr
    bench.data.write_bytes(kept)
    bench.finish()
    return f"named; {_from(bench)}"


@fault("the data is changed between two attempts at the training", "no mixture of both is called the result")
def changed_data(bench: Bench) -> str:
    killed_at_3(bench)
    kept = bench.data.read_bytes()
    bench.data.write_bytes(kept * 2)
    bench.hold.unlink()
    done = bench.command("resume", "--until", "evaluate")
    assert done.returncode == 1, done.stderr
    assert str(bench.data) in done.stderr
    bench.data.write_bytes(kept)
    bench.finish()
    return "refused: the rows are not those that it began with"


@fault("the recipe's own file is deleted after the start", "the run has its copy")
def deleted_recipe(bench: Bench) -> str:
    killed_at_3(bench)
    bench.recipe.unlink()
    bench.finish()
    return _from(bench)


@fault("the training environment is gone", "failed, named; put back, it goes on")
def missing_environment(bench: Bench) -> str:
    killed_at_3(bench)
    place = bench.folder / "environment"
    place.rename(place.with_name("elsewhere"))
    bench.hold.unlink()
    done = bench.command("resume", "--until", "evaluate")
    assert done.returncode
    assert "environment" in done.stderr
    place.with_name("elsewhere").rename(place)
    bench.finish()
    return _from(bench)


@fault("axolotl.yaml of the run folder is changed by somebody", "nothing is started without --trust")
def changed_config(bench: Bench) -> str:
    killed_at_3(bench)
    text = bench.run.axolotl_yaml.read_text()
    bench.run.axolotl_yaml.write_text(text + "\nplugins: [evil.Plugin]\n")
    done = bench.command("resume", "--until", "evaluate")
    assert done.returncode == 2
    assert not seal.holds(bench.run.path) or "trust" in done.stderr
    bench.run.axolotl_yaml.write_text(text)
    bench.finish()
    return f"exit 2; put back: {_from(bench)}"


# --- two at once ---


@fault("a second run on the same folder", "refused, with the process that holds it")
def second_run(bench: Bench) -> str:
    bench.begin()
    holder = bench.run.holder()
    done = bench.command("resume")
    assert done.returncode == 3
    assert str(holder) in done.stderr
    bench.hold.unlink()
    until(lambda: bench.state("evaluate") == "done", "the first goes on")
    bench.right()
    return f"exit {done.returncode}, the holder named; the first one done"


@fault("two resumes at the same instant", "one works, the other is refused or watches; nothing is trained twice")
def two_resumes(bench: Bench) -> str:
    killed_at_3(bench)
    bench.hold.unlink()
    both = [bench.start("resume", "--until", "evaluate") for _ in range(2)]
    codes = sorted(each.wait(DEADLINE_S) for each in both)
    until(lambda: bench.run.holder() is None, "both ended")
    bench.finish()
    assert bench.run.current_state().stage("train").attempt == 2
    return f"exit codes {codes}; one attempt at the training"


# --- what the trainer says ---


def told(bench: Bench, what: str, word: str) -> str:
    """Let the trainer go wrong by itself, and see that it is not called done, but by its name."""
    bench.hold.unlink(missing_ok=True)
    done = bench.command("run", str(bench.recipe), "--until", "evaluate", FAULT_DO=what)
    assert done.returncode == 1, done.stderr
    assert bench.state() == "failed"
    assert word in done.stderr, done.stderr
    assert bench.state("evaluate") == "waiting"
    bench.ended()
    return bench.detail().split("\n")[0]


@fault("the loss becomes NaN, exit code 0", "failed: diverged")
def nan(bench: Bench) -> str:
    return told(bench, "nan", "diverged")


@fault("every label is masked: loss 0, exit code 0", "failed: nothing was learnt")
def masked(bench: Bench) -> str:
    return told(bench, "masked", "nothing was learnt")


@fault("it ends in step 3 of 6 with exit code 0 and an adapter", "failed, never done; resume goes on")
def ends_early(bench: Bench) -> str:
    words = told(bench, "bare exit", "ended after step 2 of 6")
    bench.finish()
    return f"{words}; {_from(bench)}"


@fault("it does all its steps, and exits 3", "failed, never done in silence; resume goes on")
def wrong_code(bench: Bench) -> str:
    words = told(bench, "wrong code", "exit code 3")
    bench.finish()
    return f"{words}; {_from(bench)}"


@fault("our plugin cannot be imported: no exact events", "failed: nothing proves what it did; resume goes on")
def no_plugin(bench: Bench) -> str:
    words = told(bench, "no plugin", "did not load our plugin")
    bench.finish()
    return words


@fault("CUDA out of memory at step 3", "failed, named, with what a retry would change; --on-oom retry goes on")
def out_of_memory(bench: Bench) -> str:
    bench.hold.unlink()
    four = ("--set", "train.global_batch_size=4", "--set", "train.micro_batch_size=4")
    done = bench.command("run", str(bench.recipe), *four, "--until", "evaluate", FAULT_DO="oom")
    assert done.returncode == 1
    assert "cuda-oom" in done.stderr
    bench.finish("evaluate", "--on-oom", "retry")
    keys = yaml.safe_load(bench.run.config("train", 2).read_text())
    assert (keys["micro_batch_size"], keys["gradient_accumulation_steps"]) == (2, 2)
    return f"cuda-oom; micro_batch_size 4 -> 2; {_from(bench)}"


@fault("it hangs at step 5, deaf to the stop file", "with --on-hang restart: dumped, ended, gone on with once")
def hang(bench: Bench) -> str:
    killed_at_3(bench)
    policy.write(bench.run, Policy(on_hang="restart", hang_s=0.5))
    bench.hold.unlink()
    done = bench.command("resume", "--until", "evaluate", FAULT_DO="hang")
    assert done.returncode == 0, done.stderr
    assert bench.run.current_state().stage("train").attempt == 3
    assert bench.run.stacks(2).is_file()
    bench.right()
    return f"dumped and ended; {_from(bench)}"


@fault("the clock jumps back a day, and forward two", "no verdict of a hang; done")
def clock_jump(bench: Bench) -> str:
    bench.hold.unlink()
    done = bench.command("run", str(bench.recipe), "--until", "evaluate", "--on-hang", "restart", FAULT_DO="clock")
    assert done.returncode == 0, done.stderr
    assert bench.run.current_state().stage("train").attempt == 1
    bench.right()
    return "done at the first attempt"


# --- shipping ---


@fault("a shard of the merged model is cut in half before the export", "merged again; the export is of the whole one")
def cut_shard(bench: Bench) -> str:
    bench.hold.unlink()
    bench.command("run", str(bench.recipe), "--until", "check-merge")
    assert bench.state("check-merge") == "done", bench.detail("check-merge")
    path = bench.run.output / "merged" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    bench.finish("export")
    assert path.read_bytes() == whole
    words = bench.detail("merge").splitlines()[-1]
    assert words.startswith("done again")
    return words.replace(f"{bench.run.path}/", "")


@fault("Ollama's connection breaks once in the middle of an upload", "sent once more; deployed")
def broken_upload(bench: Bench) -> str:
    bench.hold.unlink()
    with serve(failure="dies on blob", times=1) as server:
        bench.extra["OLLAMA_HOST"] = server.url
        bench.command("run", str(bench.recipe), "--until", "deploy")
        assert bench.state("deploy") == "done", bench.detail("deploy")
        assert [name.partition(":")[0] for name in server.models] == ["fault"]
    bench.right()
    return "deployed at the first attempt"


@fault("Ollama dies in the middle of an upload, and stays away", "failed in words; resume deploys it")
def dying_ollama(bench: Bench) -> str:
    bench.hold.unlink()
    with serve(failure="dies on blob") as server:
        bench.extra["OLLAMA_HOST"] = server.url
        bench.command("run", str(bench.recipe), "--until", "deploy")
        assert bench.state("export") == "done", bench.detail("export")
        assert bench.state("deploy") == "failed", bench.detail("deploy")
        assert not server.models
        words = bench.detail("deploy").split("\n")[0].replace(f" at {server.url}", "")
    with serve() as server:
        bench.extra["OLLAMA_HOST"] = server.url
        bench.command("resume", "--until", "deploy")
        assert bench.state("deploy") == "done", bench.detail("deploy")
        assert [name.partition(":")[0] for name in server.models] == ["fault"]
    bench.right()
    return f"{words.partition(':')[0]}; then deployed"


# --- the same with real Axolotl ---


def really(bench: Bench) -> None:
    """Train pirate-tiny with the Axolotl that is installed, up to its twentieth step of forty."""
    found = installed_axolotl()
    if found is None:
        raise NotHereError("no axolotl here")
    bench.extra |= {"AX_RECIPE_AXOLOTL": str(found)}
    bench.start("run", "pirate-tiny", *SHORT, "--until", "train")
    path = Path("output", "checkpoint-20", "trainer_state.json")
    until(lambda: rundir.every(bench.runs) and (bench.run.path / path).is_file(), "checkpoint 20", REAL_S)


def really_ends(bench: Bench, start: str) -> str:
    """Go on to the last step, from the right checkpoint; and no process stays."""
    bench.ended()
    child = bench.start("resume", "--until", "train")
    assert child.wait(REAL_S) == 0, (bench.folder / "said").read_text("utf-8", "replace")
    assert bench.state() == "done"
    assert bench.detail().startswith("40 steps"), bench.detail()
    assert _from(bench) == f"went on from {start}"
    bench.ended()
    return f"{_from(bench)}; {bench.detail().splitlines()[0]}"


@fault(
    "real Axolotl: kill -9 of all of it after step 20 of 40, and its newest optimizer.pt cut", "as with the stand-in"
)
def real_torn(bench: Bench) -> str:
    really(bench)
    for process in bench.alive():
        with contextlib.suppress(psutil.Error):
            process.kill()
    bench.children[0].wait()
    newest, *others = sorted(bench.run.output.glob("checkpoint-*"), key=lambda path: -int(path.name[11:]))
    os.truncate(newest / "optimizer.pt", 1000)
    held = really_ends(bench, others[0].name)
    assert (bench.run.output / f"torn-{newest.name}").is_dir()
    return held


@fault("real Axolotl: SIGTERM to the trainer after step 20 of 40", "a whole checkpoint; the loss of an unbroken run")
def real_sigterm(bench: Bench) -> str:
    really(bench)
    word = str(bench.run.axolotl_yaml)
    mine = [each for each in bench.alive() if word in each.cmdline() and "train" in each.cmdline()]
    min(mine, key=lambda each: each.create_time()).terminate()  # the others are its data loaders
    until(lambda: bench.run.holder() is None, "it ended", REAL_S)
    assert bench.state() == "interrupted", bench.detail()
    start = bench.detail().rpartition("; ")[2].removesuffix(" is whole")
    assert int(start.removeprefix("checkpoint-")) >= 20
    held = really_ends(bench, start)
    unbroken = ("run", "pirate-tiny", *SHORT, "--until", "train", "--runs", str(bench.folder / "unbroken"))
    assert bench.start(*unbroken).wait(REAL_S) == 0
    whole = rundir.find(bench.folder / "unbroken", None).read_state().stage("train")
    loss = bench.run.read_state().stage("train").figures["loss"]
    assert abs(whole.figures["loss"] - loss) < 1e-3
    return f"{held}; unbroken: loss {whole.figures['loss']:.3f}"


# --- the bench's own ---


def killed_at_3(bench: Bench) -> None:
    """Bring a run to its third step and kill all of it."""
    bench.begin()
    for process in bench.alive():
        with contextlib.suppress(psutil.Error):
            process.kill()
    bench.children[0].wait()
    bench.ended()


def _from(bench: Bench) -> str:
    """From where the last attempt went on, as its YAML says."""
    record = bench.run.current_state().stage("train")
    path = bench.run.config("train", record.attempt)
    keys = yaml.safe_load(path.read_text()) if path.is_file() else {}
    start = keys.get("resume_from_checkpoint")
    return f"went on from {Path(start).name}" if start else "began again"


def mount(*arguments: str) -> None:
    """Mount, as root alone may."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotHereError(done.stderr.strip().splitlines()[0] if done.stderr else "mount failed")


@contextlib.contextmanager
def mounted(place: Path, *arguments: str) -> Iterator[None]:
    """Have something mounted at ``place`` for a while."""
    if os.geteuid() or not shutil.which("mount"):
        raise NotHereError("a mount wants root")
    mount(*arguments, str(place))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=False)


def inject(fault: Fault, folder: Path) -> str:
    """Do one fault in a place of its own, and give what held.

    :raises AssertionError: something did not.
    :raises NotHereError: it cannot be done here.
    """
    bench = Bench(folder)
    try:
        held = fault.inject(bench)
    finally:
        left = bench.close()
    assert not left, f"orphans: {left}"
    return held


def main(names: list[str]) -> int:
    """Do the faults, and print the table."""
    rows: list[str] = []
    failed = 0
    for fault in (FAULTS[name] for name in names or FAULTS):
        with tempfile.TemporaryDirectory() as folder:
            try:
                held = inject(fault, Path(folder).resolve())
            except NotHereError as error:
                held = f"not possible here: {error}"
            except (AssertionError, psutil.Error, OSError, subprocess.SubprocessError) as error:
                held, failed = (
                    f"**did not hold**: {str(error).splitlines()[0] if str(error) else type(error)}",
                    failed + 1,
                )
        rows.append(f"| {len(rows) + 1} | {fault.done} | {fault.must} | {held} |")
        sys.stderr.write(f"{fault.name}: {held}\n")
    print(_document(rows, failed))  # noqa: T201 - it is docs/faults.md
    return 1 if failed else 0


def _document(rows: list[str], failed: int) -> str:
    found = installed_axolotl()
    real = axolotl.find(str(found)).version if found else "none"
    words = f"`make faults`, {time.strftime('%Y-%m-%d')}: Python {platform.python_version()}, Axolotl {real}."
    head = "| | what was done | what must hold | what held |\n|---|---|---|---|"
    return "\n".join((TITLE, "", words, f"{len(rows)} faults, {failed} of which did not hold.", "", head, *rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
