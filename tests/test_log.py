"""Every dialect of Axolotl's log is read, and no bytes whatever make the reader fail."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ax_recipe.observe import rules
from ax_recipe.observe.events import (
    Began,
    Completed,
    Config,
    Crashed,
    Evaluation,
    Event,
    Interrupted,
    Line,
    Metrics,
    Parameters,
    Phase,
    Saved,
    Step,
    Warned,
)
from ax_recipe.observe.folding import advance
from ax_recipe.observe.follow import Splitter
from ax_recipe.observe.log import LogReader, parse
from ax_recipe.observe.state import State

LOGS = Path(__file__).parent / "logs"
BAR = "  8%|▊         | 1/12 [00:03<00:42,  3.90s/it]"
STARTING = "[2026-11-22 11:26:40,008] [INFO] [axolotl.train] Starting trainer..."


def log(name: str) -> bytes:
    return (LOGS / f"axolotl-0.19.0-{name}.log").read_bytes()


def events(data: bytes) -> list[Event]:
    splitter = Splitter()
    found = splitter.split(data)
    closed = splitter.closed
    return parse(found + splitter.rest(), closed)


def metrics(lines: Iterable[str]) -> dict[str, float]:
    return dict(next(event for event in parse(lines) if isinstance(event, Metrics)).values)


def phases(name: str) -> list[str]:
    return [event.name for event in events(log(name)) if isinstance(event, Phase)]


def _rankless(event: Event) -> Event:
    return replace(event, rank=None) if isinstance(event, Crashed) else event


def steps(found: list[Event]) -> list[int]:
    return [event.step for event in found if isinstance(event, Step)]


MEMORY = {"active_gib": 25.45, "allocated_gib": 25.4, "reserved_gib": 30.22}


@pytest.mark.parametrize(
    "keys",
    [
        ("memory/max_active (GiB)", "memory/max_allocated (GiB)", "memory/device_reserved (GiB)"),
        ("memory/max_mem_active(gib)", "memory/max_mem_allocated(gib)", "memory/device_mem_reserved(gib)"),
        ("memory/max_memory_active(gib)", "memory/max_memory_allocated(gib)", "memory/device_memory_reserved(gib)"),
        ("memory/max_active(GiB)", "memory/max_allocated(GiB)", "memory/max_reserved (GiB)"),
    ],
)
@pytest.mark.parametrize("quote", ["", "'"])
def test_every_spelling_of_memory_and_numbers(keys: tuple[str, str, str], quote: str) -> None:
    pairs = zip(keys, MEMORY.values(), strict=True)
    memory = ", ".join(f"'{key}': {quote}{value}{quote}" for key, value in pairs)
    found = metrics([f"{{'loss': {quote}4.75{quote}, 'grad_norm': {quote}98.5{quote}, {memory}, 'epoch': 1.0}}"])
    assert found == {"loss": 4.75, "grad_norm": 98.5, **MEMORY, "epoch": 1.0}


def test_memory_of_axolotl_0_11_stands_on_a_line_of_its_own() -> None:
    line = (
        "[2025-06-01 10:00:00,000] [INFO] [axolotl.callbacks.on_step_end:128] [PID:7] [RANK:0] "
        "cuda memory usage while training: 12.345GB (+1.255GB cache, +1.000GB misc)"
    )
    assert metrics([line]) == pytest.approx({"allocated_gib": 12.345, "reserved_gib": 13.6})


def test_nan_and_inf_are_numbers() -> None:
    found = metrics(["{'loss': '0', 'grad_norm': 'nan', 'learning_rate': 'inf', 'ppl': inf}"])
    assert math.isnan(found["grad_norm"])
    assert found["learning_rate"] == found["perplexity"] == math.inf


def test_a_value_that_is_no_number_costs_only_itself() -> None:
    line = "{'loss': '1.5', 'note': 'hello', 'grad_norm': '2'}"
    assert metrics([line]) == {"loss": 1.5, "grad_norm": 2.0}
    assert metrics([line, line]) == {"loss": 1.5, "grad_norm": 2.0}


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "[default0]:",
        "[rank0]: ",
        "(RayTrainWorker pid=12585) ",
        "\x1b[36m(RayTrainWorker pid=7, ip=10.0.0.2)\x1b[0m ",
    ],
)
def test_a_prefix_before_every_line_changes_nothing(prefix: str) -> None:
    lines = [STARTING, BAR, "{'loss': '1.5', 'grad_norm': '2', 'epoch': '0.1'}", BAR]
    plain = [event for event in parse(lines) if not isinstance(event, Line)]
    found = [event for event in parse(prefix + line for line in lines) if not isinstance(event, Line)]
    assert found == plain


@pytest.mark.parametrize("name", ["2ranks-ok", "2ranks-missing-dataset", "1gpu-out-of-memory", "interrupted"])
@pytest.mark.parametrize(
    "prefix",
    [
        "2026-11-20T09:12:33.123456789Z ",
        "2026-11-20T09:12:33.123456789Z stderr F ",
        "2026-11-20 09:12:33 ",
        "[pod/trainer-0/main] ",
        "[pod/trainer-0/main] 2026-11-20T09:12:33.1Z ",
        "trainer-1  | ",
        "Nov 20 09:12:33 ",
        "Nov 20 09:12:33 gpu1 axolotl[1821]: ",
        "train\tRun\t2026-11-20T09:12:33.1234567Z ",
        "0: ",
    ],
)
def test_what_collectors_put_before_lines_changes_no_end_and_no_number(name: str, prefix: str) -> None:
    plain = log(name).decode()
    kept = "".join(prefix + line for line in plain.splitlines(keepends=True))
    told = (Config, Metrics, Evaluation, Crashed, Interrupted)
    ends = [[event for event in events(text.encode()) if isinstance(event, told)] for text in (plain, kept)]
    assert [_rankless(event) for event in ends[1]] == [_rankless(event) for event in ends[0]]
    assert ends[0]


def test_a_terminal_that_shows_a_key_before_a_traceback_hides_nothing() -> None:
    assert isinstance(parse(["^CTraceback (most recent call last):", "KeyboardInterrupt"])[-1], Crashed)


def test_the_total_is_read_where_no_bar_tells_it() -> None:
    line = "[INFO|trainer.py:2409] 2026-11-22 13:00:00,123 >>   Total optimization steps = 1,200"
    assert Began(1200) in parse([line])


def test_a_bar_and_what_is_glued_behind_it_are_both_read() -> None:
    found = parse([STARTING, BAR + "[default0]:{'loss': '1.5'}", BAR.replace("1/12", "2/12") + STARTING])
    assert steps(found) == [1, 2]
    assert [event.values for event in found if isinstance(event, Metrics)] == [{"loss": 1.5}]
    assert [event.name for event in found if isinstance(event, Phase)][-1] == "compiling"


def test_only_the_trainers_bar_counts_steps() -> None:
    found = events(log("4gpu-ok"))
    assert steps(found) == list(range(21))
    assert {event.total_steps for event in found if isinstance(event, Step)} == {20}


@pytest.mark.parametrize("total", [12, 5])
def test_an_evaluations_bar_is_not_the_trainers_even_with_the_same_total(total: int) -> None:
    evaluating = STARTING.replace("Starting trainer", "Running evaluation step")
    bars = [f"  0%|   | {n}/{total} [00:00<00:00, 9.00it/s]" for n in range(total)]
    full = f"100%|███| {total}/{total} [00:00<00:00, 9.00it/s]"
    told = "{'eval_loss': '1.5', 'eval_runtime': '2', 'epoch': '0.1'}"
    found = parse([STARTING, BAR, evaluating, *bars, told, BAR, full, BAR.replace("1/12", "2/12")])
    assert steps(found) == [1, 2]


def test_a_bar_that_lags_behind_its_metrics_gives_them_their_step_afterwards() -> None:
    """Tqdm draws at most ten times a second, but always after a text: the bar behind the metrics is exact."""
    first, second = "{'loss': '1.5', 'epoch': '0.1'}", "{'loss': '1.4', 'epoch': '0.4'}"
    found = parse([STARTING, BAR, first, BAR, second, BAR.replace("1/12", "4/12")])
    assert [event.step for event in found if isinstance(event, Metrics)] == [1, 2]
    assert [(event.step, event.corrects) for event in found if isinstance(event, Step)] == [(1, False), (4, True)]


def test_without_any_bar_the_metrics_count_the_steps() -> None:
    config = ["[2026-11-22 11:26:26,674] [INFO] [axolotl.cli.config] config:", "{", '  "logging_steps": 5', "}"]
    found = parse([*config, *(f"{{'loss': '{n}.5', 'epoch': '0.{n}'}}" for n in range(1, 4))])
    assert [event.step for event in found if isinstance(event, Metrics)] == [5, 10, 15]


def test_phases_of_a_run_in_their_order() -> None:
    order = ("importing", "preparing", "loading", "quantising", "compiling", "training", "saving", "finished")
    assert phases("1gpu-ok") == list(order)
    assert phases("1gpu-killed-while-compiling")[-1] == "compiling"
    assert phases("merge-lora")[-2:] == ["merging", "finished"]
    assert phases("evaluate")[-2:] == ["evaluating", "finished"]
    found = phases("ok")
    assert found.index("evaluating") < found.index("training") < found.index("saving") < found.index("finished")


def test_the_configuration_is_read_whole_though_bars_run_into_it() -> None:
    for name, ranks in (("4gpu-ok", 4), ("2ranks-tee-ok", 2), ("1gpu-ok", 1)):
        config = next(event for event in events(log(name)) if isinstance(event, Config))
        assert config.values["world_size"] == ranks
        assert len(config.values) > 80


def test_what_a_whole_run_tells() -> None:
    found = events(log("ok"))
    assert [event.step for event in found if isinstance(event, Metrics)] == list(range(1, 13))
    assert [event.step for event in found if isinstance(event, Evaluation)] == [0, 5, 10, 12]
    saved = [(event.path, event.step) for event in found if isinstance(event, Saved)]
    assert saved == [("./out/checkpoint-6", 6), ("./out/checkpoint-12", 12)]
    assert next(event for event in found if isinstance(event, Parameters)).trainable == 155_648
    summary = next(event for event in found if isinstance(event, Completed) and event.values)
    assert summary.values["train_loss"] == 1.643


@pytest.mark.parametrize(
    ("name", "text", "rank"),
    [
        ("missing-dataset", "ValueError: The dataset could not be loaded.", None),
        ("2ranks-missing-dataset", "ValueError: The dataset could not be loaded.", 1),
        ("2ranks-killed-rank", "failed (exitcode: -9) local_rank: 1", 1),
        ("2ranks-interrupted", "KeyboardInterrupt", 1),
    ],
)
def test_tracebacks_and_dead_ranks_are_crashes(name: str, text: str, rank: int | None) -> None:
    crashes = [event for event in events(log(name)) if isinstance(event, Crashed)]
    assert any(crash.text.startswith(text) and crash.rank in (rank, None) for crash in crashes)


def test_a_plugin_that_cannot_be_imported_is_a_warning_not_a_crash() -> None:
    found = events(log("plugin-not-importable"))
    assert not [event for event in found if isinstance(event, Crashed)]
    assert any(event.text.startswith("Failed to load plugin") for event in found if isinstance(event, Warned))


def test_leaving_through_the_interrupt_handler_closes_the_bar() -> None:
    assert [event for event in events(log("interrupted")) if isinstance(event, Interrupted)]
    for name in ("killed", "terminated", "1gpu-killed-while-compiling", "ok"):
        assert not [event for event in events(log(name)) if isinstance(event, Interrupted)]


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB",
        "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "Segmentation fault (core dumped)",
        "Killed",
        "/var/spool/job/script: line 14:  3117 Killed                  axolotl train config.yml",
        "job.sh: line 3:  4242 Segmentation fault      (core dumped) axolotl train config.yml",
        "bash: line 1: axolotl: command not found",
        "Accelerate CLI tool: error: unrecognized arguments: --lerning-rate",
        "Error: No such option: --lerning-rate",
        "[2025-09-14 10:22:01,420] [ERROR] [launch.py:325] ['python', 'c.yml'] exits with return code = -9",
        "slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch. Some of the step tasks have been OOM Killed.",
    ],
)
def test_ends_that_no_python_traceback_tells_of(line: str) -> None:
    assert any(isinstance(event, Crashed) for event in parse([line]))


def test_a_traceback_in_a_frame_is_one() -> None:
    frame = ["╭───── Traceback (most recent call last) ─────╮", "│ train.py:213 in train   │", "╰─────────╯"]
    assert isinstance(parse([*frame, "OutOfMemoryError: CUDA "])[-1], Crashed)


def test_a_time_limit_is_an_interruption() -> None:
    line = "slurmstepd: error: *** JOB 12 ON node1 CANCELLED AT 2026-11-22T13:00:00 DUE TO TIME LIMIT ***"
    assert isinstance(parse([line])[-1], Interrupted)


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_random_bytes_never_fail(pieces: list[bytes]) -> None:
    events(b"\n".join(pieces))


WORDS = [
    "{'loss': '1",
    "}",
    "'epoch': ",
    "[default0]:",
    "(x pid=1) ",
    "Traceback (most recent call last):",
    " 5%|",
    "| 1/2 [",
]
WORDS += [
    "00:01<00:00, 1it/s]",
    "\x1b[0m",
    "[2026-11-22 11:26:40,008] [INFO] [axolotl] ",
    "config:",
    "{",
    '"a": 1',
    "\n",
    "\r",
]
WORDS += ["Starting trainer...", "[9999-99-99 99:99:99,999] [INFO] [x] ", "ValueError: x", "nan", "eval_loss: 1e", ","]


@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join))
def test_pieces_of_real_lines_in_any_order_never_fail(text: str) -> None:
    events(text.encode())


STAMP = "[2026-11-22 11:26:40,008] [INFO] [axolotl] "
LONG = "9" * 5000  # digits, more than Python makes a number of


@pytest.mark.parametrize(
    "line",
    [
        f" 8%|# | {LONG}/12 [00:03<00:42,  3.90s/it]",
        f" 8%|# | 1/12 [0{':0' * 5000}<00:42,  3.90s/it]",
        " 8%|# | 1/12 [00:03<00:42,  1.2.3s/it]",
        f"[2026-11-22 11:26:40,008] [INFO] [axolotl] [RANK:{LONG}] Starting trainer...",
        f"[rank{LONG}]: ValueError",
        f"{STAMP}Saving checkpoint to out/checkpoint-{LONG}",
        f"{STAMP}eval_loss: 1.2.3",
        f"{STAMP}cuda memory usage while training: 1.2.3GB (+...GB cache)",
        f"Total optimization steps = {LONG}",
        f"failed (exitcode: -9) local_rank: {LONG} (pid: 1) of",
        f"trainable params: {LONG} || all params: {LONG}",
        f"{STAMP}config:\n{'[' * 100_000}\n}}",
        f'{STAMP}config:\n{{\n  "logging_steps": Infinity, "num_epochs": [1]\n}}',
    ],
)
def test_numbers_that_no_program_prints_never_fail(line: str) -> None:
    events(line.encode())


@pytest.mark.parametrize("value", ['"abc"', "[1]", '{"a": 1}', "1e999", "NaN"])
def test_a_configuration_of_anything_can_be_judged(value: str) -> None:
    keys = ("warmup_steps", "warmup_ratio", "val_set_size", "cosine_min_lr_ratio", "lr_scheduler", "save_steps")
    config = ", ".join(f'"{key}": {value}' for key in keys)
    state = State()
    steps = [
        f"{{'loss': 1.0, 'learning_rate': 1e-4}}\n 8%|# | {step}/40 [00:0{step}<00:42, 1s/it]" for step in range(1, 9)
    ]
    for event in events("\n".join([f'{STAMP}config:\n{{\n  "learning_rate": 2e-4, {config}\n}}', *steps]).encode()):
        advance(state, event)
    assert (state.step, rules.judge(state).severity) == (8, "WATCH")


@pytest.mark.parametrize("name", ["ok", "2ranks-tee-ok", "2ranks-missing-dataset"])
def test_a_log_cut_anywhere_is_read_up_to_there(name: str) -> None:
    data = log(name)
    whole = [event for event in events(data) if isinstance(event, Metrics)]
    for end in [*range(0, 400), *range(400, len(data), 97), len(data)]:
        found = [event for event in events(data[:end]) if isinstance(event, Metrics)]
        assert found[:-1] == whole[: len(found)][: max(0, len(found) - 1)]


def test_lines_of_ranks_shuffled_into_each_other_keep_every_metric() -> None:
    """Between two lines of rank 0 any number of other ranks' lines may stand."""
    splitter = Splitter()
    own = splitter.split(log("ok"))
    other = [line for line in splitter.split(log("2ranks-killed-rank")) if "%|" not in line and "{'" not in line][:60]
    order = random.Random(7)
    mixed = list(own)
    for line in other:
        if not line.startswith("Traceback"):
            mixed.insert(order.randrange(len(mixed)), f"[rank1]: {line}")
    plain = [event.values for event in parse(own) if isinstance(event, Metrics)]
    assert [event.values for event in parse(mixed) if isinstance(event, Metrics)] == plain


def test_a_reader_that_gets_the_lines_one_by_one_tells_the_same() -> None:
    data = log("4gpu-ok")
    splitter, reader, found = Splitter(), LogReader(), []
    for index in range(0, len(data), 61):
        for line in splitter.split(data[index : index + 61]):
            found += reader.feed(line)
    found += reader.finish(splitter.closed)
    assert found == events(data)
