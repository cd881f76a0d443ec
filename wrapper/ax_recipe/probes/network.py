"""How fast several machines sum gradients: ``network.py RESULT``, started by torchrun as their training is.

Times all-reduces by the library that training takes, NCCL where there are GPUs, else gloo. The first process of all
writes RESULT, as JSON: backend, ranks, bytes of each all-reduce, and the seconds of each until the slowest had it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

# Of the order of an adapter's gradients, or of a large layer's.
BYTES = {"nccl": 2**28, "gloo": 2**26}
WARM_UPS = 2
# So many, or as many as come to the end in so long (seconds).
MOST, LEAST, ENOUGH_S = 20, 5, 10.0
PATIENCE_S = 60.0  # for a machine that does not come, or a network that drops what it is given


def once(data: torch.Tensor) -> float:
    """Seconds of one all-reduce on this process, all beginning together.

    :raises RuntimeError: what came out is no sum.
    """
    data.fill_(1.0)
    dist.barrier()
    settle(data)
    began = time.perf_counter()
    dist.all_reduce(data)
    settle(data)
    seconds = time.perf_counter() - began
    if not {data[0].item(), data[-1].item()} == {float(dist.get_world_size())}:
        raise RuntimeError(f"the sum of {dist.get_world_size()} ones came out as {data[0].item()}")
    return seconds


def settle(data: torch.Tensor) -> None:
    """Wait until the GPU has done all that it was told."""
    if data.is_cuda:
        torch.cuda.synchronize()


def slowest(seconds: list[float], device: torch.device) -> list[float]:
    """The same of whichever process took longest."""
    times = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(times, dist.ReduceOp.MAX)
    return [float(each) for each in times]


def main() -> None:
    """Measure, and let the first process write what came out."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    patience = timedelta(seconds=PATIENCE_S)
    dist.init_process_group(backend, timeout=patience, device_id=device if backend == "nccl" else None)
    data = torch.empty(BYTES[backend] // 4, dtype=torch.float32, device=device)
    [warm] = slowest([min(once(data) for _ in range(WARM_UPS))], device)
    count = max(LEAST, min(MOST, int(ENOUGH_S / warm)))
    seconds = slowest([once(data) for _ in range(count)], device)
    if dist.get_rank() == 0:
        told = {"backend": backend, "ranks": dist.get_world_size(), "bytes": BYTES[backend], "seconds": seconds}
        Path(sys.argv[1]).write_text(json.dumps(told))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
