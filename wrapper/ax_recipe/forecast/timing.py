"""How many steps a training takes, and how long: exact where the data says it, else by assumptions that are named."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from ax_recipe.forecast import by_bytes, network
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.forecast.kept import kept_for_backward
from ax_recipe.forecast.settings import Settings

# Dense 16-bit teraFLOP/s and GB/s of memory, from the makers' data sheets; a GPU that is not listed is taken for the
# listed one of its generation.
_RATES: dict[str, tuple[float, float]] = {
    "T4-16GB": (65, 320),
    "V100-32GB": (125, 900),
    "A100-40GB": (312, 1555),
    "A100-80GB": (312, 2039),
    "A10-24GB": (125, 600),
    "RTX3090-24GB": (71, 936),
    "A6000-48GB": (155, 768),
    "L4-24GB": (121, 300),
    "L40S-48GB": (362, 864),
    "RTX4090-24GB": (165, 1008),
    "H100-80GB": (989, 3350),
    "H200-141GB": (989, 4800),
    "B200-180GB": (2250, 8000),
    "RTX5090-32GB": (209, 1792),
}
_BY_CAPABILITY = {70: "V100-32GB", 75: "T4-16GB", 80: "A100-80GB", 86: "A10-24GB", 89: "L4-24GB", 90: "H100-80GB"}
_CPU = (0.2, 40.0)  # a few cores: no promise

# Fitted to one H200 with Axolotl 0.19.0: the share of the peak that matrix products reach, and the bytes moved for each
# byte kept for the backward pass, for each logit without a fused loss, and for each byte of a norm that is not Liger's.
_EFFICIENCY, _MOVED_KEPT, _MOVED_LOGIT, _MOVED_NORM = 0.56, 12.0, 140.0, 30.0
# The share of the peak that attention reaches forward and backward: between FlashAttention 2's on H100 and on A100 (Dao
# 2023, figures 5 and 7). All measured rows were too short to show it.
_ATTENTION = 0.45
_WINDOWED = {"gemma2": 1 / 2, "gemma3": 5 / 6, "gemma3_text": 5 / 6}  # of the layers; in other models all
_LAYER_S = 0.002  # what each micro-batch pays for each layer, however few tokens it has
_SCALING = {"single": 1.0, "ddp": 0.96, "zero1": 0.94, "zero2": 0.92, "zero3": 1.0, "fsdp": 1.0}
# GB/s at which a GPU fetches what lies on the others, by compute capability: measured on two H200, guessed for other
# NVLinks by their data sheets, else PCIe's. Each fetch takes so many seconds beside; ZeRO 3 so many for each layer.
_LINKS, _PCIE = {70: 45.0, 80: 85.0, 90: 130.0, 100: 260.0}, 12.0
_FETCH_S, _ZERO3_LAYER_S = 0.0004, 0.037
_PACKED = 0.96  # how full packing makes a row
START_S = 60.0  # imports, loading, the first step's compiling
_LAUNCH_S = 0.009  # what Python takes to start one layer's kernels, forward, again and backward

ASSUMED_ROWS, ASSUMED_TOKENS = 10_000, 500
ERROR = 0.35
_SAMPLE = 2_000
_MAX_BYTES = 2 * 10**9


@dataclass(frozen=True, slots=True)
class Data:
    """The training rows: how many, their mean and greatest length in tokens (by their bytes), and whence.

    ``usual`` is how long the row of a usual token is: of one short and one long row most tokens are in the long one.
    """

    rows: int
    mean: float
    usual: float
    longest: int
    source: str


@dataclass(frozen=True, slots=True)
class Timing:
    """Optimizer steps, tokens and time of a training with its start; speeds count all GPUs.

    ``assumed`` says how good it is, and what was not known.
    """

    steps: int
    tokens_per_step: int
    tokens_per_second: float
    seconds: float
    cost: float | None
    assumed: tuple[str, ...]

    @property
    def step_seconds(self) -> float:
        """Seconds of one step."""
        return self.tokens_per_step / self.tokens_per_second


def measure(keys: Mapping[str, Any], folder: Path = Path()) -> Data | None:
    """Look at the local JSON data that the keys name; None where some of it is elsewhere or in another form."""
    files: list[Path] = []
    for row in keys.get("datasets") or ():
        path = folder / Path(str(row.get("path", ""))).expanduser()
        files += sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files or not all(path.suffix in {".jsonl", ".json"} and path.is_file() for path in files):
        return None
    if sum(path.stat().st_size for path in files) > _MAX_BYTES:
        return None
    try:
        lengths = [length for path in files for length in _lengths(path)]
    except ValueError:  # no JSON lines; what is wrong with them is for `check` to say
        return None
    if not lengths:
        return None
    held_out = float(keys.get("val_set_size") or 0)
    rows = len(lengths) - (ceil(len(lengths) * held_out) if held_out < 1 else int(held_out))
    total = sum(lengths)
    usual = sum(length**2 for length in lengths) / total if total else 0.0
    names = ", ".join(path.name for path in files)
    return Data(max(1, rows), total / len(lengths), usual, ceil(max(lengths)), names)


def _lengths(path: Path) -> Iterable[float]:
    """About how many tokens each row has: rows after the first few thousand by their bytes."""
    with path.open("rb") as file:
        if file.read(64).lstrip().startswith(b"["):
            file.seek(0)
            yield from (by_bytes.tokens(row) for row in json.load(file))
            return
        file.seek(0)
        seen, taken = 0.0, 0.0
        for index, line in enumerate(line for line in file if line.strip()):
            if index < _SAMPLE:
                length = by_bytes.tokens(json.loads(line))
                seen, taken = seen + length, taken + len(line)
                yield length
            else:
                yield len(line) * seen / taken


def estimate(
    shape: Shape,
    settings: Settings,
    hardware: Hardware,
    keys: Mapping[str, Any],
    data: Data | None,
    price: float | None = None,
) -> Timing:
    """Steps, speed, seconds, and the cost at ``price`` for each hour of one GPU.

    :param data: what `measure` found, or None to assume rows of a usual size.
    """
    if hardware.kind is None:
        assumed = ["no promise on a CPU"]
    else:
        assumed = [f"within {ERROR:.0%}" if data else "no better than its data, which is assumed"]
    if data is None:
        longest = settings.slots // settings.micro_batch
        data = Data(ASSUMED_ROWS, ASSUMED_TOKENS, ASSUMED_TOKENS, longest, "assumed")
        assumed.append(f"{ASSUMED_ROWS:,} rows of {ASSUMED_TOKENS} tokens, for the data cannot be counted here")
    else:
        assumed.append(f"{data.rows:,} rows of {data.mean:.0f} tokens, by the bytes of {data.source}")
    steps = _steps(settings, keys, data)
    tokens, slots = _micro_batch(settings, keys, data)
    tokens_per_step = round(tokens * settings.accumulation * settings.gpus)
    between = network.traffic(shape, settings, hardware).seconds / settings.accumulation
    computing = _computing(shape, settings, hardware, slots, _attended(shape, settings, slots, data))
    computing = computing / _SCALING[settings.layout] + _fetching(shape, settings)
    speed = settings.gpus * tokens / (computing + between)
    return _whole(steps, tokens_per_step, speed, hardware, price, tuple(assumed))


def measured(timing: Timing, step_seconds: float, source: str, hardware: Hardware, price: float | None) -> Timing:
    """The same steps at a pace that was measured; ``source`` says where."""
    speed = timing.tokens_per_step / step_seconds
    assumed = (source, *timing.assumed[1:])
    return _whole(timing.steps, timing.tokens_per_step, speed, hardware, price, assumed)


def _whole(
    steps: int, tokens_per_step: int, speed: float, hardware: Hardware, price: float | None, assumed: tuple[str, ...]
) -> Timing:
    seconds = START_S + steps * tokens_per_step / speed
    cost = None if price is None else price * hardware.ranks * seconds / 3600
    return Timing(steps, tokens_per_step, speed, seconds, cost, assumed)


def _steps(s: Settings, keys: Mapping[str, Any], data: Data) -> int:
    """As Axolotl 0.19 gives them to the trainer (utils/trainer.py, calculate_total_num_steps)."""
    if most := max(0, int(keys.get("max_steps") or 0)):
        return most
    epochs = float(keys.get("num_epochs") or 1)
    if s.packed:
        packs = int(data.rows * min(data.mean, s.row) / _PACKED / s.slots)
        return max(1, int(epochs * max(1, packs // (s.accumulation * s.gpus))))
    return max(1, ceil(data.rows * epochs / (s.micro_batch * s.accumulation * s.gpus)))


def _micro_batch(s: Settings, keys: Mapping[str, Any], data: Data) -> tuple[float, float]:
    """Tokens of a usual micro-batch, and its slots: all of them tokens when packed, else as long as its longest row."""
    if s.packed or keys.get("pad_to_sequence_len"):
        return float(s.slots), float(s.slots)
    most = s.slots // s.micro_batch
    longest = data.mean + (data.longest - data.mean) * (1 - 1 / s.micro_batch)
    return s.micro_batch * min(data.mean, most), s.micro_batch * min(64 * ceil(longest / 64), most)


def _attended(shape: Shape, s: Settings, slots: float, data: Data) -> float:
    """Tokens that a usual one attends to, all layers together: half of its row, or as much as is masked for it."""
    row = s.row if s.packed else slots / s.micro_batch
    if s.attention == "mask":
        return shape.layers * row
    far = min(data.usual, row) / 2
    near = min(far, shape.sliding_window or far)
    windowed = _WINDOWED.get(shape.kind, 1.0)
    return shape.layers * (windowed * near + (1 - windowed) * far)


def _computing(shape: Shape, s: Settings, hardware: Hardware, tokens: float, attended: float) -> float:
    """One micro-batch of so many tokens on one GPU, seconds."""
    flops, bandwidth = rates(hardware)
    # Forward and the gradient of the activations; that of the weights in a full fine-tune; the forward once more.
    passes = (6 if s.method == "full" else 4) + (2 if s.checkpointing else 0)
    work = tokens * passes * (shape.parameters - (0 if shape.tied else shape.vocab * shape.hidden))
    # Scores and values; the backward does five products for the forward's two (Dao 2023, section 4.1).
    attending = tokens * attended * 4 * shape.q * (3.5 + (1 if s.checkpointing else 0))
    moved = _moved(shape, s) * tokens
    if s.method == "qlora":  # each pass over a layer turns its weights into 16 bits
        moved += (3 if s.checkpointing else 2) * shape.linear_parameters * 2.52 / 0.6
    again = 4 / 3 if s.checkpointing else 1.0
    multiplying = work / (flops * 1e12 * _EFFICIENCY) + attending / (flops * 1e12 * _ATTENTION)
    seconds = multiplying + moved / (bandwidth * 1e9) + shape.layers * _LAYER_S * again
    return max(seconds, shape.layers * _LAUNCH_S * 0.75 * again)


def _fetching(shape: Shape, s: Settings) -> float:
    """Where weights are spread, each GPU fetches all of them for each pass, and gives its gradients away."""
    if s.layout == "zero3":
        return shape.layers * _ZERO3_LAYER_S
    if s.layout != "fsdp":
        return 0.0
    linears = shape.linear_parameters * (0.5 if s.method == "qlora" else s.bytes)
    rest = (shape.parameters - shape.linear_parameters) * s.bytes
    given = shape.parameters * s.bytes if s.method == "full" else 0
    bytes_moved = (2.0 * linears + rest + given) * (1 - 1 / s.gpus)
    # A layer is one fetch, and each matrix of an adapter another: forward, again, and backward.
    fetches = shape.layers * (1 + 2 * len(s.targets)) * (3 if s.checkpointing else 2)
    return bytes_moved / (_LINKS.get(s.capability, _PCIE) * 1e9) + fetches * _FETCH_S


def _moved(shape: Shape, s: Settings) -> float:
    """Bytes through the GPU's memory for each token, beside what the matrix products read and write."""
    layer = _MOVED_KEPT * kept_for_backward(shape, s)
    if not s.liger_norm:
        layer += _MOVED_NORM * 4 * shape.norms * shape.hidden
    logits = _MOVED_LOGIT * shape.vocab if s.loss == "plain" else 0.0
    return shape.layers * layer * (1.5 if s.checkpointing else 1.0) + logits


def rates(hardware: Hardware) -> tuple[float, float]:
    """TeraFLOP/s in 16 bit and GB/s of the hardware's kind, or of its generation's."""
    if hardware.kind is None:
        return _CPU
    near = _BY_CAPABILITY.get(hardware.kind.compute_capability, "B200-180GB")
    return _RATES.get(hardware.kind.name, _RATES[near])
