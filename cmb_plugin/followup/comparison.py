"""Which lesion of one scan is which of another: matched one-to-one in mm, new only where both scans say so.

Two thresholds decide (hysteresis): a lesion is *there* from the operating point on, and *not there* only below
``Rules.evidence`` of it; a candidate in between is evidence of a lesion that the network is less sure of in this scan,
as is one that a rule about its place removed from the report of this scan.
So a lesion is new when it reaches the operating point in one scan and leaves not even a trace in the ones before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from .registration import Alignment
from .visits import Scan

NEW, STABLE, GONE, NOT_COVERED = "new", "stable", "gone", "not covered"
ARIA_H = ((0, "none"), (4, "mild"), (9, "moderate"))  # most new ones of each category; beyond: severe


@dataclass(frozen=True)
class Rules:
    """How lesions are compared.

    Attributes:
        evidence: share of the operating point below which a place holds no lesion.
        base_mm: tolerance of a match on thin slices that lie exactly over each other: a detection's own error.
        per_slice: what a mm of the thicker of the two scans' voxels adds to it.
        per_error: what a mm of the registration's error adds to it.
    """

    evidence: float = 0.25
    base_mm: float = 2.0
    per_slice: float = 0.5
    per_error: float = 2.0

    def tolerance_mm(self, thickness_mm: float, error_mm: float) -> float:
        """Largest distance of two centres of one lesion."""
        return self.base_mm + self.per_slice * thickness_mm + self.per_error * error_mm


@dataclass
class Track:
    """One lesion through all visits.

    Attributes:
        place: [3] world x, y, z (LPS mm) in the first visit's space, as the visit ``first`` shows it.
        first: the first visit that reports it.
        rows: visit -> number of its detection there, where there is a candidate.
        reported: the visits that report it.
        scores: visit -> score at the place, 0.0 where the network saw nothing.
        distances_mm: visit -> from ``place`` to the candidate there.
        covered: the visits whose scan shows the place.
        status: visit -> ``NEW``, ``STABLE``, ``GONE`` or ``NOT_COVERED``; not before it is there, and not at the first.
        new_at: the visit that was the first to show it, though an earlier one would have; None otherwise.
    """

    place: np.ndarray
    first: int = 0
    rows: dict[int, int] = field(default_factory=dict)
    reported: set[int] = field(default_factory=set)
    scores: dict[int, float] = field(default_factory=dict)
    distances_mm: dict[int, float] = field(default_factory=dict)
    covered: set[int] = field(default_factory=set)
    status: dict[int, str] = field(default_factory=dict)
    new_at: int | None = None


def compare(scans: Sequence[Scan], alignments: Sequence[Alignment], rules: Rules | None = None) -> list[Track]:
    """The lesions that are reported at any visit, and what became of each.

    Args:
        scans: in the order of time; only such as could be registered.
        alignments: of each scan after the first, from the first to it.
        rules: how.
    """
    rules = rules or Rules()
    tolerances = _tolerances(scans, alignments, rules)
    places = [scans[0].world, *(a.to_first(s.world) for s, a in zip(scans[1:], alignments, strict=True))]
    tracks = _reported(scans, places, tolerances)
    for visit, scan in enumerate(scans):
        _read_again(tracks, visit, scan, places[visit], tolerances)
    if tracks:
        points = np.stack([track.place for track in tracks])
        for visit, scan in enumerate(scans):
            seen = scan.covers(points if visit == 0 else alignments[visit - 1].to_other(points))
            for track, inside in zip(tracks, seen, strict=True):
                # A trace shows that the scan shows the place; a fainter candidate beside its edge is no sign of it.
                if inside or (visit in track.rows and _is_trace(track, visit, scan, rules)):
                    track.covered.add(visit)
    for track in tracks:
        _judge(track, scans, rules)
    return tracks


def _tolerances(scans: Sequence[Scan], alignments: Sequence[Alignment], rules: Rules) -> np.ndarray:
    """[V, V] for each two visits; both lie over the first one, so that the errors of both count."""
    errors = [0.0, *(alignment.error_mm for alignment in alignments)]
    slices = [scan.thickness_mm for scan in scans]
    return np.array(
        [
            [rules.tolerance_mm(max(one, two), e + f) for two, f in zip(slices, errors, strict=True)]
            for one, e in zip(slices, errors, strict=True)
        ]
    )


def _reported(scans: Sequence[Scan], places: Sequence[np.ndarray], tolerances: np.ndarray) -> list[Track]:
    """Tracks of what reaches the operating point, visit by visit matched to those that there are."""
    tracks: list[Track] = []
    for visit, scan in enumerate(scans):
        chosen = np.flatnonzero(scan.reported)
        points = places[visit][chosen]
        matched: dict[int, int] = {}
        if tracks and len(chosen):
            distance = _distances(np.stack([track.place for track in tracks]), points)
            most = np.array([tolerances[track.first, visit] for track in tracks])
            matched = {b: a for a, b in nearest_pairs(distance, most[:, None])}
        for number, index in enumerate(chosen):
            if number in matched:
                track = tracks[matched[number]]
            else:
                track = Track(points[number], visit)
                tracks.append(track)
            _enter(track, visit, scan, int(index), points[number])
    return tracks


def nearest_pairs(distance: np.ndarray, most_mm: float | np.ndarray) -> list[tuple[int, int]]:
    """One-to-one pairs at most ``most_mm`` apart: as many as there can be, and of those the nearest.

    Args:
        distance: [N, M] in mm.
        most_mm: the tolerance; [N, 1] where each row has its own.
    """
    near = distance <= most_mm
    if not near.any():
        return []
    pair = 1.0 + float(np.max(most_mm)) * min(distance.shape)  # one pair more outweighs any sum of distances
    rows, columns = linear_sum_assignment(np.where(near, distance - pair, 0.0))
    return [(int(a), int(b)) for a, b in zip(rows, columns, strict=True) if near[a, b]]


def _read_again(tracks: list[Track], visit: int, scan: Scan, places: np.ndarray, tolerances: np.ndarray) -> None:
    """Gives the tracks that a visit does not report the strongest candidates at their places, each at most one."""
    without = [track for track in tracks if visit not in track.rows]
    taken = {track.rows[visit] for track in tracks if visit in track.rows}
    free = np.array([i for i, row in enumerate(scan.rows) if int(row) not in taken], dtype=int)
    for track in without:
        track.scores[visit] = 0.0
    if not without or not len(free):
        return
    distance = _distances(np.stack([track.place for track in without]), places[free])
    near = distance <= np.array([tolerances[track.first, visit] for track in without])[:, None]
    strength = np.where(near, scan.scores[free][None] + 1e-9, 0.0)
    for a, b in zip(*linear_sum_assignment(-strength), strict=True):
        if near[a, b]:
            _enter(without[a], visit, scan, int(free[b]), places[free[b]])


def _enter(track: Track, visit: int, scan: Scan, index: int, place: np.ndarray) -> None:
    track.rows[visit] = int(scan.rows[index])
    if scan.reported[index]:
        track.reported.add(visit)
    track.scores[visit] = float(scan.scores[index])
    track.distances_mm[visit] = float(np.linalg.norm(place - track.place))


def _judge(track: Track, scans: Sequence[Scan], rules: Rules) -> None:
    """Sets the status at each visit after the first."""
    there = [visit in track.reported for visit in range(len(scans))]
    trace = [_is_trace(track, visit, scan, rules) for visit, scan in enumerate(scans)]
    for visit in range(1, len(scans)):
        before = [earlier for earlier in range(visit) if earlier in track.covered]
        was = any(there[earlier] for earlier in before)
        if visit not in track.covered:
            if was:
                track.status[visit] = NOT_COVERED
        elif there[visit] and not before:
            track.status[visit] = NOT_COVERED
        elif there[visit] and not any(trace[earlier] for earlier in before):
            track.status[visit] = NEW
            track.new_at = visit
        elif there[visit] or (trace[visit] and was):
            track.status[visit] = STABLE
        elif was:
            track.status[visit] = GONE


def _is_trace(track: Track, visit: int, scan: Scan, rules: Rules) -> bool:
    """Whether a visit holds enough of a lesion that it is not absent there."""
    return track.scores.get(visit, 0.0) >= rules.evidence * scan.point


def aria_h(new: int) -> str:
    """Radiographic severity of ARIA-H by the number of new microhaemorrhages: none, mild (1 to 4), moderate (5 to 9),
    severe (10 and more)."""
    return next((name for most, name in ARIA_H if new <= most), "severe")


def _distances(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    distances: np.ndarray = np.linalg.norm(one[:, None] - two[None], axis=-1)
    return distances
