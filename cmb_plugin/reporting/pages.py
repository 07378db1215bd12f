"""HTML pages from the templates in ``templates/``: one file each, without scripts or anything from the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmb_plugin.tabular import show_cell

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class PageTable:
    """A table of a page.

    Attributes:
        columns: the heading.
        rows: their cells; None is shown as a dash, a float with 3 decimals.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def render(template: str, **content: Any) -> str:
    """A page as text.

    Args:
        template: file in ``templates/`` without ``.html.j2``, such as ``evaluation``; it extends ``base``.
        content: what it shows. Text is escaped; a name that the template uses and that is missing is an error.
    """
    return _environment().get_template(f"{template}.html.j2").render(content)


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = show_cell
    return environment
