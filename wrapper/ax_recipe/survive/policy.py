"""policy.json: what a run may do by itself when it is out of memory, when it hangs, and when its time is up."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, replace

from ax_recipe.errors import RecipeError
from ax_recipe.run.rundir import RunDir

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Policy:
    """``on_oom`` is ``stop`` or ``retry``, ``on_hang`` ``wait`` or ``restart``; times are in seconds.

    ``time_limit_s`` counts anew each time the run is started or resumed. ``hang_s`` is the silence after which a
    training hangs; None is the verdict's own.
    """

    on_oom: str = "stop"
    on_hang: str = "wait"
    time_limit_s: float | None = None
    hang_s: float | None = None

    def told(self, on_oom: str | None, on_hang: str | None, time_limit: str | None) -> Policy:
        """The same, with what the command line says put over it.

        :raises RecipeError: the time is none.
        """
        seconds = self.time_limit_s if time_limit is None else parse_time(time_limit)
        return replace(self, on_oom=on_oom or self.on_oom, on_hang=on_hang or self.on_hang, time_limit_s=seconds)


def parse_time(text: str) -> float:
    """``90s``, ``45m``, ``2h``, ``1h30m``, or ``2:00:00`` as batch systems write it, in seconds.

    :raises RecipeError: it is none of these.
    """
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text)
    if clock:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return float(86400 * days + 3600 * hours + 60 * minutes + seconds)
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if text and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    raise RecipeError(f"--time-limit {text}: no time", "write 90s, 45m, 2h, 1h30m or 2:00:00")


def read(run: RunDir) -> Policy:
    """The policy of ``run``; an older run has none, and does nothing by itself."""
    return Policy(**run.read_json(run.policy)) if run.policy.is_file() else Policy()


def write(run: RunDir, policy: Policy) -> None:
    """Keep ``policy`` in the run's folder."""
    run.write_json(run.policy, asdict(policy))
