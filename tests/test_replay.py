"""Whether a file is the log of a training at all: what is none is not called one that runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from conftest import ROOT, Invoke

LOGS = ROOT / "tests/logs"
# What stands first in logs whose training has only imported so far.
IMPORTS = (
    (LOGS / "axolotl-0.19.0-ok.log").read_bytes()[:27].lstrip(b"\n"),  # Axolotl's picture begins
    b"/opt/venv/lib/python3.11/site-packages/torch/cuda/__init__.py:61: FutureWarning: The pynvml package is\n",
    b"[2024-05-01 10:00:00,123] [INFO] [axolotl.normalize_config:182] [PID:7] [RANK:0] GPU memory usage\n",
    b"[2026-11-22 13:00:00,123] [INFO] [real_accelerator.py:219:get_accelerator] Setting ds_accelerator to cuda\n",
    b"[INFO|tokenization_utils_base.py:2060] 2026-11-22 13:00:00,123 >> loading file vocab.json\n",
    b"The following values were not passed to `accelerate launch` and had defaults used instead:\n",
    b"node1:4711:4711 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.2<0>\n",
    b"(RayTrainWorker pid=7, ip=10.0.0.2) importing\n",
    b"2026-11-22T13:00:00.123Z stderr F W1122 13:43:02.012000 9322 torch/distributed/run.py:766] *****\n",
)


@pytest.mark.parametrize("verb", ["replay", "diagnose"])
@pytest.mark.parametrize(
    "given",
    [
        Path(sys.executable).read_bytes()[: 1 << 18],
        (ROOT / "recipes/pirate.yaml").read_bytes(),
        (ROOT / "README.md").read_bytes(),
        (LOGS / "axolotl-0.19.0-pirate-tiny.jsonl").read_bytes(),
        b'10.0.0.7 - - [22/Nov/2026:13:00:00 +0000] "GET /axolotl HTTP/1.1" 200 512\n',
        b"",
    ],
    ids=["program", "recipe", "page", "events", "server", "empty"],
)
def test_a_file_that_is_no_log_of_a_training_is_not_one_that_runs(
    invoke: Invoke, given: bytes, verb: str, tmp_path: Path
) -> None:
    file = tmp_path / "given"
    file.write_bytes(given)
    done = invoke(verb, str(file))
    assert done.exit_code == 2
    assert not done.stdout
    assert f"no line of {file} is a training's" in done.stderr
    assert "axolotl train" in done.stderr
    as_json = invoke(verb, str(file), "--json")
    assert as_json.exit_code == 2
    assert json.loads(as_json.stdout)  # a program that asks gets its keys of any file


@pytest.mark.parametrize("begun", IMPORTS)
def test_a_log_with_no_more_than_imports_is_of_a_training_that_runs(
    invoke: Invoke, begun: bytes, tmp_path: Path
) -> None:
    log = tmp_path / "begun.log"
    log.write_bytes(begun)
    assert json.loads(invoke("replay", str(log), "--json").stdout)["status"] == "running"
    for verb in ("replay", "diagnose"):
        assert invoke(verb, str(log)).exit_code == 0


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-8"])
@pytest.mark.parametrize("verb", ["replay", "diagnose"])
def test_a_log_is_read_by_its_byte_order_mark(invoke: Invoke, verb: str, encoding: str, tmp_path: Path) -> None:
    """Windows PowerShell's ``>`` and Tee-Object write UTF-16 with CR LF, its Out-File -Encoding utf8 a mark as well."""
    plain, marked = tmp_path / "plain.log", tmp_path / "marked.log"
    for log in sorted(LOGS.glob("axolotl-0.19.0-*.log")):
        text = log.read_bytes().decode("utf-8", "replace")
        plain.write_bytes(text.encode())
        marked.write_bytes(f"\ufeff{text.replace(chr(10), chr(13) + chr(10))}".encode(encoding))
        told = [invoke(verb, str(file), "--json") for file in (plain, marked)]
        assert told[0].exit_code == 0
        assert told[1].exit_code == 0, log
        assert told[0].stdout == told[1].stdout


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.log")), ids=lambda log: log.stem)
def test_every_recorded_log_is_one_from_its_third_line_on(invoke: Invoke, log: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun.log"
    begun.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3]))
    assert invoke("replay", str(begun)).exit_code == 0
    assert invoke("replay", str(log)).exit_code == 0


def test_how_the_process_ended_is_enough_to_know_of_an_empty_log(invoke: Invoke, tmp_path: Path) -> None:
    log = tmp_path / "empty.log"
    log.touch()
    done = invoke("replay", str(log), "--exit-code", "137")
    assert done.exit_code == 0
    assert "failed" in done.stdout


def test_a_log_that_tells_no_steps_is_not_said_to_have_done_all(invoke: Invoke, tmp_path: Path) -> None:
    log = tmp_path / "plain.log"
    rows = [f"{{'loss': {2 - 0.1 * row:.1f}, 'grad_norm': 1.0, 'epoch': {row / 10}}}\n" for row in range(1, 5)]
    log.write_text("".join(rows) + "{'train_runtime': 12.3, 'train_loss': 1.7, 'epoch': 0.4}\n")
    found = json.loads(invoke("replay", str(log), "--json").output)
    assert (found["status"], found["step"], found["total_steps"]) == ("finished", 4, None)
    assert found["verdict"] == "Finished by its trainer's word (the log tells no steps: its lines are counted)."


def test_a_target_that_is_no_band_is_refused(invoke: Invoke) -> None:
    log = str(LOGS / "axolotl-0.19.0-ok.log")
    assert invoke("replay", log, "--target", "5", "1").exit_code == 2
    assert invoke("replay", log, "--target", "1", "5").exit_code == 0


def test_a_log_that_is_not_there_is_not_only_asked_for_as_a_run(invoke: Invoke) -> None:
    told = invoke("diagnose", "nofile.log")
    assert told.exit_code == 2
    assert "nofile.log is no file and no run in" in told.output


def test_the_last_line_of_a_log_is_no_reason(invoke: Invoke, tmp_path: Path) -> None:
    log = tmp_path / "cut.log"
    log.write_text((LOGS / "axolotl-0.19.0-killed.log").read_text() + "    super().__init__(loader)\n")
    told = " ".join(invoke("diagnose", str(log), "--exit-code", "137").output.split())
    assert "no line of its log says why: the one shown is only its last. while" in told
