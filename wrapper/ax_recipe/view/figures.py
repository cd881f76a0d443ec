"""Numbers and outside text as a person reads them: durations, counts, rates, lines without control characters."""

from __future__ import annotations

import math
import re

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")
_ASCII = str.maketrans(
    {"\u00d7": "x", "÷": "/", "·": "|", "→": "->", "\u2013": "-", "—": "-", "…": "...", "≈": "~", "≥": ">=", "≤": "<="}
)


def clean(text: str, *, ascii_only: bool = False) -> str:
    """``text`` safe to print: one line, no escape sequence; other characters as ``?`` in ASCII.

    What is not printable goes: a log line must neither move the cursor nor turn the reading direction.
    """
    plain = _ESCAPES.sub("", text.replace("\t", "    "))
    if not plain.isprintable():
        plain = "".join(char if char.isprintable() else " " * char.isspace() for char in plain)
    return plain.translate(_ASCII).encode("ascii", "replace").decode() if ascii_only else plain


def counted(number: int, one: str, more: str = "s") -> str:
    """``1 run``, ``2 runs``; ``more`` is what the plural ends in."""
    return f"{number:,} {one}{'' if number == 1 else more}"


def parameters(count: int) -> str:
    """``8.03 billion``, ``135 million``."""
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.3g} million"


def duration(seconds: float | None) -> str:
    """``42s``, ``12m 40s``, ``3h 07m``, ``2d 04h``; ``-`` when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole // 60 % 60:02}m"
    return f"{whole // 86400}d {whole // 3600 % 24:02}h"


def clock(seconds: float | None) -> str:
    """``0:12:40`` since the start; ``-:--:--`` when unknown."""
    if seconds is None:
        return "-:--:--"
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def value(number: float | None) -> str:
    """Four significant digits, ``nan`` and ``inf`` in words, ``-`` when unknown: losses and gradient norms."""
    if number is None:
        return "-"
    if not math.isfinite(number) or not number:
        return f"{number:g}"
    if 1e-3 <= abs(number) < 1e5:
        return f"{number:.{max(0, 3 - math.floor(math.log10(abs(number))))}f}"
    return f"{number:.2e}"


def rate(number: float | None) -> str:
    """A learning rate: ``5.30e-05``; ``-`` when unknown."""
    return "-" if number is None else f"{number:.2e}"


def short_rate(number: float) -> str:
    """A learning rate on an axis: ``2e-4``, ``1.5e-5``."""
    if not number:
        return "0"
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def thousands(number: float | None) -> str:
    """``812``, ``7.8k``, ``29.7k``, ``168M``, ``8.2B``; ``-`` when unknown."""
    if number is None or not math.isfinite(number):
        return "-"
    for divisor, unit in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "B")):
        if abs(number) < 999.5 * divisor:
            digits = 0 if divisor == 1 or abs(number) >= 99.95 * divisor else 1
            return f"{number / divisor:.{digits}f}{unit}"
    return f"{number / 1e12:.1f}T"


def gib(number: float | None) -> str:
    """``19.90 GiB``; ``-`` when unknown."""
    return "-" if number is None else f"{number:.2f} GiB"


def epochs(done: float | None, total: float | None) -> str:
    """``1.31/2``; only what is known, ``-`` when nothing is."""
    if done is None:
        return "-"
    return f"{done:.2f}" if total is None else f"{done:.2f}/{total:g}"


def per_step(seconds: float | None) -> str:
    """``1.90 s/step``, ``38 ms/step``; ``-`` when unknown."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms/step" if seconds < 0.1 else f"{seconds:.3g} s/step"
