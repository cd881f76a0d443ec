"""Size a model by the name a person gives it: a run, a recipe, an Axolotl YAML, a model's folder, or a hub id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ax_recipe.axolotl import Axolotl
from ax_recipe.forecast import architecture, hardware, memory
from ax_recipe.forecast.architecture import Shape
from ax_recipe.recipe import recipe
from ax_recipe.run import planning, rundir
from ax_recipe.ship import size, weights
from ax_recipe.ship.size import GIB, Cache, Fit


@dataclass(frozen=True, slots=True)
class Sized:
    """A model's sizes. ``adapter`` is in bytes, and counted from its file where ``measured``; ``memory`` in bytes."""

    name: str
    shape: Shape
    cache: Cache
    adapter: float | None
    measured: bool
    context: int
    memory: float
    machine: str
    fit: Fit | None
    any_fit: Fit | None

    def as_json(self) -> dict[str, Any]:
        """The answer of ``ax-recipe size --json``; sizes in bytes."""
        precisions = [
            {
                "name": each.name,
                "bits": round(8 * size.weight_bytes(self.shape, each) / self.shape.parameters, 4),
                "bytes": round(size.weight_bytes(self.shape, each)),
                "perplexity_of_llama_3_8b": each.cost,
                "by_ollama": each.by_ollama,
                "longest_context": size.longest_context(self.shape, self.cache, each, self.memory),
            }
            for each in size.PRECISIONS
        ]
        contexts = [
            {"tokens": tokens, **{kind: round(self.cache.bytes(tokens, kind)) for kind in size.CACHE_BYTES}}
            for tokens in size.CONTEXTS
        ]
        return {
            "model": self.name,
            "parameters": self.shape.parameters,
            "outside": self.shape.outside,
            "adapter_bytes": self.adapter,
            "precisions": precisions,
            "cache": {"layers": str(self.cache), "contexts": contexts},
            "memory_gib": round(self.memory / GIB, 2),
            "recommended": _fit_json(self.fit),
            "with_a_ready_gguf": _fit_json(self.any_fit),
        }


def _fit_json(fit: Fit | None) -> dict[str, Any] | None:
    if fit is None:
        return None
    return {"quantize": fit.precision.name, "num_ctx": fit.context, "needed_gib": round(fit.needed / GIB, 2)}


def sized(
    name: str | None, runs: Path, axolotl: Axolotl | None, context: int | None = None, memory_gib: float | None = None
) -> Sized:
    """Size what ``name`` means (the newest run without one) for a machine of ``memory_gib``, or this one.

    :raises MissingError: the model's shape is not known here.
    """
    title, shape, config, adapter, measured, wanted = _found(name, runs, axolotl)
    kept = size.cache(shape, config)
    context = context or wanted or min(8192, shape.max_positions or 8192)
    room, machine = (memory_gib * GIB, "") if memory_gib else _here()
    fits = [size.recommend(shape, kept, room, context, any_gguf=any_gguf) for any_gguf in (False, True)]
    return Sized(title, shape, kept, adapter, measured, context, room, machine, *fits)


_Found = tuple[str, Shape, Mapping[str, Any] | None, float | None, bool, int | None]


def _found(name: str | None, runs: Path, axolotl: Axolotl | None) -> _Found:
    unknown = recipe.unknown(name) if name else None
    if name and not unknown:
        return _recipe(name, axolotl)
    if name and ((Path(name) / "config.json").is_file() or _is_hub_id(name)):
        config = architecture.config(name)
        return name, architecture.from_config(config, name), config, None, False, None
    others = "recipe, no YAML, no folder with a config.json, no ORGANISATION/NAME of the hub"
    run = rundir.find(runs, name, others, unknown.hint or "" if unknown else "")
    orders = run.read_json(run.orders)
    model = orders["model"] if (Path(orders["model"]) / "config.json").is_file() else orders["base"]
    config = architecture.config(model)
    file = run.output / "adapter_model.safetensors"
    adapter = sum(each.stop - each.start for each in weights.tensors(file).values()) if file.is_file() else None
    wanted = orders["ship"]["num_ctx"]
    return run.name, architecture.from_config(config, orders["recipe"]), config, adapter, True, wanted


def _recipe(name: str, axolotl: Axolotl | None) -> _Found:
    found = planning.of_file(name, None, axolotl)
    full = found.settings.method == "full"
    adapter = None if full else 4.0 * memory.adapter_parameters(found.shape, found.settings)  # PEFT saves 32 bits
    known = found.shape.name.lower() in {each.lower() for each in architecture.shipped()}
    config = architecture.config(found.shape.name) if known else None
    wanted = found.keys.get("sequence_len")
    if not Path(name).suffix:
        wanted = recipe.load(name).ship.num_ctx or wanted
    return found.name, found.shape, config, adapter, False, wanted


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _here() -> tuple[float, str]:
    """The memory that a model may have here: all GPUs', else three quarters of the machine's own."""
    import psutil  # here, for it is wanted where no memory is named

    found = hardware.here()
    if found.kind:
        return found.count * found.kind.memory_gib * GIB, str(found)
    return 0.75 * psutil.virtual_memory().total, "three quarters of this machine's memory, for it has no GPU"
