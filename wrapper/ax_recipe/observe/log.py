"""Lines of any Axolotl log become typed events; what no rule knows becomes a ``Line``, and nothing ever raises.

Read with Axolotl 0.11 to 0.19 in mind, stdout and stderr together, plain or with the prefixes that torchrun
(``[default0]:``), torch (``[rank0]:``), Ray (``(RayTrainWorker pid=7)``) and collectors put before every line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache

from ax_recipe.observe.collected import bare
from ax_recipe.observe.events import (
    Began,
    Completed,
    Config,
    Crashed,
    Evaluation,
    Event,
    Interrupted,
    Line,
    Metrics,
    Phase,
    Saved,
    Step,
    Warned,
)
from ax_recipe.observe.names import common
from ax_recipe.observe.phrases import MESSAGES, NOTICES, meaning

# {'loss': '6.129', 'grad_norm': 'nan', 'tokens/trainable': 115, 'epoch': 0.03}   (strings since transformers 5)
_DICT = re.compile(r"\{'[^{}]*\}")
_PAIR = re.compile(r"'([^']*)': (?:np\.float\d+\()?'?([^',})]*)")
# " 8%|▊         | 1/12 [00:03<00:42,  3.90s/it]"   the trainer's bar and an evaluation's have no name before them
_BAR = re.compile(
    r"\s*\d+%\|[^|]*\| *(\d{1,12})/(\d{1,12}) \[([\d:]{1,20})<[^,\]]*(?:, *(?:(\d{1,12}\.?\d*)(s/it|it/s)|[^\]]*))?\]"
)
# "Loading weights:   1%|  | 2/291 [00:00<00:39,  7.38it/s]"   "Generating train split: 400 examples [00:00, ...]"
_NAMED_BAR = re.compile(r"\s*([^\s%|\[(][^%|:]{0,200}):\s+(?:\d+%\|[^|]*\|[^\[]*|\d+ \w+ )\[[^\]]*\]\s?")
# "[2026-11-22 11:26:40,008] [INFO] [axolotl.train] [PID:7] [RANK:1] Starting trainer..."   (PID until 0.12)
_STAMP = re.compile(
    r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})\] \[([A-Z]+)\] \[([^\]]*)\]"
    r"(?: \[PID:\d+\])?(?: \[RANK:(\d{1,6})\])? ?(.*)"
)
# "[default0]:..."   "[rank1]: ..."   "(RayTrainWorker pid=12585, ip=10.0.0.2) ..."
_PREFIX = re.compile(r" *(?:\[(?:default|rank)(\d{1,6})\]: ?|\((?:\w+(?:\([^()]*\))? )?pid=(\d+)(?:, ip=[^)]*)?\) ?)")
_PREFIXES = ("[default", "[rank", "(")
_REPEATED = re.compile(r" \[repeated \d+x across cluster\].*$")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERROR = re.compile(r"([A-Za-z_][\w.]*)(?:: .*|:|)$")
# A terminal shows Ctrl-C as ^C, and rich draws a frame: "╭──── Traceback (most recent call last) ────╮"
_TRACEBACK = re.compile(r"(?:\^C)*(?:[╭+][─-]+ )?Traceback \(most recent call last\)")
_JSON_LINE = re.compile(r'\s*(?:"|[{}\[\]]|-?\d|true|false|null)')
# What a training prints while it imports, which tells nothing more: Axolotl's picture, the stamps of torch, NCCL and
# transformers, accelerate's and bitsandbytes' words, Python's warnings. Only as programs print it: a recipe, a script
# or a page that speaks of training must not pass for its log.
_SIGN = re.compile(
    r"\s+#@@ #@@|.*@{9}|\[?[IWEF]\d{3,4} \d\d:\d\d:\d\d|\[(?:INFO|WARNING|ERROR)\|\w+\.py:\d+\]"
    r"|\[(?:axolotl|transformers)[\].]|.*(?:\bNCCL (?:INFO|WARN)\b|`accelerate launch`|CUDA SETUP|'axolotl\.cli\b)"
    r"|(?:usage: |[+$] )(?:axolotl|accelerate|torchrun)\b|.*/(?:site|dist)-packages/\S+(?::\d+: |\", line \d)"
)
_NO_TEXT = re.compile(r"[\0-\x08\ufffd]")
_CLEARED = " " * 30  # tqdm wipes its bar with blanks before it lets a text through, and no shorter bar exists
_NEVER = r"(?!)"
_TAKE, _SKIP = r"'?([^',}]+)'?", r"'?[^',}]+'?"
_UNUSED = frozenset(("num_input_tokens_seen", "tokens/total", "tokens/trainable", "total_tokens", "train_runtime"))
_JSON_STARTS = ('  "', '    "', '      "', "  }", "  ]", "    {", "    }", "    ]", "      }", "}")
_CONFIG_LINES = 5000  # a longer "configuration" is something else
# What rules and views count with; a log is text, and may have anything in its place.
_FIGURES = frozenset(
    (
        "cosine_min_lr_ratio", "learning_rate", "logging_steps", "loss_watchdog_threshold", "num_epochs", "save_steps",
        "saves_per_epoch", "val_set_size", "warmup_ratio", "warmup_steps",
    )
)  # fmt: skip

_MORE_BARS = (
    ("Loading weights", "loading"),
    ("Loading checkpoint shards", "loading"),
    ("Downloading", "loading"),
    ("Fetching", "loading"),
    ("Merging", "merging"),
    ("Writing model shards", "saving"),
)
_PREPARING_BARS = ("Generating", "Tokenizing", "Dropping", "Drop ", "Add ", "Saving the dataset", "Map", "Filter")


class Shape:
    """The keys of one kind of metric line: the next line has the same ones, and is then read five times as fast."""

    def __init__(self, line: str) -> None:
        pairs = _PAIR.findall(line)
        values = ", ".join(f"'{re.escape(name)}': " + (_SKIP if name in _UNUSED else _TAKE) for name, _ in pairs)
        self._names = [common(name) for name, _ in pairs if name not in _UNUSED]
        self._match = re.compile(rf"\{{{values}\}}\s*" if len(pairs) < 99 else _NEVER).fullmatch
        numbers = [(common(name), _number(text)) for name, text in pairs if name not in _UNUSED]
        self.values = {name: value for name, value in numbers if value is not None}

    def read(self, line: str) -> dict[str, float] | None:
        """The values of ``line`` under our names; None if it has other keys, or values that are no numbers."""
        if not (found := self._match(line)):
            return None
        try:
            return dict(zip(self._names, map(float, found.groups()), strict=True))
        except ValueError:
            return None


class LogReader:
    """Turns the lines of one log into events; remembers only what a line needs from those before it.

    Metric lines carry no step, so the step is taken from the trainer's progress bar. tqdm redraws a bar at most ten
    times a second, but always after it has written a text: the bar behind a metric line is exact and may correct it.
    """

    def __init__(self) -> None:
        self.signed = False  # whether a line was a training's, be it one that tells nothing
        self._phase = ""
        self._time: float | None = None
        self._last_bar = ""
        self._at_bar = False
        self._total: int | None = None
        self._starting = True
        self._announced = False
        self._evaluating = False
        self._just_evaluated = False
        self._bar = 0
        self._elapsed = 0
        self._epoch_start: float | None = None
        self._logged: int | None = None
        self._every = 1
        self._ranks = 1
        self._moment: tuple[float | None, float | None] = (None, None)
        self._unsure = False
        self._configs: dict[str, list[str]] = {}
        self._config: list[str] | None = None  # the one without a prefix
        self._traces: set[str] = set()
        self._harmless = False
        self._shape = Shape("")

    def feed(self, line: str) -> list[Event]:
        """The events of one line without its line end; most often none or one."""
        return self.read((line,))

    def read(self, lines: Iterable[str]) -> list[Event]:
        """The events of some lines; the same as feeding them one by one, only faster."""
        events: list[Event] = []
        for line in lines:
            if line == self._last_bar and not self._unsure:
                self._at_bar = True
            elif self._config is not None and line.startswith(_JSON_STARTS) and line != "}":
                self._config.append(line)
            elif line and not line.isspace():
                if not self._phase:
                    self._enter("importing", events)
                if line.startswith("{'") and self._dictionary(line, events):
                    self._at_bar = False
                else:
                    self._whole(line, events)
        return events

    def finish(self, closed: bool) -> list[Event]:
        """What the end of the log tells; ``closed`` says whether its last line was ended with LF.

        A process that leaves through Python's shutdown closes its bar, which writes LF behind it: with steps left
        and no traceback, that is Axolotl's SIGINT handler (it saves the adapter and exits 0 without a word). A
        killed process leaves the bar open.
        """
        events: list[Event] = []
        if closed and self._at_bar and self._total is not None and self._bar < self._total:
            events.append(Interrupted(f"the trainer left at step {self._bar} of {self._total}", self._time))
        elif self._traces:
            events.append(Crashed("the log ends inside a traceback", None, self._time))
        self._traces.clear()
        return events

    def _whole(self, line: str, events: list[Event]) -> None:
        text, task = bare(line)
        if text and not text.isspace():
            self._at_bar = False
            self._part(text, "" if task is None else f"{task}:", task, events)

    def _part(self, line: str, key: str, rank: int | None, events: list[Event]) -> None:
        """Take apart what one line holds: prefix, bar, dictionary, stamped message, in any combination."""
        if line.startswith(_CLEARED) and "^" not in line:
            line = line.lstrip(" ")
        if ("%|" in line or " [0" in line) and (end := self._bars(line, events)):
            rest = line[end:]
            if rest and not rest.isspace():
                self._at_bar = False
                self._part(rest, key, rank, events)
        elif "\x1b" in line:
            self._part(_ANSI.sub("", line).replace("\x1b", ""), key, rank, events)
        elif line.lstrip(" ").startswith(_PREFIXES) and (found := _PREFIX.match(line)):
            text = _REPEATED.sub("", line[found.end() :]) if found[2] else line[found.end() :]
            if text and not text.isspace():
                self.signed = True
                self._part(text, key + found[0].strip(), int(found[1]) if found[1] else rank, events)
        else:
            self._words(line, key, rank, events)

    def _bars(self, line: str, events: list[Event]) -> int:
        """Take what a line begins with if it is a progress bar; where the bar ends, 0 for none."""
        if line[0] in " 0123456789" and (found := _BAR.match(line)):
            self._progress(found, line, events)
        elif found := _NAMED_BAR.match(line):
            self._named(found[1], events)
        return found.end() if found else 0

    def _words(self, line: str, key: str, rank: int | None, events: list[Event]) -> None:
        if line.startswith("[") and (found := _STAMP.match(line)):
            self._stamped(found, line, key, rank, events)
        elif key in self._configs and _JSON_LINE.match(line):
            self._collect(line, key, events)
        elif "{'" in line and (cut := _DICT.search(line)) and self._dictionary(cut[0], events):
            return
        else:
            self._loose(line, key, rank, events)

    def _enter(self, phase: str, events: list[Event]) -> None:
        if phase != self._phase:
            self._phase = phase
            events.append(Phase(phase, self._time))

    def _dictionary(self, line: str, events: list[Event]) -> bool:
        values = self._shape.read(line)
        if values is None:
            values = self._learn(line)
        if "loss" in values or "grad_norm" in values:
            self._metrics(values, events)
        elif "train_loss" in values:
            events.append(Completed(values, self._time))
        elif "'eval_" in line:
            self._evaluation(values, events)
        else:
            return False
        return True

    def _learn(self, line: str) -> dict[str, float]:
        """Evaluations come in between: only lines of training metrics are many enough to keep their shape."""
        shape = Shape(line)
        if "loss" in shape.values:
            self._shape = shape
        return shape.values

    def _evaluation(self, values: dict[str, float], events: list[Event]) -> None:
        self._evaluating = False
        self._just_evaluated = True
        self._enter("evaluating", events)
        events.append(Evaluation(values, self._bar, self._time))
        self._enter("training" if self._bar else "compiling", events)

    def _metrics(self, values: dict[str, float], events: list[Event]) -> None:
        step = self._placed((values.get("epoch"), values.get("learning_rate")))
        self._unsure = step != self._bar
        self._logged = step
        self._evaluating = False
        self._enter("training", events)
        events.append(Metrics(values, step, self._time))

    def _placed(self, moment: tuple[float | None, float | None]) -> int:
        """The step that a metric line most likely belongs to; ``moment`` is its epoch and learning rate."""
        repeated = self._ranks > 1 and moment == self._moment
        self._moment = moment
        if self._logged is None:
            return self._bar or self._every
        if self._bar > self._logged:
            return max(self._bar, min(self._logged + self._every, self._total or self._bar))
        if repeated:
            return self._logged  # another rank that trains on its own
        return min(self._logged + self._every, self._total or self._logged + self._every)

    def _progress(self, found: re.Match[str], line: str, events: list[Event]) -> None:
        shown, of, clock, rate, unit = found.groups()
        step, total = int(shown), int(of)
        usual = total == self._total and not (self._starting or self._evaluating or self._just_evaluated)
        if not (usual or self._is_ours(step, total)):
            if step < total != self._total:
                self._enter("evaluating", events)
            return
        self._at_bar = True
        elapsed = _clock(clock)
        if self._starting:
            self._restart(total, elapsed)
        elif elapsed < self._elapsed or (step < self._bar and not self._unsure):
            return  # another rank's bar lags, or an evaluation has the same total (0.12 does not announce it)
        self._elapsed = elapsed
        self._last_bar = line if line.endswith("]") else ""
        corrects = self._unsure and step != self._logged
        if corrects:
            self._logged = step
        known = self._bar if not self._unsure or corrects else self._logged
        self._unsure = False
        if self._epoch_start is not None:
            self._time = self._epoch_start + elapsed
        if step != known or corrects:
            if self._phase != "training" or not step:
                self._enter("training" if step else "compiling", events)
            events.append(Step(step, total, _pace(rate, unit), corrects, self._time))
        self._bar = step

    def _is_ours(self, step: int, total: int) -> bool:
        """Whether a bar without a name is the trainer's, not an evaluation's."""
        if self._evaluating or self._starting:
            return self._starting and not self._evaluating
        if total != self._total:
            return False
        if self._just_evaluated and step == total and step > self._bar + 1:
            return False  # the evaluation's full bar, redrawn behind its metrics, where both have the same total
        self._just_evaluated = False
        return True

    def _restart(self, total: int, elapsed: int) -> None:
        self._starting = False
        self._total = total
        self._bar = -1
        self._logged = None
        self._unsure = False
        self._epoch_start = None if self._time is None else self._time - elapsed

    def _named(self, name: str, events: list[Event]) -> None:
        if not self._starting and self._announced:
            if name.startswith("Writing model shards"):
                self._enter("saving", events)
            return
        for start, phase in _MORE_BARS:
            if name.startswith(start):
                if self._phase != "quantising":  # the other ranks are a little later
                    self._enter(phase, events)
                self._starting = True
                return
        if name.startswith(_PREPARING_BARS):
            self._enter("preparing", events)

    def _stamped(self, found: re.Match[str], line: str, key: str, rank: int | None, events: list[Event]) -> None:
        self.signed = True
        self._traces.discard(key)
        stamp, level, _, number, text = found.groups()
        self._time = _seconds(stamp)
        rank = int(number) if number else rank
        if text.endswith("config:"):
            self._harmless = False  # plugins are loaded before it is printed
            self._configs[key] = []
            self._config = self._configs.get("")
        elif not rank:
            self._message(text, events)
        if level in ("WARNING", "ERROR", "CRITICAL"):
            self._harmless = text.startswith("Failed to load plugin")
            events.append(Warned(text, rank, level, self._time))
        else:
            events.append(Line(line, rank, self._time))

    def _message(self, text: str, events: list[Event]) -> None:
        if event := meaning(text, MESSAGES, self._time):
            self._told(event, events)

    def _told(self, event: Event, events: list[Event]) -> None:
        if isinstance(event, Phase):
            if event.name == "compiling":
                self._starting = self._announced = True
            self._evaluating = event.name == "evaluating"
            self._enter(event.name, events)
            return
        events.append(event)
        if isinstance(event, Saved | Completed):
            self._evaluating = False
            self._enter("saving", events)

    def _collect(self, line: str, key: str, events: list[Event]) -> None:
        lines = self._configs[key]
        lines.append(line)
        if line.rstrip() == "}" or len(lines) > _CONFIG_LINES:
            del self._configs[key]
            self._config = self._configs.get("")
            if (values := _json("\n".join(lines))) is not None:
                self._configured({key: value for key, value in values.items() if _is_usable(key, value)}, events)

    def _configured(self, values: dict[str, object], events: list[Event]) -> None:
        every = values.get("logging_steps")
        self._ranks = _integer(values.get("world_size")) or 1
        self._every = int(every) if isinstance(every, int | float) and every >= 1 else 1
        self._starting = True
        self._evaluating = False
        events.append(Config(values, self._time))
        events.append(
            Began(
                world_size=_integer(values.get("world_size")),
                micro_batch=_integer(values.get("micro_batch_size")),
                accumulation=_integer(values.get("gradient_accumulation_steps")),
                epochs=_number(values.get("num_epochs")),
                time=self._time,
            )
        )
        self._enter("preparing", events)

    def _loose(self, line: str, key: str, rank: int | None, events: list[Event]) -> None:
        if not self.signed:
            self.signed = bool(_SIGN.match(line) and not _NO_TEXT.search(line))
        if "Traceback (most" in line and _TRACEBACK.match(line):
            self._traces.add(key)
        elif line.startswith(("Exception ignored in", "Exception in thread", "--- Logging error ---")):
            self._harmless = True
        elif key in self._traces and not line.startswith((" ", "\t")) and _ERROR.match(line):
            self._traces.discard(key)
            harmless, self._harmless = self._harmless, self._harmless and line.startswith("ModuleNotFoundError")
            events.append(Warned(line, rank, "ERROR", self._time) if harmless else Crashed(line, rank, self._time))
            return
        elif event := meaning(line, NOTICES, self._time):
            if isinstance(event, Crashed) and event.rank is None:
                event = Crashed(event.text, rank, event.time)
            events.append(event)
            return
        events.append(Line(line, rank, self._time))


def parse(lines: Iterable[str], closed: bool = True) -> list[Event]:
    """All events of a whole log; ``closed`` as in ``LogReader.finish``."""
    reader = LogReader()
    return reader.read(lines) + reader.finish(closed)


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]  # whatever it is: a failure means that it is no number
    except (TypeError, ValueError):
        return None


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _is_usable(key: str, value: object) -> bool:
    return key not in _FIGURES or value is None or (isinstance(value, int | float) and abs(value) < 1e15)


def _json(text: str) -> dict[str, object] | None:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) else None


def _seconds(stamp: str) -> float | None:
    try:
        return datetime.fromisoformat(stamp.replace(",", ".")).timestamp()
    except (ValueError, OverflowError, OSError):  # no such day, or none that this system counts from 1970
        return None


@lru_cache(maxsize=64)
def _clock(text: str) -> int:
    minutes, _, seconds = text.rpartition(":")
    return 60 * _clock(minutes) + int(seconds or 0) if minutes else int(seconds or 0)


@lru_cache(maxsize=1024)
def _pace(rate: str | None, unit: str | None) -> float | None:
    value = float(rate) if rate else 0.0
    if value <= 0:
        return None
    return value if unit == "s/it" else 1 / value
