"""The data: missing, unreadable, with other columns, of another form than its type, or with nothing left of it."""

from __future__ import annotations

import re

from ax_recipe.diagnose import remedies
from ax_recipe.diagnose.cause import Cause, Remedy, patterns, sign

_IN_DATA = re.compile(r"prompt_strategies|prompt_tokenizers|tokenize_prompt|axolotl/prompters|utils/data/")
_SHOW = Remedy("Look at how the rows are read.", command="axolotl preprocess {file} --debug")

CAUSES = (
    Cause(
        "dataset-type",
        "Axolotl does not know this type of data set{what}.",
        patterns(
            r"unhandled prompt tokenization strategy: (?P<what>\S+?)\.?\s*$",
            r"'NoneType' object has no attribute '(?:tokenize_prompt|supports_batched)'",
        ),
        (),
        (Remedy("Write the type that the rows have: chat_template for messages, alpaca for instruction and output."),),
        "measured with Axolotl 0.19; Axolotl issues 497, 753",
    ),
    Cause(
        "dataset-split",
        "The data set has no split of this name{what}.",
        patterns(r"Unknown split \"?(?P<what>[^\".\s]+)", r"Bad split: (?P<what>\S+)\. Available splits"),
        (),
        (Remedy("Write one of the splits that the message lists (a file of rows has train alone)."),),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "columns-missing",
        "The rows do not have the column that the type of data set reads{what}.",
        patterns(
            r"Messages is null\. Please check `(?P<what>field_messages)`",
            r"Column (?:name )?'?(?P<what>[\w\[\]', ]+?)'? not in the dataset",
            r"Column to remove \[?'(?P<what>\w+)",
            r"'dict object' has no attribute '(?P<what>content|role|from|value)'",
            r"Missing (?:dataset )?prompt configuration|has no (?:column|field) named",
        ),
        (),
        (
            Remedy(
                "Say what the columns are called.",
                {
                    "datasets": [
                        {
                            "path": "...",
                            "type": "chat_template",
                            "field_messages": "conversations",
                            "message_property_mappings": {"role": "from", "content": "value"},
                        }
                    ]
                },
                "axolotl preprocess {file} --debug",
            ),
            Remedy("See what columns there are.", command="ax-recipe data {file}"),
        ),
        "measured with Axolotl 0.19; Axolotl docs/faq",
        framed=((re.compile(r"^KeyError: ['\"](?P<what>[\w.-]+)['\"]"), _IN_DATA),),
    ),
    Cause(
        "dataset-broken",
        "The file of a data set cannot be read: a row is no JSON, or rows have different kinds of values.",
        patterns(
            r"DatasetGenerat\w*Error|An error occurred while generating the dataset",
            r"pyarrow\.lib\.ArrowInvalid|JSON parse error|Couldn't cast|CastError",
            r"Dataset scripts are no longer supported|ArrowTypeError|Parquet magic bytes not found",
        ),
        (),
        (
            Remedy(
                "Find the row; every line must be one JSON object of the same shape.", command="ax-recipe data {file}"
            ),
            Remedy("After the file was mended, forget what was read of it.", command="rm -r last_run_prepared"),
        ),
        "measured with Axolotl 0.19",
        framed=((re.compile(r"JSONDecodeError|UnicodeDecodeError"), re.compile(r"/datasets/|utils/data/")),),
    ),
    Cause(
        "dataset-missing",
        "The data set cannot be found{what}.",
        patterns(
            r"The dataset could not be loaded\.[^\n]*dataset path \((?P<what>[^)]*)\)",
            r"Cannot load dataset from the given config \(path: (?P<what>[^)]*)\)",
            r"The dataset could not be loaded|unhandled dataset load",
            r"Couldn't find (?:a dataset script at|any data file at|'?)(?P<what>[^'\s]+)",
            r"Unable to find '?(?P<what>[^'\s]+)'? (?:with any supported extension|in)",
            r"DatasetNotFoundError|Config name is missing|BuilderConfig '?(?P<what>[^'\s]+)'? not found",
            r"No \(supported\) data files(?: or dataset script)? found",
            r"FileNotFoundError: (?![^\n]*(?:checkpoint-\d|config\.json|adapter_))"
            r"[^\n]*?(?P<what>[^\s'\"]+\.(?:jsonl?|parquet|csv|arrow|txt))",
        ),
        (),
        (
            Remedy(
                "Write the path as it is from where the command is given, and what kind of file it is.",
                {"datasets": [{"path": "./data.jsonl", "ds_type": "json", "type": "chat_template"}]},
                "ls -l {what}",
            ),
        ),
        "measured with Axolotl 0.19; Axolotl issues 1868, 2709",
        broad=True,
    ),
    Cause(
        "eval-too-small",
        "The evaluation rows do not fill one packed batch.",
        patterns(
            r"eval dataset split is too small for sample_packing", r"eval_dataset[^\n]*(?:too small|num_samples=0)"
        ),
        (sign("too small for sample_packing"),),
        (
            Remedy("Evaluate rows one by one.", {"eval_sample_packing": False}),
            Remedy("Keep more rows for it.", {"val_set_size": 0.05}),
        ),
        "Axolotl issues 999, 1638, 1644",
    ),
    Cause(
        "dataset-empty",
        "No row is left to train on: all were dropped, mostly because sequence_len is smaller than every row.",
        patterns(
            r"num_samples should be a positive integer value, but got num_samples=0",
            r"max_steps is not reached|train_dataset[^\n]*(?:empty|has no rows)|dataset is empty",
            r"Dataset is empty|Instruction \"train\" corresponds to no data|Cannot pack an empty",
        ),
        (),
        (
            Remedy("Allow longer rows.", {"sequence_len": remedies.doubled("sequence_len", 2048)}),
            Remedy("Cut rows that are too long instead of dropping them.", {"excess_length_strategy": "truncate"}),
            Remedy("See how long they are.", command="ax-recipe data {file}"),
        ),
        "measured with Axolotl 0.19",
    ),
    Cause(
        "chat-template-missing",
        "The tokenizer has no chat template, and the configuration names none.",
        patterns(
            r"choice is `?tokenizer_default`? but tokenizer's chat_template is null",
            r"tokenizer\.chat_template is not set|[Nn]o chat template is (?:set|defined)",
            r"does not have a chat template|chat_template[^\n]* is None",
        ),
        (),
        (
            Remedy("Train with the template of the model's family.", {"chat_template": "llama3"}),
            Remedy("Or with a plain one that any base can learn.", {"chat_template": "chatml"}),
        ),
        "Axolotl docs/faq; measured with Axolotl 0.19",
    ),
    Cause(
        "chat-template-mismatch",
        "The chat template and the data do not fit: the roles, their order, or the token that ends a turn.",
        patterns(
            r"Conversation roles must alternate|must alternate user/assistant",
            r"[Ss]ystem role (?:is )?not supported|System message must be at the beginning",
            r"jinja2\.exceptions\.(?P<what>\w+)|Only user(?:, | and )assistant",
            r"EO[ST] token .* (?:not found in chat_template|is encoded as multiple tokens)|EOT token encoding failed",
            r"Conflict between train_on_eos and train_on_eot",
            r"Turn index \d+ out of range|Error during turn|Unknown role",
        ),
        (),
        (
            Remedy("A template that takes any order of roles.", {"chat_template": "chatml"}),
            Remedy("Or bring the rows into order: an optional system turn, then user and assistant in turn."),
            _SHOW,
        ),
        "Axolotl docs/faq; the templates of Gemma and Mistral",
    ),
    Cause(
        "ragged-batch",
        "The rows of one batch have different lengths, and nothing pads them.",
        patterns(
            r"stack expects each tensor to be equal size",
            r"Unable to create tensor, you should probably activate truncation",
            r"expected sequence of length \d+ at dim \d+ \(got \d+\)",
        ),
        (),
        (
            Remedy("Pad every row to sequence_len.", {"pad_to_sequence_len": True}),
            Remedy("One row at a time needs no padding.", {"micro_batch_size": 1, "eval_batch_size": 1}),
        ),
        "Axolotl issue 740",
    ),
)
