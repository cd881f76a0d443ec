"""The numbers of one training that the topics of ``ax-recipe explain`` speak of, each by its own arithmetic."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from ax_recipe.errors import MissingError
from ax_recipe.explain.families import SHOWN
from ax_recipe.forecast import architecture, memory, timing
from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.forecast import Forecast
from ax_recipe.forecast.memory import GIB
from ax_recipe.forecast.settings import OPTIMIZERS
from ax_recipe.observe import schedule
from ax_recipe.results import story
from ax_recipe.results.story import Story
from ax_recipe.ship import size, weights

_USUAL_R = 32
_BYTES_A_TRAINED_NUMBER = 4  # of a gradient, and of each of Adam's two averages
_CONTEXTS = (4096, 32768, 131072)


@dataclass(frozen=True, slots=True)
class Training:
    """One training to speak of: foretold, and what is to be shipped of it; of a run also what came of it."""

    forecast: Forecast
    num_ctx: int
    quantize: str | None
    target: tuple[float, float] | None
    pretrained_here: Mapping[str, Any] | None
    story: Story | None


def numbers(training: Training) -> dict[str, Any]:
    """All that a topic may name, in plain values: sizes in bytes, shares as fractions. Pure but for a run's files."""
    found = training.forecast
    return {
        "name": found.name,
        "method": found.settings.method,
        "rl": str(found.keys.get("rl") or ""),
        "hardware": str(found.hardware),
        "on_cpu": found.hardware.kind is None,
        "model": _model(found),
        "adapter": _adapter(found, training.story),
        "bytes": _bytes(found),
        "batch": _batch(found),
        "rate": _rate(found),
        "loss": _loss(found.shape, training.target),
        "cache": _cache(found.shape, training.num_ctx),
        "sizes": _sizes(found.shape, training.quantize),
        "template": _template(found.keys),
        "pretrained_here": training.pretrained_here,
        "run": _measured(training.story) if training.story else None,
    }


def _model(found: Forecast) -> dict[str, Any]:
    shape = found.shape
    known = {name: getattr(shape, name) for name in ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocab")}
    base = Path(shape.name).name if shape.name.startswith((".", "/", "~")) else shape.name
    return {"base": base, "parameters": shape.parameters, "outside": shape.outside, **known}


def _adapter(found: Forecast, told: Story | None) -> dict[str, Any]:
    """The adapter that is trained, or (``used`` false) the one that LoRA's defaults would train."""
    shape, s, keys = found.shape, found.settings, found.keys
    used = s.method != "full"
    if not used:
        s = replace(s, method="lora", rank=_USUAL_R, targets=tuple(shape.linears))
    alpha = float(keys.get("lora_alpha") or 16) if used else 16.0
    trained = memory.adapter_parameters(shape, s)
    module = s.targets[0]
    wide, high = shape.linears[module]
    file = told.run.output / "adapter_model.safetensors" if told else None
    return {
        "used": used,
        "r": s.rank,
        "alpha": alpha,
        "scale": alpha / (math.sqrt(s.rank) if keys.get("peft_use_rslora") else s.rank),
        "divisor": "sqrt(r)" if keys.get("peft_use_rslora") else "r",
        "dropout": float(keys.get("lora_dropout") or 0) if used else 0.0,
        "modules": len(s.targets),
        "matrices": len(s.targets) * shape.layers,
        "example": {
            "name": module,
            "wide": wide,
            "high": high,
            "numbers": wide * high,
            "added": s.rank * (wide + high),
            "times": wide * high / (s.rank * (wide + high)),
        },
        "trained": trained,
        "share": trained / shape.parameters,
        "share_with_it": trained / (shape.parameters + trained),
        "bytes": 4 * trained,
        "measured_bytes": _tensor_bytes(file) if file and file.is_file() else None,
        "state_bytes": 3 * _BYTES_A_TRAINED_NUMBER * trained,
        "state_bytes_of_all": 3 * _BYTES_A_TRAINED_NUMBER * shape.parameters,
    }


def _tensor_bytes(file: Path) -> int:
    return sum(each.stop - each.start for each in weights.tensors(file).values())


def _bytes(found: Forecast) -> dict[str, Any]:
    """What the base's weights take on one GPU that holds them all, and what of it is in 4 bits."""
    shape = found.shape
    alone = replace(found.settings, layout="single", gpus=1, bytes=2, wide_embeddings=False, targets=())
    four = memory.estimate(shape, replace(alone, method="qlora")).parts.weights * GIB
    rest = 2 * (shape.parameters - shape.linear_parameters)
    optimizer = OPTIMIZERS.get(found.settings.optimizer, (8.0, 4.0))
    return {
        "in_32": 4 * shape.parameters,
        "in_16": 2 * shape.parameters,
        "in_4": four,
        "linear_in_4": four - rest,
        "rest_in_16": rest,
        "bits_of_nf4": 8 * (four - rest) / shape.linear_parameters,
        "scales_double": found.settings.double_quant,
        "computing": _format(found),
        "weights_here": found.memory.parts.weights * GIB,
        "optimizer": found.settings.optimizer,
        "optimizer_bytes": optimizer[0] if found.settings.method != "full" else optimizer[1],
    }


def _format(found: Forecast) -> str:
    if found.settings.bytes == 4:
        return "float32"
    return "float16" if found.keys.get("fp16") is True else "bfloat16"


def _batch(found: Forecast) -> dict[str, Any]:
    s, keys = found.settings, found.keys
    data = timing.measure(keys)
    rows, mean = (data.rows, data.mean) if data else (timing.ASSUMED_ROWS, float(timing.ASSUMED_TOKENS))
    longest = int(keys.get("sequence_len") or 512)
    steps = {
        packed: timing.estimate(
            found.shape, replace(s, packed=packed), found.hardware, {**keys, "max_steps": None}, data
        ).steps
        for packed in (True, False)
    }
    micro_batches = s.accumulation * s.gpus
    return {
        "micro": s.micro_batch,
        "accumulation": s.accumulation,
        "gpus": s.gpus,
        "rows": s.micro_batch * micro_batches,
        "accumulation_alone": micro_batches,
        "sequence_len": longest,
        "packed": s.packed,
        "tokens_a_micro_batch": found.timing.tokens_per_step // micro_batches,
        "tokens_a_step": found.timing.tokens_per_step,
        "steps": found.timing.steps,
        "steps_of_double": math.ceil(found.timing.steps / 2),
        "epochs": float(keys.get("num_epochs") or 1),
        "data_rows": rows,
        "mean": mean,
        "counted": data is not None,
        "rows_a_pack": longest / min(mean, longest),
        "filled_unpacked": min(mean, longest) / longest,
        "steps_packed": steps[True],
        "steps_unpacked": steps[False],
    }


def _rate(found: Forecast) -> dict[str, Any]:
    keys = {**found.keys, "learning_rate": float(found.keys.get("learning_rate") or 0)}
    total = found.timing.steps
    warm = schedule.warmup_steps(keys, total)
    places = sorted({warm, *(round(total * part) for part in (0.25, 0.5, 0.75)), max(0, total - 1)})
    rates = [(step, schedule.expected(keys, total, step)) for step in places]
    return {
        "peak": keys["learning_rate"],
        "scheduler": keys.get("lr_scheduler") or "cosine",
        "warmup": warm,
        "total": total,
        "table": [(step, rate) for step, rate in rates if rate is not None],
        "max_grad_norm": float(found.keys.get("max_grad_norm") or 1.0),
        "norm_by_default": not found.keys.get("max_grad_norm"),
    }


def _loss(shape: Shape, target: tuple[float, float] | None) -> dict[str, Any]:
    return {
        "random": math.log(shape.vocab),
        "target": target,
        "perplexities": tuple(map(math.exp, target)) if target else None,
    }


def _cache(shape: Shape, num_ctx: int) -> dict[str, Any]:
    kept = size.cache(shape, _config(shape))
    longest = shape.max_positions or num_ctx
    return {
        "num_ctx": num_ctx,
        "windowed": kept.windowed,
        "window": kept.window,
        "full": kept.full,
        "a_token": (kept.full + kept.windowed) * kept.values * 2,
        "bytes": kept.bytes(num_ctx),
        "without_kv_heads": kept.bytes(num_ctx) / shape.kv_heads,
        "with_all_heads": kept.bytes(num_ctx) * shape.heads / shape.kv_heads,
        "kinds": list(size.CACHE_BYTES),
        "table": [
            (tokens, [kept.bytes(tokens, kind) for kind in size.CACHE_BYTES])
            for tokens in sorted({num_ctx, *_CONTEXTS})
            if tokens <= longest or tokens == num_ctx
        ],
    }


def _config(shape: Shape) -> Mapping[str, Any] | None:
    try:
        return architecture.config(shape.name)
    except MissingError:
        return None


def _sizes(shape: Shape, quantize: str | None) -> dict[str, Any]:
    rows = [
        {
            "name": each.name,
            "bytes": weights,
            "bits": 8 * weights / shape.parameters,
            "cost": each.cost,
            "by_ollama": each.by_ollama,
        }
        for each in size.PRECISIONS
        for weights in (size.weight_bytes(shape, each),)
    ]
    chosen = next((row for row in rows if row["name"] == str(quantize).upper()), None)
    kept = size.cache(shape, _config(shape))
    overhead = size.needed(shape, kept, size.PRECISIONS[0], 0) - size.weight_bytes(shape, size.PRECISIONS[0])
    return {"rows": rows, "chosen": chosen, "overhead": overhead}


def _template(keys: Mapping[str, Any]) -> dict[str, Any]:
    special = keys.get("special_tokens")
    kinds = {str(row.get("type")) for row in keys.get("datasets") or () if isinstance(row, Mapping)}
    return {
        "name": str(keys.get("chat_template") or "tokenizer_default"),
        "eos": special.get("eos_token") if isinstance(special, Mapping) else None,
        "shown": _shown(str(keys.get("chat_template"))),
        "of_chats": any("chat_template" in kind for kind in kinds),
        "kinds": sorted(kinds),
        "raw_text": kinds <= {"completion", "pretrain"},
    }


def _shown(name: str) -> list[str]:
    """A short conversation in that template, its line breaks written out; empty where it is not known."""
    return re.sub(r"(\n+)", lambda breaks: len(breaks[0]) * "\\n" + "\n", SHOWN.get(name, "")).splitlines()


def _measured(told: Story) -> dict[str, Any]:
    """What a run's own events say; None where it has not come so far."""
    state = told.state
    norms = [value for _, value in state.grad_norms.points if math.isfinite(value)]
    losses = [value for _, value in state.losses.points]
    speeds = [value for _, value in state.throughputs.points]
    return {
        "steps": state.step,
        "loss_first": losses[0] if losses else None,
        "loss_last": state.loss,
        "eval_before": told.row.eval_loss_before if told.row.eval_loss_before is not None else state.first_eval_loss,
        "eval_after": told.row.eval_loss if told.row.eval_loss is not None else state.eval_loss,
        "norm_low": min(norms, default=None),
        "norm_middle": median(norms) if norms else None,
        "norm_high": max(norms, default=None),
        "rate_last": state.learning_rate,
        "tokens_a_second": median(speeds) if speeds else None,
        "active_gib": story.peak(told, "active_gib"),
        "reserved_gib": story.peak(told, "reserved_gib"),
        "trainable": state.parameters.trainable if state.parameters else None,
        "seconds": told.row.seconds,
        "merged_bytes": _merged(told),
    }


def _merged(told: Story) -> int | None:
    folder = told.run.output / "merged"
    return sum(path.stat().st_size for path in weights.shards(folder)) if folder.is_dir() else None
