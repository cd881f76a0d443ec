"""Of all the ways to train that leave a recipe's meaning alone, the fastest that fits, with what came next and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ax_recipe.forecast import memory, timing
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.forecast.memory import FITS, Memory
from ax_recipe.forecast.settings import Settings, resolve

# The class of a decoder's layers in transformers 5, by the model_type of config.json: what FSDP spreads one by one.
LAYERS = {
    "llama": "LlamaDecoderLayer",
    "mistral": "MistralDecoderLayer",
    "qwen2": "Qwen2DecoderLayer",
    "qwen3": "Qwen3DecoderLayer",
    "gemma2": "Gemma2DecoderLayer",
    "gemma3_text": "Gemma3DecoderLayer",
    "phi3": "Phi3DecoderLayer",
    "smollm3": "SmolLM3DecoderLayer",
}
# Weights and optimizer that would take more than this share of each GPU are rather spread: room is worth some speed.
_HEAVY, _ROOM_IS_WORTH = 0.25, 1.1
BATCH, CHECKPOINTING, LAYOUT, OPTIMIZER = "batch", "gradient_checkpointing", "layout", "optimizer"


@dataclass(frozen=True, slots=True)
class Option:
    """One answer to one open question: the Axolotl keys that it means, and how a person reads it."""

    words: str
    keys: Mapping[str, Any]


Questions = Mapping[str, Sequence[Option]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One whole way to train: an option for each question, and what the models foretell of it."""

    picked: Mapping[str, Option]
    keys: Mapping[str, Any]
    settings: Settings
    memory: Memory
    tokens_per_second: float
    verdict: str

    @property
    def fits(self) -> bool:
        """Whether it fits with room to spare."""
        return self.verdict == FITS

    def __str__(self) -> str:
        return ", ".join(option.words for option in self.picked.values() if option.words)


@dataclass(frozen=True, slots=True)
class Choice:
    """The best candidate, and all others in the order in which they would have been taken.

    ``whole_gib`` is what weights and optimizer take of a GPU that holds them whole.
    """

    best: Candidate
    others: Sequence[Candidate]
    whole_gib: float

    def next_best(self, question: str) -> Candidate | None:
        """The first of the others that answers this question otherwise."""
        mine = self.best.picked[question]
        return next((each for each in self.others if each.picked[question] != mine), None)

    def reason(self, question: str) -> str:
        """Why this answer, by the next best one, whatever else that one changes."""
        other = self.next_best(question)
        if other is None:
            return ""
        words = ", ".join(option.words for name, option in other.picked.items() if option != self.best.picked[name])
        if other.fits:
            return f"next best, {words}: {figures(other)}"
        return f"{other.picked[question].words}: {other.verdict} ({other.memory.card_gib:.1f} GiB)"


def figures(candidate: Candidate) -> str:
    """Speed and size in a few words."""
    return f"{candidate.tokens_per_second:,.0f} tokens/s, {candidate.memory.card_gib:.1f} GiB"


def choose(keys: Mapping[str, Any], questions: Questions, hardware: Hardware, shape: Shape) -> Choice:
    """Answer the questions: the fastest that fits, the optimizer of full precision where one does, else the smallest.

    :param keys: what is decided already, and wins.
    """
    found = [_candidate(keys, picked, hardware, shape) for picked in _combinations(questions)]
    heaviest = max(candidate.memory.parts.weights + candidate.memory.parts.optimizer for candidate in found)
    heavy = heaviest > _HEAVY * (hardware.kind.memory_gib if hardware.kind else 0.0)
    ranked = sorted(found, key=lambda candidate: _rank(candidate, heavy=heavy))
    return Choice(ranked[0], ranked[1:], heaviest)


def _rank(candidate: Candidate, *, heavy: bool) -> tuple[bool, bool, float, float, str]:
    """What fits comes first, then what trains in full precision; at the same speed the smaller one, and always one."""
    size, speed = candidate.memory.card_gib, candidate.tokens_per_second
    if not candidate.fits:
        return True, False, size, -speed, str(candidate)
    if heavy and candidate.settings.layout == "fsdp":
        speed *= _ROOM_IS_WORTH
    return False, "8bit" in candidate.settings.optimizer, -speed, size, str(candidate)


def _combinations(questions: Questions) -> Iterator[dict[str, Option]]:
    for options in product(*questions.values()):
        yield dict(zip(questions, options, strict=True))


def _candidate(keys: Mapping[str, Any], picked: Mapping[str, Option], hardware: Hardware, shape: Shape) -> Candidate:
    decided: dict[str, Any] = {}
    for option in picked.values():
        decided |= option.keys
    decided |= _required(decided, keys)
    whole = {**decided, **keys}
    settings = resolve(whole, hardware, shape)
    needed = memory.estimate(shape, settings)
    speed = timing.estimate(shape, settings, hardware, whole, None).tokens_per_second
    return Candidate(picked, decided, settings, needed, speed, memory.judge(needed, hardware))


def _required(decided: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """What Axolotl 0.19 wants, or the memory model counts on, beside weights that are spread."""
    if "fsdp_config" not in decided:
        return {}
    more: dict[str, Any] = {}
    if decided.get("optimizer") == "adamw_8bit":  # bitsandbytes' own is refused with FSDP 2
        more["optimizer"] = "adamw_torch_8bit"
    if not keys.get("adapter") and int(decided.get("gradient_accumulation_steps") or 1) > 1:
        more["accelerator_config"] = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}
    return more


def spread(shape: Shape, method: str) -> Mapping[str, Any] | None:
    """The keys of FSDP 2 for such a model; None where its layers' class is not known."""
    if shape.kind not in LAYERS:
        return None
    return {
        "fsdp_version": 2,
        "fsdp_config": {
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "transformer_layer_cls_to_wrap": LAYERS[shape.kind],
            "state_dict_type": "FULL_STATE_DICT",
            "reshard_after_forward": True,
            "offload_params": False,
            # Read by one process for all; with a 4-bit base that deadlocks, and Axolotl refuses it.
            "cpu_ram_efficient_loading": method != "qlora",
        },
    }


def splits(share: int) -> list[Option]:
    """Each way to split one GPU's share of a step's rows into micro-batches of equal size."""
    return [split(micro, share // micro) for micro in range(1, share + 1) if share % micro == 0]


def split(micro: int, accumulation: int) -> Option:
    """One way to split it."""
    keys = {"micro_batch_size": micro, "gradient_accumulation_steps": accumulation}
    return Option(f"{_counted(micro, 'row', 's')} x {_counted(accumulation, 'pass', 'es')}", keys)


def _counted(number: int, word: str, plural: str) -> str:
    return f"{number} {word}{plural if number > 1 else ''}"
