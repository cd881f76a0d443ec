"""What each recorded log of a failed run must be diagnosed as; ``logs/failures/README.md`` says how it was recorded."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

LOGS = Path(__file__).parent / "logs"
FAILURES = LOGS / "failures"


class Sample(NamedTuple):
    """A log and its diagnosis; ``word`` is in the line that is named as evidence."""

    name: str
    cause: str
    phase: str
    rank: int | None
    word: str

    @property
    def path(self) -> Path:
        """Where the log lies."""
        return FAILURES / f"{self.name}.log"


SAMPLES = (
    Sample("accelerate-rich", "cuda-oom", "training", None, "out of memory"),
    Sample(
        "adapter-gone-loading",
        "adapter-missing",
        "loading",
        None,
        "epo id must be in the form 'repo_name' or 'namespace/repo_name': './outputs/pirate'",
    ),
    Sample("adapter-gone-merging", "adapter-missing", "merging", None, "LoRA adapter weights not found in ./outputs"),
    Sample("adapter-gone-no-plugin", "adapter-missing", "merging", None, "LoRA adapter weights not found in ./outputs"),
    Sample(
        "adapter-missing",
        "adapter-missing",
        "merging",
        None,
        "rectory for LoRA adapter weights does not exist: `./nowhere`",
    ),
    Sample(
        "adapter-other-rank",
        "weights-mismatch",
        "loading",
        None,
        "size mismatch for base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight: copying a param",
    ),
    Sample(
        "architecture",
        "architecture-unknown",
        "importing",
        None,
        "lama9` but Transformers does not recognize this architecture",
    ),
    Sample(
        "base-missing",
        "hub-not-found",
        "importing",
        None,
        "SError: Repo id must use alphanumeric chars, '-', '_' or '.'",
    ),
    Sample("bf16", "bf16-unsupported", "loading", None, "ValueError: Your setup doesn't support bf16/gpu"),
    Sample(
        "bitsandbytes-missing",
        "bitsandbytes",
        "loading",
        None,
        "otFoundError: No package metadata was found for bitsandbytes",
    ),
    Sample("bitsandbytes-setup", "bitsandbytes", "importing", None, "CUDA Setup failed despite GPU being available"),
    Sample(
        "chat-template-missing",
        "chat-template-missing",
        "loading",
        None,
        "e is tokenizer_default but tokenizer's chat_template is null",
    ),
    Sample(
        "chat-template-roles",
        "chat-template-mismatch",
        "preparing",
        None,
        "ation roles must alternate user/assistant/user/assistant/...",
    ),
    Sample(
        "checkpoint-missing",
        "checkpoint-unusable",
        "loading",
        None,
        " Can't find a valid checkpoint at ./out-resume/checkpoint-99",
    ),
    Sample(
        "checkpoint-other-rank",
        "checkpoint-unusable",
        "loading",
        None,
        "kpoint, the shape in current model is torch.Size([16, 256]).",
    ),
    Sample(
        "checkpoint-torn",
        "checkpoint-unusable",
        "loading",
        None,
        "failed reading zip archive: failed finding central directory",
    ),
    Sample("columns-keyerror", "columns-missing", "preparing", None, "KeyError: 'instruction'"),
    Sample("columns-messages", "columns-missing", "preparing", None, "ValueError: Messages is null"),
    Sample("columns-old-axolotl", "columns-missing", "preparing", None, "KeyError: 'conversations'"),
    Sample("columns-preference", "columns-missing", "preparing", None, "KeyError: 'chosen'"),
    Sample(
        "config-bad-type",
        "bad-config",
        "importing",
        None,
        "tionError: 1 validation error for AxolotlConfigWCapabilities",
    ),
    Sample(
        "config-bad-value",
        "bad-config",
        "importing",
        None,
        "ionError: 2 validation errors for AxolotlConfigWCapabilities",
    ),
    Sample(
        "config-optimizer",
        "bad-config",
        "loading",
        None,
        "', 'apollo_adamw', 'apollo_adamw_layerwise', 'stable_adamw']",
    ),
    Sample(
        "config-usage", "bad-config", "importing", None, "rate CLI tool: error: unrecognized arguments: --lerning-rate"
    ),
    Sample("config-zero-batch", "bad-config", "preparing", None, "ZeroDivisionError: float division by zero"),
    Sample(
        "connection-lost-2nodes",
        "connection-lost",
        "training",
        None,
        "cketProgress: Connection closed by remote peer gpu-01<51159>",
    ),
    Sample(
        "cuda-driver-too-old",
        "cuda-mismatch",
        "importing",
        None,
        "VIDIA driver on your system is too old (found version 11040)",
    ),
    Sample(
        "cuda-library",
        "cuda-mismatch",
        "importing",
        None,
        "symbol: __nvJitLinkComplete_12_4, version libnvJitLink.so.12",
    ),
    Sample(
        "cuda-no-kernel-image",
        "cuda-mismatch",
        "loading",
        None,
        "or: no kernel image is available for execution on the device",
    ),
    Sample("cuda-oom-2ranks-tee", "cuda-oom", "training", 1, "torch.OutOfMemoryError: CUDA out of memory"),
    Sample("cuda-oom-2ranks", "cuda-oom", "training", 1, "torch.OutOfMemoryError: CUDA out of memory"),
    Sample("cuda-oom-4ranks-last-shouts", "cuda-oom", "training", 2, "torch.OutOfMemoryError: CUDA out of memory"),
    Sample("cuda-oom-evaluating-2ranks", "cuda-oom", "evaluating", 1, "torch.OutOfMemoryError: CUDA out of memory"),
    Sample("cuda-oom-indentation-lost", "cuda-oom", "training", None, "torch.OutOfMemoryError: CUDA out of memory"),
    Sample("cuda-oom-loading", "cuda-oom", "loading", None, "torch.OutOfMemoryError: CUDA out of memory"),
    Sample("cuda-oom-merging", "cuda-oom", "merging", None, "torch.OutOfMemoryError: CUDA out of memory"),
    Sample("cuda-oom-saving", "cuda-oom", "saving", None, "torch.OutOfMemoryError: CUDA out of memory"),
    Sample(
        "dataset-broken",
        "dataset-broken",
        "preparing",
        None,
        "erationError: An error occurred while generating the dataset",
    ),
    Sample(
        "dataset-empty",
        "dataset-empty",
        "training",
        None,
        "es should be a positive integer value, but got num_samples=0",
    ),
    Sample(
        "dataset-missing-offline", "dataset-missing", "preparing", None, "ValueError: The dataset could not be loaded"
    ),
    Sample("dataset-split", "dataset-split", "preparing", None, 'ValueError: Unknown split "tran"'),
    Sample(
        "dataset-type-old",
        "dataset-type",
        "preparing",
        None,
        "Error: 'NoneType' object has no attribute 'supports_batched'",
    ),
    Sample(
        "dataset-type",
        "dataset-type",
        "preparing",
        None,
        "ValueError: unhandled prompt tokenization strategy: alpacca.",
    ),
    Sample("deepspeed-missing", "deepspeed", "importing", None, "ModuleNotFoundError: No module named 'deepspeed'"),
    Sample(
        "deepspeed-no-cuda-home",
        "deepspeed",
        "preparing",
        None,
        "tion: CUDA_HOME does not exist, unable to compile CUDA op(s)",
    ),
    Sample(
        "device-assert",
        "device-assert",
        "training",
        None,
        "h.AcceleratorError: CUDA error: device-side assert triggered",
    ),
    Sample("disk-full", "disk-full", "saving", None, "RuntimeError: [enforce fail at inline_container.cc:672] "),
    Sample(
        "diverged-saturated",
        "diverged",
        "training",
        None,
        "ens/trainable': 70, 'tokens/total': 256, 'epoch': '0.01093'}",
    ),
    Sample(
        "diverged-watchdog",
        "diverged",
        "training",
        None,
        "oss is too high, stopping training (loss_watchdog_threshold)",
    ),
    Sample(
        "eval-too-small",
        "eval-too-small",
        "importing",
        None,
        "lueError: eval dataset split is too small for sample_packing",
    ),
    Sample(
        "flash-attn-abi-8ranks",
        "flash-attn",
        "importing",
        7,
        "_64-linux-gnu.so: undefined symbol: _ZN3c104cuda9SetDeviceEi",
    ),
    Sample(
        "flash-attn-missing",
        "flash-attn",
        "loading",
        None,
        "he package for FlashAttention2 doesn't seem to be installed.",
    ),
    Sample("fsdp-flatten", "fsdp", "training", 1, " with uniform dtype but got torch.float32 and torch.bfloat16"),
    Sample("fsdp-one-process", "fsdp", "loading", None, "ValueError: Using fsdp only works in distributed training."),
    Sample(
        "gpu-fault-illegal-access",
        "gpu-fault",
        "training",
        0,
        "eError: CUDA error: an illegal memory access was encountered",
    ),
    Sample(
        "gpu-fault-xid", "gpu-fault", "training", None, ":00): 79, pid=4120, name=python, GPU has fallen off the bus."
    ),
    Sample(
        "gradient-checkpointing",
        "gradient-checkpointing",
        "training",
        None,
        "ensors have different metadata than during the forward pass.",
    ),
    Sample(
        "host-oom-accelerate",
        "host-oom",
        "loading",
        None,
        "l.cli.train', 'config.yml']' died with <Signals.SIGKILL: 9>.",
    ),
    Sample(
        "host-oom-allocator", "host-oom", "training", None, "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0"
    ),
    Sample(
        "host-oom-dataloader",
        "host-oom",
        "training",
        None,
        "r: DataLoader worker (pid 2417) is killed by signal: Killed.",
    ),
    Sample(
        "host-oom-deepspeed",
        "host-oom",
        "loading",
        None,
        " '--local_rank=1', 'config.yml'] exits with return code = -9",
    ),
    Sample(
        "host-oom-shell", "host-oom", "preparing", None, "e 14:  3117 Killed                  axolotl train config.yml"
    ),
    Sample(
        "host-oom-slurm", "host-oom", "training", None, "epd: error: Detected 1 oom_kill event in StepId=771203.batch"
    ),
    Sample("host-oom-srun", "host-oom", "loading", 3, "srun: error: gpu-01: task 3: Out Of Memory"),
    Sample(
        "host-oom-tokenizing-2ranks", "host-oom", "preparing", 1, "traceback : Signal 9 (SIGKILL) received by PID 4121"
    ),
    Sample("hub-gated-401", "hub-gated", "importing", None, "OSError: You are trying to access a gated repo."),
    Sample("hub-gated-403", "hub-gated", "importing", None, "OSError: You are trying to access a gated repo."),
    Sample(
        "hub-name-resolution",
        "hub-unreachable",
        "importing",
        None,
        "onnectError: [Errno -3] Temporary failure in name resolution",
    ),
    Sample(
        "hub-not-found",
        "hub-not-found",
        "importing",
        None,
        "d model identifier listed on 'https://huggingface.co/models'",
    ),
    Sample(
        "hub-offline",
        "hub-unreachable",
        "importing",
        None,
        " load the files, and couldn't find them in the cached files.",
    ),
    Sample(
        "import-missing", "import-error", "importing", None, "ModuleNotFoundError: No module named 'cut_cross_entropy'"
    ),
    Sample(
        "import-no-axolotl",
        "import-error",
        "importing",
        None,
        ".cli.train' (ModuleNotFoundError: No module named 'axolotl')",
    ),
    Sample(
        "import-version",
        "import-error",
        "importing",
        None,
        "python3.11/site-packages/transformers/utils/import_utils.py)",
    ),
    Sample("interrupted-keyboard", "interrupted", "training", None, "KeyboardInterrupt"),
    Sample(
        "interrupted-time-limit",
        "interrupted",
        "training",
        None,
        "pu-01 CANCELLED AT 2025-09-14T13:00:00 DUE TO TIME LIMIT ***",
    ),
    Sample(
        "keyerror-rank1-then-kill-3ranks",
        "unknown",
        "training",
        1,
        "tch the size of tensor b (4095) at non-singleton dimension 1",
    ),
    Sample(
        "lora-targets", "lora-targets", "loading", None, "eError: Target modules {'q_prj'} not found in the base model"
    ),
    Sample(
        "model-files-missing",
        "model-files-missing",
        "loading",
        None,
        "etensors, or pytorch_model.bin, found in directory ./merged.",
    ),
    Sample(
        "native-crash-2ranks", "native-crash", "training", 1, "traceback : Signal 11 (SIGSEGV) received by PID 6444"
    ),
    Sample("native-crash", "native-crash", "training", None, "Fatal Python error: Segmentation fault"),
    Sample(
        "nccl-timeout-4ranks",
        "nccl-timeout",
        "training",
        1,
        "ms)=1800000) ran for 1800020 milliseconds before timing out.",
    ),
    Sample(
        "new-token",
        "vocabulary-mismatch",
        "importing",
        None,
        "ora_modules_to_save` not properly set when adding new tokens",
    ),
    Sample("no-gpu-driver", "no-gpu", "loading", None, "RuntimeError: Found no NVIDIA driver on your system"),
    Sample("no-gpu-kernels", "no-gpu", "training", None, "AssertionError: Torch not compiled with CUDA enabled"),
    Sample(
        "no-gradient", "no-gradient", "training", None, "of tensors does not require grad and does not have a grad_fn"
    ),
    Sample(
        "open-files", "open-files", "training", None, "SError: [Errno 24] Too many open files: '/tmp/pymp-8u1x2f_k'"
    ),
    Sample("pad-token", "pad-token", "training", None, "sking to pad but the tokenizer does not have a padding token"),
    Sample(
        "permission-read-only",
        "permission-denied",
        "importing",
        None,
        " [Errno 30] Read-only file system: 'out-read-only/debug.log'",
    ),
    Sample(
        "port-in-use", "port-in-use", "importing", None, "ver socket has failed to listen on any local network address"
    ),
    Sample("precision-fp16", "precision", "training", None, "ValueError: Attempting to unscale FP16 gradients."),
    Sample(
        "ragged-batch", "ragged-batch", "training", None, " equal size, but got [2048] at entry 0 and [1911] at entry 1"
    ),
    Sample("rank-aborts-2ranks", "rank-died", "training", 1, "traceback : Signal 6 (SIGABRT) received by PID 8565"),
    Sample("rank-exits-2ranks", "rank-died", "training", 1, "exitcode  : 3 (pid: 7008)"),
    Sample(
        "rank-killed-and-echo-3ranks", "host-oom", "training", 2, "traceback : Signal 9 (SIGKILL) received by PID 4122"
    ),
    Sample(
        "ranks-on-the-cpu", "ranks-alone", "loading", 1, "or: Cannot access accelerator device when none is available."
    ),
    Sample(
        "rendezvous-alone",
        "rendezvous",
        "importing",
        None,
        "ch.distributed.elastic.rendezvous.api.RendezvousTimeoutError",
    ),
    Sample(
        "rendezvous-timeout",
        "rendezvous",
        "importing",
        None,
        " after 60000ms while trying to connect to (10.0.0.1, 29500).",
    ),
    Sample(
        "shared-tensors",
        "shared-tensors",
        "saving",
        None,
        "hem again: [{'lm_head.weight', 'model.embed_tokens.weight'}]",
    ),
    Sample("shm-full-nccl", "shm-full", "loading", 0, "g shared memory segment /dev/shm/nccl-XnV4Lt (size 33030528)"),
    Sample("shm-full-sigbus", "shm-full", "training", 0, "traceback : Signal 7 (SIGBUS) received by PID 4120"),
    Sample("shm-full-worker", "shm-full", "training", None, "ERROR: Unexpected bus error encountered in worker"),
    Sample(
        "tracker-no-key", "tracker-login", "training", None, "wandb.errors.errors.UsageError: No API key configured"
    ),
    Sample(
        "tracker-wandb",
        "tracker-login",
        "training",
        None,
        '":[{"message":"permission denied","path":["upsertBucket"]}]}',
    ),
    Sample("triton-no-compiler", "triton-compile", "training", None, "RuntimeError: Failed to find C compiler"),
    Sample(
        "triton-shared-memory",
        "triton-compile",
        "training",
        None,
        "rce: shared memory, Required: 131072, Hardware limit: 101376",
    ),
    Sample(
        "trust-remote-code",
        "trust-remote-code",
        "importing",
        None,
        "stom code which must be executed to correctly load the model",
    ),
    Sample("unknown", "unknown", "training", None, "tch the size of tensor b (4095) at non-singleton dimension 1"),
    Sample(
        "vocabulary-device-assert",
        "vocabulary-mismatch",
        "training",
        None,
        "ad: [29,0,0] Assertion `srcIndex < srcSelectDimSize` failed.",
    ),
    Sample(
        "vocabulary-loading",
        "vocabulary-mismatch",
        "loading",
        None,
        "pt: torch.Size([1728, 256]) vs model:torch.Size([1628, 256])",
    ),
    Sample(
        "vocabulary-merging",
        "vocabulary-mismatch",
        "merging",
        None,
        "t, the shape in current model is torch.Size([151936, 2048]).",
    ),
    Sample(
        "weights-lfs-pointer",
        "weights-corrupt",
        "loading",
        None,
        "sorError: Error while deserializing header: header too large",
    ),
    Sample("weights-only", "weights-only", "loading", None, "_pickle.UnpicklingError: Weights only load failed"),
    Sample(
        "weights-torn",
        "weights-corrupt",
        "loading",
        None,
        "ializing header: incomplete metadata, file not fully covered",
    ),
)
