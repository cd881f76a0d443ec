"""What several machines send each other in a step of training, and how long their network takes for it."""

from __future__ import annotations

from dataclasses import dataclass

from ax_recipe.forecast.architecture import Shape
from ax_recipe.forecast.hardware import Hardware
from ax_recipe.forecast.kept import adapter_parameters
from ax_recipe.forecast.settings import Settings

# Of a network's rate, what collective operations of a few hundred megabytes get. What was measured is what they got.
USABLE = 0.8


@dataclass(frozen=True, slots=True)
class Traffic:
    """What each machine sends in an optimizer step, in bytes (it hears as much), and the seconds that takes."""

    sent: float
    seconds: float


def traffic(shape: Shape, s: Settings, hardware: Hardware) -> Traffic:
    """One optimizer step's; nothing where one machine trains. As if no computing went on meanwhile."""
    nodes = hardware.nodes
    if nodes == 1:
        return Traffic(0.0, 0.0)
    sent = _whole(shape, s) * (nodes - 1) / nodes
    usable = 1.0 if hardware.gbit_from.startswith("by ") else USABLE
    return Traffic(sent, sent * 8 / (hardware.gbit * 1e9 * usable))


def _whole(shape: Shape, s: Settings) -> float:
    """What would pass between infinitely many machines, in bytes.

    A sum of gradients goes round twice: collected, then spread. Weights that lie in pieces are fetched for the forward
    pass and again for the backward pass of each micro-batch; their gradients are collected once.
    """
    trained = shape.parameters * s.bytes if s.method == "full" else adapter_parameters(shape, s) * 4.0
    if s.layout in ("fsdp", "zero3"):
        return (2 * _weights(shape, s) + trained) * s.accumulation
    if s.layout == "zero2":  # collected after each micro-batch
        return trained * (s.accumulation + 1)
    return 2 * trained


def _weights(shape: Shape, s: Settings) -> float:
    linear = shape.linear_parameters * (0.5 if s.method == "qlora" else s.bytes)
    return linear + (shape.parameters - shape.linear_parameters) * s.bytes
