"""What is shipped: the wheel through the sdist, installed clean; the conda file against the package's own bounds."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def bounds(requirements: list[str]) -> dict[str, str]:
    """Distribution name to its lower bound; ``axolotl[ray]>=0.19.0`` is axolotl's."""
    found = {}
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[^]]*])?>=([\d.]+)", requirement)
        assert match, f"{requirement}: lower bounds only"
        found[match[1]] = match[2]
    return found


def test_every_dependency_has_a_lower_bound_and_no_other() -> None:
    extras = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    assert len(bounds(PROJECT["dependencies"])) == len(PROJECT["dependencies"])
    assert set(bounds(extras)) == {"axolotl"}


def test_the_conda_environment_agrees_with_the_package() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [each for each in environment["dependencies"] if isinstance(each, str)]
    pip = next(each["pip"] for each in environment["dependencies"] if isinstance(each, dict))
    assert "-e ." in pip
    assert "python=3.11" in conda
    assert PROJECT["requires-python"].startswith(">=3.11")
    listed = bounds([each for each in pip if not each.startswith("-")])
    ours = bounds(PROJECT["dependencies"]) | bounds(PROJECT["optional-dependencies"]["axolotl"])
    assert {name: listed[name] for name in ("axolotl", "click", "jinja2", "rich")} == {
        name: ours[name] for name in ("axolotl", "click", "jinja2", "rich")
    }
    named = {re.split(r"[\[>=]", each)[0] for each in (*conda, *pip)}
    assert {"axolotl", "peft", "bitsandbytes", "flash-attn", "deepspeed"} <= named | set(
        re.findall(r"[\w-]+", " ".join(pip))
    )


@pytest.mark.slow
def test_the_wheel_holds_all_it_needs_and_works_from_anywhere(tmp_path: Path) -> None:
    """Built through the sdist, since that is what a release does, and installed where nothing else is."""
    build = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("recipes", "templates"):
        shipped = {Path(name).name for name in names if name.startswith(f"ax_recipe/{folder}/")}
        assert shipped == {path.name for path in (ROOT / folder).rglob("*") if path.is_file()}, folder
    assert "ax_recipe/schemas/axolotl-0.19.0.json" in names
    assert not [name for name in names if not name.startswith(("ax_recipe/", "ax_recipe-"))]

    environment = tmp_path / "clean"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    install = [
        str(environment / "bin/python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    shown = subprocess.run(
        [str(environment / "bin/ax-recipe"), "render", "pirate"], cwd="/", check=True, capture_output=True, text=True
    )
    assert yaml.safe_load(shown.stdout)["adapter"] == "qlora"
    subprocess.run([str(environment / "bin/ax-recipe"), "list"], cwd="/", check=True, capture_output=True)
