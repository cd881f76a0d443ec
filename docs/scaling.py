"""Write the tables of docs/nodes.md: the scaling that was measured, and 8, 64 and 512 GPUs worked out from it on paper.

Run it from a checkout: ``python docs/scaling.py``; a test holds the file to what it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ax_recipe.forecast import cluster, hardware, network, settings
from ax_recipe.forecast.forecast import Forecast
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.plan import plan
from ax_recipe.recipe import recipe
from ax_recipe.run import planning

TARGET = Path(__file__).with_name("nodes.md")
BEGIN, END = "<!-- written by python docs/scaling.py -->", "<!-- to here -->"
# Tokens a second of `pirate` with checkpointing, by the number of H200 (recipes/README.md): 32 rows of 4,096 tokens a
# step, two in a pass.
MEASURED = {1: 9_176, 2: 18_286, 4: 35_900}
ROWS, LENGTH, A_PASS = 32, 4096, 2
EACH = 8  # GPUs in a machine
GPUS = (8, 64, 512)
GBITS = (100, 400, 3200)
PASSES = (1, 4, 16)
KEYS = {"adapter": "qlora", "load_in_4bit": True, "lora_r": 64, "lora_target_linear": True}
FULL = "llama-8b-full"


def measured() -> Iterator[tuple[str, ...]]:
    """What was measured, with the share of so many times one GPU."""
    yield ("H200", "tokens/s", "of so many times one", "a step", "of it beside computing")
    for gpus, speed in MEASURED.items():
        share = speed / gpus / MEASURED[1]
        yield str(gpus), f"{speed:,}", f"{share:.1%}", f"{ROWS * LENGTH / speed:.2f} s", f"{beside(gpus):.3f} s"


def beside(gpus: int) -> float:
    """Seconds of a measured step that one GPU alone would not have had: summing gradients, waiting for the slowest."""
    return ROWS * LENGTH * (1 / MEASURED[gpus] - 1 / (gpus * MEASURED[1]))


def on_paper() -> Iterator[tuple[str, ...]]:
    """Tokens a second and efficiency of QLoRA on many machines."""
    networks = (f"{gbit:,} Gbit/s" for gbit in GBITS)
    yield ("GPUs", "rows a step", "a step's computing", "sent by each machine", *networks)
    for gpus in GPUS:
        for passes in PASSES:
            computing = passes * A_PASS * LENGTH / MEASURED[1]
            cells = [shown(gpus, passes, gbit) for gbit in (GBITS if gpus > EACH else GBITS[:1])]
            sent = f"{traffic(gpus, GBITS[0]).sent / 1e9:.2f} GB" if gpus > EACH else "nothing"
            cells += ["the same"] * (len(GBITS) - len(cells))
            yield str(gpus), f"{gpus * passes * A_PASS:,}", f"{computing:.2f} s", sent, *cells


def shown(gpus: int, passes: int, gbit: int) -> str:
    """Tokens a second, and the share of so many times one GPU."""
    tokens = gpus * passes * A_PASS * LENGTH
    seconds = passes * A_PASS * LENGTH / MEASURED[1] + beside(max(MEASURED)) + traffic(gpus, gbit).seconds
    return f"{tokens / seconds / 1000:,.0f} k ({tokens / seconds / gpus / MEASURED[1]:.0%})"


def machines(gpus: int, gbit: int) -> Hardware:
    """So many GPUs, in machines of eight."""
    return hardware.over(hardware.parse(f"{EACH}xH200-141GB"), gpus // EACH, gbit)


def traffic(gpus: int, gbit: int) -> network.Traffic:
    """What the adapter's gradients take between the machines."""
    lent, shape = machines(gpus, gbit), plan.shape_of(recipe.load("pirate"))
    if shape is None:
        raise SystemExit("the shape of pirate's base is not known here")
    return network.traffic(shape, settings.resolve(KEYS, lent, shape), lent)


def whole_model() -> Iterator[tuple[str, ...]]:
    """The same of a full fine-tune, foretold by the plan's own models, for no step of it was measured on eight GPUs."""
    yield ("GPUs", "rows a step", "layout", *(f"{gbit:,} Gbit/s" for gbit in GBITS))
    one = foretold(1, GBITS[0]).timing.tokens_per_second
    for gpus in GPUS:
        nodes = gpus // EACH
        found = [foretold(nodes, gbit) for gbit in GBITS]
        speeds = [each.timing.tokens_per_second for each in found]
        layouts = ", ".join(each.settings.layout for each in found) if nodes > 1 else found[0].settings.layout
        yield (
            str(gpus),
            f"{gpus * EACH:,}",
            layouts,
            *(f"{speed / 1000:,.0f} k ({speed / one / nodes:.0%})" for speed in speeds),
        )


def foretold(nodes: int, gbit: float) -> Forecast:
    """A full fine-tune as it is planned, eight rows of a step to each GPU."""
    batch = (f"train.global_batch_size={nodes * EACH * EACH}",)
    return planning.of_file(FULL, f"{EACH}xH200-141GB", None, batch, several=cluster.asked(nodes=nodes), gbit=gbit)


def table(rows: Iterator[tuple[str, ...]]) -> str:
    """Rows as Markdown, the first of them the head."""
    head, *rest = rows
    lines = [head, ("---",) * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(text: str) -> str:
    """The page with its tables written anew."""
    tables = iter((table(measured()), table(on_paper()), table(whole_model())))
    parts = text.split(BEGIN)
    fresh = [f"\n{next(tables)}\n{END}{part.partition(END)[2]}" for part in parts[1:]]
    return BEGIN.join([parts[0], *fresh])


if __name__ == "__main__":
    TARGET.write_text(page(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
