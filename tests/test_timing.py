"""Steps are exact where the data is here; time grows with work; what was assumed is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.forecast import architecture, hardware, timing
from ax_recipe.forecast.hardware import CPU, KINDS, Hardware, parse
from ax_recipe.forecast.settings import LIGER, resolve
from ax_recipe.forecast.timing import Data, Timing

H200 = parse("1xH200-141GB")
LLAMA = architecture.find("NousResearch/Meta-Llama-3.1-8B")
ROW = {"messages": [{"role": "user", "content": "x" * 400}, {"role": "assistant", "content": "y" * 800}]}
KEYS: dict[str, Any] = {
    "adapter": "qlora", "load_in_4bit": True, "lora_r": 16, "bf16": True, "sequence_len": 2048, "micro_batch_size": 2,
    "gradient_accumulation_steps": 4, "num_epochs": 3, "gradient_checkpointing": True,
}  # fmt: skip
DATA = Data(rows=1001, mean=300, usual=400, longest=900, source="rows.jsonl")


def timed(
    keys: dict[str, Any], gpus: str = "1xH200-141GB", data: Data | None = DATA, price: float | None = None
) -> Timing:
    on = parse(gpus)
    return timing.estimate(LLAMA, resolve(keys, on, LLAMA, data.longest if data else None), on, keys, data, price)


def test_steps_of_rows_one_by_one_are_exact() -> None:
    """1,001 rows three times, 8 or 32 to a step."""
    assert timed(KEYS).steps == 376
    assert timed({**KEYS, "num_epochs": 0.5}).steps == 63
    assert timed(KEYS, "4xH200-141GB").steps == 94
    assert timed({**KEYS, "max_steps": 12}).steps == 12


def test_packed_steps_follow_the_tokens() -> None:
    packed = timed({**KEYS, "sample_packing": True})
    assert packed.tokens_per_step == 2 * 4 * 2048
    tokens = packed.steps * packed.tokens_per_step / 3
    assert 1.0 <= tokens / (1001 * 300) < 1.15


def test_rows_without_packing_pay_for_the_longest_among_them() -> None:
    assert timed(KEYS).tokens_per_step == 2 * 4 * 300
    assert timed({**KEYS, "pad_to_sequence_len": True}).tokens_per_step == 2 * 4 * 2048
    even = Data(rows=1001, mean=300, usual=300, longest=300, source="rows.jsonl")
    many = {**KEYS, "micro_batch_size": 16}
    assert timed(many, data=even).tokens_per_second > 1.5 * timed(many).tokens_per_second


def test_long_rows_pay_for_what_they_attend_to() -> None:
    """An 8B Llama: as much work in attention as in its matrices at about 60,000 tokens, forward and backward."""
    packed = {**KEYS, "sequence_len": 65536, "sample_packing": True, "micro_batch_size": 1}
    short, long = (timed(packed, data=Data(1001, n, n, n, "rows.jsonl")).tokens_per_second for n in (300, 60_000))
    assert 0.4 < long / short < 0.6
    keys = {**packed, "attn_implementation": "flash_attention_2", "micro_batch_size": 1}
    wide, windowed = (
        timing.estimate(shape, resolve(keys, H200, shape), H200, keys, Data(1001, 60_000, 60_000, 60_000, "rows"))
        for shape in (LLAMA, replace(LLAMA, sliding_window=512))
    )
    assert windowed.tokens_per_second == pytest.approx(short, rel=0.02)
    assert windowed.tokens_per_second > 1.5 * wide.tokens_per_second


def test_the_row_of_a_usual_token_is_longer_than_the_usual_row(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "x" * 4 * (length - 6)}]} for length in (100, 100, 1000)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = timing.measure({"datasets": [{"path": "rows.jsonl"}]}, tmp_path)
    assert found == Data(3, 400, 850, 1000, "rows.jsonl")


def test_what_is_assumed_is_named() -> None:
    assert any("assumed" in line or "cannot be counted" in line for line in timed(KEYS, data=None).assumed)
    assert any("rows.jsonl" in line for line in timed(KEYS).assumed)
    assert timed(KEYS).assumed[0] == "within 35%"


def test_nothing_is_promised_of_a_cpu_or_of_data_that_is_assumed() -> None:
    on_cpu = timing.estimate(LLAMA, resolve(KEYS, CPU, LLAMA, DATA.longest), CPU, KEYS, DATA)
    assert not any("within" in line for line in (*on_cpu.assumed, *timed(KEYS, data=None).assumed))


def test_cost_is_what_the_gpus_cost_for_so_long() -> None:
    found = timed(KEYS, "4xH200-141GB", price=3.0)
    assert found.cost == pytest.approx(4 * 3.0 * found.seconds / 3600)
    assert timed(KEYS).cost is None


def test_what_makes_training_faster_does() -> None:
    packed = {**KEYS, "sample_packing": True}
    usual = timed(packed).tokens_per_second
    liger = {**packed, "plugins": [LIGER], "liger_rms_norm": True, "liger_glu_activation": True}
    assert timed(liger).tokens_per_second > usual
    assert timed({**packed, "gradient_checkpointing": False}).tokens_per_second > usual
    assert timed({**packed, "adapter": "lora", "load_in_4bit": False}).tokens_per_second > usual
    assert 3.5 < timed(packed, "4xH200-141GB").tokens_per_second / usual < 4
    assert timed(packed, "1xA100-80GB").tokens_per_second < usual


def test_every_known_gpu_has_rates_and_a_stranger_its_generations() -> None:
    for kind in KINDS.values():
        assert kind.name in timing._RATES
    stranger = Hardware(1, hardware.GpuKind("H20", 95.0, 90))
    assert timing.rates(stranger) == timing.rates(parse("1xH100-80GB"))
    assert timing.rates(CPU)[0] < 1


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_local_rows_are_counted_and_measured(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [ROW] * 99 + [{"messages": [{"role": "user", "content": "z" * 8000}]}])
    found = timing.measure({"datasets": [{"path": "rows.jsonl"}]}, tmp_path)
    assert found is not None
    assert (found.rows, found.longest) == (100, 2006)
    assert 300 < found.mean < 340
    held_out = timing.measure({"datasets": [{"path": "rows.jsonl"}], "val_set_size": 0.1}, tmp_path)
    assert held_out is not None
    assert held_out.rows == 90


def test_a_json_list_and_a_folder_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text(json.dumps([ROW] * 7), encoding="utf-8")
    found = timing.measure({"datasets": [{"path": "rows.json"}]}, tmp_path)
    assert found is not None
    assert found.rows == 7
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "a.jsonl", [ROW] * 3)
    found = timing.measure({"datasets": [{"path": "folder"}]}, tmp_path)
    assert found is not None
    assert found.rows == 3


@pytest.mark.parametrize("text", ["", "{broken\n", '{\n "a": [1]\n}\n'])
def test_data_of_another_form_is_not_guessed(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.jsonl").write_text(text, encoding="utf-8")
    assert timing.measure({"datasets": [{"path": "rows.jsonl"}]}, tmp_path) is None


def test_data_of_the_hub_is_not_here(tmp_path: Path) -> None:
    assert timing.measure({"datasets": [{"path": "owner/name"}]}, tmp_path) is None
    assert timing.measure({}, tmp_path) is None


def test_rows_beyond_the_sample_are_measured_by_their_bytes(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", [ROW] * 2500)
    found = timing.measure({"datasets": [{"path": "rows.jsonl"}]}, tmp_path)
    assert found is not None
    assert found.rows == 2500
    assert found.longest - found.mean < 2


@given(st.integers(1, 10**6), st.integers(1, 64), st.integers(1, 64), st.sampled_from([1, 2, 4, 8]))
def test_every_row_is_seen_and_no_step_is_empty(rows: int, micro: int, accumulation: int, gpus: int) -> None:
    keys = {**KEYS, "micro_batch_size": micro, "gradient_accumulation_steps": accumulation, "num_epochs": 1}
    steps = timed(keys, f"{gpus}xH200-141GB", Data(rows, 100, 100, 100, "rows")).steps
    a_step = micro * accumulation * gpus
    assert steps * a_step >= rows
    assert (steps - 1) * a_step < rows
