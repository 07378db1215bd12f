"""New microbleeds in pairs of phantoms: nndet_follow against the difference of two detections, equally registered.

    nndet_example --task Task131_Followup --train 0 --test 44 --followup 1 --healthy 0.25 --seed 131
    nndet_follow $det_data/Task131_Followup/visits.tsv --task Task118_Demo --model MODEL --output out
    python -m benchmarks.studies.followup $det_data/Task131_Followup out

Of each method it says how many of the definite new lesions it finds, and how many false new ones there are per pair: at
the operating point, and where the scores from which on a lesion is reported are chosen so that both find as many. The
naive difference calls new what is reported in the second scan and has no reported lesion of the first one within the
tolerance; it gets the same candidates, registrations and tolerances. A lesion counts as found within 5 mm of its place,
new lesions that are only possible are neither counted nor false. Intervals: 95 %, 2000 bootstrap resamples of pairs.

Prints Markdown.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json
from cmb_plugin.followup.comparison import Rules, compare, nearest_pairs
from cmb_plugin.followup.registration import Alignment
from cmb_plugin.followup.visits import Scan, Visit
from cmb_plugin.phantom.followup import NEW, TRUTH

MATCH_MM = 5.0
RESAMPLES = 2000
POINTS = np.round(np.concatenate([np.arange(0.05, 0.3, 0.05), np.arange(0.3, 0.9, 0.05)]), 4)
Method = Callable[["Pair", float, Rules], np.ndarray]
TO_LPS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Pair:
    """Two scans of a phantom with what is true about the second.

    Attributes:
        scans: first and second.
        alignment: from the first to the second; None where it was refused.
        new: [N, 3] world places (LPS mm) in the second scan of its new lesions.
        definite: [N] whether anybody could see them.
        others: [M, 3] places in the second scan of the lesions that the first one has too.
        off_mm: mean distance of the registered places of all lesions from where they are.
    """

    scans: tuple[Scan, Scan]
    alignment: Alignment | None
    new: np.ndarray
    definite: np.ndarray
    others: np.ndarray
    off_mm: float


@dataclass(frozen=True)
class Counts:
    """Of each pair: definite new lesions, those found, false new ones."""

    lesions: np.ndarray
    found: np.ndarray
    false: np.ndarray
    old: np.ndarray  # of the false ones, those that are lesions which the first scan has too

    @property
    def sensitivity(self) -> float:
        """Share of the definite new lesions."""
        return float(self.found.sum() / max(self.lesions.sum(), 1))

    @property
    def false_per_pair(self) -> float:
        """False new ones."""
        return float(self.false.mean())


def read_pairs(task: Path, output: Path) -> list[Pair]:
    """The pairs that ``nndet_follow`` has compared.

    Raises:
        UserError: there are none.
    """
    if not (task / TRUTH).is_file():
        raise UserError(f"{task / TRUTH}: no such file", remedy="make the phantoms with nndet_example --followup 1")
    with (task / TRUTH).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    pairs = []
    for path in sorted(output.glob("*_followup.json")):
        content = read_json(path)
        visits = []
        for entry in content["visits"]:
            visits.append(Scan(Visit(entry["visit"], entry["case"], Path(entry["scan"]), Path(entry["predictions"]))))
        first, second = (
            {row["lesion"]: row for row in rows if row["case"] == entry["case"]} for entry in content["visits"]
        )
        registration = content["visits"][1].get("registration", {})
        matrix = np.array(registration.get("matrix_lps", np.eye(4)))
        known = [registration.get(name, 0.0) for name in ("agreement", "error_mm", "overlap", "blocks")]
        alignment = Alignment(matrix, known[0], known[1], known[2], int(known[3]))
        before, now = _places(list(first.values())), _places(list(second.values()))
        new = np.array([row["status"] == NEW for row in second.values()], dtype=bool)
        definite = np.array([row["certainty"] == "definite" for row in second.values()], dtype=bool)
        there = np.array([row["status"] != "absent" for row in first.values()], dtype=bool)
        off = np.linalg.norm(alignment.to_other(before) - now, axis=1)
        compared = content["visits"][1]["status"] == "compared"
        pairs.append(
            Pair(
                (visits[0], visits[1]),
                alignment if compared else None,
                now[new],
                definite[new],
                now[there],
                float(off.mean()) if len(off) else float("nan"),
            )
        )
    if not pairs:
        raise UserError(f"{output}: holds no result of nndet_follow", remedy="run nndet_follow first")
    return pairs


def _places(rows: Sequence[dict[str, str]]) -> np.ndarray:
    places = [[float(row[f"{axis}_ras_mm"]) for axis in "xyz"] for row in rows]
    lps: np.ndarray = np.array(places).reshape(-1, 3) * TO_LPS
    return lps


def followed(pair: Pair, point: float, rules: Rules) -> np.ndarray:
    """[N, 3] places in the second scan of what ``nndet_follow`` calls new."""
    assert pair.alignment is not None
    scans = _at(pair, point)
    tracks = compare(scans, [pair.alignment], rules)
    rows = [track.rows[1] for track in tracks if track.new_at == 1]
    return scans[1].grid.to_world(scans[1].predictions.detections.centres[rows])


def naive(pair: Pair, point: float, rules: Rules) -> np.ndarray:
    """[N, 3] places in the second scan of what the difference of two detections calls new."""
    assert pair.alignment is not None
    first, second = _at(pair, point)
    before = pair.alignment.to_other(first.world[first.scores >= point])
    now = second.world[second.scores >= point]
    thickness = max(first.thickness_mm, second.thickness_mm)
    tolerance = rules.tolerance_mm(thickness, pair.alignment.error_mm)
    distance = np.linalg.norm(before[:, None] - now[None], axis=-1)
    old = {b for _, b in nearest_pairs(distance, tolerance)}
    return now[[i for i in range(len(now)) if i not in old]].reshape(-1, 3)


def _at(pair: Pair, point: float) -> tuple[Scan, Scan]:
    for scan in pair.scans:
        scan.predictions = replace(scan.predictions, operating_point=point)
    return pair.scans


def count(
    pairs: Sequence[Pair], method: Callable[[Pair, float, Rules], np.ndarray], point: float, rules: Rules
) -> Counts:
    """What a method finds at an operating point."""
    columns = []
    for pair in pairs:
        if pair.alignment is None:
            columns.append((int(pair.definite.sum()), 0, 0, 0))
            continue
        places = method(pair, point, rules)
        distance = np.linalg.norm(pair.new[:, None] - places[None], axis=-1)
        hit = nearest_pairs(distance, MATCH_MM)
        wrong = np.delete(places, [b for _, b in hit], axis=0)
        old = np.linalg.norm(pair.others[:, None] - wrong[None], axis=-1)
        known = int((old.min(axis=0) <= MATCH_MM).sum()) if old.size else 0
        columns.append((int(pair.definite.sum()), sum(bool(pair.definite[a]) for a, _ in hit), len(wrong), known))
    return Counts(*np.array(columns).T)


def fewest_false(curve: Sequence[Counts], sensitivity: float) -> Counts | None:
    """Of the points of a curve that find at least so many that with the fewest false new ones; None where none does."""
    enough = [counts for counts in curve if counts.sensitivity >= sensitivity - 1e-9]
    return min(enough, key=lambda counts: counts.false_per_pair, default=None)


def interval(one: np.ndarray, two: np.ndarray) -> tuple[float, float]:
    """95 % of sum(one) / sum(two) over resamples of the pairs."""
    rng = np.random.default_rng(0)
    index = rng.integers(len(one), size=(RESAMPLES, len(one)))
    sums = two[index].sum(axis=1)
    ratios = one[index].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.percentile(ratios, (2.5, 97.5))
    return float(low), float(high)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("task", type=Path, help="Task folder that nndet_example --followup 1 made")
    arguments.add_argument("output", type=Path, help="what nndet_follow wrote about it")
    args = arguments.parse_args(argv)
    pairs = read_pairs(args.task, args.output)
    point, rules = pairs[0].scans[0].point, Rules()
    good = [pair for pair in pairs if pair.alignment is not None]
    off, stated = (np.array([value for value in values if np.isfinite(value)]) for values in (
        [pair.off_mm for pair in good], [pair.alignment.error_mm for pair in good if pair.alignment]
    ))  # fmt: skip
    print(f"{measured_on('SimpleITK', 'scipy')}\n")
    print(
        f"{len(pairs)} pairs, {len(pairs) - len(good)} refused; registered places are off by {off.mean():.2f} mm on "
        f"average, {off.max():.2f} at most (mean of a pair); stated error {stated.mean():.2f}, {stated.max():.2f}.\n"
    )
    curves = {
        "naive": [count(pairs, naive, p, rules) for p in POINTS],
        "nndet_follow": [count(pairs, followed, p, rules) for p in POINTS],
    }
    rows = [("naive difference, operating point", count(pairs, naive, point, rules))]
    rows.append(("nndet_follow, operating point", count(pairs, followed, point, rules)))
    for share in (0.1, 0.5, 0.75):
        other = replace(rules, evidence=share)
        rows.append((f"nndet_follow, evidence {share:g} of it", count(pairs, followed, point, other)))
    for target in sorted({rows[0][1].sensitivity, rows[1][1].sensitivity}):
        for name, curve in curves.items():
            best = fewest_false(curve, target)
            if best is not None:
                rows.append((f"{name}, sensitivity at least {target:.3f}", best))
    print(table_head("method", "definite new lesions found", "false new ones per pair", "of them old lesions"))
    for name, counts in rows:
        low, high = interval(counts.found, counts.lesions)
        least, most = interval(counts.false, np.ones_like(counts.false))
        found = f"{counts.found.sum()} of {counts.lesions.sum()}: {counts.sensitivity:.3f} ({low:.2f}-{high:.2f})"
        print(table_row(name, found, f"{counts.false_per_pair:.2f} ({least:.2f}-{most:.2f})", counts.old.sum()))
    table = dict(rows)
    equal = rows[0][1].sensitivity
    for one, two in (
        ("nndet_follow, operating point", "naive difference, operating point"),
        (f"nndet_follow, sensitivity at least {equal:.3f}", f"naive, sensitivity at least {equal:.3f}"),
    ):
        if one in table and two in table and table[two].false.sum():
            low, high = interval(table[one].false, table[two].false)
            ratio = table[one].false.sum() / table[two].false.sum()
            print(f"\nFalse new ones of '{one}' to those of '{two}': {ratio:.2f} ({low:.2f}-{high:.2f})")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
