"""What the GPUs do right now, by NVML: one more source of events, absent quietly where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pynvml

from ax_recipe.observe.events import Gpu, GpuSample

GIB = 2**30
_BRAKES = {0x08: "the hardware", 0x20: "heat", 0x40: "heat, in hardware", 0x80: "the power supply's brake"}
"""NVML's clock event reasons that cost speed; a power cap at full load (0x04) is the usual state of a busy card."""


def sample() -> GpuSample | None:
    """Read every GPU once; None on a machine without any."""
    try:
        pynvml.nvmlInit()
        gpus = tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
    except pynvml.NVMLError:
        return None
    return GpuSample(gpus, time.time()) if gpus else None


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    busy = _if_known(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    power = _if_known(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    limit = _if_known(lambda: pynvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    brakes = int(_if_known(lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0)
    return Gpu(
        index,
        str(pynvml.nvmlDeviceGetName(handle)),
        utilisation=None if busy is None else busy / 100,
        memory_used_gib=int(memory.used) / GIB,
        memory_total_gib=int(memory.total) / GIB,
        temperature_c=_if_known(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        power_w=None if power is None else power / 1000,
        power_limit_w=None if limit is None else limit / 1000,
        slowdown_c=_if_known(
            lambda: pynvml.nvmlDeviceGetTemperatureThreshold(handle, pynvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        ),
        throttled=next((word for bit, word in _BRAKES.items() if brakes & bit), None),
    )


def _if_known(read: Callable[[], Any]) -> float | None:
    """Not every card tells everything: a passively cooled or shared one has no power or temperature to give."""
    try:
        return float(read())
    except pynvml.NVMLError:
        return None
