"""A failed run's cause, rank, phase and fixes, on logs of real failures in the styles in which people keep logs."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import stories
from ax_recipe.diagnose import Diagnosis, diagnose, of_run
from ax_recipe.diagnose.causes import table
from ax_recipe.run.rundir import RunDir, StageRecord
from conftest import ROOT, Invoke
from failures import FAILURES, LOGS, SAMPLES, Sample

GOOD = (
    "1gpu-flex-liger", "1gpu-ok", "2gpu-pirate", "2ranks-ok", "2ranks-tee-ok", "4gpu-ok", "evaluate", "merge-lora",
    "ok", "packed-eval-without-loss", "plugin-not-importable", "plugin-ok", "resumed",
)  # fmt: skip
ENDED = {
    "1gpu-out-of-memory": ("cuda-oom", "training", None),
    "2ranks-independent": ("ranks-alone", "training", None),
    "2ranks-interrupted": ("interrupted", "evaluating", None),
    "2ranks-killed-rank": ("host-oom", "evaluating", 1),
    "2ranks-missing-dataset": ("dataset-missing", "preparing", 1),
    "2ranks-plugin-stopped": ("interrupted", "saving", None),
    "2ranks-plugin-terminated": ("interrupted", "training", None),
    "interrupted": ("interrupted", "training", None),
    "masked": ("masked-labels", "training", None),
    "missing-dataset": ("dataset-missing", "preparing", None),
    "nan": ("nan", "training", None),
    "plugin-stopped": ("interrupted", "saving", None),
    "preprocess-missing-dataset": ("dataset-missing", "preparing", None),
}
pytestmark = pytest.mark.usefixtures("fake_axolotl")


def recorded(name: str) -> Path:
    return LOGS / f"axolotl-0.19.0-{name}.log"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_each_recorded_failure_is_named_with_its_line(sample: Sample) -> None:
    found = diagnose(sample.path)
    assert (found.cause, found.phase, found.rank) == sample[1:4]
    assert found.evidence is not None
    assert sample.word in found.evidence.text
    line = sample.path.read_bytes().decode().split("\n")[found.evidence.line - 1]
    assert found.evidence.text in line


def test_no_number_is_made_up_where_nobody_knows_the_keys_of_a_run(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        " 10%|█         | 1/10 [00:01<00:09,  1.00s/it]\n{'loss': '1.5', 'grad_norm': '1', 'epoch': '0.1'}\n"
        "Traceback (most recent call last):\ntorch.OutOfMemoryError: CUDA out of memory.\n"
    )
    first, *others = diagnose(log).fixes
    assert "gradient_accumulation_steps" in first.why  # whose number is not known
    assert first.values == {"micro_batch_size": 1}
    assert not [fix for fix in others if "sequence_len" in fix.values]


def test_a_stop_that_the_log_tells_of_is_not_called_one_without_a_word(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = "[2026-11-22 14:06:07,453] [INFO] [axolotl.plug] Stopping at step 8 of 200 with a checkpoint: the stop file"
    log.write_text(recorded("killed").read_text(encoding="utf-8") + f"\n{said}\n", encoding="utf-8")
    found = diagnose(log, exit_code=-15)
    assert found.evidence is not None
    assert (found.cause, found.evidence.text) == ("interrupted", said)
    assert "says why" not in found.message


def test_an_interrupt_is_shown_by_its_own_line_not_by_what_python_says_after_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = 'Traceback (most recent call last):\n  File "train.py", line 3\nKeyboardInterrupt\nwandb: Synced\n'
    log.write_text(" 30%|###       | 3/10 [00:03<00:07,  1.00s/it]\n" + said, encoding="utf-8")
    found = diagnose(log)
    assert (found.cause, found.evidence and found.evidence.text) == ("interrupted", "KeyboardInterrupt")


def test_every_sample_is_listed_and_every_cause_has_one() -> None:
    assert sorted(path.stem for path in FAILURES.glob("*.log")) == sorted(sample.name for sample in SAMPLES)
    shown = {sample.cause for sample in SAMPLES} | {cause for cause, _, _ in ENDED.values()}
    assert shown == set(table.BY_NAME) - {"none"}
    assert len(table.BY_NAME) == len(table.ALL) >= 35


@pytest.mark.parametrize("name", ENDED)
def test_what_ended_the_other_recorded_runs(name: str) -> None:
    found = diagnose(recorded(name))
    assert (found.cause, found.phase, found.rank) == ENDED[name]


@pytest.mark.parametrize("name", GOOD)
def test_a_run_that_went_well_has_no_cause(name: str) -> None:
    found = diagnose(recorded(name), 0)
    assert (found.cause, found.phase, found.evidence, found.fixes) == ("none", "finished", None, ())


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (None, "none"), (137, "host-oom"), (-9, "host-oom"), (-7, "shm-full"), (139, "native-crash"),
        (143, "interrupted"), (-2, "interrupted"), (0, "interrupted"), (1, "unknown"),
    ],
)  # fmt: skip
def test_where_no_word_is_said_the_exit_code_speaks(code: int | None, cause: str) -> None:
    assert diagnose(recorded("killed"), code).cause == cause


# How logs look where they were kept: each takes the lines of a log and gives them as a collector would.
STYLES: dict[str, Callable[[str], str]] = {
    "windows line ends": lambda text: text.replace("\n", "\r\n"),
    "kubernetes": lambda text: "".join(
        f"2026-11-22T13:00:00.123456789Z stderr F {line}\n" for line in text.split("\n")
    ),
    "docker compose": lambda text: "".join(f"trainer-1  | {line}\n" for line in text.split("\n")),
    "journal": lambda text: "".join(f"Nov 22 13:00:00 gpu-01 axolotl[4120]: {line}\n" for line in text.split("\n")),
    "timestamps": lambda text: "".join(f"[2026-11-22 13:00:00] {line}\n" for line in text.split("\n")),
    "colours": lambda text: "".join(f"\x1b[31m{line}\x1b[0m\n" for line in text.split("\n")),
    "no last line end": lambda text: text.rstrip("\n"),
}


@pytest.mark.parametrize("style", STYLES)
def test_the_same_is_found_however_the_log_was_kept(style: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    wrong = []
    for sample in SAMPLES:
        log.write_bytes(STYLES[style](sample.path.read_bytes().decode()).encode())
        found = diagnose(log)
        if (found.cause, found.rank) != (sample.cause, sample.rank):
            wrong.append((sample.name, found.cause, found.rank))
    assert wrong == []


@given(data=st.data())
def test_no_cut_and_no_noise_makes_it_fail(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = data.draw(st.sampled_from(SAMPLES)).path.read_bytes()
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(whole))] * 2)))
    at = data.draw(st.integers(0, end - start))
    log = tmp_path_factory.getbasetemp() / "noisy.log"
    log.write_bytes(whole[start:end][:at] + data.draw(st.binary(max_size=200)) + whole[start:end][at:])
    found = diagnose(log, data.draw(st.sampled_from([None, 0, 1, 137, -6])))
    assert found.cause in table.BY_NAME
    names = {"cause", "phase", "rank", "node", "message", "evidence", "fixes"}
    assert set(json.loads(json.dumps(found.as_json()))) == names


def test_the_task_of_a_labelled_line_is_its_rank(tmp_path: Path) -> None:
    log = tmp_path / "srun.log"
    lines = (FAILURES / "unknown.log").read_text(encoding="utf-8").splitlines()
    log.write_text("".join(f"2: {line}\n0: {line if 'loss' in line else '...'}\n" for line in lines), encoding="utf-8")
    found = diagnose(log)
    assert (found.cause, found.rank) == ("unknown", 2)


FAILED = [
    "Traceback (most recent call last):",
    '  File "/opt/transformers/trainer.py", line 4009, in training_step',
    "    loss = self.compute_loss(model, inputs)",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
]
ECHO = [
    "Traceback (most recent call last):",
    '  File "/opt/torch/distributed/distributed_c10d.py", line 2924, in all_reduce',
    "    work.wait()",
    "RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.3]:41522",
]


@given(first=st.integers(0, 3), dice=st.randoms(use_true_random=False))
def test_ranks_may_interleave_in_any_order(first: int, dice: Random, tmp_path_factory: pytest.TempPathFactory) -> None:
    left = {rank: list(FAILED if rank == first else ECHO) for rank in range(4)}
    lines = []
    while any(left.values()):
        rank = dice.choice([rank for rank, rest in left.items() if rest])
        lines.append(f"[rank{rank}]: {left[rank].pop(0)}")
    log = tmp_path_factory.getbasetemp() / "ranks.log"
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = diagnose(log, 1)
    assert (found.cause, found.rank, found.phase) == ("cuda-oom", first, "training")


def test_only_the_last_attempt_in_a_log_counts(tmp_path: Path) -> None:
    log = tmp_path / "two.log"
    log.write_bytes(recorded("missing-dataset").read_bytes() + recorded("1gpu-out-of-memory").read_bytes())
    assert diagnose(log).cause == "cuda-oom"
    log.write_bytes(recorded("missing-dataset").read_bytes() + recorded("ok").read_bytes())
    assert diagnose(log).cause == "none"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    log, text = tmp_path / "long.log", recorded("ok").read_bytes()
    line = b"[2026-11-22 13:40:24,747] [WARNING] [py.warnings] nothing to see here\n" + b"Traceback of nothing\n"
    with log.open("wb") as file:
        file.write(text[: text.index(b"{'loss'")])
        for _ in range(100_000):
            file.write(line)
        file.write((FAILURES / "unknown.log").read_bytes() * 20)
    tracemalloc.start()
    assert diagnose(log).cause == "unknown"
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert log.stat().st_size > 9e6
    assert most < 4e6


def fixes(found: Diagnosis) -> list[tuple[str | None, str | None]]:
    return [(fix.yaml, fix.command) for fix in found.fixes]


def test_fixes_hold_the_runs_own_numbers() -> None:
    half, checkpointing, *_ = fixes(diagnose(recorded("1gpu-out-of-memory")))
    assert half[0] == "micro_batch_size: 4\ngradient_accumulation_steps: 2\n"
    assert str(half[1]).endswith(".yml --micro-batch-size=4 --gradient-accumulation-steps=2")
    assert checkpointing[0] == "gradient_checkpointing: true\n"


def test_a_rate_that_only_the_log_tells_is_halved_and_one_that_nobody_tells_is_not_made_up(tmp_path: Path) -> None:
    log = tmp_path / "nan.log"
    peak = "{'loss': '2.1', 'grad_norm': '0.4', 'learning_rate': '2e-05', 'epoch': '0.1'}\n"
    lost = "{'loss': '0', 'grad_norm': 'nan', 'learning_rate': '1.2e-05', 'epoch': '0.2'}\n"
    log.write_text(peak + lost * 3)
    assert fixes(diagnose(log))[0] == ("learning_rate: 1.0e-05\n", "axolotl train config.yml --learning-rate=1.0e-05")
    log.write_text("Traceback (most recent call last):\nValueError: training diverged: loss nan, gradient norm nan\n")
    assert diagnose(log).cause == "nan"
    assert not any("learning_rate" in (values or "") for values, _ in fixes(diagnose(log)))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("cuda-oom-4ranks-last-shouts", "micro_batch_size: 2\ngradient_accumulation_steps: 8\n"),
        ("cuda-oom-evaluating-2ranks", "eval_batch_size: 2\neval_sample_packing: false\n"),
        ("cuda-oom-loading", "adapter: qlora\nload_in_4bit: true\n"),
        ("cuda-oom-saving", "save_only_model: true\n"),
        ("cuda-oom-merging", None),
    ],
)
def test_out_of_memory_is_answered_by_its_phase(name: str, first: str | None) -> None:
    assert diagnose(FAILURES / f"{name}.log").fixes[0].yaml == first


def failed(folder: Path, log: str, detail: str = "axolotl train ended with exit code 1") -> RunDir:
    """A run of ours whose training ended as ``log`` tells."""
    run = stories.made(stories.written(folder), changes=("train.micro_batch_size=4",))
    run.log("train", 1).write_bytes((FAILURES / f"{log}.log").read_bytes() if log else b"")
    state = run.read_state()
    for stage in state.stages:
        state = state.with_stage(StageRecord(stage.name, "waiting"))
    run.write_state(state.with_stage(StageRecord("train", "failed", detail, 1, 1.0, 2.0)))
    return run


def test_a_run_of_ours_gets_commands_of_ours(tmp_path: Path) -> None:
    found = of_run(failed(tmp_path, "cuda-oom-4ranks-last-shouts"))
    assert (found.cause, found.rank) == ("cuda-oom", 2)
    assert found.fixes[0].command == f"ax-recipe run {tmp_path / 'mine.yaml'} --set train.micro_batch_size=2"
    assert found.fixes[1].command == (
        f"ax-recipe run {tmp_path / 'mine.yaml'} --set train.micro_batch_size=4 --set train.gradient_checkpointing=true"
    )


@pytest.mark.parametrize(
    ("detail", "cause"),
    [
        ("axolotl train ended with SIGKILL", "host-oom"),
        ("training diverged: loss nan, gradient norm nan", "nan"),
        ("nothing was learnt: loss 0, gradient norm 0", "masked-labels"),
        ("it failed", "unknown"),
    ],
)
def test_a_run_without_words_in_its_log_is_told_by_its_state(detail: str, cause: str, tmp_path: Path) -> None:
    assert of_run(failed(tmp_path, "", detail)).cause == cause


def test_a_run_that_is_done_has_no_cause(tmp_path: Path) -> None:
    assert of_run(stories.made(stories.written(tmp_path))).cause == "none"


def test_every_fix_can_be_read_and_given(tmp_path: Path) -> None:
    run = failed(tmp_path, "unknown")
    for sample in SAMPLES:
        run.log("train", 1).write_bytes(sample.path.read_bytes())
        for found in (diagnose(sample.path), of_run(run)):
            assert found.fixes or found.cause == "unknown"
            for fix in found.fixes:
                assert fix.why.endswith((".", ")", ":"))
                assert fix.command
                assert not re.search(r"\{\w+\}", fix.command)


def test_the_verb_prints_what_programs_and_people_read(invoke: Invoke) -> None:
    log = str(FAILURES / "cuda-oom-2ranks.log")
    value = json.loads(invoke("diagnose", log, "--json").stdout)
    assert (value["cause"], value["rank"], value["phase"]) == ("cuda-oom", 1, "training")
    assert set(value["evidence"]) == {"line", "text"}
    assert set(value["fixes"][0]) == {"why", "yaml", "command"}
    text = invoke("diagnose", log).stdout
    assert text.startswith("CUDA-OOM\n")
    assert "while training, step 1, rank 1" in text
    names = [line.split()[0] for line in invoke("diagnose", "--list").stdout.splitlines()]
    assert names == [cause.name for cause in table.ALL]


def test_the_page_lists_every_cause() -> None:
    page = (ROOT / "docs" / "diagnose.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| (.*?) \|", page, re.MULTILINE)
    shown = [(cause.name, re.sub(r"\{what\}", "", cause.sentence)) for cause in table.ALL]
    assert rows == [(name, sentence.replace("{said}", "...")) for name, sentence in shown]
