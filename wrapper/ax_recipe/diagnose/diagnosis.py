"""From a log, or one of our runs, to its diagnosis: the first failure that is not the echo of another's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ax_recipe.diagnose import fixes
from ax_recipe.diagnose.cause import Case, Cause, Diagnosis, Evidence
from ax_recipe.diagnose.causes import table
from ax_recipe.diagnose.phase import phase_of
from ax_recipe.diagnose.reading import Failure, Reading, Said, read
from ax_recipe.errors import MissingError
from ax_recipe.observe import rules
from ax_recipe.observe.folding import end
from ax_recipe.recipe import recipe
from ax_recipe.run.rundir import RunDir, StageRecord

# What the launcher and Python say when they stop because somebody else has failed, or somebody asked.
_NOISE = re.compile(
    r"^(?:[\w.]*\.)?(?:ChildFailedError|CalledProcessError|SystemExit|SignalException|KeyboardInterrupt|RemoteTraceback)\b"
)
_BY_SIGNAL = {4: "native-crash", 6: "rank-died", 7: "shm-full", 8: "native-crash", 9: "host-oom", 11: "native-crash"}


_ALL_DONE = "Nothing failed: every stage that was started is done."
_NOWHERE = Said(0, "")
_NOBODY = Failure(0, None, "starting", 0)


@dataclass(frozen=True, slots=True)
class _Finding:
    """A failure with its cause."""

    cause: Cause
    at: Said
    failure: Failure = field(default_factory=lambda: _NOBODY)
    match: re.Match[str] | None = None
    note: str = ""

    @property
    def failed(self) -> bool:
        """Whether words of the log say it."""
        return self.failure is not _NOBODY

    def named(self, group: str) -> str:
        """What the pattern picked out of the words."""
        return (self.match.groupdict().get(group) or "").strip() if self.match else ""


def diagnose(log: Path, exit_code: int | None = None, others: Mapping[int, Path] | None = None) -> Diagnosis:
    """Say why the run of ``log`` ended; ``exit_code`` is as in ``subprocess``, or a shell's (137), where known.

    ``others`` are the logs of the other machines, by their number. Raises OSError if a log cannot be read.
    """
    return _foremost(log, others or {}, exit_code, Case("starting"))


def _foremost(
    log: Path, others: Mapping[int, Path], exit_code: int | None, case: Case, stage: StageRecord | None = None
) -> Diagnosis:
    """The diagnosis of the machine whose failure the others followed from: the head's, unless that is an echo."""
    readings = {0: read(log) if log.is_file() or stage is None else Reading()}
    readings |= {node: read(path) for node, path in others.items()}
    if not others:
        return _diagnosed(readings[0], exit_code, case, stage)
    found = {}
    for node, reading in readings.items():
        end(reading.state, reading.root_code if exit_code is None else exit_code)
        if finding := _first(reading, exit_code):
            found[node] = _order(finding, reading)[:3]
    node = min(found, key=lambda each: (found[each], each), default=0)
    return replace(_diagnosed(readings[node], exit_code, case, stage), node=node)


def of_run(run: RunDir) -> Diagnosis:
    """Say why one of our runs ended, by its first stage that is not done.

    :raises MissingError: state.json is absent or not ours.
    """
    state = run.current_state()
    stage = next((each for each in state.stages if each.state not in ("done", "skipped", "waiting")), None)
    case = _case(run, state.recipe)
    if stage is None:
        words = f"Nothing failed so far: {run.name} goes on." if run.is_alive() else _ALL_DONE
        return Diagnosis("none", "finished", words)
    log, others = run.log(stage.name, stage.attempt), run.node_logs(stage.name, stage.attempt)
    found = _foremost(log, others, _exit_code(stage), case, stage)
    if stage.state == "running" and found.cause == "none":  # what its log has come to is not yet what the stage has
        return replace(found, message=f"Nothing failed so far: {run.name} goes on, at {stage.name}.")
    return found


def _case(run: RunDir, name: str) -> Case:
    """What fixes need of one of our runs; a folder that is not whole gives fixes without its own numbers."""
    config: dict[str, Any] = {}
    orders: dict[str, Any] = {}
    with suppress(MissingError):
        orders = run.read_json(run.orders)
        config = run.read_yaml(run.axolotl_yaml)
    file = Path(str(orders.get("recipe_file", "")))
    own = file.is_file() and file not in recipe.bundled()
    changes = tuple(str(change) for change in orders.get("changes") or ())
    return Case("starting", config, str(file) if own else name, str(run.axolotl_yaml), run.word, changes)


def _exit_code(stage: StageRecord) -> int | None:
    if stage.exit_code is not None or stage.state == "running":
        return stage.exit_code
    if found := re.search(r"ended with (?:exit code (\d+)|(SIG\w+))", stage.detail):
        return int(found[1]) if found[1] else -fixes.signal_number(found[2])
    return {"interrupted": -15, "failed": 1}.get(stage.state)


def _diagnosed(reading: Reading, exit_code: int | None, case: Case, stage: StageRecord | None = None) -> Diagnosis:
    end(reading.state, reading.root_code if exit_code is None else exit_code)
    finding = _first(reading, exit_code)
    figures = _by_figures(reading)
    if finding is None or (finding.cause is table.UNKNOWN and figures and figures.cause.name == "nan"):
        finding = figures or (stage and _by_detail(stage)) or _by_end(reading, exit_code)
    return _told(finding, reading, case, stage)


def _first(reading: Reading, exit_code: int | None) -> _Finding | None:
    """The failure that the others follow from: no echo, known before unknown, of the launcher's first rank."""
    status = reading.state.status
    if status == "finished":
        return None
    found = [finding for failure in reading.failures if (finding := _classified(failure))]
    if status == "interrupted":
        found = [each for each in found if _outranks_interrupt(each, reading)]
    elif status == "running" and not exit_code:
        found = [each for each in found if not each.failure.aside and _tells(each, reading)]
    return min(found, key=lambda each: _order(each, reading), default=None)


def _tells(finding: _Finding, reading: Reading) -> bool:
    """Whether a failure is one that the run did not go on after; other ranks may have done one more step."""
    known = finding.cause is not table.UNKNOWN or finding.failure.frames
    return bool(known) and reading.state.step - finding.failure.step <= 1


def _outranks_interrupt(finding: _Finding, reading: Reading) -> bool:
    """Whether a run that was asked to stop had failed before."""
    asked = reading.interrupted.line if reading.interrupted else None
    known = finding.cause is not table.UNKNOWN and not finding.cause.echo
    return known and not finding.failure.aside and (asked is None or finding.at.line < asked)


def _order(finding: _Finding, reading: Reading) -> tuple[bool, int, bool, bool, int]:
    failure = finding.failure
    stranger = reading.root_rank is not None and failure.rank not in (None, reading.root_rank)
    return failure.aside, finding.cause.echo, finding.cause is table.UNKNOWN, stranger, finding.at.line


def _classified(failure: Failure) -> _Finding | None:
    """The cause of one failure: what ended it counts most, unless that is a wide word for one that led to it."""
    wide: _Finding | None = None
    for said in reversed(failure.said):
        found = table.signed(said.text) if failure.sign else table.said(said.text, failure.frames)
        if found:
            finding = _Finding(found[0], said, failure, found[1])
            if not found[0].broad:
                return finding
            wide = wide or finding
    if wide:
        return wide
    loud = [said for said in failure.said if not _NOISE.match(said.text)]
    return _Finding(table.UNKNOWN, loud[-1], failure) if loud else None


def _by_figures(reading: Reading) -> _Finding | None:
    """What the numbers tell where no exception does: Axolotl trains on, and ends well."""
    state = reading.state
    given = {alert.rule for alert in rules.judge(state).alerts}
    if "not_finite" in given:
        return _Finding(table.BY_NAME["nan"], reading.wild or _NOWHERE)
    if "zero_loss" in given:
        return _Finding(table.BY_NAME["masked-labels"], reading.still or _NOWHERE)
    if "frozen" in given:
        learnt = any(norm > 0 for _, norm in state.grad_norms.points)
        return _Finding(table.BY_NAME["diverged" if learnt else "no-gradient"], reading.still or _NOWHERE)
    if "ranks_alone" in given:
        return _Finding(table.BY_NAME["ranks-alone"], reading.last or _NOWHERE)
    return None


def _by_detail(stage: StageRecord) -> _Finding | None:
    """What our own check of a stage found, where its programs ended well or there were none."""
    if stage.state != "failed" or not stage.detail or "ended with" in stage.detail:
        return None
    found = table.said(stage.detail, ())
    said = Said(0, stage.detail)
    return _Finding(found[0], said, match=found[1]) if found else _Finding(table.UNKNOWN, said)


def _by_end(reading: Reading, exit_code: int | None) -> _Finding:
    """What the launcher's table and the exit code tell where nobody says a word."""
    last = reading.root or reading.last or _NOWHERE
    code = (reading.root_code if reading.root else exit_code) or 0
    name = _BY_SIGNAL.get(-code if code < 0 else code - 128)
    status = reading.state.status
    shown = ": the one shown is only its last" if last is reading.last and last else ""
    note = f" It ended with exit code {code}, and no line of its log says why{shown}." if code else ""
    if status == "interrupted":
        said = reading.interrupted or _asked(reading)
        return _Finding(table.BY_NAME["interrupted"], said or last, note="" if said else note)
    if status == "failed":
        cause = table.BY_NAME[name or ("rank-died" if reading.root else "unknown")]
        return _Finding(cause, last, note=note)
    return _Finding(table.NONE if status == "finished" else table.RUNNING, last)


def _asked(reading: Reading) -> Said | None:
    """Where a traceback ends in what Python makes of Ctrl-C or a signal."""
    return next((said for failure in reading.failures for said in failure.said if _NOISE.match(said.text)), None)


def _told(finding: _Finding, reading: Reading, case: Case, stage: StageRecord | None) -> Diagnosis:
    cause, failure = finding.cause, finding.failure
    phase = phase_of(cause, failure if finding.failed else None, reading, stage.name if stage else "")
    config = case.config or reading.state.config or {}
    file = case.file if case.run else str(config.get("axolotl_config_path") or case.file)
    what = finding.named("what")
    highest = max((rate for _, rate in reading.state.learning_rates.points), default=None)
    case = replace(case, phase=phase, config=config, file=file, what=what, highest_rate=highest)
    line, text = finding.at.at(finding.match)
    sentence = cause.sentence.replace("{what}", f" ({what})" if what else "").replace("{said}", text)
    return Diagnosis(
        cause.name,
        phase,
        sentence + finding.note,
        _rank(finding, reading),
        failure.step if finding.failed else reading.state.step,
        Evidence(line, text) if line and cause.name != "none" else None,
        fixes.of(cause, case),
    )


def _rank(finding: _Finding, reading: Reading) -> int | None:
    """The rank by the prefix of its lines, by what the message says, by the launcher's table."""
    if finding.failure.rank is not None:
        return finding.failure.rank
    several = reading.root_rank is not None or reading.state.world_size > 1
    said = finding.named("rank") or (finding.named("gpu") if several else "")  # torchrun gives each rank its GPU
    if said:
        return int(said)
    return reading.root_rank if finding.failed or finding.at is reading.root else None
