"""Markdown: tables, and the part of a page of docs/ that a study writes."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from cmb_plugin.files import write_text


def table_head(*names: str) -> str:
    """The two lines that a table begins with."""
    return f"{table_row(*names)}\n{'|---' * len(names)}|"


def table_row(*cells: object) -> str:
    """One line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def add_page(arguments: argparse.ArgumentParser) -> None:
    """The option of studies that write into a page."""
    arguments.add_argument("--page", type=Path, metavar="FILE", help="Markdown page whose marked part is replaced")


def put_between_markers(page: Path, marker: str, text: str) -> None:
    """Replaces what stands between ``<!-- begin marker -->`` and ``<!-- end marker -->``, or adds it to the page.

    The rest of the page is written by hand and stays.
    """
    begin, end = f"<!-- begin {marker} -->", f"<!-- end {marker} -->"
    content = page.read_text(encoding="utf-8") if page.is_file() else ""
    block = f"{begin}\n{text.strip()}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(content):
        content = pattern.sub(lambda _: block, content)
    else:
        content = f"{content.rstrip()}\n\n{block}\n".lstrip()
    write_text(page, content)
