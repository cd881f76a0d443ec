"""The machine and what is installed on it: driver, GPU, compiled packages, compilers, files that may not be written."""

from __future__ import annotations

from ax_recipe.diagnose import remedies
from ax_recipe.diagnose.cause import Cause, Remedy, patterns, sign

_DOCTOR = Remedy("See what is installed here, and what fits it.", command="ax-recipe doctor")
_SDPA = Remedy(
    "Use PyTorch's own attention, which needs no package.", {"attn_implementation": remedies.torchs_attention}
)

CAUSES = (
    Cause(
        "flash-attn",
        "flash-attn is missing, or was built for another PyTorch or CUDA.",
        patterns(
            r"FlashAttention\d? (?:has been toggled on|only supports Ampere|(?:\w+ )?only supports? head dim)",
            r"No module named '(?:flash_attn|flash_attn_interface|flash_attn_2_cuda|rotary_emb)",
            r"flash_attn[^\n]*(?:undefined symbol|cannot open shared object|not installed|DLL load failed)",
            r"package flash_attn seems to be not installed|Please install flash[-_]attn|requires flash[-_]attn",
        ),
        (),
        (
            _SDPA,
            Remedy(
                "Or build it for what is installed.",
                command="pip install flash-attn --no-build-isolation --no-cache-dir",
            ),
        ),
        "measured with Axolotl 0.19; Axolotl docs/faq, issues 1157, 3005, 3142",
    ),
    Cause(
        "bitsandbytes",
        "bitsandbytes does not work here: it is missing, or finds no CUDA library that it was built for.",
        patterns(
            r"No module named 'bitsandbytes'|No package metadata was found for bitsandbytes",
            r"bitsandbytes[^\n]*(?:undefined symbol|without (?:GPU|CUDA) support|CUDA Setup failed)",
            r"required but not available for bitsandbytes",
            r"requires? the latest version of bitsandbytes|Using `bitsandbytes` 4-bit",
            r"quantization requires[^\n]*bitsandbytes",
            r"libbitsandbytes\w*\.so|cadam\w+_\w+_grad",
            r"'NoneType' object has no attribute 'c(?:get|quantize|dequantize|gemm|igemm)\w*'",
            r"None of the available devices `available_devices",
        ),
        (sign("CUDA Setup failed despite"),),
        (
            Remedy(
                "Take the newest, and see what it finds.",
                command="pip install -U bitsandbytes && python -m bitsandbytes",
            ),
            Remedy(
                "Keep 16-bit weights, and an optimizer of PyTorch's.",
                {"adapter": "lora", "load_in_4bit": False, "optimizer": "adamw_torch_fused"},
            ),
        ),
        "transformers quantizers; bitsandbytes docs",
    ),
    Cause(
        "deepspeed",
        "DeepSpeed is missing, cannot compile its operators, or does not fit this configuration.",
        patterns(
            r"No module named '(?:deepspeed|mpi4py)'|DeepSpeed is not installed",
            r"MissingCUDAException|CUDA_HOME does not exist|CUDAMismatchException",
            r"Error building extension '(?:cpu_adam|fused_adam|async_io|transformer_inference|utils)'",
            r"'DummyOptim' object has no attribute",
            r"deepspeed\.(?:runtime|ops)\.\S*(?:Error|Exception)|DeepSpeedConfigError",
            r"No such file or directory: '[^']*nvcc'",
            r"Please correct the following DeepSpeed config values|Check batch related parameters\. train_batch_size",
        ),
        (),
        (
            Remedy("Install it, with a CUDA toolkit of PyTorch's version.", command="pip install deepspeed"),
            Remedy("On one GPU, leave it out: remove deepspeed: from the YAML."),
            Remedy(
                "On several, FSDP needs no package.",
                {
                    "fsdp_version": 2,
                    "fsdp_config": {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "reshard_after_forward": True},
                },
            ),
        ),
        "measured with Axolotl 0.19; Axolotl docs/faq",
    ),
    Cause(
        "fsdp",
        "FSDP cannot shard this model this way.",
        patterns(
            r"Could not find the transformer layer class",
            r"fsdp only works in distributed training|Must flatten tensors with uniform dtype",
            r"FullyShardedDataParallel|FlatParameter|fully_shard",
            r"FSDP[^\n]*(?:requires|does not support|not compatible|only support)",
            r"Cannot flatten integer dtype tensors|OptimState\w+ dispatch",
            r"got mixed torch\.Tensor and DTensor|DTensor[^\n]*not support",
            r"Cannot writeback when the parameter shape changes",
        ),
        (),
        (
            Remedy(
                "Name the layer of this model's family.",
                {"fsdp_version": 2, "fsdp_config": {"transformer_layer_cls_to_wrap": "LlamaDecoderLayer"}},
            ),
            Remedy("One kind of numbers in all weights.", {"bf16": True, "bnb_4bit_quant_storage": "bfloat16"}),
            Remedy("If the model fits one GPU, leave it out: remove fsdp_config from the YAML (plain DDP is faster)."),
        ),
        "PyTorch docs/fsdp; Axolotl docs/multi-gpu",
    ),
    Cause(
        "triton-compile",
        "A kernel could not be compiled here: no C compiler, no headers, or more shared memory than there is.",
        patterns(
            r"OutOfResources: out of resource",
            r"triton\.(?:runtime|compiler)\.\S*(?:Error|OutOfResources)|CompilationError",
            r"Failed to find C compiler|Python\.h: No such file|ptxas|LLVM ERROR",
            r"BackendCompilerFailed|InductorError|torch\._(?:dynamo|inductor)\.exc\.\w+",
            r"CalledProcessError: Command '\['?[^\n]*/(?:gcc|cc|clang)'",
            r"No module named 'triton'|Cannot find a working triton installation",
        ),
        (sign("LLVM ERROR"),),
        (
            Remedy(
                "Install a compiler and the headers of this Python.",
                command="sudo apt-get install -y build-essential python3-dev",
            ),
            Remedy(
                "Or leave compiled kernels out.",
                {"torch_compile": False, "lora_mlp_kernel": False, "lora_qkv_kernel": False, "lora_o_kernel": False},
            ),
        ),
        "PyTorch inductor; Triton",
    ),
    Cause(
        "cuda-mismatch",
        "The driver, the GPU and this build of PyTorch do not fit together.",
        patterns(
            r"no kernel image is available for execution",
            r"CUDA driver version is insufficient|NVIDIA driver on your system is too old",
            r"provided PTX was compiled with an unsupported toolchain|forward compatibility was attempted",
            r"(?:libcud\w+|libcublas\w*|libnv\w+|libnccl)\.so[^\n]*(?:cannot open shared object|undefined symbol)",
            r"undefined symbol: (?:__?nvJitLink|cuda|cublas|nccl|_ZN3c10|_ZNK?3c10|_ZN2at)",
            r"sm_\d+ is not compatible with the current PyTorch|CUDA error: system not yet initialized|Error 80[234]:",
            r"Driver/library version mismatch|detected CUDA version[^\n]*mismatches",
        ),
        (),
        (
            Remedy(
                "Compare what the driver offers with what PyTorch was built for.",
                command="nvidia-smi; python -c 'import torch; print(torch.version.cuda, torch.cuda.get_arch_list())'",
            ),
            Remedy(
                "Install the PyTorch of the driver's CUDA; or a newer driver, then start the machine again.",
                command="pip install -U torch --index-url https://download.pytorch.org/whl/cu128",
            ),
            _DOCTOR,
        ),
        "PyTorch docs/notes/cuda",
    ),
    Cause(
        "bf16-unsupported",
        "This device does not do bf16 (Ampere and later do).",
        patterns(
            r"doesn't support bf16|bf16[^\n]*(?:not supported|requires)",
            r"BFloat16 is not supported|Bfloat16 is only supported on GPUs",
        ),
        (),
        (
            Remedy("On a T4 or V100: fp16.", {"bf16": False, "fp16": True, "tf32": False}),
            Remedy("On the CPU: neither.", {"bf16": False, "fp16": False, "tf32": False}),
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "no-gpu",
        "No GPU is to be seen from this process, or this PyTorch was built without CUDA.",
        patterns(
            r"No CUDA GPUs are available|Found no NVIDIA driver|Torch not compiled with CUDA enabled",
            r"CUDA (?:is not available|unknown error)|no CUDA-capable device|CUDA-capable device\(s\) is/are busy",
            r"No GPU found\. A GPU is needed for quantization|Found no accelerator|fp16 mixed precision requires a GPU",
        ),
        (),
        (
            Remedy(
                "See whether the driver sees one, and whether it is hidden from here.",
                command="nvidia-smi; echo $CUDA_VISIBLE_DEVICES",
            ),
            Remedy(
                "On the CPU: plain precision, without kernels for GPUs.",
                {
                    "bf16": False,
                    "fp16": False,
                    "tf32": False,
                    "lora_mlp_kernel": False,
                    "lora_qkv_kernel": False,
                    "lora_o_kernel": False,
                },
            ),
            _DOCTOR,
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "gpu-fault",
        "The GPU or a kernel on it failed: memory that it may not touch, an uncorrectable error, a lost device.",
        patterns(
            r"illegal memory access|unspecified launch failure|misaligned address|CUDA error: an illegal instruction",
            r"uncorrectable (?:ECC|NVLink) error|CUBLAS_STATUS_EXECUTION_FAILED|CUDNN_STATUS_EXECUTION_FAILED",
            r"GPU is lost|has fallen off the bus|CUDA error: (?:launch failed|hardware|the launch timed out)",
            r"CUDA error: unknown error|Unable to determine the device handle",
        ),
        (sign("Xid", r"NVRM: Xid|\bXid\b.*\d+"), sign("fallen off the bus"), sign("illegal memory access")),
        (
            Remedy(
                "Ask the driver: an Xid of 48, 63, 74, 79 or 94 is the hardware.",
                command="sudo dmesg -T | grep -i xid; nvidia-smi -q -d ECC",
            ),
            Remedy("Find the kernel: each then runs on its own.", command="CUDA_LAUNCH_BLOCKING=1 {again}"),
            Remedy(
                "Leave kernels of others out of it.",
                {
                    "attn_implementation": remedies.torchs_attention,
                    "lora_mlp_kernel": False,
                    "lora_qkv_kernel": False,
                    "lora_o_kernel": False,
                },
            ),
        ),
        "NVIDIA docs/xid-errors",
    ),
    Cause(
        "device-assert",
        "A kernel found an index out of its range: most often a token or a label that the model does not have.",
        patterns(r"device-side assert triggered|HIP error: device-side"),
        (sign("Device-side assertion"),),
        (
            Remedy("Find where: the message then names the line.", command="CUDA_LAUNCH_BLOCKING=1 {again}"),
            Remedy(
                "Compare the number of tokens with vocab_size in config.json: no tokens of your own, or train them.",
                {"lora_modules_to_save": ["embed_tokens", "lm_head"]},
            ),
        ),
        "PyTorch docs; Axolotl docs/faq",
        broad=True,
    ),
    Cause(
        "open-files",
        "The process may not have more files open.",
        patterns(r"Too many open files|\[Errno 24\]|received 0 items of ancdata"),
        (),
        (
            Remedy("Allow more, in the shell that starts it.", command="ulimit -n 65536 && {again}"),
            Remedy("Load data in the training process itself.", {"dataloader_num_workers": 0}),
        ),
        "PyTorch docs/multiprocessing",
    ),
    Cause(
        "permission-denied",
        "A file or folder may not be read or written{what}.",
        patterns(
            r"(?:Permission denied|Read-only file system|Operation not permitted)(?:[^\n']*'(?P<what>[^'\n]+)')?",
            r"PermissionError|\[Errno (?:13|30)\]",
        ),
        (),
        (
            Remedy("Write where you may.", {"output_dir": "./outputs/mine", "dataset_prepared_path": "./prepared"}),
            Remedy("See whose it is.", command="ls -ld {what}"),
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "import-error",
        "A package is missing, or its version does not fit the others{what}.",
        patterns(
            r"No module named '(?P<what>[\w.]+)'",
            r"cannot import name '(?P<what>\w+)' from",
            r"(?:ImportError|ModuleNotFoundError|PackageNotFoundError|VersionConflict|DistributionNotFound)",
            r"is required for a normal functioning of this module",
            r"partially initialized module|numpy\.dtype size changed",
            r"module '(?P<what>[\w.]+)' has no attribute",
            r"Failed to import (?P<what>[\w.]+)",
            r"requires the (?P<what>\S+) library but it was not found",
            r"(?P<what>[Ss]entence[Pp]iece|tiktoken|protobuf)`? (?:is required|must be installed|is not installed)",
            r"Please install Axolotl's fork",
            r"Couldn't instantiate the backend tokenizer|did not match any variant of untagged enum ModelWrapper",
        ),
        (
            sign("axolotl: ", r"(?P<what>axolotl): (?:command )?not found"),
            sign(
                "Error while finding module",
                r"Error while finding module specification .*No module named '(?P<what>\w+)'",
            ),
        ),
        (
            Remedy(
                "Bring the packages back to what this Axolotl asks for.",
                command="pip install --force-reinstall axolotl",
            ),
            Remedy("See what is installed, and what fits it.", command="pip check; ax-recipe doctor"),
        ),
        "measured with Axolotl 0.19",
        broad=True,
    ),
)
