"""Scans for tests: random ones that hold near misses, duplicates, crowded lesions and ties; one of every status."""

from __future__ import annotations

import numpy as np

from cmb_plugin.detections import Detections
from cmb_plugin.evaluation import CaseResult


def random_cases(
    seed: int,
    n_cases: int = 8,
    *,
    classes: int = 2,
    lesions: int = 4,
    detections: int = 12,
    ties: bool = False,
    possible: bool = False,
) -> list[CaseResult]:
    """Scans named ``case_{n}``: at most so many ``lesions`` and ``detections`` in each, in a field of view of 3 cm."""
    rng = np.random.default_rng(seed)
    cases = []
    for index in range(n_cases):
        n_lesions = int(rng.integers(0, lesions + 1))
        n_detections = int(rng.integers(0, detections + 1))
        # A small field of view, so that lesions crowd and detections fall between them.
        truth = _boxes(rng, rng.uniform(4, 24, (n_lesions, 3)))
        centres = rng.uniform(4, 24, (n_detections, 3))
        for row in range(n_detections):
            if n_lesions and rng.random() < 0.7:
                lesion = truth[rng.integers(n_lesions)]
                centres[row] = (lesion[:3] + lesion[3:]) / 2 + rng.normal(0, 1.5, 3)
        scores = (
            rng.integers(1, 6, n_detections) / 8 if ties else rng.permutation(1000)[:n_detections] / 1000 + index * 1e-5
        )
        cases.append(
            CaseResult(
                f"case_{index}",
                Detections(_boxes(rng, centres), scores, rng.integers(0, classes, n_detections)),
                truth,
                rng.integers(0, classes, n_lesions),
                (1.5, 0.9, 0.9),
                [str(v) for v in rng.choice(["definite", "possible"], n_lesions)] if possible else None,
            )
        )
    return cases


def _boxes(rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    half = rng.uniform(1, 3, centres.shape)
    # float32, as Detections hold them: both sides of a comparison then see the same boxes
    return np.concatenate([centres - half, centres + half], axis=1).astype(np.float32)


def cube(z: float, y: float = 10.0, x: float = 10.0) -> list[float]:
    """A box of 2 voxels a side around a point."""
    return [z - 1, y - 1, x - 1, z + 1, y + 1, x + 1]


def one_of_each() -> list[CaseResult]:
    """A scan with a detection or a lesion of every status that there is."""
    found = Detections(np.array([cube(5.5), cube(6.5), cube(20), cube(33)]), [0.9, 0.8, 0.7, 0.4], np.zeros(4))
    truth = np.array([cube(5), cube(20.5), cube(40), cube(50)])
    certainty = ["definite", "possible", "definite", "possible"]
    return [CaseResult("a", found, truth, np.zeros(4), (2.0, 1.0, 1.0), certainty, np.array([3, 5, 8, 9]))]
