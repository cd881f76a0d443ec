"""Which checkpoints training can go on from: torn ones in every way that a kill, a full disk or a copy tears them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from ax_recipe.survive import checkpoints
from ax_recipe.survive.checkpoints import Checkpoint
from conftest import ROOT

save: Callable[..., None] = runpy.run_path(str(ROOT / "tests/bin/axolotl"))["save"]


def made(output: Path, *steps: int, ranks: int = 1) -> list[Path]:
    folders = [output / f"checkpoint-{step}" for step in steps]
    for folder, step in zip(folders, steps, strict=True):
        save(folder, step, ranks)
    return folders


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7])


def gone(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def of_step_9(folder: Path) -> None:
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 9}))


TEARS = [
    (cut("adapter_model.safetensors"), "cut short"),
    (cut("optimizer.pt"), "optimizer.pt is cut short"),
    (cut("scheduler.pt"), "scheduler.pt is cut short"),
    (cut("rng_state.pth"), "rng_state.pth is cut short"),
    (cut("trainer_state.json"), "trainer_state.json is cut short"),
    (gone("trainer_state.json"), "no trainer_state.json"),
    (gone("optimizer.pt"), "no optimizer"),
    (gone("scheduler.pt"), "no scheduler.pt"),
    (gone("rng_state.pth"), "no rng_state.pth"),
    (gone("adapter_model.safetensors"), "no weights"),
    (of_step_9, "not that of step 40"),
    (lambda folder: (folder / "tokens_state.json").write_text(""), "tokens_state.json is empty"),
    (lambda folder: (folder / "checkpoint-is-incomplete.txt").write_text("x"), "did not come to its end"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "b"}}'), "b is missing"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text('{"weig'), "is not JSON"),
]


@pytest.mark.parametrize(("tear", "words"), TEARS)
def test_a_torn_checkpoint_is_set_aside_whole_and_the_one_before_it_is_taken(
    tear: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    before, torn = made(tmp_path, 20, 40)
    tear(torn)
    files = {path.name for path in torn.iterdir()}
    found, aside = checkpoints.settle(tmp_path)
    assert found == Checkpoint(before, 20)
    assert [each.path.name for each in aside] == ["torn-checkpoint-40"]
    assert words in str(aside[0])
    assert {path.name for path in aside[0].path.iterdir()} == files
    assert checkpoints.settle(tmp_path) == (found, ())


def test_whole_ones_are_left_alone_and_the_newest_is_the_one_of_the_last_step(tmp_path: Path) -> None:
    made(tmp_path, 5, 40, 100)
    assert checkpoints.settle(tmp_path) == (Checkpoint(tmp_path / "checkpoint-100", 100), ())


def test_what_is_set_aside_twice_keeps_both(tmp_path: Path) -> None:
    for _ in range(2):
        (torn,) = made(tmp_path, 40)
        (torn / "optimizer.pt").unlink()
        assert checkpoints.settle(tmp_path)[0] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["torn-checkpoint-40", "torn-checkpoint-40.2"]


def test_each_rank_needs_its_own_random_state(tmp_path: Path) -> None:
    (folder,) = made(tmp_path, 40, ranks=2)
    assert checkpoints.newest(tmp_path, 2) == Checkpoint(folder, 40)
    assert checkpoints.newest(tmp_path, 3) is None
    assert checkpoints.flaw(Checkpoint(folder, 40), 3) == "no rng_state_2.pth in it"


def test_a_sharded_optimizer_needs_the_file_that_is_written_last(tmp_path: Path) -> None:
    (folder,) = made(tmp_path, 40)
    (folder / "optimizer.pt").unlink()
    (folder / "optimizer_0").mkdir()
    (folder / "optimizer_0" / "__0_0.distcp").write_bytes(b"piece")
    assert checkpoints.flaw(Checkpoint(folder, 40)) == "optimizer_0 has no .metadata"
    (folder / "optimizer_0" / ".metadata").write_bytes(b"index")
    assert checkpoints.flaw(Checkpoint(folder, 40)) == ""


def test_deepspeed_keeps_weights_and_optimizer_in_a_folder_of_its_own(tmp_path: Path) -> None:
    (folder,) = made(tmp_path, 40)
    (folder / "global_step40").mkdir()
    (folder / "optimizer.pt").rename(folder / "global_step40" / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (folder / "adapter_model.safetensors").unlink()
    assert checkpoints.newest(tmp_path) is None
    (folder / "latest").write_text("global_step40\n")
    assert checkpoints.newest(tmp_path) == Checkpoint(folder, 40)
