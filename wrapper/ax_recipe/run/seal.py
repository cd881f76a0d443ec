"""The seal of a run folder: that what it would start was decided here, and is as it was decided.

A folder that somebody sent holds programs to start (plan.json) and configs that name code (axolotl.yaml). The seal is
a keyed digest of those files; the key never leaves this account.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import tempfile
from pathlib import Path

from ax_recipe.axolotl import cache_folder, keep
from ax_recipe.errors import MissingError

NAME = "seal"
SEALED = ("plan.json", "axolotl.yaml", "base.yaml", "job.sbatch", "mirror.json")


def put(folder: Path) -> None:
    """Seal ``folder`` as it is now.

    :raises MissingError: the key of this account can be neither read nor made.
    """
    keep(folder / NAME, _of(folder))


def holds(folder: Path) -> bool:
    """Whether this account sealed ``folder``, and its files are as they were then."""
    try:
        found = (folder / NAME).read_text(encoding="ascii")
    except (OSError, ValueError):
        return False
    return hmac.compare_digest(found.strip(), _of(folder))


def _of(folder: Path) -> str:
    digest = hmac.new(_key(), digestmod="sha256")
    for name in SEALED:
        path = folder / name
        if path.is_file():  # what a later version also seals must not unseal the folders of this one
            content = path.read_bytes()
            digest.update(f"{name} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def _key() -> bytes:
    """The key of this account, made at its first use and readable by nobody else."""
    path = cache_folder() / "key"
    try:
        if not path.exists():
            _make(path)
        return path.read_bytes()
    except OSError as error:
        raise MissingError(f"{path}: {error.strerror}", "AX_RECIPE_CACHE names another place for it") from error


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent) as partial:  # mode 0600, and gone at the end
        partial.write(secrets.token_bytes(32))
        partial.flush()
        with contextlib.suppress(FileExistsError):  # another process was first: its key is as good, and whole
            os.link(partial.name, path)
