"""The merge doctor: is the merged folder the model that was trained? Read from files alone, and mended where it can be.

What it looks for are the ways in which Axolotl 0.19's default merge (``memory_efficient``) leaves a folder that loads
and answers, but wrongly: it takes every small file of the base, so the trained tokenizer and chat template are
missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ax_recipe.errors import AxRecipeError
from ax_recipe.ship import tokenizer, weights
from ax_recipe.ship.files import read_json
from ax_recipe.ship.weights import Tensor

Verdict = Literal["ok", "mended", "warning", "error"]

MOST = 0.1
"""What a merge may lose of what its adapter changes, both as divergences, and still be that model."""


@dataclass(frozen=True, slots=True)
class Check:
    """One question to the folder and its answer; ``detail`` is for a person to read."""

    name: str
    verdict: Verdict
    detail: str

    def as_json(self) -> dict[str, str]:
        """What ``--json`` of any verb tells of it."""
        return {"name": self.name, "verdict": self.verdict, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Folders:
    """The merged model; the run's output_dir (adapter and tokenizer) and the base model's folder, where known."""

    merged: Path
    trained: Path | None = None
    base: Path | None = None


def examine(folders: Folders) -> tuple[Check, ...]:
    """Every check that these folders allow; nothing is changed. A check that cannot be made is not listed."""
    return tuple(check for question in _QUESTIONS for check in _asked(question, folders))


def _asked(question: Callable[[Folders], Iterator[Check]], folders: Folders) -> Iterator[Check]:
    name = "tokenizer" if question is tokenizer_is_trained else question.__name__.strip("_").replace("_", " ")
    try:
        yield from question(folders)
    except AxRecipeError as error:
        yield Check(name, "error", error.message)


def drift(measured: Mapping[str, Any], *, four_bit: bool) -> Check:
    """The verdict on what ``compare_logits.py`` measured; a merge is rounded to 16 bits, so it is never quite equal.

    An adapter that has learnt little is partly lost in that: where most of what it changes is kept, this is no error.
    """
    agreement, lost, moved = measured["top1_agreement"], measured["mean_kl"], measured["adapter_kl"]
    verdict: Verdict = "ok" if agreement >= 0.98 else "warning" if agreement >= 0.9 or lost < MOST * moved else "error"
    against = f"the base{' in 4 bit' if four_bit else ''} with the adapter"
    return Check(
        "logits",
        verdict,
        f"against {against}, at {measured['tokens']} tokens in {measured['dtype']}: the likeliest token is the same at"
        f" {agreement:.1%}, divergence {lost:.2g} nats (the adapter itself makes {moved:.2g}), no logit off by more"
        f" than {measured['max_abs_diff']:.2g}",
    )


def _weights(folders: Folders) -> Iterator[Check]:
    found = weights.of_folder(folders.merged)
    if not found:
        yield Check("weights", "error", f"{folders.merged} has no safetensors weights")
        return
    indexed = set(read_json(folders.merged / weights.INDEX).get("weight_map", {}))
    if indexed and indexed != set(found):
        names = ", ".join(sorted(indexed ^ set(found))[:3])
        yield Check("weights", "error", f"the index and the files disagree on {names}; merge again into a new folder")
        return
    size = sum(tensor.stop - tensor.start for tensor in found.values())
    yield Check("weights", "ok", f"{len(found)} tensors, {size / 2**20:.1f} MiB, every file whole")


def _stale_files(folders: Folders) -> Iterator[Check]:
    strays = weights.strays(folders.merged)
    if strays:
        names = ", ".join(str(path.relative_to(folders.merged)) for path in strays)
        yield Check("stale files", "warning", f"{names}: no part of the model, but `ollama create` would take it")
    else:
        yield Check("stale files", "ok", "no weight files beside the model's own")


def _precision(folders: Folders) -> Iterator[Check]:
    config = read_json(folders.merged / "config.json")
    if "quantization_config" in config:
        method = config["quantization_config"].get("quant_method", "unknown")
        yield Check(
            "precision", "error", f"the weights are quantised ({method}); merge onto the full-precision base model"
        )
        return
    kinds = {tensor.dtype for tensor in weights.of_folder(folders.merged).values() if len(tensor.shape) > 1}
    if not kinds <= {"F32", "F16", "BF16"}:
        yield Check("precision", "error", f"weights of type {', '.join(sorted(kinds))} cannot be converted for Ollama")
    elif "F32" in kinds:
        yield Check("precision", "warning", "weights are F32: twice the disk space, and a GGUF has them in F16")
    else:
        yield Check("precision", "ok", ", ".join(sorted(kinds)))


def input_embedding(found: Mapping[str, Tensor]) -> Tensor | None:
    """The token embedding among a model's tensors."""
    names = [name for name in found if name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight"))]
    return found[min(names, key=len)] if names else None


def _text_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _vocabulary(folders: Folders) -> Iterator[Check]:
    embedding = input_embedding(weights.of_folder(folders.merged))
    if embedding is not None and not tokenizer.has_vocabulary(folders.merged):
        yield Check("vocabulary", "error", "no tokenizer.json, tokenizer.model or vocab.json beside the weights")
        return
    told = _text_config(folders.merged).get("vocab_size")
    size = tokenizer.load(folders.merged).vocabulary
    if embedding is None or size is None:
        return
    rows = embedding.shape[0]
    detail = f"tokenizer {size}, embedding rows {rows}, config {told}"
    if size > rows:
        yield Check("vocabulary", "error", f"{detail}: tokens without an embedding")
    elif told is not None and told != rows:
        yield Check("vocabulary", "error", f"{detail}: config.json and the weights disagree")
    else:
        yield Check("vocabulary", "ok", detail)


def tokenizer_is_trained(folders: Folders) -> Iterator[Check]:
    """Whether the merge has the trained tokenizer: the same ids and end tokens."""
    if folders.trained is None:
        return
    trained, merged = tokenizer.load(folders.trained), tokenizer.load(folders.merged)
    missing = [text for text, i in trained.ids.items() if merged.ids.get(text) != i]
    ends = (trained.tokens.bos, trained.tokens.eos) == (merged.tokens.bos, merged.tokens.eos)
    if missing:
        some = ", ".join(missing[:5])
        yield Check("tokenizer", "error", f"not the trained one: {len(missing)} tokens missing or moved ({some})")
    elif not ends:
        yield Check("tokenizer", "error", f"its end token is {merged.tokens.eos}, trained was {trained.tokens.eos}")
    else:
        yield Check("tokenizer", "ok", f"the trained one, {trained.vocabulary} tokens")


def _chat_template(folders: Folders) -> Iterator[Check]:
    merged = read_json(folders.merged / "tokenizer_config.json").get("chat_template")
    trained = tokenizer.chat_template(folders.trained or folders.merged)
    if trained is None and merged is None:
        yield Check("chat template", "warning", "none: give the format of the data, or Ollama falls back on ChatML")
    elif not isinstance(merged, str):
        yield Check(
            "chat template", "error", "not inside tokenizer_config.json: Ollama would fall back on ChatML in silence"
        )
    elif trained is not None and merged != trained:
        yield Check("chat template", "error", "not the one that was trained with")
    else:
        yield Check("chat template", "ok", "inside tokenizer_config.json, as trained")


def _end_of_text(folders: Folders) -> Iterator[Check]:
    tokens = tokenizer.load(folders.trained or folders.merged)
    eos, ends = tokens.tokens.eos, tokenizer.end_ids(folders.merged)
    if eos is None or eos not in tokens.ids:
        yield Check("end of text", "warning", "the tokenizer has no end token: answers end by the stops alone")
    elif tokens.ids[eos] not in ends:
        yield Check("end of text", "error", f"{eos} ({tokens.ids[eos]}) is not among the model's end tokens {ends}")
    else:
        yield Check("end of text", "ok", f"{eos} ({tokens.ids[eos]})")


def _adapter(folders: Folders) -> dict[str, Tensor]:
    file = folders.trained / "adapter_model.safetensors" if folders.trained else None
    return weights.tensors(file) if file and file.is_file() else {}


def _target(name: str) -> str:
    """The merged model's name for an adapter's tensor."""
    name = (
        name.removeprefix("base_model.model.")
        .replace(".modules_to_save.default.", ".")
        .replace(".modules_to_save.", ".")
    )
    for part in (".lora_A.weight", ".lora_B.weight", ".lora_A.default.weight", ".lora_B.default.weight"):
        name = name.removesuffix(part) + ".weight" if name.endswith(part) else name
    return name


def _lora_pairs(folders: Folders) -> Iterator[Check]:
    adapter, merged = _adapter(folders), weights.of_folder(folders.merged)
    downs = {_target(name): tensor for name, tensor in adapter.items() if ".lora_A." in name}
    ups = {_target(name): tensor for name, tensor in adapter.items() if ".lora_B." in name}
    if not downs and not ups:
        return
    alone = sorted(downs.keys() ^ ups.keys())
    odd = [name for name in downs.keys() & ups.keys() if not _fits(merged.get(name), downs[name], ups[name])]
    if alone or odd:
        names = ", ".join((*alone, *sorted(odd))[:3])
        yield Check("lora pairs", "error", f"{len(alone) + len(odd)} of {len(ups)} fit no weight of the merge: {names}")
        return
    base = weights.of_folder(folders.base) if folders.base else {}
    kept = [name for name in ups if name in base and weights.same(merged[name], base[name])]
    lost = sorted(name for name in kept if not weights.all_zero(ups[name]))
    if lost:
        verdict: Verdict = "error" if len(lost) == len(ups) else "warning"
        yield Check("lora pairs", verdict, f"{len(lost)} of {len(ups)} weights equal the base's: {', '.join(lost[:3])}")
        return
    changed = f", {len(ups) - len(kept)} weights differ from the base" if base else ""
    yield Check("lora pairs", "ok", f"{len(ups)} pairs, each with its weight{changed}")


def _fits(weight: Tensor | None, down: Tensor, up: Tensor) -> bool:
    if weight is None or down.shape[0] != up.shape[1]:
        return False
    return {weight.shape, weight.shape[::-1]} >= {(up.shape[0], down.shape[1])}


def trained_whole(folders: Folders) -> dict[str, Tensor]:
    """What the adapter holds as whole tensors (``modules_to_save``), by the merged model's names."""
    skipped = (".lora_", ".original_module.")
    whole = {name: t for name, t in _adapter(folders).items() if not any(part in name for part in skipped)}
    # PEFT writes resized embeddings twice; what it trained is the one in modules_to_save.
    return {_target(name): whole[name] for name in sorted(whole, key=lambda name: ".modules_to_save." in name)}


def _trained_in_full(folders: Folders) -> Iterator[Check]:
    whole = trained_whole(folders)
    if not whole:
        return
    merged = weights.of_folder(folders.merged)
    tied = bool(_text_config(folders.merged).get("tie_word_embeddings"))
    embedding = input_embedding(merged)
    for name, tensor in sorted(whole.items()):
        found = merged.get(name) or (embedding if tied and name == "lm_head.weight" else None)
        if found is None or not close(tensor, found):
            lost = "its head is tied to the embeddings" if name not in merged and tied else "the merge has other values"
            yield Check("trained in full", "error", f"{name} is lost: {lost}; merge with `merge_method: legacy`")
            return
    yield Check("trained in full", "ok", f"{', '.join(sorted(whole))}: values as trained")


_WIDE = ("F32", "F16", "BF16")


def moved(folders: Folders) -> Iterator[tuple[Tensor, Tensor]]:
    """The embeddings and heads of the merge that are not the base's, although nothing trained them; each with those.

    bitsandbytes leaves them as they are when it puts a base into 4 bit, but Axolotl 0.19 takes every matrix through 4
    bit when it merges a QLoRA.
    """
    adapter = _adapter(folders)
    if not adapter or folders.base is None:
        return
    base, merged = weights.of_folder(folders.base), weights.of_folder(folders.merged)
    trained = {_target(name) for name in adapter}
    embedding = input_embedding(base)
    for name in (embedding.name if embedding else "", "lm_head.weight"):
        one, other = merged.get(name), base.get(name)
        alike = one and other and (one.shape, one.dtype) == (other.shape, other.dtype) and one.dtype in _WIDE
        if one and other and alike and name not in trained and not weights.same(one, other):
            yield one, other


def is_rounding(one: Tensor, other: Tensor) -> bool:
    """Whether ``one`` can be ``other`` after 4 bit: off by no more than a sixth of a block's largest (NF4)."""
    pairs = list(zip(weights.sample(one), weights.sample(other), strict=True))
    return max(abs(a - b) for a, b in pairs) <= max(abs(b) for _, b in pairs) / 6


def _embeddings(folders: Folders) -> Iterator[Check]:
    for one, other in moved(folders):
        if is_rounding(one, other):
            said = "went through 4 bit in the merge, but not in training (Axolotl's QLoRA merge)"
            yield Check("embeddings", "warning", f"{one.name} {said}")
        else:
            yield Check(
                "embeddings", "error", f"{one.name} is not the base's, and nothing trained it; is the base another?"
            )


def close(trained: Tensor, merged: Tensor) -> bool:
    """Equal but for rounding to the merge's type, on the first values."""
    if trained.shape != merged.shape:
        return False
    if trained.dtype == merged.dtype:
        return weights.same(trained, merged)
    tolerance = 2**-7 if "BF16" in (trained.dtype, merged.dtype) else 2**-10
    pairs = zip(weights.sample(trained), weights.sample(merged), strict=True)
    return all(abs(a - b) <= tolerance * abs(a) + 1e-7 for a, b in pairs)


def _rope(folders: Folders) -> Iterator[Check]:
    config = _text_config(folders.merged)
    if "rope_parameters" in config and "rope_theta" not in config:
        yield Check(
            "rope", "warning", "config.json has only rope_parameters (transformers 5), which Ollama's import ignores"
        )
    elif "rope_theta" in config or "rope_parameters" in config:
        yield Check("rope", "ok", f"rope_theta {config.get('rope_theta')}")


IMPORTED = frozenset(
    (
        *("LlamaForCausalLM", "MllamaForConditionalGeneration", "Llama4ForConditionalGeneration", "MixtralForCausalLM"),
        *("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM", "GemmaForCausalLM", "Gemma2ForCausalLM"),
        *("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Gemma3TextModel", "Gemma3nForConditionalGeneration"),
        *("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration", "Phi3ForCausalLM", "Qwen2ForCausalLM"),
        *(
            "Qwen2_5_VLForConditionalGeneration",
            "Qwen3VLForConditionalGeneration",
            "Qwen3VLMoeForConditionalGeneration",
        ),
        *("Qwen3NextForCausalLM", "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration"),
        *(
            "Olmo3ForCausalLM",
            "CohereForCausalLM",
            "GptOssForCausalLM",
            "DeepseekV3ForCausalLM",
            "NemotronHForCausalLM",
        ),
        *("Glm4MoeLiteForCausalLM", "LagunaForCausalLM", "Lfm2ForCausalLM", "Lfm2MoeForCausalLM"),
    )
)
"""``architectures`` whose safetensors Ollama converted itself until 0.34 (its convert package); others need a GGUF."""


def _architecture(folders: Folders) -> Iterator[Check]:
    config = read_json(folders.merged / "config.json")
    names = config.get("architectures") or ["none"]
    if not config.get("architectures") and not config.get("model_type"):
        yield Check("architecture", "error", "config.json is missing, or does not say what the weights are")
        return
    if names[0] in IMPORTED:
        yield Check("architecture", "ok", f"{names[0]}: an Ollama before 0.34.1 imports it, any takes its GGUF")
    else:
        yield Check(
            "architecture", "warning", f"{names[0]}: Ollama cannot import it; a GGUF by llama.cpp's converter can"
        )


SPLITS = {
    "d98f9631be1e9607a9848c26c1f9eac1aa9fc21ac6ba82a2fc0741af9780a48f": "llama-bpe",
    "03df5c5863ad70781dcfdef491ead25140f895fe8010964be0daefe27be32b02": "deepseek-llm",
    "21cde974d587f0d54dc8d56b183cc1e6239600172035c68fbd6d4b9f8da0576e": "deepseek-coder",
    "1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e": "qwen2",
    "00431aed57e696b747435f734d1e3b9b1bfd931a121fb5cac7129e97c181e9ba": "qwen35",
    "b92c0824a58e1d8dc3221cf3e12c433c3a86f57e46d57229993489f0798e7702": "laguna",
}
"""The ways to split text that Ollama 0.33's import knows, by the sha256 of the tokenizer's expressions for it."""


def _pre_tokenizer(folders: Folders) -> Iterator[Check]:
    """Whether Ollama's own import would split text into the tokens that were trained; it says nothing where not."""
    model = read_json(folders.merged / "tokenizer.json")
    if model.get("model", {}).get("type") != "BPE" or (folders.merged / "tokenizer.model").is_file():
        return
    found = model.get("pre_tokenizer") or {}
    parts = found.get("pretokenizers") or []
    patterns = "".join(part["pattern"].get("Regex", "") for part in parts if part.get("type") == "Split")
    known = SPLITS.get(hashlib.sha256(patterns.encode()).hexdigest())
    if known:
        yield Check("pre-tokenizer", "ok", f"text is split as {known} does, which Ollama's import knows")
    else:
        said = "Ollama's import does not know how this tokenizer splits text, so tokens may differ from training"
        yield Check("pre-tokenizer", "warning", f"{said}; a GGUF by llama.cpp's converter keeps them")


_QUESTIONS: tuple[Callable[[Folders], Iterator[Check]], ...] = (
    *(_weights, _stale_files, _precision, tokenizer_is_trained, _vocabulary, _chat_template, _end_of_text),
    *(_lora_pairs, _embeddings, _trained_in_full, _rope, _architecture, _pre_tokenizer),
)
