"""Names of cases within one input: each has its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import PurePosixPath

from .volumes import safe_case


def own_names(cases: Sequence[tuple[str, str]]) -> list[str]:
    """A name of its own for each case.

    Cases of one name get the folders in which they differ before it; those that lie in one folder are numbered as they
    come. A name that is made here is none that another case came with.

    Args:
        cases: name and folder of each, the folder relative to the input (``patient1/series5``).
    """
    given = [name for name, _ in cases]
    alike: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(given):
        alike[name].append(i)
    wanted = list(given)
    for name, members in alike.items():
        for i, folders in zip(members, _differing([cases[i][1] for i in members]), strict=True):
            wanted[i] = safe_case(*folders, name) if folders else name
    names: dict[str, None] = {}
    for own, name in zip(given, wanted, strict=True):
        candidates = (name if number == 1 else f"{name}_{number}" for number in count(1))
        names[next(c for c in candidates if c not in names and (c == own or c not in alike))] = None
    return list(names)


def _differing(folders: Sequence[str]) -> list[tuple[str, ...]]:
    """The parts of paths between those with which all begin and those with which all end."""
    parts = [PurePosixPath(folder).parts for folder in folders]
    start = _alike(parts)
    rest = [own[start:] for own in parts]
    end = _alike([own[::-1] for own in rest])
    return [own[: len(own) - end] for own in rest]


def _alike(parts: Sequence[tuple[str, ...]]) -> int:
    """How many of their first parts all have in common."""
    return sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, zip(*parts, strict=False)))
