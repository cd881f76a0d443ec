"""What collectors of logs put before each line, and the line without it."""

from __future__ import annotations

import re

# "2026-11-22T13:00:00.123Z stderr F ", "Nov 22 13:00:00 host app[12]: ", "Nov 22 13:00:00 " (`ts`), "trainer-1  | "
# (compose), "[pod/trainer-0/main] " (`kubectl logs --prefix`), "job<TAB>step<TAB>2026-..." (GitHub), and the task of
# `srun --label`, "3: "; never Axolotl's own stamp, which a level follows.
_COLLECTED = re.compile(
    r"(?:[\w.-]{1,60}-\d+ +\| |\[pod/[^\]]{1,200}\] |[^\t]{1,100}\t[^\t]{1,100}\t(?=\d{4}-\d\d-\d\dT))?"
    r"(?:\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?(?:[ \t]|$)"
    r"(?!\[[A-Z]+\] \[)(?:\[(?:DEBUG|INFO|WARNING|ERROR)\] |std(?:out|err) [FP](?: |$))?"
    r"|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?: [^\s:]+ [\w.-]+(?:\[\d+\])?:)?(?: |$))?"
    r"(?: {0,3}(?P<task>\d{1,4}):(?: (?=[ \w'(){}\[\]│╭╰])| ?$))?"
)


def bare(line: str) -> tuple[str, int | None]:
    """``line`` without what a collector put before it, and the number of the task if it named one."""
    found = _COLLECTED.match(line)
    if not found or not found.end():
        return line, None
    return line[found.end() :], int(found["task"]) if found["task"] else None
