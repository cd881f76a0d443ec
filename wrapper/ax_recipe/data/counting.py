"""How many tokens samples have, and how many of them are trained: by the tokenizer itself, else by bytes."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from ax_recipe import assets
from ax_recipe.axolotl import Axolotl
from ax_recipe.data.samples import Sample, Segment
from ax_recipe.forecast import by_bytes
from ax_recipe.process import Partner

Counted = tuple[int, int]


class Counter(Protocol):
    """Counts tokens; ``exact`` says whether by the model's own tokenizer."""

    exact: bool

    def count(self, samples: Sequence[Sample]) -> list[Counted]:
        """Tokens and trained tokens of each sample."""


class ByBytes:
    """What can be said without a tokenizer."""

    exact = False

    def count(self, samples: Sequence[Sample]) -> list[Counted]:
        """Tokens and trained tokens of each sample, about."""
        return [sample.counted or _about(sample.segments) for sample in samples]


def _about(segments: Sequence[Segment]) -> Counted:
    trained = sum(by_bytes.size(segment.text[start:stop]) for segment in segments for start, stop in segment.trained)
    total = sum(by_bytes.size(segment.text) for segment in segments)
    return _tokens(total), _tokens(trained)


def _tokens(size: int) -> int:
    """An answer of one letter is one token, not none."""
    return max(round(size / by_bytes.TOKEN), min(size, 1))


class ByTokenizer:
    """Asks a program in the training environment, which alone has the `tokenizers` package; use it in a ``with``."""

    exact = True

    def __init__(self, axolotl: Axolotl, tokenizer: str) -> None:
        self._partner = Partner(axolotl.python, assets.probe("count_tokens.py"), tokenizer)

    def __enter__(self) -> ByTokenizer:
        self._partner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._partner.__exit__(kind, error, trace)

    def count(self, samples: Sequence[Sample]) -> list[Counted]:
        """Tokens and trained tokens of each sample.

        :raises MissingError: the program ended; with what it said last.
        """
        asked = [
            [[segment.text, segment.trained, segment.special] for segment in sample.segments] for sample in samples
        ]
        self._partner.tell(asked)
        answers = self._partner.hear()
        pairs = [(int(tokens), int(trained)) for tokens, trained in answers]
        return [sample.counted or pair for sample, pair in zip(samples, pairs, strict=True)]
