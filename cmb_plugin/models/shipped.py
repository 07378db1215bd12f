"""Packed models by name: ``pretrained``, which the package brings, or a file ending in ``.cmb``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from cmb_plugin.errors import UserError

ENDING = ".cmb"
PRETRAINED = "pretrained"
SHIPPED_MB = 8.0
"""The largest that the model in the package may be."""
SHIPPED_PARAMETERS = 3_000_000


def is_packed_name(name: str | None) -> bool:
    """Whether a name on the command line means a packed model."""
    return name is not None and (name == PRETRAINED or name.endswith(ENDING))


def packed_file(name: str) -> Path:
    """The file that such a name means.

    Raises:
        UserError: ``pretrained``, and this build has none.
    """
    if name != PRETRAINED:
        return Path(name).expanduser().resolve()
    path = pretrained_file()
    if not path.is_file():
        raise UserError(
            "pretrained: no weights are in this build of cmb_plugin",
            remedy="install a release that has them, make them with make pretrained, or name a model.cmb of your own",
        )
    return path


def pretrained_file() -> Path:
    """Where the package keeps the packed model that it brings, there or not."""
    return Path(str(files("cmb_plugin.models"))) / "weights" / f"{PRETRAINED}{ENDING}"
