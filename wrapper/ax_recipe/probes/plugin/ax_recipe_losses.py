"""What each held-out row and each general text costs the tuned model and its base: one load, the adapter on and off.

`ax_recipe_events` calls this inside `axolotl evaluate`, so that it is Axolotl which loads the model and prepares the
rows. JSON lines: ``{"set": "held_out", "model": ..., "adapter": true, "rows": [[tokens, nats], ...]}``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from axolotl.utils.logging import get_logger
from torch.nn.functional import cross_entropy

LOG = get_logger("axolotl.ax_recipe_losses")
MOST_ROWS = 1000  # of a set, spread evenly over it: more make the interval hardly narrower
CHUNK = 1024  # positions at a time: their logits in float32 take 0.5 GB with a vocabulary of 128k
MASKED = -100
Row = tuple[Sequence[int], Sequence[int]]


def record(trainer: Any, model_name: str, held_out: Any, texts: str | None, path: str) -> None:
    """Append what the rows of ``held_out`` and the lines of the file ``texts`` cost, to the file at ``path``."""
    sets = {"held_out": list(_held_out(held_out))}
    if texts:
        lines = Path(texts).read_text(encoding="utf-8").splitlines()
        sets["general"] = list(_tokenised(trainer.processing_class, lines))
    for name, rows in sets.items():
        if rows:
            for adapter, off in _states(trainer.model):
                LOG.info(f"Scoring {len(rows)} rows of {name}, adapter {'on' if adapter else 'off'}")
                with off, trainer.accelerator.autocast():
                    costs = [_cost(trainer.model, row) for row in rows]
                line = {"set": name, "model": model_name, "adapter": adapter, "rows": costs}
                with Path(path).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def _states(model: Any) -> Iterator[tuple[bool, AbstractContextManager[Any]]]:
    if not hasattr(model, "disable_adapter"):
        yield False, nullcontext()
        return
    yield True, nullcontext()
    yield False, model.disable_adapter()


def _held_out(rows: Any) -> Iterator[Row]:
    """The prepared rows as Axolotl trains them: without labels (as for DPO) there is no loss to tell."""
    if rows is None or not {"input_ids", "labels"} <= set(rows.column_names or ()):
        return
    every = max(1, -(-len(rows) // MOST_ROWS))
    for index in range(0, len(rows), every):
        row = rows[index]
        if any(label != MASKED for label in row["labels"][1:]):
            yield row["input_ids"], row["labels"]


def _tokenised(tokenizer: Any, lines: Sequence[str]) -> Iterator[Row]:
    for line in filter(str.strip, lines):
        ids = tokenizer(line).input_ids
        if len(ids) > 1:
            yield ids, ids


def _cost(model: Any, row: Row) -> tuple[int, float]:
    """How many tokens of the row are trained on, and the sum of their losses in nats.

    A row goes alone, without padding: whatever attention or fused loss Axolotl put in, nothing can leak into it.
    """
    device = next(model.parameters()).device
    ids, labels = (torch.tensor([list(part)], device=device) for part in row)
    positions = torch.arange(ids.shape[1], device=device).unsqueeze(0)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, :-1]
        wanted = labels[0, 1:]
        kept = wanted != MASKED
        logits, wanted = logits[kept], wanted[kept]
        parts = zip(logits.split(CHUNK), wanted.split(CHUNK), strict=True)
        nats = sum(float(cross_entropy(each.float(), right, reduction="sum")) for each, right in parts)
    model.train(was_training)
    return len(wanted), nats
