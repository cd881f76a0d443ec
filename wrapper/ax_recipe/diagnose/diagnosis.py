"""From a log, or one of our runs, to its diagnosis: the first failure that is not the echo of another's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ax_recipe.diagnose import fixes
from ax_recipe.diagnose.cause import Case, Cause, Diagnosis, Evidence
from ax_recipe.diagnose.causes import table
from ax_recipe.diagnose.phase import phase_of
from ax_recipe.diagnose.reading import Failure, Reading, Said, read
from ax_recipe.document import Loader
from ax_recipe.observe import rules
from ax_recipe.observe.state import end
from ax_recipe.rundir import RunDir, StageRecord

# What the launcher and Python say when they stop because somebody else has failed, or somebody asked.
_NOISE = re.compile(
    r"^(?:[\w.]*\.)?(?:ChildFailedError|CalledProcessError|SystemExit|SignalException|KeyboardInterrupt|RemoteTraceback)\b"
)
_BY_SIGNAL = {9: "host-oom", 7: "shm-full"}
_BY_ALERT = {"not_finite": "nan", "zero_loss": "masked-labels", "frozen": "masked-labels"}
_INTERRUPTING = (1, 2, 15)


@dataclass(frozen=True, slots=True)
class _Finding:
    """A failure with its cause."""

    cause: Cause
    at: Said
    failure: Failure | None = None
    what: str = ""


def diagnose(log: Path, exit_code: int | None = None) -> Diagnosis:
    """Say why the run of ``log`` ended; ``exit_code`` is as in ``subprocess``, or a shell's (137), where known.

    Raises OSError if the log cannot be read.
    """
    return _diagnosed(read(log), exit_code, Case("starting"))


def of_run(run: RunDir) -> Diagnosis:
    """Say why one of our runs ended, by its first stage that is not done.

    :raises MissingError: state.json is absent or not ours.
    """
    state = run.current_state()
    stage = next((each for each in state.stages if each.state not in ("done", "skipped", "waiting")), None)
    config = _config(run)
    case = Case("starting", config, state.recipe, str(run.axolotl_yaml), run.name)
    if stage is None:
        return Diagnosis("none", "finished", "Nothing failed: every stage that was started is done.")
    log = run.log(stage.name, stage.attempt)
    reading = read(log) if log.is_file() else Reading()
    return _diagnosed(reading, _exit_code(stage), case, stage)


def _config(run: RunDir) -> Mapping[str, Any]:
    try:
        value = yaml.load(run.axolotl_yaml.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 - CSafeLoader
    except (OSError, ValueError, yaml.YAMLError):
        return {}  # a diagnosis without concrete values is better than none
    return value if isinstance(value, dict) else {}


def _exit_code(stage: StageRecord) -> int | None:
    if stage.exit_code is not None or stage.state == "running":
        return stage.exit_code
    if found := re.search(r"ended with (?:exit code (\d+)|(SIG\w+))", stage.detail):
        return int(found[1]) if found[1] else -fixes.signal_number(found[2])
    return {"interrupted": -15, "failed": 1}.get(stage.state)


def _diagnosed(reading: Reading, exit_code: int | None, case: Case, stage: StageRecord | None = None) -> Diagnosis:
    end(reading.state, exit_code)
    finding = _first(reading, exit_code) or (_by_detail(stage) if stage else None)
    if finding is None:
        finding = _without_words(reading, exit_code)
    return _told(finding, reading, case, stage)


def _first(reading: Reading, exit_code: int | None) -> _Finding | None:
    """The failure that the others follow from: no echo, known before unknown, the launcher's first rank first."""
    if reading.state.status == "finished":
        return None
    found = [finding for failure in reading.failures if (finding := _classified(failure))]
    if reading.interrupted:
        found = [each for each in found if each.at.line <= reading.interrupted.line]
    elif reading.state.status != "failed" and not exit_code:
        found = [each for each in found if each.cause is not table.UNKNOWN]
    return min(found, key=lambda each: _order(each, reading), default=None)


def _order(finding: _Finding, reading: Reading) -> tuple[bool, ...] | tuple[Any, ...]:
    failure = finding.failure
    aside = failure.aside if failure else False
    stranger = reading.root_rank is not None and (failure is None or failure.rank not in (None, reading.root_rank))
    return aside, finding.cause.echo, finding.cause is table.UNKNOWN, stranger, finding.at.line


def _classified(failure: Failure) -> _Finding | None:
    """The cause of one failure: what ended it counts most, unless that is a wide word for one that led to it."""
    wide: _Finding | None = None
    for said in reversed(failure.said):
        found = table.signed(said.text) if failure.sign else table.said(said.text, failure.frames)
        if found:
            finding = _Finding(found[0], said, failure, _what(found[1]))
            if not found[0].broad:
                return finding
            wide = wide or finding
    if wide:
        return wide
    loud = [said for said in failure.said if not _NOISE.match(said.text)]
    return _Finding(table.UNKNOWN, loud[-1], failure) if loud else None


def _what(found: re.Match[str] | None) -> str:
    return (found.groupdict().get("what") or "") if found else ""


def _by_detail(stage: StageRecord) -> _Finding | None:
    """What our own check of a stage found, where its programs ended well or there were none."""
    if stage.state != "failed" or not stage.detail or "ended with" in stage.detail:
        return None
    found = table.said(stage.detail, ())
    cause = found[0] if found else table.UNKNOWN
    return _Finding(cause, Said(0, stage.detail))


def _without_words(reading: Reading, exit_code: int | None) -> _Finding:
    """No failure says anything: the numbers, the launcher's table and the exit code are left."""
    last = reading.last or Said(0, "")
    for alert in rules.judge(reading.state).alerts:
        if alert.rule in _BY_ALERT and _BY_ALERT[alert.rule] in table.BY_NAME:
            return _Finding(table.BY_NAME[_BY_ALERT[alert.rule]], last)
    code = exit_code if exit_code and reading.root_code is None else reading.root_code
    signal = -code if code and code < 0 else (code or 0) - 128
    at = Said(reading.root_line, reading.root_text) if reading.root_line else last
    if signal in _BY_SIGNAL:
        return _Finding(table.BY_NAME[_BY_SIGNAL[signal]], at)
    if reading.state.status == "interrupted":
        return _Finding(table.BY_NAME.get("interrupted", table.UNKNOWN), reading.interrupted or last)
    if reading.state.status == "failed":
        return _Finding(table.UNKNOWN, at)
    return _Finding(table.NONE, last)


def _told(finding: _Finding, reading: Reading, case: Case, stage: StageRecord | None) -> Diagnosis:
    cause, failure = finding.cause, finding.failure
    phase = phase_of(failure, reading, stage.name if stage else "")
    config = case.config or reading.state.config or {}
    file = config.get("axolotl_config_path")
    case = Case(phase, config, case.recipe, str(file) if file and not case.run else case.file, case.run, finding.what)
    rank = failure.rank if failure and failure.rank is not None else reading.root_rank
    what = f" {finding.what}" if finding.what else ""
    return Diagnosis(
        cause.name,
        phase,
        cause.sentence.replace("{what}", what),
        rank,
        failure.step if failure else reading.state.step,
        Evidence(finding.at.line, finding.at.text) if finding.at.line else None,
        fixes.of(cause, case),
    )
