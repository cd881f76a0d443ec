"""Count tokens, in the training environment, for a program that holds the texts.

    python count_tokens.py TOKENIZER.json

Each line of standard input is a JSON list of samples; a sample is a list of ``[text, trained spans, special]``. Each
line of standard output answers one: a list of ``[tokens, trained tokens]``. Ends with the input. ``special`` asks for
what the tokenizer puts around a text by itself (a BOS).
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tokenizers import Tokenizer


def main() -> None:
    """Answer line by line."""
    tokenizer = Tokenizer.from_file(sys.argv[1])
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for line in sys.stdin:
        print(json.dumps(count(tokenizer, json.loads(line))), flush=True)


def count(tokenizer: Any, samples: list[list[list[Any]]]) -> list[list[int]]:
    """Tokens and trained tokens of each sample."""
    totals = [[0, 0] for _ in samples]
    for special in (False, True):
        asked = [(index, part) for index, sample in enumerate(samples) for part in sample if part[2] is special]
        encoded = tokenizer.encode_batch([part[0] for _, part in asked], add_special_tokens=special)
        for (index, (text, spans, _)), encoding in zip(asked, encoded, strict=True):
            totals[index][0] += len(encoding.ids)
            totals[index][1] += trained(encoding, spans, len(text))
    return totals


def trained(encoding: Any, spans: list[list[int]], length: int) -> int:
    """How many tokens touch one of the spans, which are in order; all, where one is the whole text."""
    if spans == [[0, length]]:
        return len(encoding.ids)
    found, at = 0, 0
    for start, stop in encoding.offsets if spans else ():
        while at < len(spans) and spans[at][1] <= start:
            at += 1
        found += at < len(spans) and stop > spans[at][0]
    return found


if __name__ == "__main__":
    main()
