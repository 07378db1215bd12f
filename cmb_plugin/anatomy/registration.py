"""A scan laid over the MNI152 template: affine registration, and whether to believe it.

The template is a T1 image, the scan SWI or T2*: only mutual information says how well they fit (Mattes et al. 2003).
It is followed from several first turns of the head, after the outlines of the two brains were laid over each other.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmb_plugin.images import Grid, registration_method, to_itk

VERSION = 1
"""Of this module and of the brain estimate that it begins with. Kept region maps of another version are made anew:
raise it with every change after which a scan may be laid over the template differently."""

OUTLINE_MM, SEARCH_MM, FINE_MM = 6.0, 6.0, 3.0  # voxels of the three stages
BLUR_MM = 3.0  # of brain masks, so that their overlap has a slope
BINS = 32  # of the joint histogram
TURNS_DEG = ((0, 0, 0), (20, 0, 0), (-20, 0, 0), (0, 0, 20), (0, 0, -20), (0, 20, 0), (0, -20, 0))
"""First turns about the world's x (nodding), y and z (shaking), tried until the quality is good."""

TEMPLATE_BRAIN = 0.2  # of the template's brightest voxel: what nilearn's own brain mask takes

MIN_QUALITY = 0.25  # see Registration.quality and docs/anatomy.md
GOOD_QUALITY = 0.55  # no further first turn is tried
MIN_COVERAGE = 0.35  # of a brain in the scan: the affine fit of a thinner slab is free to stretch
SCALES = (0.7, 1.4)  # of the template to the scan along any direction: adult heads stay well within
CHANCE_OVERLAP = 0.8  # Dice that two brains reach when they are laid over each other the wrong way round


@dataclass(frozen=True)
class Registration:
    """Where a scan lies in MNI152 space.

    Attributes:
        matrix: float64 [4, 4], world x, y, z of the scan (LPS mm) -> of the template (LPS mm).
        overlap: Dice of the template's brain and the scan's within the scan.
        contrast: 1 - I' / I, where I is the mutual information as registered and I' the largest with the template
            mirrored front to back, top to bottom, or both: near 0 when the orientation is wrong or nothing fits.
        coverage: share of the template's brain that lies within the scan.
    """

    matrix: np.ndarray
    overlap: float
    contrast: float
    coverage: float

    @property
    def quality(self) -> float:
        """0..1: contrast x overlap, the latter above what chance gives."""
        return max(0.0, self.contrast) * max(0.0, (self.overlap - CHANCE_OVERLAP) / (1 - CHANCE_OVERLAP))

    @property
    def scales(self) -> np.ndarray:
        """[3] size of the scanned brain relative to the template's along its principal directions, largest first."""
        scales: np.ndarray = 1 / np.linalg.svd(self.matrix[:3, :3])[1][::-1]
        return scales

    @property
    def why_not(self) -> str:
        """Why the registration is not trusted; "" when it is."""
        if self.coverage < MIN_COVERAGE:
            return f"the scan shows only {self.coverage:.0%} of a brain ({MIN_COVERAGE:.0%} are needed)"
        if not (SCALES[0] < self.scales[2] and self.scales[0] < SCALES[1]):
            return f"the registration stretches the template by {self.scales[0]:.2f} and {self.scales[2]:.2f}"
        if self.quality < MIN_QUALITY:
            return (
                f"the registration is poor (quality {self.quality:.2f}, needed {MIN_QUALITY}): "
                "is the orientation in the scan's header right?"
            )
        return ""

    @property
    def midplane(self) -> tuple[float, float, float, float]:
        """The plane between the halves of the brain, as ``RegionMap.midplane``: the template's x = 0."""
        a, b, c, d = (float(v) for v in self.matrix[0] / np.linalg.norm(self.matrix[0, :3]))
        return (a, b, c, d)

    @property
    def transform(self) -> Any:
        """As SimpleITK transform from points of the scan to points of the template."""
        import SimpleITK as sitk

        transform = sitk.AffineTransform(3)
        transform.SetMatrix([float(v) for v in self.matrix[:3, :3].ravel()])
        transform.SetTranslation([float(v) for v in self.matrix[:3, 3]])
        return transform


@functools.lru_cache(maxsize=1)
def load_template() -> tuple[np.ndarray, Grid]:
    """The skull-stripped MNI152 T1 template that nilearn brings (ICBM 2009a symmetric, Fonov et al. 2011).

    Returns:
        float32 [z, y, x] 0..1 at 1 mm, and its grid.
    """
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    array = np.ascontiguousarray(image.get_fdata(dtype=np.float32).transpose(2, 1, 0))
    x, y, z = (float(v) for v in image.affine[:3, 3])
    turned = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)  # RAS, as nilearn has it, in a world of LPS
    return array, Grid((array.shape[0], array.shape[1], array.shape[2]), (1.0, 1.0, 1.0), (-x, -y, z), turned)


def register(
    image: np.ndarray, grid: Grid, brain: np.ndarray, turns: Sequence[tuple[int, int, int]] = TURNS_DEG
) -> Registration:
    """Registers the template to a scan: affine, from several first turns of the head where one is not enough.

    Args:
        image: float [z, y, x], bright brain; SWI, T2* magnitude or the like.
        brain: bool [z, y, x], its brain roughly.
        turns: first turns of the head; the first alone where the orientation in the header is sure.

    Returns:
        the first registration of good quality, else the best.
    """
    pair = _Pair(image, grid, brain)
    best: Registration | None = None
    for turn in turns:
        found = pair.measure(pair.fit(turn))
        if not found.why_not and found.quality >= GOOD_QUALITY:
            return found
        if best is None or found.quality > best.quality:
            best = found
    assert best is not None
    return best


class _Pair:
    """Scan and template at the resolutions of the stages."""

    def __init__(self, image: np.ndarray, grid: Grid, brain: np.ndarray) -> None:
        import SimpleITK as sitk

        template, template_grid = load_template()
        whole = to_itk(template, template_grid)
        mask = to_itk((template > TEMPLATE_BRAIN).astype(np.float32), template_grid)
        scan = to_itk(np.nan_to_num(image).astype(np.float32), grid)
        self.scan, self.search = (_shrunk(scan, mm) for mm in (FINE_MM, SEARCH_MM))
        self.brain = sitk.Resample(_shrunk(to_itk(brain.astype(np.float32), grid), FINE_MM / 2), self.scan)
        self.template, self.template_search = _shrunk(whole, FINE_MM - 1), _shrunk(whole, SEARCH_MM - 2)
        self.template_brain = _shrunk(mask, FINE_MM - 1)
        self.outline = _blurred(_shrunk(self.brain, OUTLINE_MM))
        self.template_outline = _blurred(_shrunk(mask, OUTLINE_MM))
        self.centre, self.template_centre = _centre(self.brain), _centre(self.template_brain)
        self.within = sitk.Cast(_blurred(self.brain) > 0.2, sitk.sitkUInt8)  # the brain with a rim, for its outline

    def fit(self, turn: Sequence[float]) -> np.ndarray:
        """Matrix [4, 4] of the registration that begins with a turn about x, y, z in degrees."""
        import SimpleITK as sitk

        start = sitk.Euler3DTransform()
        start.SetCenter(self.centre)
        start.SetRotation(*(float(v) for v in np.deg2rad(turn)))
        start.SetTranslation((np.asarray(self.template_centre) - np.asarray(self.centre)).tolist())
        affine = sitk.AffineTransform(3)
        affine.SetCenter(self.centre)
        affine.SetMatrix(start.GetMatrix())
        affine.SetTranslation(start.GetTranslation())

        with contextlib.suppress(RuntimeError):  # ITK gives up where the images come apart: measure what was reached
            self._follow(affine)
        matrix = np.eye(4)
        matrix[:3, :3] = np.reshape(affine.GetMatrix(), (3, 3))
        matrix[:3, 3] = affine.TransformPoint((0.0, 0.0, 0.0))
        return matrix

    def _follow(self, affine: Any) -> None:
        """Improves a transform in place, stage by stage."""
        import SimpleITK as sitk

        outlines = _method(affine, step=2.0, iterations=30)
        outlines.SetMetricAsMeanSquares()
        outlines.Execute(self.outline, self.template_outline)
        for scan, template in ((self.search, self.template_search), (self.scan, self.template)):
            method = _method(affine, step=1.0, iterations=40)
            method.SetMetricAsMattesMutualInformation(BINS)
            method.SetMetricFixedMask(sitk.Resample(self.within, scan, sitk.Transform(), sitk.sitkNearestNeighbor))
            method.Execute(scan, template)

    def measure(self, matrix: np.ndarray) -> Registration:
        """How well a matrix fits."""
        import SimpleITK as sitk

        transform = Registration(matrix, 0, 0, 0).transform
        inside = sitk.GetArrayFromImage(self.brain) > 0.5
        expected = sitk.GetArrayFromImage(sitk.Resample(self.template_brain, self.scan, transform)) > 0.5
        overlap = 2 * np.count_nonzero(inside & expected) / max(1, int(inside.sum()) + int(expected.sum()))
        as_large = np.count_nonzero(sitk.GetArrayFromImage(self.template_brain) > 0.5) * np.prod(
            self.template_brain.GetSpacing()
        )
        seen = np.count_nonzero(expected) * np.prod(self.scan.GetSpacing()) * abs(np.linalg.det(matrix[:3, :3]))
        middle = matrix[:3, :3] @ np.asarray(self.centre) + matrix[:3, 3]
        information = []
        for mirror in ((1, 1, 1), (1, -1, 1), (1, 1, -1), (1, -1, -1)):
            mirrored = matrix.copy()
            mirrored[:3] = np.diag(mirror) @ matrix[:3]
            mirrored[:3, 3] += middle - np.diag(mirror) @ middle
            information.append(self._information(mirrored))
        contrast = 1 - max(information[1:]) / information[0] if information[0] > 0 else 0.0
        return Registration(matrix, float(overlap), float(contrast), float(seen / as_large))

    def _information(self, matrix: np.ndarray) -> float:
        import SimpleITK as sitk

        method = registration_method()
        method.SetMetricAsMattesMutualInformation(BINS)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetMetricFixedMask(self.brain > 0.5)
        method.SetInitialTransform(Registration(matrix, 0, 0, 0).transform)
        try:
            return -float(method.MetricEvaluate(self.scan, self.template))
        except RuntimeError:  # they do not overlap at all
            return 0.0


def _method(transform: Any, step: float, iterations: int) -> Any:
    import SimpleITK as sitk

    method = registration_method()
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(step, 0.01, iterations, relaxationFactor=0.6)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, True)
    return method


def _shrunk(image: Any, mm: float) -> Any:
    """Means of blocks of about ``mm``."""
    import SimpleITK as sitk

    return sitk.BinShrink(image, [max(1, int(mm / side + 0.5)) for side in image.GetSpacing()])


def _blurred(image: Any) -> Any:
    import SimpleITK as sitk

    return sitk.DiscreteGaussian(image, [BLUR_MM**2] * 3)


def _centre(image: Any) -> tuple[float, float, float]:
    """World x, y, z of the centre of mass."""
    import SimpleITK as sitk

    array = sitk.GetArrayFromImage(image).astype(float)
    sums = [array.sum(axis=tuple(k for k in range(3) if k != axis)) for axis in range(3)]
    index = [float(np.arange(len(s)) @ s / s.sum()) for s in sums]
    x, y, z = image.TransformContinuousIndexToPhysicalPoint(index[::-1])
    return (x, y, z)
