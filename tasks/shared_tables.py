"""One table of points or boxes for many scans: which of its rows belong to which scan, and which to none."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cmb_plugin.conversion import Row

Visit = tuple[str, str]
"""Subject and session as a table writes them; the session may be empty."""


@dataclass(frozen=True)
class SharedRows:
    """The rows of a table with a column ``subject``, by scan.

    Attributes:
        taken: scan -> its rows; none for a scan without lesions.
        doubts: scan -> visits of the table that may be meant for it, so that its rows are not all of its lesions.
        left: visits of the table that no scan has, without those in ``doubts``.
    """

    taken: dict[Visit, list[Row]]
    doubts: dict[Visit, list[Visit]]
    left: list[Visit]


def share(rows: Sequence[Row], scans: Sequence[Visit], labelled: Sequence[Visit] = ()) -> SharedRows:
    """Gives every scan its rows.

    A session counts only where both tables have one, or a subject has several scans: the points of somebody who was
    scanned once are of that scan. A scan is doubted where rows without a scan could be its own: those of its subject
    where it has no row itself, those of a name that is written a little otherwise, and all where no scan has a row.

    Args:
        rows: of the table of points or boxes, with a column ``subject``.
        scans: that take their lesions from it.
        labelled: scans whose lesions stand elsewhere, so that their rows here are not missed.
    """
    visits: dict[Visit, list[Row]] = {}
    for row in rows:
        visits.setdefault((row["subject"], row.get("session", "")), []).append(row)
    subjects = [subject for subject, _ in scans]
    own = {scan: list(_own(scan, list(visits), subjects.count(scan[0]) == 1)) for scan in scans}
    found = {visit for taken in own.values() for visit in taken}
    found |= {visit for visit in visits for scan in labelled if _may_be(visit, scan)}
    left = [visit for visit in visits if visit not in found]
    near = {scan: [visit for visit in left if _could_be(visit, scan, bool(own[scan]))] for scan in scans}
    far = [] if any(own.values()) else left
    doubts = {scan: near[scan] or far for scan in scans if near[scan] or far}
    named = {visit for doubted in doubts.values() for visit in doubted}
    taken = {scan: [row for visit in own[scan] for row in visits[visit]] for scan in scans}
    return SharedRows(taken, doubts, [visit for visit in left if visit not in named])


def visit_text(visit: Visit) -> str:
    """``01 session 2``."""
    subject, session = visit
    return (subject or "nobody") + (f" session {session}" if session else "")


def _own(scan: Visit, visits: Sequence[Visit], only: bool) -> Iterator[Visit]:
    """The visits of the table that are a scan's; ``only``: its subject has no other scan there."""
    subject, session = scan
    theirs = [visit for visit in visits if visit[0] == subject]
    if not only:
        yield from (visit for visit in theirs if visit == scan)
    elif session or len(theirs) == 1:  # several sessions and a scan that says none: nobody knows which it is
        yield from (visit for visit in theirs if _may_be(visit, scan))


def _may_be(visit: Visit, scan: Visit) -> bool:
    return visit[0] == scan[0] and (visit[1] == scan[1] or not visit[1] or not scan[1])


def _could_be(visit: Visit, scan: Visit, has_rows: bool) -> bool:
    """Whether a visit that no scan has may be meant for ``scan``."""
    subject, session = (_plain(word) == _plain(other) for word, other in zip(visit, scan, strict=True))
    return subject and (session or not has_rows)


def _plain(name: str) -> str:
    """The same for 1, 01, 001, 1.0, sub-01 and Sub_1, which spreadsheets and people make of each other."""
    name = re.sub(r"^(subject|session|sub|ses)(?=[-_ \d])", "", name.casefold())
    name = re.sub(r"(?<=\d)\.0$", "", name)
    name = re.sub(r"[^\w.]+|_+", "-", name).strip("-")
    return re.sub(r"(?<!\d)0+(?=\d)", "", name)
