"""The plugin inside real Axolotl: exact events, and stops that end in a checkpoint from which to go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ax_recipe import assets
from ax_recipe.observe import events
from ax_recipe.observe.events import Began, Evaluation, Event, Interrupted, Metrics, Registered, Saved, Step
from ax_recipe.observe.folding import advance, end
from ax_recipe.observe.follow import Follower
from ax_recipe.observe.log import LogReader
from ax_recipe.observe.replay import fold, replay
from ax_recipe.observe.state import State
from ax_recipe.survive import watching
from conftest import installed_axolotl

pytestmark = [pytest.mark.axolotl, pytest.mark.slow]

DEADLINE_S = 600
WHOLE = {"adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json"}
CONFIG = """
base_model: ./untrained
reinit_weights: true
adapter: lora
lora_r: 4
lora_alpha: 8
lora_target_linear: true
lora_mlp_kernel: false
lora_qkv_kernel: false
lora_o_kernel: false
datasets: [{path: rows.jsonl, ds_type: json, type: chat_template}]
chat_template: llama3
dataset_prepared_path: ./prepared
val_set_size: 0.1
sequence_len: 64
micro_batch_size: 2
eval_steps: 4
save_strategy: "no"
learning_rate: 0.001
optimizer: adamw_torch
lr_scheduler: cosine
bf16: false
fp16: false
tf32: false
logging_steps: 1
output_dir: ./out
max_memory: {cpu: 20GiB}
plugins: [ax_recipe_events.EventsPlugin]
"""
MODEL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows and an untrained base of a few thousand weights."""
    folder = tmp_path_factory.mktemp("axolotl")
    rows = [
        {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]}
        for n in range(99)
    ]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    scratch = {"vocab_size": 300, "model": {**MODEL, "num_key_value_heads": 2, "max_position_embeddings": 128}}
    plan = {"base": str(folder), "scratch": scratch, "texts": [{"path": str(folder / "rows.jsonl")}]}
    (folder / "plan.json").write_text(json.dumps(plan))
    subprocess.run([_program("python"), assets.probe("tiny_base.py"), folder / "plan.json"], check=True)
    return folder


class Run:
    """One training that goes on in ``place``."""

    def __init__(self, place: Path, name: str, steps: int, ranks: int = 1, *options: str) -> None:
        self.place, self.name = place, name
        (place / f"{name}.yml").write_text(CONFIG.replace("./out", f"./{name}") + f"max_steps: {steps}\n")
        launcher = (
            ["--launcher", "python"] if ranks == 1 else ["--launcher", "torchrun", "--", f"--nproc_per_node={ranks}"]
        )
        argv = [str(_program("axolotl")), "train", f"{name}.yml", *options, *launcher]
        with self.log.open("wb") as log:
            self.child = subprocess.Popen(
                argv,
                cwd=place,
                env=self._environment(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def log(self) -> Path:
        """Standard output and error together."""
        return self.place / f"{self.name}.log"

    @property
    def stop_file(self) -> Path:
        """The file that asks for a stop."""
        return self.place / f"{self.name}.stop"

    def events(self) -> list[Event]:
        """What the plugin has told so far."""
        path = self.place / f"{self.name}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if (event := events.from_json(line))]

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for a condition while the training goes on."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert self.child.poll() is None, self.log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def at_step(self, step: int) -> bool:
        """Whether the metrics of ``step`` were told."""
        return any(isinstance(event, Metrics) and (event.step or 0) >= step for event in self.events())

    def end(self) -> int:
        """Wait for the exit code."""
        return self.child.wait(DEADLINE_S)

    def _environment(self) -> dict[str, str]:
        own = {
            "PYTHONPATH": str(assets.probe("plugin")),
            "PATH": f"{_program('axolotl').parent}{os.pathsep}{os.environ['PATH']}",
            "AX_RECIPE_EVENTS": str(self.place / f"{self.name}.jsonl"),
            "AX_RECIPE_STOP": str(self.stop_file),
            "AXOLOTL_DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
        }
        return {**os.environ, **own}


Start = Callable[..., Run]


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    """Start runs, and leave none behind."""
    runs: list[Run] = []

    def begin(name: str, steps: int, ranks: int = 1, *options: str) -> Run:
        runs.append(Run(place, name, steps, ranks, *options))
        return runs[-1]

    yield begin
    for run in runs:
        if run.child.poll() is None:
            os.killpg(run.child.pid, signal.SIGKILL)
            run.child.wait()


def _program(name: str) -> Path:
    axolotl = installed_axolotl()
    assert axolotl is not None
    return axolotl.with_name(name)


def _checkpoint(run: Run) -> set[str]:
    (saved,) = [event for event in run.events() if isinstance(event, Saved)]
    return {file.name for file in (run.place / saved.path).iterdir()}


def test_a_run_is_told_exactly_and_is_the_same_as_its_log(start: Start) -> None:
    run = start("exact", 9)
    assert run.end() == 0
    told = run.events()
    assert isinstance(told[0], Registered)
    assert told[0].versions["axolotl"]
    assert [event.step for event in told if isinstance(event, Metrics)] == list(range(1, 10))
    assert [event.step for event in told if isinstance(event, Evaluation)] == [0, 4, 8, 9]
    (began,) = [event for event in told if isinstance(event, Began)]
    assert (began.total_steps, began.world_size, began.micro_batch, began.accumulation) == (9, 1, 2, 1)
    state = State()
    for event in told:
        advance(state, event)
    fold(list(Follower(run.log).drain()), LogReader(), state)
    end(state, 0)
    alone = replay(run.log, 0)
    assert (
        (state.status, state.phase, state.step)
        == (alone.status, alone.phase, alone.step)
        == ("finished", "finished", 9)
    )
    assert [y for _, y in state.losses.points] == pytest.approx([y for _, y in alone.losses.points], rel=1e-3)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stop_file_ends_in_a_checkpoint_from_which_to_go_on(start: Start, ranks: int) -> None:
    run = start(f"stopped{ranks}", 2000, ranks)
    run.until(lambda: run.at_step(3))
    root = psutil.Process(run.child.pid)
    stacks = "\n".join(watching.waits([root, *root.children(recursive=True)], run.log))
    assert stacks.count("in _inner_training_loop\n") >= ranks  # the ranks, and data loaders' workers born of them
    run.stop_file.touch()
    assert run.end() == 0
    stopped = [event for event in run.events() if isinstance(event, Interrupted)]
    assert [event.reason for event in stopped] == ["the stop file"]
    step = max(event.step for event in run.events() if isinstance(event, Step))
    random_states = {"rng_state.pth"} if ranks == 1 else {f"rng_state_{rank}.pth" for rank in range(ranks)}
    assert _checkpoint(run) >= WHOLE | random_states
    assert replay(run.log, 0).status == "interrupted"
    # On one rank: torch 2.13 cannot load a checkpoint onto the device "cpu:0" that several CPU ranks have.
    again = start(f"again{ranks}", step + 2, 1, "--resume-from-checkpoint", f"./stopped{ranks}/checkpoint-{step}")
    assert again.end() == 0
    assert [event.step for event in again.events() if isinstance(event, Metrics)] == [step + 1, step + 2]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_batch_systems_sigterm_ends_in_a_whole_checkpoint(start: Start, ranks: int) -> None:
    run = start(f"terminated{ranks}", 2000, ranks)
    run.until(lambda: run.at_step(3))
    os.killpg(run.child.pid, signal.SIGTERM)  # as a batch system does: to every process, data loaders' workers too
    run.end()
    assert _checkpoint(run) >= WHOLE
    assert [event.reason for event in run.events() if isinstance(event, Interrupted)] == ["SIGTERM"]


ROPE = """
import sys
import ax_recipe_events
from axolotl.monkeypatch import lora_kernels
from axolotl.utils.dict import DictDefault
from transformers.models.llama import modeling_llama

cfg = DictDefault(base_model=sys.argv[1], liger_rope=True, lora_qkv_kernel=True)
lora_kernels.patch_self_attn_lora(cfg)
modeling_llama.apply_rotary_pos_emb = fused = lambda *given: given  # as the Liger plugin does, after the rewrite
ax_recipe_events.EventsPlugin().pre_model_load(cfg)
found = modeling_llama.LlamaAttention.forward.__globals__["apply_rotary_pos_emb"]
sys.exit(found is not fused)
"""
SEEDED = """
import sys
import ax_recipe_events
import torch
from axolotl.utils.dict import DictDefault

def drawn(**keys):
    ax_recipe_events.EventsPlugin().pre_model_load(DictDefault(**keys))
    return torch.rand(4).tolist()

new = [drawn(seed=1, reinit_weights=True) for _ in range(2)]
adapters = [drawn(seed=1, adapter="lora") for _ in range(2)]
sys.exit(new[0] != new[1] or adapters[0] != adapters[1] or drawn(adapter="lora") == drawn(adapter="lora"))
"""


def test_liger_s_rotary_embedding_reaches_the_attention_that_axolotl_rewrote(place: Path) -> None:
    _in_its_environment(ROPE, str(place / "untrained"))


def test_new_weights_are_those_of_the_seed() -> None:
    _in_its_environment(SEEDED)


def _in_its_environment(program: str, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(assets.probe("plugin")), "AXOLOTL_DO_NOT_TRACK": "1"}
    subprocess.run([_program("python"), "-c", program, *arguments], env=environment, check=True)
