"""Where the bundled recipes, templates and schemas lie, in a wheel and in a checkout alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _folder(name: str) -> Path:
    # A wheel holds the data folders inside the package; a checkout and an editable install hold them beside wrapper/.
    places = (_PACKAGE / name, _PACKAGE.parents[1] / name)
    for place in places:
        if place.is_dir():
            return place
    raise FileNotFoundError(f"ax-recipe is installed without its {name}: looked in {places[0]} and {places[1]}")


def recipes() -> Path:
    """The folder of bundled recipes, one YAML each."""
    return _folder("recipes")


def templates() -> Path:
    """The folder of Jinja2 templates."""
    return _folder("templates")


def schemas() -> Path:
    """The folder of shipped Axolotl schemas, ``axolotl-VERSION.json``."""
    return _PACKAGE / "schemas"


def probe(name: str) -> Path:
    """A program that the training environment's python runs by its path."""
    return _PACKAGE / "probes" / name


def general() -> Path:
    """Short texts of every kind, one a line, written for this project: what no fine-tune should unlearn."""
    return _PACKAGE / "general.txt"
