"""The doctor on the services that a recipe logs to: what is set, and whether anybody is logged in; no network."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ax_recipe import axolotl
from ax_recipe.verbs import doctor
from conftest import Invoke

LOGS = {
    "wandb": "wandb_project: boats",
    "mlflow": "use_mlflow: true",
    "comet": "use_comet: true",
    "trackio": "trackio_space_id: me/boats",
}


@pytest.fixture(autouse=True)
def _nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_URI",
        "COMET_API_KEY",
        "HF_TOKEN",
        "HF_HOME",
        "XDG_CACHE_HOME",
        "NETRC",
    ):
        monkeypatch.delenv(name, raising=False)


def examined(folder: Path, line: str) -> dict[str, doctor.Finding]:
    file = folder / "mine.yaml"
    file.write_text(f"base: a/b\ndata: [{{path: c/d}}]\naxolotl:\n  {line}\n", encoding="utf-8")
    return {found.name: found for found in doctor.examine(None, folder, str(file))}


@pytest.mark.parametrize("name", LOGS)
def test_a_service_without_an_account_is_named(name: str, tmp_path: Path) -> None:
    found = examined(tmp_path, LOGS[name])
    assert found[name].state == "absent"
    assert LOGS[name].partition(":")[0] in found[name].detail
    assert set(LOGS) & set(found) == {name}


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("wandb", "WANDB_API_KEY"),
        ("mlflow", "MLFLOW_TRACKING_URI"),
        ("comet", "COMET_API_KEY"),
        ("trackio", "HF_TOKEN"),
    ],
)
def test_an_account_in_the_environment_is_enough(
    name: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "x")
    assert examined(tmp_path, LOGS[name])[name].state == "ok"


def test_a_login_file_of_another_machine_is_none(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine example.org login me password x", encoding="utf-8")
    assert examined(tmp_path, LOGS["wandb"])["wandb"].state == "absent"
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x", encoding="utf-8")
    assert examined(tmp_path, LOGS["wandb"])["wandb"].state == "ok"


def test_a_login_is_looked_for_where_the_hub_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    (tmp_path / "hub").mkdir()
    assert {examined(tmp_path, LOGS["trackio"])[name].state for name in ("trackio", "hub token")} == {"absent"}
    (tmp_path / "hub" / "token").write_text("x", encoding="utf-8")
    assert {examined(tmp_path, LOGS["trackio"])[name].state for name in ("trackio", "hub token")} == {"ok"}


def test_what_is_switched_off_needs_no_account(tmp_path: Path) -> None:
    assert "wandb" not in examined(tmp_path, "wandb_project: boats\n  wandb_mode: offline")
    assert "wandb" not in examined(tmp_path, "use_wandb: false")
    assert not {"wandb", "comet"} & {found.name for found in doctor.examine(None, tmp_path)}


def test_of_a_recipe_the_disk_that_its_run_takes_is_told(
    tmp_path: Path, small_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=20 * 2**30))
    monkeypatch.setenv("OLLAMA_HOST", "elsewhere:11434")  # whose disk is not this one
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    small = {found.name: found for found in doctor.examine(None, tmp_path, str(small_recipe))}
    assert small["runs"].state == "ok"
    assert small["runs"].detail.endswith("20 GiB free; a run of this recipe takes 0.1 of it")
    assert small["cache"].detail.endswith("20 GiB free")
    assert "disk" not in small
    large = {found.name: found for found in doctor.examine(None, tmp_path, "pirate")}
    assert large["runs"].state == "missing"
    assert "a run of this recipe takes 35.1 of it" in large["runs"].detail
    for usual in (doctor.examine(None, tmp_path), list(examined(tmp_path, "bf16: true").values())):
        words = {found.name: found for found in usual}
        assert words["runs"].state == words["cache"].state == "absent"
        assert f"an 8B model with all that is made of it takes {doctor.ENOUGH_DISK_GIB}" in words["cache"].detail


def test_what_a_run_puts_on_another_disk_is_told_of_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache on a file system of its own: one that every Linux has."""
    other = Path("/proc/no-such-folder")
    if not other.parent.is_dir():
        pytest.skip("no second file system here")
    monkeypatch.setenv("OLLAMA_HOST", "elsewhere:11434")
    monkeypatch.setenv("HF_HUB_CACHE", str(other))
    found = {each.name: each for each in doctor.examine(None, tmp_path, "pirate")}
    assert found["disk"].detail.startswith(f"{other}: ")
    assert "a run of this recipe takes 15.3 of it" in found["disk"].detail
    assert "a run of this recipe takes 19.8 of it" in found["runs"].detail


def test_a_llama_cpp_is_named_or_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> doctor.Finding:
        return next(each for each in doctor.examine(None, tmp_path) if each.name == "llama.cpp")

    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("LLAMA_CPP_DIR", str(tmp_path))
    assert (found().state, "no convert_hf_to_gguf.py there" in found().detail) == ("absent", True)
    (tmp_path / "convert_hf_to_gguf.py").touch()
    assert found().state == "ok"
    assert found().detail.startswith(f"{tmp_path}/convert_hf_to_gguf.py, llama-quantize is not built: cmake")
    monkeypatch.delenv("LLAMA_CPP_DIR")
    assert "set LLAMA_CPP_DIR" in found().detail


def test_where_no_axolotl_can_be_installed_another_python_is_named(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "pip install 'axolotl" in axolotl.how_to_have_one((3, 12))
    assert "pip install" not in axolotl.how_to_have_one((3, 13))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    done = invoke("doctor")
    assert done.exit_code == 3
    assert axolotl.how_to_have_one(sys.version_info[:2]) in done.stdout
    assert "environment of Python 3.12" in axolotl.how_to_have_one((3, 13))
