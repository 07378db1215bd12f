"""The atlas of a labelled head: what ``anatomy.load_atlas`` knows of the template, from the labels of one head."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import ndimage

from cmb_plugin.anatomy.registration import TURNS_DEG, register
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid

from . import anatomy
from .anatomy import COARSE, DEEP, INFRATENTORIAL, LOBAR, ORIGIN, Atlas, Frame, nucleus_frame, to_mni
from .labelled import AIR, BONE, NUCLEI, VEIN, AnatomyFiles, HeadTraits, LabelledHead, read_head
from .subject_head import SubjectHead
from .vein_paths import vein_paths

SHAPE = (189, 233, 197)
"""Of the 1 mm lattice of an atlas."""

LONGEST_MM = 10.0
"""Largest semi-axis of a pallidum: stray voxels of a label lengthen it."""

_MIRROR = np.array([-1.0, 1.0, 1.0])


def load_head_atlas(files: AnatomyFiles, traits: HeadTraits) -> Atlas:
    """The atlas of the head in these files for a subject of these traits.

    Raises:
        UserError: as ``read_head``, or the head cannot be laid over the template.
    """
    head, from_mni, atlas = _plain(files)
    if traits.mirrored:
        atlas = mirrored(atlas)
        from_mni = from_mni @ np.diag([*_MIRROR, 1.0])
    blood = next((traits.susceptibility(m) for m in head.materials if m.tissue == VEIN), 0.0)
    veins = None if atlas.veins is None else tuple(replace(v, ppm=blood) for v in atlas.veins)
    return replace(atlas, head=SubjectHead(head, traits, from_mni), veins=veins)


@functools.lru_cache(maxsize=1)
def _plain(files: AnatomyFiles) -> tuple[LabelledHead, np.ndarray, Atlas]:
    """The head, MNI -> its index, and its atlas; once per process."""
    head = read_head(files)
    from_mni = _from_mni(head, str(files.labels))
    return head, from_mni, head_atlas(head, from_mni)


def _from_mni(head: LabelledHead, title: str) -> np.ndarray:
    """[3, 4] MNI RAS mm -> index: by registration of the labels, grey and white as in T1, to the template."""
    picture = head.of(
        [{"white": 1.0, "grey": 0.7, "fluid": 0.2, "blood": 0.2}.get(m.base, 0.0) for m in head.materials]
    )
    step = max(1, round(1.5 / min(head.grid.spacing)))
    coarse = (slice(None, None, step),) * 3
    picture = picture[coarse]
    brain = ndimage.binary_fill_holes(_largest(picture > 0))
    shape, spacing = brain.shape, tuple(s * step for s in head.grid.spacing)
    grid = Grid(shape, spacing, head.grid.origin, head.grid.direction)  # type: ignore[arg-type]
    fit = register(picture * brain, grid, brain, TURNS_DEG[:1])
    if fit.why_not:
        raise UserError(
            f"{title}: the head cannot be laid over the MNI152 template; {fit.why_not}",
            remedy="give a whole head with the orientation in its header",
        )
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])  # LPS <-> RAS
    # index + 0.5 -> scan LPS -> template LPS -> MNI RAS, the other way round
    to_template = flip @ fit.matrix @ head.grid.affine
    matrix = np.linalg.inv(to_template)
    matrix[:3, 3] -= 0.5
    return _fitted(np.argwhere(brain) * float(step), matrix)


def _fitted(index: np.ndarray, from_mni: np.ndarray) -> np.ndarray:
    """Stretched and shifted along MNI x, y, z by as little as brings the brain's voxels [N, 3] onto the lattice."""
    mni = (np.linalg.inv(from_mni) @ np.c_[index, np.ones(len(index))].T)[:3]
    low, high = mni.min(1), mni.max(1)
    first, last = ORIGIN[::-1] + 2, ORIGIN[::-1] + np.array(SHAPE[::-1]) - 3
    new_low, new_high = np.maximum(low, first), np.minimum(high, last)
    scale = (new_high - new_low) / (high - low)
    change = np.eye(4)
    change[:3, :3] = np.diag(1 / scale)
    change[:3, 3] = low - new_low / scale
    fitted: np.ndarray = (from_mni @ change)[:3]
    return fitted


def _largest(mask: np.ndarray) -> np.ndarray:
    """The largest piece of what an opening leaves, grown back."""
    labels, count = ndimage.label(ndimage.binary_erosion(mask))
    if not count:
        return mask
    core = labels == 1 + int(np.bincount(labels.ravel())[1:].argmax())
    return ndimage.binary_dilation(core, iterations=2) & mask


def _on_lattice(values: np.ndarray, from_mni: np.ndarray, mm: float) -> np.ndarray:
    """Values on the labels' grid, of voxels of ``mm``, brought to the 1 mm lattice; labels (uint8) stay labels."""
    # lattice z, y, x -> MNI x, y, z -> index
    matrix = from_mni[:, :3][:, ::-1]
    offset = from_mni[:, :3] @ ORIGIN[::-1] + from_mni[:, 3]
    if mm < 1 and values.dtype != np.uint8:
        values = ndimage.gaussian_filter(values, 0.4 / mm, truncate=3.0)
    order = 0 if values.dtype == np.uint8 else 1
    moved: np.ndarray = ndimage.affine_transform(
        values, matrix, offset, SHAPE, order=order, mode="nearest", output=values.dtype
    )
    return moved


def head_atlas(head: LabelledHead, from_mni: np.ndarray) -> Atlas:
    """The atlas of a head.

    Args:
        head: the labels.
        from_mni: [3, 4] MNI RAS mm -> its index.
    """
    mm = float(min(head.grid.spacing))
    labels = _on_lattice(head.labels, from_mni, mm)

    def labelled(*tissues: str) -> np.ndarray:
        """bool [z, y, x] on the lattice."""
        return np.array([m.tissue in tissues for m in head.materials])[labels]

    grey = _on_lattice(head.share("grey_matter", *NUCLEI), from_mni, mm)
    white = _on_lattice(head.share("white_matter"), from_mni, mm)
    tissue = _largest(grey + white > 0.5)
    far = anatomy.inner_distance(~tissue) > 4
    closed = ndimage.binary_fill_holes((anatomy.inner_distance(~far) > 4) | tissue)
    brain = _largest(closed & ~labelled("soft_tissue", "fat", BONE, AIR))
    grey, white = grey * brain, white * brain
    mesh = anatomy.mni_mesh(SHAPE)
    ventricles = anatomy.find_ventricles(grey, white, brain, mesh)
    if not ventricles.any():  # a head of few voxels: their place is what the distances need
        ventricles = brain & (sum((m - c) ** 2 for m, c in zip(mesh, (0, -10, 12), strict=True)) < 150)
    distance = anatomy.inner_distance(~ventricles)
    infratentorial = brain & anatomy.below_tentorium(mesh)
    nuclei = {m.tissue: labelled(m.tissue) for m in head.materials if m.tissue in NUCLEI}
    deep_nuclei = np.logical_or.reduce([nuclei[n] for n in nuclei if n != "dentate"] or [np.zeros(SHAPE, bool)])
    deep = brain & ~infratentorial & (anatomy.is_deep(mesh, distance) | deep_nuclei)
    regions = np.where(infratentorial, INFRATENTORIAL, np.where(deep, DEEP, LOBAR)).astype(np.uint8) * brain
    outlines = anatomy.nucleus_masks(SHAPE)
    places = anatomy.cmb_places(grey, white, regions, {n: nuclei.get(n, outlines[n]) for n in outlines}, mesh)
    empty = [name for name, points in places.items() if not len(points)]
    for name in empty:  # none labelled so: anywhere in the white matter
        places[name] = places["white_matter"]
    head_distance, brain_distance = anatomy.head_distances(brain)
    sulci = (1 - grey - white > 0.45) & brain & (regions != DEEP) & (distance > 12)
    return Atlas(
        grey=grey,
        white=white,
        brain=ndimage.gaussian_filter(brain.astype(np.float32), 0.5),
        iron=np.zeros((2, 2, 2), np.float32),
        iron_box=(slice(0, 2),) * 3,
        regions=regions,
        head_distance=head_distance,
        brain_distance=brain_distance,
        ventricles=ventricles,
        ventricle_pull=anatomy.ventricle_pull(distance),
        places=places,
        sulci=to_mni(np.argwhere(sulci if sulci.any() else brain & ~ventricles)),
        pallida=_pallida(nuclei.get("pallidum")),
        cavities=_cavities(labelled(AIR), head_distance, brain_distance),
        veins=vein_paths(head, from_mni, brain_distance) or None,
        scale=float(abs(np.linalg.det(from_mni[:, :3])) * np.prod(head.grid.spacing)) ** (-1 / 3),
    )


def _pallida(mask: np.ndarray | None) -> tuple[Frame, Frame]:
    """Centre, semi-axes and rotation of the right and the left one: the ellipsoid of the same moments."""
    frames = []
    for side in (1, -1):
        points = to_mni(np.argwhere(mask)) if mask is not None else np.zeros((0, 3))
        points = points[points[:, 0] * side > 0]
        if len(points) < 50:
            frames.append(nucleus_frame("pallidum", side))
            continue
        values, vectors = np.linalg.eigh(np.cov(points.T))
        frames.append((points.mean(0), np.minimum(np.sqrt(5 * values), LONGEST_MM), vectors.T))
    return frames[0], frames[1]


def _cavities(
    air: np.ndarray, head_distance: np.ndarray, brain_distance: np.ndarray
) -> tuple[tuple[str, np.ndarray, float], ...]:
    """Air inside the head, near the brain: a name, the point nearest to the brain in MNI RAS mm, its radius (0)."""
    coarse = (slice(None, None, COARSE),) * 3
    hollow = air[coarse]
    solid = np.pad(~hollow, 8, mode="edge")
    # The nose is open: what a closing of the solid by 12 mm fills is inside.
    near = ndimage.distance_transform_edt(~solid, sampling=COARSE) <= 12
    closed = ndimage.distance_transform_edt(near, sampling=COARSE) > 12
    inside = hollow & closed[(slice(8, -8),) * 3]
    labels, count = ndimage.label(inside & (head_distance < 60))
    found: list[tuple[str, np.ndarray, float]] = []
    for number in range(1, count + 1):
        index = np.argwhere(labels == number)
        distance = brain_distance[tuple(index.T)]
        if len(index) < 6 or distance.min() > 15:
            continue
        place = to_mni(index[distance.argmin()][None] * float(COARSE))[0]
        found.append((f"cavity_{len(found) + 1}", place, 0.0))
    return tuple(found)


def mirrored(atlas: Atlas) -> Atlas:
    """The same head with left and right exchanged."""
    maps = ("grey", "white", "brain", "regions", "ventricles")
    flipped: dict[str, Any] = {name: np.ascontiguousarray(getattr(atlas, name)[..., ::-1]) for name in maps}
    # Every third voxel: the middle one, x = 0, is among them on neither side of 98 mm.
    coarse: dict[str, Any] = {
        name: _coarse_mirrored(getattr(atlas, name)) for name in ("head_distance", "brain_distance")
    }
    pull = _coarse_mirrored(atlas.ventricle_pull)
    pull[1] *= -1
    right, left = ((c * _MIRROR, axes, rotation * _MIRROR) for c, axes, rotation in atlas.pallida)
    return replace(
        atlas,
        **flipped,
        **coarse,
        ventricle_pull=pull,
        places={name: points * _MIRROR.astype(points.dtype) for name, points in atlas.places.items()},
        sulci=atlas.sulci * _MIRROR,
        pallida=(left, right),
        cavities=tuple((name, place * _MIRROR, radius) for name, place, radius in atlas.cavities),
        veins=None if atlas.veins is None else tuple(replace(v, path=v.path * _MIRROR) for v in atlas.veins),
    )


def _coarse_mirrored(values: np.ndarray) -> np.ndarray:
    """Mirrored about x = 0, on every third voxel from x = -98 on: between the voxels, so interpolated."""
    n = values.shape[-1]
    x = ORIGIN[2] + COARSE * np.arange(n)
    places = np.clip((-x - ORIGIN[2]) / COARSE, 0, n - 1)
    low = np.minimum(places.astype(int), n - 2)
    part = (places - low).astype(values.dtype)
    mixed: np.ndarray = values[..., low] * (1 - part) + values[..., low + 1] * part
    return mixed
