"""The model: its files, its tokenizer, its code, what an adapter goes into, and the checkpoints of a training."""

from __future__ import annotations

import re

from ax_recipe.diagnose.cause import Cause, Remedy, patterns, sign

_TORN = re.compile(
    r"PytorchStreamReader|SafetensorError|EOFError|Unpickl|JSONDecodeError|size mismatch|KeyError|IndexError|RNG"
)

CAUSES = (
    Cause(
        "pad-token",
        "The tokenizer has no token to pad with.",
        patterns(
            r"Asking to pad but the tokenizer does not have a padding token",
            r"(?:pad_token|padding token)[^\n]*(?:is not (?:set|defined)|is None)",
            r"Cannot handle batch sizes > 1 if no padding token",
        ),
        (),
        (
            Remedy(
                "Give it one that the model knows and data does not hold; for Llama 3 this one.",
                {"special_tokens": {"pad_token": "<|end_of_text|>"}},
            ),
        ),
        "Axolotl docs/faq, issue 1570",
    ),
    Cause(
        "weights-only",
        "PyTorch 2.6 and later refuse to unpickle what is more than tensors, as old checkpoints and .bin files are.",
        patterns(
            r"Weights only load failed|WeightsUnpickler error",
            r"upgrade torch to at least v2\.6|require users to upgrade torch",
        ),
        (),
        (
            Remedy("Go on with the versions that wrote the checkpoint; or start anew.", command="{again}"),
            Remedy(
                "Only where you wrote the checkpoint yourself: unpickling runs what is in it.",
                command="TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 {resume}",
            ),
        ),
        "PyTorch 2.6 release notes; transformers issue 34631",
    ),
    Cause(
        "checkpoint-unusable",
        "The checkpoint cannot be gone on from{what}: it is torn or not there, or of other ranks or other weights.",
        patterns(
            r"Can't find a valid checkpoint at (?P<what>\S+)|No valid checkpoint found",
            r"loaded state dict (?:contains a parameter group that doesn't match|has a different number of parameter)",
            r"trainer_state\.json",
            r"RNG state must be a torch\.ByteTensor|rng_state_\d+\.pth|Error\(s\) in loading state_dict for \w*Optim",
            r"checkpoint-\d+[^\n]*(?:does not exist|not found|No such file)|No such file[^\n]*checkpoint-\d+",
            r"DP world size of \d+ but the current world size",
            r"world size[^\n]*(?:checkpoint|saved)|saved with a different number",
        ),
        (),
        (
            Remedy("Go on from the checkpoint before it: set this one aside, do not delete it.", command="{resume}"),
            Remedy("Or start anew, in another folder.", {"output_dir": "./outputs/again"}),
        ),
        "measured with Axolotl 0.19; Axolotl issue 2033",
        framed=(
            (_TORN, re.compile(r"\bin (?:_load_optimizer_and_scheduler|_load_rng_state|_load_from_checkpoint)\b")),
        ),
    ),
    Cause(
        "weights-corrupt",
        "A file of weights is torn: a download or a copy stopped in the middle, or it is a git-lfs pointer.",
        patterns(
            r"SafetensorError|Error while deserializing header|HeaderTooLarge|MetadataIncompleteBuffer|InvalidHeader",
            r"PytorchStreamReader failed|invalid load key, '|pickle data was truncated|unpickling stack underflow",
            r"Unable to load weights from pytorch checkpoint file",
            r"Consistency check failed: file should be of size",
            r"file in archive is not in a subdirectory|failed finding central directory",
        ),
        (),
        (
            Remedy("Fetch the model again, whole.", command="hf download ORGANISATION/NAME --force-download"),
            Remedy("Cloned with git: fetch what its pointers stand for.", command="git lfs pull"),
            Remedy("If it is a checkpoint: set it aside and go on from the one before.", command="{resume}"),
        ),
        "measured with Axolotl 0.19; safetensors",
    ),
    Cause(
        "model-files-missing",
        "A file of the model is not where it is looked for{what}.",
        patterns(
            r"[Nn]o file named [^\n]* found in directory (?P<what>\S+?)\.?(?:\s|$)",
            r"does not appear to have (?:a file|files) named (?P<what>.+?)\.? (?:Checkout|$)",
            r"does not appear to have (?:a file|files) named",
            r"No model shards found in (?P<what>\S+)|Can't load (?:the )?(?:config|tokenizer|model|image) (?:for|of)",
        ),
        (),
        (
            Remedy("See what is there: base_model names the folder that holds config.json.", command="ls -l {what}"),
            Remedy("Fetch the model's files again.", command="hf download ORGANISATION/NAME --force-download"),
        ),
        "transformers modeling_utils, utils/hub",
    ),
    Cause(
        "shared-tensors",
        "Weights that are one and the same cannot be written to safetensors twice.",
        patterns(r"[Ss]ome tensors share memory"),
        (),
        (
            Remedy("Write the older format.", {"save_safetensors": False}),
            Remedy("Or save from the last checkpoint that is whole.", command="{resume}"),
        ),
        "safetensors docs/torch_shared_tensors",
    ),
    Cause(
        "lora-targets",
        "The model has no modules of the names that the adapter is to go into{what}.",
        patterns(
            r"Target modules (?P<what>\{.*?\}|\S+) not found in the base model",
            r"No `?target_modules`? passed|Please specify `?target_modules`?",
            r"target_modules[^\n]*(?:is|are) not supported|Please specify `lora_target",
            r"Target module (?P<what>\w+)[^\n]* is not supported\. Currently, only|layers_to_transform[^\n]*not found",
        ),
        (),
        (
            Remedy("All linear layers, whatever they are called.", {"lora_target_linear": True}),
            Remedy("Or the names of this family.", {"lora_target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "vocabulary-mismatch",
        "Tokenizer and model do not have the same vocabulary: token ids or embeddings do not fit.",
        patterns(
            r"size mismatch for \S*(?:embed_tokens|lm_head|wte|word_embeddings)",
            r"[Pp]lease set lora_modules_to_save to|`lora_modules_to_save` not properly set when adding new tokens",
            r"index out of range in self",
            r"`?(?:srcIndex < srcSelectDimSize|t >= 0 && t < n_classes|cur_target >= 0)",
            r"vocab(?:ulary)? size[^\n]*(?:mismatch|does not match|differ)",
        ),
        (
            sign("srcIndex < srcSelectDimSize"),
            sign("t >= 0 && t < n_classes"),
            sign("| MISMATCH", r"^(?P<what>\S*(?:embed_tokens|lm_head|wte|word_embeddings)\S*) +\| MISMATCH"),
        ),
        (
            Remedy(
                "Train what new tokens are written in as well.", {"lora_modules_to_save": ["embed_tokens", "lm_head"]}
            ),
            Remedy("Or take tokens that the model has already: no tokens, no special_tokens of your own."),
            Remedy(
                "An adapter goes into the base and with the tokenizer it was trained with.",
                command="axolotl merge-lora {file}",
                phases=("merging", "loading"),
            ),
        ),
        "Axolotl docs/faq, issues 1570, 1659, 2277",
    ),
    Cause(
        "weights-mismatch",
        "The weights have other shapes than the configuration says: another model, or an adapter of another r.",
        patterns(
            r"size mismatch for \S+: copying a param",
            r"ignore_mismatched_sizes|Error\(s\) in loading state_dict for",
        ),
        (sign("| MISMATCH", r"^(?P<what>\S+) +\| MISMATCH"),),
        (
            Remedy("Name the base that the adapter (or the config.json) was made for, and the folder it lies in."),
            Remedy("Fetch the model's files again.", command="hf download ORGANISATION/NAME --force-download"),
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "trust-remote-code",
        "The model brings code of its own, which runs only where you allow it.",
        patterns(
            r"requires you to execute the (?:configuration|modeling|tokeni[sz]er|dataset\w*)? ?(?:file|script|code)",
            r"contains custom code which must be executed|pass the (?:argument|option) `?trust_remote_code=True",
        ),
        (),
        (Remedy("Read that code; if you trust it, allow it.", {"trust_remote_code": True}),),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "architecture-unknown",
        "The transformers that is installed does not know this architecture{what}.",
        patterns(
            r"model type `?(?P<what>[\w.-]+)`? but Transformers does not recognize this architecture",
            r"does not recognize this architecture",
            r"Unrecognized configuration class|Unrecognized model in (?P<what>\S+)",
            r"^KeyError: '(?P<what>(?:llama|qwen|mistral|mixtral|gemma|phi|falcon|deepseek|glm|granite|olmo)\w*)'",
            r"Tokenizer class (?P<what>\w+) does not exist or is not currently imported",
            r"cannot import name '(?P<what>\w+(?:ForCausalLM|ForConditionalGeneration|Config))' from 'transformers",
            r"Unsupported (?:model )?architecture|is not supported for architecture",
        ),
        (),
        (
            Remedy("Take an Axolotl whose transformers knows it.", command="pip install -U axolotl"),
            Remedy("Or a model of a family that it knows."),
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "gradient-checkpointing",
        "Recomputed activations differ from the first ones, so gradient checkpointing cannot work this way.",
        patterns(
            r"CheckpointError|Recomputed values for the following tensors have different metadata",
            r"Expected to mark a variable ready only once",
        ),
        (),
        (
            Remedy(
                "The older way of recomputing.",
                {"gradient_checkpointing_kwargs": {"use_reentrant": True}},
            ),
            Remedy("Or none, if memory allows.", {"gradient_checkpointing": False}),
        ),
        "Axolotl docs/faq",
    ),
    Cause(
        "no-gradient",
        "Nothing that trains is part of the loss: frozen weights, or gradient checkpointing cut it off.",
        patterns(
            r"does not require grad and does not have a grad_fn|None of the inputs have requires_grad",
            r"parameters that were not used in producing loss",
        ),
        (),
        (
            Remedy(
                "Recompute the way that keeps gradients.", {"gradient_checkpointing_kwargs": {"use_reentrant": False}}
            ),
            Remedy("Train an adapter in all linear layers.", {"lora_target_linear": True}),
            Remedy("Let the ranks skip weights that a step did not use.", {"ddp_find_unused_parameters": True}),
        ),
        "PyTorch; Axolotl issues",
    ),
    Cause(
        "precision",
        "The numbers do not fit together: fp16 gradients, or weights and inputs of different kinds.",
        patterns(
            r"Attempting to unscale FP16 gradients|No inf checks were recorded for this optimizer",
            r"expected (?:mat1 and mat2|m1 and m2|scalar type \w+|both)[^\n]*(?:same dtype|but (?:got|found))",
            r"mat1 and mat2 must have the same dtype|\"\w+\" not implemented for '(?:Half|BFloat16|Byte|Char)'",
            r"(?:FlashAttention|flash attention)[^\n]*only support(?:s)? fp16 and bf16",
        ),
        (),
        (Remedy("Train in bf16.", {"bf16": True, "fp16": False, "tf32": True}),),
        "Axolotl issue 1031",
    ),
)
