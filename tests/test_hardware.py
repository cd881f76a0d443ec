"""GPUs asked for, known and lent."""

from __future__ import annotations

import pytest

from ax_recipe.errors import MissingError, RecipeError
from ax_recipe.forecast import hardware
from ax_recipe.forecast.hardware import CPU, KINDS, Hardware, here, lend, parse

H200 = KINDS["H200-141GB"]


def test_a_number_means_the_usual_kind() -> None:
    assert str(parse("4")) == "4xA100-80GB"
    assert parse(2, H200) == Hardware(2, H200)


def test_a_kind_is_found_in_any_case() -> None:
    assert parse("8xh100-80gb") == Hardware(8, KINDS["H100-80GB"])


def test_zero_is_the_cpu() -> None:
    assert parse("0") is CPU
    assert str(CPU) == "the CPU"


@pytest.mark.parametrize("text", ["", "four", "-1", "4x", "99999", "4 A100"])
def test_what_is_no_number_of_gpus_is_refused(text: str) -> None:
    with pytest.raises(RecipeError):
        parse(text)


def test_an_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        parse("1xA100")
    assert caught.value.hint is not None
    assert "A100-40GB" in caught.value.hint


def test_more_gpus_than_there_are_are_refused_with_what_there_is() -> None:
    with pytest.raises(MissingError, match="no GPU"):
        lend("4", CPU, parse("4xA100-80GB"))
    with pytest.raises(MissingError, match="2xH200-141GB"):
        lend("4", Hardware(2, H200), parse("4xA100-80GB"))


def test_a_gpu_recipe_is_not_started_on_a_cpu_unless_asked() -> None:
    with pytest.raises(MissingError, match="this recipe is for 4xA100-80GB"):
        lend(None, CPU, parse("4xA100-80GB"))
    assert lend("0", CPU, parse("4xA100-80GB")) == CPU


def test_a_run_takes_what_the_machine_has_up_to_what_the_recipe_wants() -> None:
    assert lend(None, Hardware(8, H200), parse("4xA100-80GB")) == Hardware(4, H200)
    assert lend(None, Hardware(1, H200), parse("4xA100-80GB")) == Hardware(1, H200)
    assert lend(None, Hardware(8, H200), CPU) == CPU


def test_a_machine_hides_its_gpus_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert here() == CPU


@pytest.mark.parametrize(
    ("asked", "lent", "same"),
    [("1xA100-80GB", "4xA100-80GB", True), ("4xA100-80GB", "1xA100-80GB", False), ("1xA100-80GB", "1xA100-40GB", False),
     ("1xA100-80GB", "0", False), ("0", "4xA100-80GB", True)],
)  # fmt: skip
def test_another_machine_is_told_from_this_one(
    asked: str, lent: str, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "here", lambda: hardware.parse(lent))
    assert hardware.is_here(hardware.parse(asked)) == same
