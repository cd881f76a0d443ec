"""What ``ax-recipe size`` shows: the precisions, the cache of contexts, and what fits the machine."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from ax_recipe.ship import size
from ax_recipe.ship.size import GIB, Fit
from ax_recipe.ship.sizing import Sized
from ax_recipe.view.figures import clean, parameters
from ax_recipe.view.row import style

SOURCE = "cost: perplexity of Llama 3 8B, measured by llama.cpp (tools/quantize); a small model loses more"


def show(sized: Sized, console: Console | None = None) -> None:
    """Print the sizes."""
    (console or Console(highlight=False)).print(picture(sized))


def picture(sized: Sized) -> RenderableType:
    """The sizes as tables. Pure."""
    about = f"{clean(sized.name)}: {parameters(sized.shape.parameters)} parameters, {sized.cache}"
    blocks: list[RenderableType] = [Text(about, style("title"))]
    if sized.shape.outside:
        blocks.append(Text(f"{sized.shape.outside}: sizes are lower bounds", style("WATCH")))
    blocks += [Text(), _precisions(sized), Text(SOURCE, style("label")), Text(), _contexts(sized), Text()]
    if sized.adapter is not None:
        how = "its file" if sized.measured else "in 32 bits, as PEFT saves it"
        blocks.append(Text(f"adapter: {bytes_(sized.adapter)} ({how})"))
    return Group(*blocks, *_advice(sized))


def bytes_(size_: float) -> str:
    """A size as a person reads it."""
    return f"{size_ / GIB:.2f} GiB" if size_ >= GIB / 10 else f"{size_ / 2**20:.1f} MiB"


def _precisions(sized: Sized) -> Table:
    table = Table(box=None, pad_edge=False, header_style=style("label"))
    for heading in ("precision", "", "bits", "weights", "cost", "by Ollama", "longest context"):
        right = heading in ("bits", "weights", "cost", "longest context")
        table.add_column(heading, justify="right" if right else "left")
    for each in size.PRECISIONS:
        weights = size.weight_bytes(sized.shape, each)
        longest = size.longest_context(sized.shape, sized.cache, each, sized.memory)
        table.add_row(
            each.name,
            each.about,
            f"{8 * weights / sized.shape.parameters:.2f}",
            bytes_(weights),
            "" if each.cost is None else f"+{each.cost:.4f}",
            "until 0.34" if each.by_ollama else "no",
            f"{longest:,}" if longest else "does not fit",
        )
    return table


def _contexts(sized: Sized) -> Table:
    table = Table(box=None, pad_edge=False, header_style=style("label"))
    for heading in ("context", *(f"cache {kind}" for kind in size.CACHE_BYTES), ""):
        table.add_column(heading, justify="right" if heading else "left")
    for tokens in size.CONTEXTS:
        beyond = sized.shape.max_positions and tokens > sized.shape.max_positions
        note = f"beyond the model's {sized.shape.max_positions:,} positions" if beyond else ""
        kinds = (bytes_(sized.cache.bytes(tokens, kind)) for kind in size.CACHE_BYTES)
        table.add_row(f"{tokens // 1024}k", *kinds, note, style="dim" if beyond else "")
    return table


def _advice(sized: Sized) -> Iterator[Text]:
    machine = f" ({sized.machine})" if sized.machine else ""
    for_ = f"for {bytes_(sized.memory)}{machine} and a context of {sized.context:,}"
    if sized.fit is None:
        yield Text(f"{for_}: nothing down to Q4_K_S fits", style("STOP"))
    else:
        yield Text(f"{for_}: {_said(sized.fit, sized.context)}", style("OK"))
    if sized.any_fit and (sized.fit is None or sized.any_fit.precision != sized.fit.precision):
        yield Text(f"by llama-quantize: {_said(sized.any_fit, sized.context)}", style("label"))


def _said(fit: Fit, context: int) -> str:
    less = "" if fit.context == context else ", no more"
    return f"{fit.precision.name} with num_ctx {fit.context}{less}: about {bytes_(fit.needed)}"
