"""Small heads made of noise: an even ellipsoid with fine structure, seen on any grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from cmb_plugin.dataset import CasePredictions, write_case_predictions
from cmb_plugin.detections import Detections
from cmb_plugin.followup.visits import Visit
from cmb_plugin.images import Grid, resample, write_image

SEMI_AXES_MM = np.array([62.0, 80.0, 65.0])  # along z, y, x
OWN = Grid((56, 66, 56), (3.0, 3.0, 3.0), (-82.5, -97.5, -82.5))
"""Grid on which a head is made; its middle is the world's origin."""


def make_head(seed: int) -> np.ndarray:
    """float32 on ``OWN``: about 1000 within the head, noise of 9 mm in it, air around."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in OWN.shape), indexing="ij")
    places = np.stack([z, y, x], axis=-1) * 3.0
    inside = ((places / SEMI_AXES_MM) ** 2).sum(-1) < 1
    texture = ndimage.gaussian_filter(rng.normal(0, 1, OWN.shape), 1.2)
    head = (1000 + 220 * texture / texture.std()) * inside
    return ndimage.gaussian_filter(head, 0.4).astype(np.float32)


def rigid(turn_deg: tuple[float, float, float], shift: tuple[float, float, float]) -> sitk.Transform:
    """From the world of a scan to that of the head: turned about the origin, then shifted (x, y, z)."""
    euler = sitk.Euler3DTransform()
    euler.SetRotation(*np.deg2rad(turn_deg))
    euler.SetTranslation(shift)
    return euler


def seen(head: np.ndarray, grid: Grid, transform: sitk.Transform | None = None, noise: int = 0) -> np.ndarray:
    """The scan of a head on ``grid``, with noise of its own."""
    image = resample(head, OWN, grid, transform)
    return image + np.random.default_rng(noise).normal(0, 20, image.shape).astype(np.float32) * (image > 0)


def centred(shape: tuple[int, int, int], spacing: tuple[float, float, float], direction: np.ndarray) -> Grid:
    """A grid whose middle is the world's origin; columns of ``direction`` are those of its x, y and z axis."""
    columns = direction * np.array(spacing[::-1])
    x, y, z = (float(v) for v in -columns @ ((np.array(shape[::-1]) - 1) / 2))
    return Grid(shape, spacing, (x, y, z), tuple(float(v) for v in direction.ravel()))


def write_visit(
    folder: Path, name: str, image: np.ndarray, grid: Grid, lesions: list[tuple[np.ndarray, float]], point: float = 0.5
) -> Visit:
    """Writes a scan and its predictions: world places (LPS mm) with scores."""
    scan = folder / "scans" / f"{name}_0000.nii.gz"
    write_image(scan, image.astype(np.float32), grid)
    order = sorted(lesions, key=lambda lesion: -lesion[1])
    centres = grid.from_world(np.array([place for place, _ in order]).reshape(-1, 3))
    half = 1.5 / np.asarray(grid.spacing)
    boxes = np.concatenate([centres - half, centres + half], axis=1)
    detections = Detections(boxes, np.array([score for _, score in order]), np.zeros(len(order), int))
    predictions = CasePredictions(name, detections, grid, ("cmb",), point)
    return Visit(name, name, scan, write_case_predictions(folder / "found", predictions))
