"""Whether somebody is logged in on this machine, to the hub or to Weights & Biases; no network is asked."""

from __future__ import annotations

import os
from pathlib import Path

from ax_recipe.forecast.architecture import hub_home


def has_hub_token() -> bool:
    """Whether huggingface_hub (1.x) finds a token: in the environment, or where a login left it."""
    file = Path(os.environ.get("HF_TOKEN_PATH") or hub_home() / "token").expanduser()
    return any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")) or file.is_file()


def has_wandb_key() -> bool:
    """Whether a key is there; the file of logins holds those to other machines, too."""
    file = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    logins = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    return bool(os.environ.get("WANDB_API_KEY")) or "wandb" in logins
