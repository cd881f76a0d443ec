"""The one table of what can be wrong: each stable code with its title, what it means, why it matters and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from ax_recipe.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Page:
    """What ``ax-recipe explain CODE`` shows; ``example`` is YAML (or a row) that has it, and after ``->`` is right."""

    title: str
    means: str
    matters: str
    fix: str
    example: str


# A code is for ever: a new finding gets the next number, and one that is gone leaves its number unused.
CODES: Mapping[str, Page] = {
    "AX001": Page(
        "unknown key",
        "No field of the Axolotl in use has this name.",
        "Axolotl drops it without a word: the training runs with the default instead.",
        "Take the name that is suggested, or remove the line.",
        "gradient_acumulation_steps: 4  ->  gradient_accumulation_steps: 4",
    ),
    "AX002": Page(
        "wrong type",
        "The value is of another kind than the key takes.",
        "Axolotl refuses it after half a minute of imports.",
        "Write a value of the kind that is named.",
        "sequence_len: 4k  ->  sequence_len: 4096",
    ),
    "AX003": Page(
        "not one of the values that exist",
        "The key takes one of a few names, and this is none of them.",
        "Some are refused at once, an optimizer or a scheduler only when the model is loaded.",
        "Take one of the names that are listed.",
        "optimizer: adamw_8bits  ->  optimizer: adamw_8bit",
    ),
    "AX004": Page(
        "required key missing",
        "A key that has no default is not there.",
        "Axolotl refuses the file after half a minute of imports.",
        "Add the key.",
        "base_model: ...  ->  base_model: ... with learning_rate: 2.0e-4",
    ),
    "AX005": Page(
        "key given twice",
        "YAML keeps the last of two equal keys.",
        "The other one, perhaps the one that you look at, has no effect.",
        "Remove one of the two lines.",
        "lora_r: 16 ... lora_r: 64  ->  lora_r: 64",
    ),
    "AX006": Page(
        "broken YAML",
        "The file cannot be read as YAML.",
        "Nothing can start.",
        "Look at the line that is named and at the one above it: indentation, quotes, brackets.",
        "datasets: [  ->  datasets: []",
    ),
    "AX007": Page(
        "key without the plugin that reads it",
        "Only a plugin reads this key, and `plugins:` does not list it.",
        "Axolotl drops the key without a word.",
        "Add the plugin that is named to `plugins:`.",
        "liger_rope: true  ->  plugins: [axolotl.integrations.liger.LigerPlugin] beside it",
    ),
    "AX008": Page(
        "unknown plugin",
        "No plugin of this Axolotl has this path.",
        "Axolotl prints a traceback, trains without it and ends with exit code 0.",
        "Take the path that is suggested.",
        "axolotl.integrations.lyger.LigerPlugin  ->  axolotl.integrations.liger.LigerPlugin",
    ),
    "AX009": Page(
        "old key",
        "The key has been replaced or removed.",
        "A removed one is refused or ignored; a replaced one will be.",
        "Do what the message says.",
        "flash_attention: true  ->  attn_implementation: flash_attention_2",
    ),
    "AX010": Page(
        "value out of range",
        "The number cannot mean anything here.",
        "Most fail only after the model is loaded: a batch of 0 rows, a rank of 0, a negative rate.",
        "Give a number inside the range that is named.",
        "lora_r: 0  ->  lora_r: 16",
    ),
    "AX011": Page(
        "key that is not read here",
        "This kind of block does not read the key; another kind does.",
        "It has no effect.",
        "Remove it, or see which kind takes it.",
        "a chat_template dataset with field_chosen  ->  the key belongs to rl: dpo",
    ),
    "AX012": Page(
        "no such file",
        "A local file or folder that is named is not there.",
        "Axolotl finds out after half a minute, and then asks the hub for a data set of that name.",
        "Correct the path; a recipe's relative paths start at its own folder, an Axolotl YAML's where it is started.",
        "path: ./dta.jsonl  ->  path: ./data.jsonl",
    ),
    "AX013": Page(
        "column missing in the data",
        "The dataset's type reads a column that its rows do not have.",
        "Axolotl ends in a bare KeyError once the model's tokenizer is loaded.",
        "Name the columns that are there (field_messages, field, ...), or take the type that fits them.",
        "type: alpaca over rows of messages  ->  type: chat_template",
    ),
    "AX014": Page(
        "row that cannot be read",
        "A line of the data is no JSON object, or the file has no rows.",
        "One bad line in a million ends the run; `datasets` names it by byte, not by line.",
        "Mend or remove the line that is named.",
        '{"messages": [  ->  {"messages": []}',
    ),
    "AX015": Page(
        "turns that the chat template cannot read",
        "The turns have other fields or roles than the template asks for.",
        "The turns are dropped or rendered empty, or the template raises in the middle of tokenising.",
        "Map the fields: message_property_mappings: {role: from, content: value}; map the names with roles:.",
        '{"from": "human", "value": "Hi"}  ->  message_property_mappings: {role: from, content: value}',
    ),
    "AX016": Page(
        "nothing is trained",
        "Every label of the data is masked: no turn is of a role that is trained.",
        "The loss is 0, the gradient is 0, and the run ends well with a model that has learnt nothing.",
        "roles_to_train: [assistant], and roles that the data has.",
        "roles_to_train: [system]  ->  roles_to_train: [assistant]",
    ),
    "AX017": Page(
        "empty or one-sided row",
        "A row has no text, no answer, or nothing but an answer.",
        "It teaches nothing, or teaches to say nothing.",
        "Mend or remove the rows that are named.",
        '{"messages": [{"role": "user", "content": "Hi"}]}  ->  with an answer',
    ),
    "AX018": Page(
        "duplicate row",
        "The same row is there more than once.",
        "It is learnt more than once: the model repeats it by heart.",
        "Remove them, or set dataset_exact_deduplication: true.",
        "the same line twice  ->  once",
    ),
    "AX019": Page(
        "held-out row that is trained on",
        "A row of the evaluation is one of the training, too.",
        "The evaluation measures memory, not learning: its loss looks better than it is.",
        "Remove the row from one of the two.",
        "test_datasets: [{path: train.jsonl}]  ->  a file of its own",
    ),
    "AX020": Page(
        "rows longer than sequence_len",
        "Rows have more tokens than sequence_len.",
        "Axolotl drops them (excess_length_strategy: drop); where all are longer nothing is left to train on.",
        "A larger sequence_len, shorter rows, or excess_length_strategy: truncate.",
        "sequence_len: 64  ->  sequence_len: 2048",
    ),
    "AX021": Page(
        "val_set_size is no share",
        "It is the share of the rows that is kept for evaluation: below 1.",
        "Axolotl 0.19 takes no number of rows: 5 ends it after everything is loaded (\"test_size=5.0 should be ...\").",
        "0.05 for five per cent.",
        "val_set_size: 5  ->  val_set_size: 0.05",
    ),
    "AX022": Page(
        "held-out set too small for packing",
        "The rows that are evaluated do not fill one pack of sequence_len tokens.",
        "Axolotl stops after loading, or evaluates without ever giving a loss.",
        "eval_sample_packing: false, or more held-out rows.",
        "sample_packing: true, val_set_size: 0.01  ->  eval_sample_packing: false beside them",
    ),
    "AX023": Page(
        "unknown split",
        "A data file on its own has one split, called train.",
        "Axolotl ends in `Unknown split` half a minute later.",
        "split: train, or a part of it such as train[:500].",
        "split: tran  ->  split: train",
    ),
    "AX024": Page(
        "no chat template",
        "The tokenizer's own template is asked for, and it has none.",
        "Axolotl stops when it tokenises the data.",
        "Name one: chat_template: chatml, llama3, ...",
        "chat_template: tokenizer_default over a base model  ->  chat_template: chatml",
    ),
    "AX025": Page(
        "padding is the end token",
        "pad_token and eos_token are the same token.",
        "Padding cannot be told from an ending: whatever masks the one masks the other, and the model never learns to "
        "stop.",
        "A pad token of its own: special_tokens: {pad_token: ...}, one that the tokenizer has and text never uses.",
        'special_tokens: {pad_token: "<|eot_id|>"}  ->  {pad_token: "<|finetune_right_pad_id|>"}',
    ),
    "AX026": Page(
        "tokenizer without the template's tokens",
        "The chat template writes marks that the base's tokenizer does not know as tokens.",
        "Each mark is split into pieces of text: longer prompts, and a turn's end that nothing stops at.",
        "Take the base's own template, or add them: tokens: [...] (and train the embeddings).",
        'chat_template: chatml over a Llama 2  ->  tokens: ["<|im_start|>", "<|im_end|>"]',
    ),
    "AX027": Page(
        "new token that is not trained",
        "A token is new to the tokenizer, and the adapter leaves the embeddings as they are.",
        "Its embedding stays random; Axolotl refuses such special tokens after it has loaded the tokenizer.",
        "lora_modules_to_save: [embed_tokens, lm_head], or reuse a token that the tokenizer has.",
        'tokens: ["<think>"]  ->  with lora_modules_to_save: [embed_tokens, lm_head]',
    ),
    "AX028": Page(
        "sequence_len beyond the model's",
        "The model has been made for shorter texts (max_position_embeddings).",
        "Positions that it has never seen: the loss of long rows stays high, and answers break down.",
        "A sequence_len within the model's, or rope scaling in overrides_of_model_config.",
        "sequence_len: 32768 over a model of 8192  ->  sequence_len: 8192",
    ),
    "AX029": Page(
        "module that the base does not have",
        "The adapter is put on modules that are not in the model.",
        "Where none is there, the training stops after loading; where some are, the others are left out in silence.",
        "Correct the name, or lora_target_linear: true.",
        "lora_target_modules: [q_prj]  ->  lora_target_modules: [q_proj]",
    ),
    "AX030": Page(
        "adapter without targets",
        "No modules are named for the adapter.",
        "The training stops after the model is loaded: No `target_modules` passed.",
        "lora_target_linear: true, or lora_target_modules.",
        "adapter: lora  ->  with lora_target_linear: true",
    ),
    "AX031": Page(
        "adapter and quantisation disagree",
        "qlora wants 4-bit weights; quantised weights want an adapter.",
        "Axolotl refuses it after half a minute of imports.",
        "adapter: qlora together with load_in_4bit: true, and no load_in_8bit.",
        "adapter: qlora  ->  with load_in_4bit: true",
    ),
    "AX032": Page(
        "merge that loses weights",
        "Embeddings or head are trained (lora_modules_to_save) where the base ties the two.",
        "A merged model holds one of them: what the other has learnt is lost, and nothing says so.",
        "Leave lora_modules_to_save out, or run it with ax-recipe, whose merge writes the head out and unties it.",
        "lora_modules_to_save: [lm_head] over a tied base  ->  leave it out",
    ),
    "AX033": Page(
        "gated model without a token",
        "The base's licence must be accepted on the hub, and no token is here.",
        "Loading fails with 401 after half a minute.",
        "Accept the licence, then `hf auth login` or HF_TOKEN; or take an open copy of the model.",
        "base_model: meta-llama/Llama-3.1-8B  ->  with HF_TOKEN set",
    ),
    "AX034": Page(
        "not a model's folder",
        "The local base has no config.json, or one that is no language model's.",
        "Loading fails after half a minute.",
        "Name the folder that holds config.json, the weights and the tokenizer.",
        "base_model: ./models  ->  base_model: ./models/llama",
    ),
    "AX035": Page(
        "keys that exclude each other",
        "Two keys say the same thing in two ways.",
        "Axolotl refuses them, or one wins without a word.",
        "Keep one of the two.",
        "warmup_steps: 10, warmup_ratio: 0.1  ->  warmup_ratio: 0.1",
    ),
    "AX036": Page(
        "saves that do not meet evaluations",
        "load_best_model_at_end needs every save to be an evaluation as well.",
        "Axolotl turns it off in silence: you get the last model, not the best.",
        "save_steps a multiple of eval_steps; per epoch, the same number of both.",
        "save_steps: 50, eval_steps: 20  ->  save_steps: 40",
    ),
    "AX037": Page(
        "evaluation without rows",
        "Something asks for evaluations, and there are no held-out rows.",
        "Nothing is evaluated: no best model, no early stop.",
        "val_set_size: 0.02, or test_datasets.",
        "early_stopping_patience: 3  ->  with val_set_size: 0.02",
    ),
    "AX038": Page(
        "learning rate far too high",
        "Adam at this rate diverges.",
        "The loss becomes NaN, which Axolotl logs as 0, and ends with exit code 0.",
        "2.0e-4 for an adapter, 1.0e-5 to 5.0e-5 for all weights.",
        "learning_rate: 2.0  ->  learning_rate: 2.0e-4",
    ),
    "AX039": Page(
        "output_dir holds another run",
        "The folder has a model or checkpoints in it.",
        "They are overwritten, and save_total_limit removes the older ones.",
        "Another output_dir; to go on with that run, auto_resume_from_checkpoints: true.",
        "output_dir: ./outputs/last  ->  output_dir: ./outputs/next",
    ),
    "AX040": Page(
        "output_dir is the base",
        "The training writes into the folder that it reads the base from.",
        "The base is overwritten.",
        "Another output_dir.",
        "base_model: ./m, output_dir: ./m  ->  output_dir: ./out",
    ),
    "AX041": Page(
        "packing without attention that keeps rows apart",
        "Packed rows share a sequence; this attention backend does not know where one ends.",
        "Rows read each other; below sm_90 bfloat16 packing over sdpa can give a loss of 0.",
        "attn_implementation: flash_attention_2 (or flex_attention, which needs no package), or sample_packing: false.",
        "sample_packing: true, attn_implementation: eager  ->  attn_implementation: flash_attention_2",
    ),
    "AX042": Page(
        "package that is not installed",
        "The config needs a package that the training environment does not have.",
        "A plugin without its package is skipped in silence; others fail once the model is loaded.",
        "Install it into that environment, or take what the message suggests.",
        "deepspeed: zero2.json without deepspeed  ->  pip install deepspeed",
    ),
    "AX043": Page(
        "hardware that cannot",
        "The target GPU does not have what the key asks for.",
        "Axolotl warns at most, and fails when the training begins.",
        "The value that is suggested, or other hardware (--gpus).",
        "bf16: true on a T4  ->  bf16: false, fp16: true",
    ),
    "AX044": Page(
        "needs a GPU",
        "The target is the CPU, and this runs on GPUs only.",
        "The training fails at its first step.",
        "The value that is suggested, or a GPU (--gpus 1).",
        "lora_mlp_kernel: true on the CPU  ->  lora_mlp_kernel: false",
    ),
    "AX045": Page(
        "DeepSpeed and FSDP together",
        "Both spread the weights; only one can.",
        "Axolotl does not look at fsdp_config here and fails on the GPUs.",
        "Keep one of the two.",
        "deepspeed: zero3.json, fsdp_config: {...}  ->  one of them",
    ),
    "AX046": Page(
        "spreading over one GPU",
        "DeepSpeed or FSDP with a single GPU.",
        "There is nothing to spread over; DeepSpeed fails with `DummyOptim`.",
        "Remove it, or --gpus 4.",
        "deepspeed: zero2.json on one GPU  ->  leave it out",
    ),
    "AX047": Page(
        "4 bit on the CPU",
        "bitsandbytes quantises on the CPU, too, but slowly, and only widths that are a multiple of 64.",
        "Other widths fail in the first evaluation.",
        "adapter: lora without load_in_4bit.",
        "adapter: qlora on the CPU  ->  adapter: lora",
    ),
    "AX048": Page(
        "warmup longer than the training",
        "The rate is still rising when the training ends.",
        "The rate that you set is never reached.",
        "warmup_ratio: 0.03, or fewer warmup_steps.",
        "warmup_steps: 100, max_steps: 50  ->  warmup_ratio: 0.03",
    ),
    "AX049": Page(
        "Weights & Biases without a key",
        "The run is to be logged there, and no key is here.",
        "Without a terminal the run stops when it would ask for one.",
        "WANDB_API_KEY, `wandb login`, or wandb_mode: offline.",
        "wandb_project: mine  ->  with WANDB_API_KEY set",
    ),
    "AX050": Page(
        "refused by Axolotl",
        "Axolotl's own validation, for the target hardware, says no.",
        "The training would stop with this message after half a minute.",
        "Do what the message says.",
        "fp8: true on an A100  ->  bf16: true",
    ),
    "AX051": Page(
        "warned of by Axolotl",
        "Axolotl's own validation accepts this with a warning.",
        "The warning passes among hundreds of lines of its log.",
        "Do what the message says, or know why not.",
        "pad_to_sequence_len: false with sample_packing  ->  true",
    ),
    "AX052": Page(
        "plugin that does nothing",
        "The plugin is listed, and none of its keys is set.",
        "It changes nothing: not faster, not smaller.",
        "Set its keys, or remove it.",
        "plugins: [...LigerPlugin]  ->  with liger_rope: true, liger_fused_linear_cross_entropy: true",
    ),
    "AX053": Page(
        "no data",
        "No datasets are named.",
        "There is nothing to train on.",
        "datasets: [{path: ..., type: ...}]",
        "datasets: []  ->  datasets: [{path: data.jsonl, type: chat_template}]",
    ),
    "AX054": Page(
        "LoRA keys without an adapter",
        "lora_ keys are set, and `adapter` is not.",
        "Axolotl trains every weight of the model instead.",
        "adapter: lora (or qlora), or remove the keys.",
        "lora_r: 16  ->  with adapter: lora",
    ),
    "AX055": Page(
        "end of a turn that is not trained",
        "The chat template never writes the tokenizer's end token, and eot_tokens names no other.",
        "The model does not learn to stop: it goes on talking for both sides.",
        "eot_tokens: [...] with the token that ends a turn, or special_tokens: {eos_token: ...}.",
        'chat_template: llama3 over a base that ends texts  ->  special_tokens: {eos_token: "<|eot_id|>"}',
    ),
    "AX056": Page(
        "runs code that came with it",
        "The key makes the training import or run a program that is no part of Axolotl: a plugin, a reward function, "
        "the code beside a model, a pickle.",
        "It runs with all your rights: it can read your keys, your data, your files.",
        "Read that code. If you would run it by hand, `ax-recipe run --trust`; else remove the key.",
        "trust_remote_code: true  ->  a base that transformers knows itself",
    ),
    "AX057": Page(
        "secret in the file",
        "A key, token or password is written there.",
        "It would be copied into every run folder, and is there for whoever reads the recipe.",
        "Remove it, and make it void where you got it; give it by the environment: HF_TOKEN, WANDB_API_KEY, ...",
        "comet_api_key: ...  ->  COMET_API_KEY in the environment",
    ),
    "AX058": Page(
        "left out by the chat template",
        "The rows hold tools, calls of them, reasoning_content or images, and the template has no place for these.",
        "Axolotl leaves them out in silence: a turn that is a call is not trained, and the model never sees a tool.",
        "A template that writes them: the model's own (tokenizer_default), or chat_template: jinja with one that does.",
        "chat_template: llama3  ->  chat_template: tokenizer_default",
    ),
    "AX059": Page(
        "marks of a chat template in the text",
        "What a row says holds a mark that chat templates write around turns: <|im_start|>, [INST], </s>, ...",
        "The template writes its own once more, and the tokenizer makes the same special token of both: the model "
        "learns turns within turns. Another template's marks it learns to say.",
        "Remove the marks from the data; rows whose text is rendered already want `type: completion`.",
        '{"role": "user", "content": "[INST] Ahoy? [/INST]"}  ->  {"role": "user", "content": "Ahoy?"}',
    ),
}  # fmt: skip


def find(code: str) -> Page:
    """The page of ``code``, in any case and with or without its letters.

    :raises RecipeError: there is no such code; names the nearest.
    """
    name = code.upper()
    name = f"AX{int(name):03d}" if name.isdigit() else name
    if name in CODES:
        return CODES[name]
    near = get_close_matches(name, CODES, n=3, cutoff=0.6)
    raise RecipeError(
        f"no finding has the code {code!r}", f"near: {', '.join(near)}" if near else f"AX001 to {max(CODES)}"
    )


def explain(code: str) -> str:
    """The page as text: what it means, why it matters, the fix, an example."""
    page = find(code)
    name = next(each for each, other in CODES.items() if other is page)
    wrong, _, right = page.example.partition("->")
    rows = {
        "means": page.means,
        "matters": page.matters,
        "fix": page.fix,
        "wrong": wrong.strip(),
        "right": right.strip(),
    }
    lines = [f"{name}  {page.title}", *(f"  {word:<9}{text}" for word, text in rows.items() if text)]
    return "\n".join(lines)
