"""One name for every metric, whatever a version of Axolotl or transformers calls it."""

from __future__ import annotations

import re

# Axolotl 0.12.0 to 0.12.2 wrote max_mem_*, 0.12-dev max_memory_*; 0.13 wrote tokens_per_second_per_gpu.
NAMES = {
    "ppl": "perplexity",
    "memory/max_active (GiB)": "active_gib",
    "memory/max_allocated (GiB)": "allocated_gib",
    "memory/device_reserved (GiB)": "reserved_gib",
    "memory/max_mem_active(gib)": "active_gib",
    "memory/max_mem_allocated(gib)": "allocated_gib",
    "memory/device_mem_reserved(gib)": "reserved_gib",
    "memory/max_memory_active(gib)": "active_gib",
    "memory/max_memory_allocated(gib)": "allocated_gib",
    "memory/device_memory_reserved(gib)": "reserved_gib",
    "tokens/train_per_sec_per_gpu": "tokens_per_second_per_gpu",
    "train_tokens_per_second": "tokens_per_second_mean",
    "tokens/trainable": "tokens_trainable",
    "tokens/total": "tokens_total",
    "total_tokens": "tokens_total",
    "num_input_tokens_seen": "tokens_seen",
}
_MEMORY = re.compile(r"memory/(?:max_|device_)*(?:mem(?:ory)?_)?(active|allocated|reserved) ?\(gib\)", re.IGNORECASE)


def common(name: str) -> str:
    """Our name of the metric ``name``; a name of nobody else's stays as it is."""
    if name in NAMES:
        return NAMES[name]
    found = _MEMORY.fullmatch(name)
    return f"{found[1].lower()}_gib" if found else name
