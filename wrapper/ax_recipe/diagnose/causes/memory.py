"""Out of memory: the GPU's, the machine's, what processes share, the disk."""

from __future__ import annotations

from ax_recipe.diagnose import remedies
from ax_recipe.diagnose.cause import Cause, Remedy, patterns, sign

CAUSES = (
    Cause(
        "shm-full",
        "Shared memory (/dev/shm) is full: the processes of a data loader, or NCCL, pass their data through it.",
        patterns(
            r"killed by signal: Bus error",
            r"insufficient shared memory|died with <Signals\.SIGBUS",
            r"unable to (?:open|write|mmap|allocate|resize)[^\n]*(?:torch_|shm|shared memory)",
            r"/dev/shm[^\n]*No space left|shared memory segment /dev/shm",  # noqa: S108 - a text to find
            r"No space left on device[^\n]*(?:/dev/shm|torch_\d)",
        ),
        (
            sign("Bus error", r"^Bus error"),
            sign("NCCL WARN", r"NCCL WARN .*(?:shared memory segment|posix_fallocate)"),
            sign("insufficient shared memory"),
            sign("SIGBUS", r"Signal 7 \(SIGBUS\) received by PID"),
        ),
        (
            Remedy(
                "Give the container more: its default is 64 MB.", command="docker run --shm-size=16g --ipc=host ..."
            ),
            Remedy("Load data in the training process itself.", {"dataloader_num_workers": 0}),
        ),
        "Axolotl docs/faq (exit code -7); PyTorch docs/multiprocessing",
    ),
    Cause(
        "host-oom",
        "The memory of the machine (RAM, not the GPU's) was full: an allocator gave up, or the kernel killed it.",
        patterns(
            r"DefaultCPUAllocator: (?:can't|not enough)[^\n]*memory",
            r"^(?:\w+\.)*(?:Array|Arrow)?MemoryError\b",
            r"Cannot allocate memory|\[Errno 12\]|os error 12",
            r"killed by signal: Killed",
            r"One of the subprocesses has abruptly died during map operation",
            r"A process in the process pool was terminated abruptly",
            r"std::bad_alloc",
            r"ray\.exceptions\.OutOfMemoryError",
            r"died with <Signals\.SIGKILL",
        ),
        (
            sign("Killed", r"^(?:.*: line \d+: +\d+ )?Killed\b(?! process)"),
            sign("oom", r"\boom[-_. ]?kill"),
            sign("OOM", r"\bOOM[-_. ]?[Kk]ill"),
            sign("srun: error", r"srun: error: .*?(?:tasks? (?P<rank>\d+)[^:]*)?: (?:Out Of Memory|Killed)"),
            sign("TERM_MEMLIMIT"),
            sign("PBS: job killed", r"PBS: job killed: .*mem"),
            sign("Out of memory", r"Out of memory: Killed process"),
            sign("bad_alloc", r"what\(\): +std::bad_alloc|throwing an instance of 'std::bad_alloc'"),
            sign("SIGKILL", r"Signal 9 \(SIGKILL\) received by PID"),
        ),
        (
            Remedy("Fewer processes that each hold data.", {"dataset_num_proc": 1, "dataloader_num_workers": 0}),
            Remedy("Tokenise first, alone: training then reads from disk.", command="axolotl preprocess {file}"),
            Remedy("See what the kernel says of it.", command="sudo dmesg -T | grep -iE 'killed process|oom'"),
        ),
        "Axolotl docs/faq (exit code -9), issues 2975, 3069",
    ),
    Cause(
        "cuda-oom",
        "The memory of the GPU was full{what}.",
        patterns(
            r"out of memory\. (?P<what>[Tt]ried to allocate [\d.]+ [KMGT]iB)[ .(]+GPU (?P<gpu>\d+)",
            r"out of memory\. (?P<what>[Tt]ried to allocate [\d.]+ [KMGT]iB)",
            r"CUDA out of memory|HIP out of memory|CUDA error: out of memory",
            r"torch\.(?:cuda\.)?OutOfMemoryError",
            r"CUBLAS_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation|CUDNN_STATUS_ALLOC_FAILED",
            r"Cuda failure (?:2 )?'out of memory'",
            r"Some modules are dispatched on the CPU or the disk",
            r"No executable batch size found",
        ),
        (sign("CUDA out of memory"),),
        (
            remedies.HALF_BATCH,
            remedies.EVALUATE_LESS,
            remedies.ON_THE_CPU,
            remedies.CHECKPOINTING,
            remedies.SHORTER,
            remedies.FOUR_BITS,
            remedies.SHARDED,
            Remedy("Save the adapter only, without the optimizer.", {"save_only_model": True}, phases=("saving",)),
            remedies.NO_FRAGMENTS,
        ),
        "Axolotl docs/faq, issues 1717, 1813, pull request 925",
    ),
    Cause(
        "disk-full",
        "The disk was full, or its quota used up.",
        patterns(
            r"No space left on device|\[Errno 28\]|os error 28|ENOSPC",
            r"Disk quota exceeded|\[Errno 122\]",
            r"PytorchStreamWriter failed writing file|inline_container\.cc:\d+\] *\. unexpected pos",
            r"basic_ios::clear: iostream error",
            r"Not enough (?:free )?disk space",
        ),
        (sign("No space left on device"), sign("Disk quota exceeded")),
        (
            Remedy("Keep fewer checkpoints.", {"save_total_limit": 1}),
            Remedy("Leave the optimizer out of them (such a run cannot be resumed).", {"save_only_model": True}),
            Remedy("See what takes the space, and free some; then go on.", command="{resume}"),
        ),
        "measured with Axolotl 0.19",
    ),
)
