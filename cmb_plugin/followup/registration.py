"""Two scans of one head laid over each other: rigid registration, how far it may be off, and whether to believe it.

Mutual information (Mattes et al. 2003) is followed from several first positions, because a scan may cover part of the
head only, and its header may place it anywhere. Then blocks of the brain are looked for in the other scan, each around
its place, and moved together (block matching, Ourselin et al. 2000). How well they fit at the end, and how far from
their places they fit best, says whether the two scans show one head at one place: sulci and veins of the same head do,
those of another one do not. Blocks are compared by the edges in them, because a fluid that is dark in one contrast may
be bright in another.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import ndimage

from cmb_plugin.images import Grid, registration_method, to_itk
from cmb_plugin.preparation import estimate_brain

VERSION = 2
"""Of this module: kept results of another version are made anew."""

COARSE_MM, FINE_MM, LAST_MM = 6.0, 3.0, 2.0  # voxels of the stages
BINS = 32  # of the joint histogram
TURNS_DEG = ((0, 0, 0), (15, 0, 0), (-15, 0, 0), (0, 0, 15), (0, 0, -15), (0, 15, 0), (0, -15, 0))
"""First turns about the world's x (nodding), y and z (shaking) that are tried where one is not enough."""

BLOCK_MM, BLOCK_STEP_MM, REACH_MM = 28.0, 20.0, 8.0
"""Side of a block, distance of their middles, and how far around its place a block is looked for."""
DETAIL_MM = (1.5, 7.0)  # widths of the Gaussians of the edges, and of the surroundings that they are relative to
ROUNDS = 4  # of block matching, at most
FILLED = 0.6  # share of a block that brain must fill in both scans

MIN_AGREEMENT = 0.35  # see Alignment.agreement and docs/followup.md
MAX_ERROR_MM = 1.5
MIN_BLOCKS = 8
MIN_OVERLAP = 0.25  # of the brain of the smaller scan that both scans must show


@dataclass(frozen=True)
class Alignment:
    """Where a scan lies in the space of another scan of the same head.

    Attributes:
        matrix: float64 [4, 4], rigid: world x, y, z of the first scan (LPS mm) -> of the other.
        agreement: median over the blocks of the correlation of their edges at the place itself, -1..1.
        error_mm: median over the blocks of the distance from there to where they correlate best: how far apart the two
            scans of one place may typically be.
        overlap: share of the first scan's brain that the other one covers, or the other way round: the larger one.
        blocks: number of blocks that were compared.
    """

    matrix: np.ndarray
    agreement: float
    error_mm: float
    overlap: float
    blocks: int

    @property
    def why_not(self) -> str:
        """Why the registration is not trusted; "" when it is."""
        if self.overlap < MIN_OVERLAP:
            return f"the scans have only {self.overlap:.0%} of the brain in common ({MIN_OVERLAP:.0%} are needed)"
        if self.blocks < MIN_BLOCKS:
            seen = f"{self.blocks} blocks of {BLOCK_MM:g} mm of brain"
            return f"both scans show only {seen}, too few to say whether they fit ({MIN_BLOCKS} are needed)"
        if self.agreement < MIN_AGREEMENT or self.error_mm > MAX_ERROR_MM:
            return (
                f"the scans do not show the same head at the same place (agreement {self.agreement:.2f}, needed "
                f"{MIN_AGREEMENT}; off by {self.error_mm:.1f} mm, allowed {MAX_ERROR_MM})"
            )
        return ""

    @property
    def transform(self) -> Any:
        """As SimpleITK transform from points of the first scan to points of the other."""
        return _transform(self.matrix)

    def to_other(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] world x, y, z (LPS mm) in the first scan -> in the other."""
        moved: np.ndarray = np.asarray(points, dtype=float) @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return moved

    def to_first(self, points: np.ndarray) -> np.ndarray:
        """[N, 3] world x, y, z (LPS mm) in the other scan -> in the first."""
        moved: np.ndarray = np.linalg.solve(
            self.matrix[:3, :3], (np.asarray(points, dtype=float) - self.matrix[:3, 3]).T
        ).T
        return moved


class Head:
    """A scan made ready for registration: shrunk for each stage, with its brain.

    Args:
        image: float [z, y, x], bright brain; SWI, T2* magnitude or the like.
        grid: its place.
    """

    def __init__(self, image: np.ndarray, grid: Grid) -> None:
        image = np.nan_to_num(np.asarray(image, dtype=np.float32))
        brain = estimate_brain(image, grid.spacing)
        if brain is None:  # a slab, or a contrast in which no brain stands out: all that is bright
            brain = image > 0.3 * np.percentile(image, 98.0)
        whole, mask = to_itk(image, grid), to_itk(brain.astype(np.float32), grid)
        self.stages = {mm: _shrunk(whole, mm) for mm in (COARSE_MM, FINE_MM, LAST_MM)}
        self.masks = {mm: _binary(_shrunk(mask, mm)) for mm in self.stages}
        self.brain = _shrunk(mask, LAST_MM)
        points = _points(self.masks[FINE_MM])
        self.volume_mm3 = len(points) * float(np.prod(self.masks[FINE_MM].GetSpacing()))
        self.centre = points.mean(axis=0) if len(points) else np.asarray(grid.to_world(np.array([grid.shape]) / 2)[0])
        self.ends = np.percentile(points[:, 2], (1, 99)) if len(points) else np.repeat(self.centre[2], 2)


def align(first: Head, other: Head) -> Alignment:
    """Registers two scans of one head, from more first positions as long as the result is not to be trusted."""
    best: Alignment | None = None
    for starts in _starts(first, other):
        fits = [_followed(first, other, start, (COARSE_MM,)) for start in starts]
        start = min(fits, key=lambda matrix: _metric(first, other, matrix))
        found = _refined_by_blocks(first, other, _followed(first, other, start, (FINE_MM, LAST_MM)))
        if best is None or (not found.why_not, found.agreement) > (not best.why_not, best.agreement):
            best = found
        if not best.why_not:
            break
    assert best is not None
    return best


def _starts(first: Head, other: Head) -> list[list[np.ndarray]]:
    """First matrices in turns: the plain ones, then turned ones."""
    shifts = [other.centre - first.centre, np.zeros(3)]
    for end in (0, 1):  # slabs: their brains begin, or end, at the same height
        shifts.append(np.array([*(other.centre - first.centre)[:2], other.ends[end] - first.ends[end]]))
    plain = [_start(first.centre, (0, 0, 0), shift) for shift in shifts]
    turned = [_start(first.centre, turn, shifts[0]) for turn in TURNS_DEG[1:]]
    turned += [_start(first.centre, turn, shift) for turn, shift in product(TURNS_DEG[1:3], shifts[2:])]  # nodding
    return [plain, turned]


def _start(centre: np.ndarray, turn: Sequence[float], shift: np.ndarray) -> np.ndarray:
    import SimpleITK as sitk

    euler = sitk.Euler3DTransform()
    euler.SetCenter([float(v) for v in centre])
    euler.SetRotation(*(float(v) for v in np.deg2rad(turn)))
    euler.SetTranslation([float(v) for v in shift])
    return _matrix(euler)


def _followed(first: Head, other: Head, start: np.ndarray, stages: Sequence[float]) -> np.ndarray:
    """The matrix that mutual information leads to from ``start``."""
    import SimpleITK as sitk

    euler = sitk.Euler3DTransform()
    euler.SetCenter([float(v) for v in first.centre])
    euler.SetMatrix([float(v) for v in start[:3, :3].ravel()], 1e-6)
    euler.SetTranslation([float(v) for v in start[:3, :3] @ first.centre + start[:3, 3] - first.centre])
    for mm in stages:
        method = _method(euler, first.masks[mm])
        method.SetOptimizerAsRegularStepGradientDescent(mm / 3, 0.01, 60, relaxationFactor=0.6)
        method.SetOptimizerScalesFromPhysicalShift()
        with contextlib.suppress(RuntimeError):  # ITK gives up where the images come apart
            method.Execute(first.stages[mm], other.stages[mm])
    return _matrix(euler)


def _method(transform: Any, mask: Any) -> Any:
    import SimpleITK as sitk

    method = registration_method()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetMetricFixedMask(mask)
    method.SetInitialTransform(transform, True)
    return method


def _metric(first: Head, other: Head, matrix: np.ndarray) -> float:
    """Negative mutual information, weighted by how much of the smaller brain both scans show."""
    method = _method(_transform(matrix), first.masks[COARSE_MM])
    try:
        value = float(method.MetricEvaluate(first.stages[COARSE_MM], other.stages[COARSE_MM]))
    except RuntimeError:  # they do not overlap at all
        return 0.0
    return value * min(1.0, _overlap(first, other, matrix))


def _overlap(first: Head, other: Head, matrix: np.ndarray) -> float:
    import SimpleITK as sitk

    mask, there = first.masks[FINE_MM], other.masks[FINE_MM]
    moved = sitk.Resample(there, mask, _transform(matrix), sitk.sitkNearestNeighbor)
    both = np.count_nonzero(sitk.GetArrayViewFromImage(moved) & sitk.GetArrayViewFromImage(mask))
    smaller = min(first.volume_mm3, other.volume_mm3)
    return float(both * np.prod(mask.GetSpacing()) / max(smaller, 1.0))


@dataclass(frozen=True)
class _Blocks:
    """Blocks of the first scan's brain: centres and the shifts at which the other scan fits best, [N, 3] world mm; the
    correlation [N] at no shift and at that one."""

    centres: np.ndarray
    shifts: np.ndarray
    here: np.ndarray
    best: np.ndarray

    @property
    def error_mm(self) -> float:
        """Median length of the shifts."""
        return float(np.median(np.linalg.norm(self.shifts, axis=1))) if len(self.shifts) else REACH_MM

    def motion(self) -> np.ndarray:
        """Matrix [4, 4] of the rigid motion of the better half of the blocks, far outliers left out (Kabsch 1976)."""
        kept = self.best >= np.median(self.best)
        for _ in range(2):
            one, two = self.centres[kept], (self.centres + self.shifts)[kept]
            u, _, v = np.linalg.svd((one - one.mean(axis=0)).T @ (two - two.mean(axis=0)))
            turn = v.T @ np.diag([1.0, 1.0, np.sign(np.linalg.det(v.T @ u.T))]) @ u.T
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = turn, two.mean(axis=0) - turn @ one.mean(axis=0)
            rest = np.linalg.norm(self.centres @ turn.T + matrix[:3, 3] - self.centres - self.shifts, axis=1)
            kept &= rest <= max(2 * float(np.median(rest[kept])), 0.5)
        return matrix


def _refined_by_blocks(first: Head, other: Head, matrix: np.ndarray) -> Alignment:
    """Moves a matrix to where the blocks fit, as long as that brings them nearer to their places."""
    blocks = _match_blocks(first, other, matrix)
    for _ in range(ROUNDS):
        if len(blocks.best) < MIN_BLOCKS:
            break
        moved = matrix @ blocks.motion()
        again = _match_blocks(first, other, moved)
        if len(again.best) < MIN_BLOCKS or again.error_mm >= blocks.error_mm:
            break
        small = blocks.error_mm - again.error_mm < 0.05
        matrix, blocks = moved, again
        if small:
            break
    agreement = float(np.median(blocks.here)) if len(blocks.here) else 0.0
    return Alignment(matrix, agreement, blocks.error_mm, _overlap(first, other, matrix), len(blocks.here))


def _match_blocks(first: Head, other: Head, matrix: np.ndarray) -> _Blocks:
    """Looks for each block of the first scan in the other one, as ``matrix`` lays it over the first."""
    import SimpleITK as sitk

    reference = _even(first.brain)
    transform = _transform(matrix)
    one = sitk.GetArrayFromImage(sitk.Resample(first.stages[LAST_MM], reference))
    two = sitk.GetArrayFromImage(sitk.Resample(other.stages[LAST_MM], reference, transform))
    mask = sitk.GetArrayFromImage(sitk.Resample(first.brain, reference)) > 0.5
    mask &= sitk.GetArrayFromImage(sitk.Resample(other.brain + 1, reference, transform)) > 0
    one, two = _edges(one, mask), _edges(two, mask)
    side, step, reach = (round(mm / LAST_MM) for mm in (BLOCK_MM, BLOCK_STEP_MM, REACH_MM))
    corners, shifts, here, best = [], [], [], []
    for corner in product(*(range(reach, n - side - reach + 1, step) for n in mask.shape)):
        inner = tuple(slice(c, c + side) for c in corner)
        if mask[inner].mean() < FILLED:
            continue
        scores = _correlations(one[inner], two[tuple(slice(c - reach, c + side + reach) for c in corner)])
        peak = np.unravel_index(int(scores.argmax()), scores.shape)
        corners.append(corner)
        shifts.append(_between_voxels(scores, peak) - reach)
        here.append(float(scores[reach, reach, reach]))
        best.append(float(scores.max()))
    axes = np.reshape(reference.GetDirection(), (3, 3)) * LAST_MM  # columns: x, y, z of the array in the world
    index = np.array(corners, dtype=float).reshape(-1, 3)[:, ::-1] + (side - 1) / 2
    moves = np.array(shifts, dtype=float).reshape(-1, 3)[:, ::-1]
    return _Blocks(index @ axes.T + np.asarray(reference.GetOrigin()), moves @ axes.T, np.array(here), np.array(best))


def _edges(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Strength of the edges, relative to the brightness around, which takes the coils' sensitivity away."""
    fine, wide = (s / LAST_MM for s in DETAIL_MM)
    weight = np.maximum(ndimage.gaussian_filter(mask.astype(np.float32), wide), 1e-3)
    around = ndimage.gaussian_filter(image * mask, wide) / weight
    even = np.where(mask, image, around) / np.maximum(around, 1e-3)
    edges = ndimage.gaussian_gradient_magnitude(even.astype(np.float32), fine)
    return np.where(mask, edges, 0).astype(np.float32)


def _correlations(block: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Normalised correlation of a block with every place in its surroundings (Lewis 1995)."""
    from scipy.signal import fftconvolve

    zero_mean = block - block.mean()
    flipped = zero_mean[::-1, ::-1, ::-1]
    ones = np.ones(block.shape, np.float32)
    product_sum = fftconvolve(around, flipped, mode="valid")
    total, squares = (fftconvolve(a, ones, mode="valid") for a in (around, around * around))
    variance = np.maximum(squares - total * total / block.size, 1e-9)
    scores: np.ndarray = product_sum / np.sqrt(variance * max(float((zero_mean**2).sum()), 1e-9))
    return scores


def _between_voxels(scores: np.ndarray, peak: tuple[Any, ...]) -> np.ndarray:
    """The peak between voxels, by a parabola along each axis."""
    place = np.array(peak, dtype=float)
    for axis, index in enumerate(peak):
        if 0 < index < scores.shape[axis] - 1:
            low, middle, high = (scores[(*peak[:axis], index + d, *peak[axis + 1 :])] for d in (-1, 0, 1))
            curve = low - 2 * middle + high
            if curve < 0:
                place[axis] += 0.5 * (low - high) / curve
    return place


def _even(image: Any) -> Any:
    """An empty image of cubic voxels over the same box of the world axes' own image axes."""
    import SimpleITK as sitk

    extent = np.asarray(image.GetSize()) * np.asarray(image.GetSpacing())
    size = [max(1, int(np.ceil(e / LAST_MM))) for e in extent]
    even = sitk.Image(size, sitk.sitkUInt8)
    even.SetSpacing([LAST_MM] * 3)
    even.SetDirection(image.GetDirection())
    offset = np.reshape(image.GetDirection(), (3, 3)) @ ((LAST_MM - np.asarray(image.GetSpacing())) / 2)
    even.SetOrigin([float(v) for v in np.asarray(image.GetOrigin()) + offset])
    return even


def _shrunk(image: Any, mm: float) -> Any:
    """Means of blocks of about ``mm``, or of the whole extent where that is less."""
    import SimpleITK as sitk

    sides = zip(image.GetSpacing(), image.GetSize(), strict=True)
    return sitk.BinShrink(image, [min(max(1, int(mm / side + 0.5)), count) for side, count in sides])


def _binary(image: Any) -> Any:
    import SimpleITK as sitk

    return sitk.Cast(image > 0.5, sitk.sitkUInt8)


def _points(mask: Any) -> np.ndarray:
    """[N, 3] world x, y, z of the voxels of a mask."""
    import SimpleITK as sitk

    index = np.argwhere(sitk.GetArrayViewFromImage(mask))[:, ::-1] * np.asarray(mask.GetSpacing())
    points: np.ndarray = index @ np.reshape(mask.GetDirection(), (3, 3)).T + np.asarray(mask.GetOrigin())
    return points


def _matrix(transform: Any) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return matrix


def _transform(matrix: np.ndarray) -> Any:
    import SimpleITK as sitk

    transform = sitk.AffineTransform(3)
    transform.SetMatrix([float(v) for v in matrix[:3, :3].ravel()])
    transform.SetTranslation([float(v) for v in matrix[:3, 3]])
    return transform
