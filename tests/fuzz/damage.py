"""Strategies that damage documents, bytes and tables as disks, editors and people do."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from cmb_plugin.errors import UserError

WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([10**30, -(10**30), 2**31, 2**63, 0.5, -0.0, 1e300, float("nan"), float("inf"), -float("inf")]),
    st.text(max_size=4),
    st.sampled_from(["", "0", "1", "-1", "1e999", "nan", "/", "../x", "a\tb", "lesions", "fold0"]),
    st.lists(st.one_of(st.none(), st.integers(-2, 5), st.text(max_size=2)), max_size=7),
    st.dictionaries(st.text(max_size=3), st.one_of(st.none(), st.integers(-2, 5)), max_size=3),
)
"""What may stand where something else belongs."""


def places(document: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every entry in plain data, the document itself first."""
    yield at
    if isinstance(document, list):
        document = dict(enumerate(document))
    for key, entry in document.items() if isinstance(document, dict) else ():
        yield from places(entry, (*at, key))


@st.composite
def damaged_document(draw: Callable[..., Any], document: Any) -> Any:
    """Plain data with one to three entries replaced, removed, doubled or renamed."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        *above, last = draw(st.sampled_from(list(places(document)))) or (None,)
        if last is None:
            return draw(WRONG)
        holder = document
        for key in above:
            holder = holder[key]
        action = draw(st.sampled_from(["replace", "replace", "remove", "double", "rename"]))
        if action == "remove":
            del holder[last]
        elif action == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]))
        elif action == "rename" and isinstance(holder, dict):
            holder[draw(st.text(max_size=3) | st.just("-1"))] = holder.pop(last)
        else:
            holder[last] = draw(WRONG)
    return document


@st.composite
def damaged_bytes(draw: Callable[..., Any], content: bytes) -> bytes:
    """Bytes that were cut off, overwritten or lengthened at one to three places."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(content)))
        junk = draw(st.binary(max_size=4))
        kind = draw(st.sampled_from(["cut", "overwrite", "insert", "remove"]))
        if kind == "cut":
            content = content[:at]
        elif kind == "overwrite":
            content = content[:at] + junk + content[at + len(junk) :]
        elif kind == "insert":
            content = content[:at] + junk + content[at:]
        else:
            content = content[:at] + content[at + 1 :]
    return content


def damaged_json(document: Any) -> st.SearchStrategy[bytes]:
    """The file of ``document`` with wrong entries, or with wrong bytes."""
    text = json.dumps(document).encode()
    return st.one_of(
        damaged_document(document).map(lambda wrong: json.dumps(wrong).encode()),
        damaged_document(document).map(lambda wrong: json.dumps(wrong).encode()),
        damaged_bytes(text),
        st.sampled_from([b"", b"\x00" * 64, b"[" * 100_000, b"\xef\xbb\xbf" + text, b"1" * 5000, text + text]),
    )


def ends_well(path: Path, read: Callable[[], Any]) -> bool:
    """Calls ``read``; True when it gave a value, False when it named the file and a remedy. Anything else fails."""
    try:
        read()
    except UserError as caught:
        error = caught
    else:
        return True
    assert path.name in error.message, f"names no file: {error}"
    assert error.remedy, f"has no remedy: {error}"
    assert "\n" not in str(error), f"is no line: {error}"
    return False
