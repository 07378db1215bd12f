"""What a reader decides about the candidates of a scan: a list of events per case, of which the state follows."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, digest, read_json
from cmb_plugin.tabular import write_table

SCHEMA = 1
VERDICTS = ("accept", "reject", "unsure", "possible")
LOCATIONS = ("lobar", "deep", "infratentorial", "unknown")
"""Of MARS, the Microbleed Anatomical Rating Scale (Gregoire et al. 2009)."""

DECISIONS = "*.????????.json"  # files of ``ReviewStore.path``
MOST_EVENTS = 10_000
LOG_COLUMNS = (
    "at",
    "reader",
    "case",
    "number",
    "kind",
    "lesion",
    "verdict",
    "class",
    "location",
    "z",
    "y",
    "x",
    "done",
)


class StaleRevisionError(Exception):
    """Somebody, perhaps the reader in another tab, has decided something since the sender last looked."""


class BadEventError(ValueError):
    """An event that cannot be meant."""


@dataclass(frozen=True)
class CaseScope:
    """What may be decided about a case.

    Attributes:
        candidates: how many there are; they are the lesions ``1``, ``2``, ... as in ``{case}_boxes.json``.
        shape: voxels of the scan, z, y, x, within which a lesion is added.
        classes: how many there are.
    """

    candidates: int
    shape: tuple[int, int, int]
    classes: int


@dataclass
class Review:
    """What one reader has decided about one case.

    Attributes:
        case_id: its name.
        reader: who.
        events: in their order, each with ``kind`` and ``at``:
            ``judge``: ``lesion`` and any of ``verdict``, ``class``, ``location``;
            ``add``: a lesion at ``point`` (voxel-edge z, y, x), called ``a1``, ``a2``, ...;
            ``remove``: takes an added ``lesion`` away;
            ``done``: whether the reader has looked at the whole scan;
            ``undo``: the last event that stands is as if it had not been.
    """

    case_id: str
    reader: str
    events: list[dict[str, Any]] = field(default_factory=list)

    @property
    def revision(self) -> int:
        """Number of events: what a sender must have seen."""
        return len(self.events)

    def standing(self) -> list[dict[str, Any]]:
        """The events that were not undone."""
        stack: list[dict[str, Any]] = []
        for event in self.events:
            if event["kind"] != "undo":
                stack.append(event)
            elif stack:
                stack.pop()
        return stack

    def state(self) -> dict[str, Any]:
        """``lesions``: name -> verdict, class, location and, of added ones, point; ``done``; ``revision``;
        ``can_undo``."""
        lesions: dict[str, dict[str, Any]] = {}
        done, added, standing = False, 0, self.standing()
        for event in standing:
            if event["kind"] == "add":
                added += 1
                lesions[f"a{added}"] = {"verdict": "accept", "class": event.get("class", 0), "point": event["point"]}
            elif event["kind"] == "remove":
                lesions.pop(event["lesion"], None)
            elif event["kind"] == "done":
                done = bool(event["done"])
            else:
                own = lesions.setdefault(event["lesion"], {})
                own |= {key: event[key] for key in ("verdict", "class", "location") if key in event}
        return {"lesions": lesions, "done": done, "revision": self.revision, "can_undo": bool(standing)}


class ReviewStore:
    """The decisions of one reader in a folder: ``{folder}/{case}.json``, whole after every decision.

    Args:
        folder: of the reader.
        reader: name of the reader.
    """

    def __init__(self, folder: Path, reader: str) -> None:
        self.folder, self.reader = folder, reader

    def path(self, case_id: str, key: str) -> Path:
        """Where the decisions about a case stand; of other predictions of it (``key``) they are others."""
        return self.folder / f"{case_id}.{digest(key)[:8]}.json"

    def read(self, case_id: str, key: str) -> Review:
        """What was decided; nothing yet where there is no file.

        Raises:
            UserError: the file is damaged.
        """
        path = self.path(case_id, key)
        return self._of_file(path, case_id) if path.is_file() else Review(case_id, self.reader)

    def _of_file(self, path: Path, case_id: str = "") -> Review:
        content = read_json(path)
        events = content.get("events") if isinstance(content, dict) else None
        if not isinstance(events, list) or not all(isinstance(event, dict) and "kind" in event for event in events):
            raise UserError(f"{path}: holds no decisions", remedy="restore the file, or move it away to begin anew")
        return Review(case_id or str(content.get("case")), str(content.get("reader", self.reader)), events)

    def append(self, case_id: str, key: str, event: Mapping[str, Any], revision: int, scope: CaseScope) -> Review:
        """Adds a decision, on the disk when this returns.

        Args:
            case_id: of which case.
            key: of its predictions.
            event: what was decided.
            revision: the number of events that whoever decided had seen.
            scope: what may be decided.

        Raises:
            StaleRevisionError: there are more events, so that the decision may have been made without knowing them.
            BadEventError: the event cannot be meant.
        """
        review = self.read(case_id, key)
        if revision != review.revision:
            raise StaleRevisionError(f"{case_id}: revision {review.revision}, not {revision}")
        review.events.append({**checked_event(event, review, scope), "at": datetime.now(UTC).isoformat("T", "seconds")})
        content = {"schema": SCHEMA, "case": case_id, "reader": self.reader, "key": key, "events": review.events}
        with atomic(self.path(case_id, key), durable=True) as temporary:
            temporary.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        return review

    def write_log(self) -> Path:
        """Writes ``decisions.tsv``: who decided what and when, about every case of the folder, undone decisions and
        their undoing included; a damaged file is left out."""
        rows = []
        for file in sorted(self.folder.glob("*.json")):
            with suppress(UserError):
                review = self._of_file(file)
                for number, event in enumerate(review.events, start=1):
                    point = dict(zip("zyx", event.get("point", ()), strict=False))
                    rows.append({"reader": review.reader, "case": review.case_id, "number": number, **event, **point})
        path = self.folder / "decisions.tsv"
        write_table(path, LOG_COLUMNS, rows)
        return path


def checked_event(event: Mapping[str, Any], review: Review, scope: CaseScope) -> dict[str, Any]:
    """The event with what belongs to it and nothing else.

    Raises:
        BadEventError: it cannot be meant.
    """
    if len(review.events) >= MOST_EVENTS:
        raise BadEventError(f"more than {MOST_EVENTS} decisions about one scan")
    kind, state = event.get("kind"), review.state()
    if kind == "undo":
        if not state["can_undo"]:
            raise BadEventError("there is nothing to undo")
        return {"kind": kind}
    if kind == "done":
        if not isinstance(event.get("done"), bool):
            raise BadEventError("done is true or false")
        return {"kind": kind, "done": event["done"]}
    if kind == "add":
        return {"kind": kind, "point": checked_point(event.get("point"), scope.shape), "class": _class(event, scope)}
    name = event.get("lesion")
    if not isinstance(name, str):
        raise BadEventError("names no lesion")
    is_candidate = name.isdecimal() and name == str(int(name)) and 1 <= int(name) <= scope.candidates
    if kind == "remove":
        if is_candidate or name not in state["lesions"]:
            raise BadEventError("only an added lesion can be removed; reject the candidate")
        return {"kind": kind, "lesion": name}
    if kind != "judge":
        raise BadEventError("is no kind of decision")
    if not (is_candidate or "point" in state["lesions"].get(name, {})):
        raise BadEventError("there is no such lesion")
    result: dict[str, Any] = {"kind": kind, "lesion": name}
    for key, known in (("verdict", VERDICTS), ("location", LOCATIONS)):
        if event.get(key) is not None:
            if event[key] not in known:
                raise BadEventError(f"{key} is one of {', '.join(known)}")
            result[key] = event[key]
    if event.get("class") is not None:
        result["class"] = _class(event, scope)
    if len(result) == 2:
        raise BadEventError("decides nothing")
    return result


def _class(event: Mapping[str, Any], scope: CaseScope) -> int:
    number = event.get("class", 0)
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < scope.classes:
        raise BadEventError(f"class is a number from 0 to {scope.classes - 1}")
    return number


def checked_point(value: Any, shape: Sequence[int]) -> list[float]:
    """A point inside a scan, voxel-edge z, y, x.

    Args:
        value: what was sent.
        shape: voxels of the scan, z, y, x.

    Raises:
        BadEventError: it is none.
    """
    numbers: list[Any] = value if isinstance(value, list) and len(value) == 3 else [None]
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers):
        raise BadEventError("point is three numbers, z, y, x")
    if not all(0 <= n < side for n, side in zip(numbers, shape, strict=True)):
        raise BadEventError("the point lies outside the scan")
    return [round(float(n), 3) for n in numbers]
