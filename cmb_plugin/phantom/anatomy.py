"""The anatomy that every phantom starts from: nilearn's bundled MNI152 tissue maps, and what geometry adds to them.

Arrays are [z, y, x] on a 1 mm lattice; points are MNI RAS millimetres (x right, y anterior, z superior). The tissue
maps are those of the ICBM 2009a symmetric template (Fonov et al. 2011) that nilearn ships, so nothing is downloaded.
Nuclei and regions are drawn from their known places in MNI space; they are made for phantoms, not for morphometry.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:  # the template needs no labels
    from .subject_head import SubjectHead
    from .vessel_path import VesselPath

LOBAR, DEEP, INFRATENTORIAL = 1, 2, 3
REGION_NAMES = {LOBAR: "lobar", DEEP: "deep", INFRATENTORIAL: "infratentorial"}

ORIGIN = np.array([-72.0, -134.0, -98.0])
"""MNI z, y, x of voxel (0, 0, 0)."""

# Deep nuclei as ellipsoids: centre x, y, z of the right one, semi-axes in mm, turn about the vertical axis in degrees
# (positive: the front moves towards the midline), and their typical excess of susceptibility in ppm (Langkammer et al.
# 2012; docs/phantom.md).
NUCLEI: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], float, float]] = {
    "pallidum": ((18.0, -4.0, -1.0), (4.2, 9.0, 5.5), 32.0, 0.17),
    "putamen": ((26.0, 4.0, 1.0), (4.8, 15.5, 9.5), 18.0, 0.08),
    "caudate": ((12.5, 14.0, 8.0), (4.8, 9.5, 9.0), 20.0, 0.06),
    "thalamus": ((11.5, -18.0, 8.0), (8.0, 13.0, 8.5), 30.0, 0.02),
    "red_nucleus": ((4.8, -21.0, -9.0), (3.0, 3.6, 3.6), 0.0, 0.12),
    "substantia_nigra": ((10.0, -17.5, -12.5), (3.2, 6.5, 2.6), 40.0, 0.15),
    "dentate": ((14.0, -58.0, -34.0), (5.0, 7.5, 4.5), -25.0, 0.10),
}

# Air in the skull: centre MNI RAS mm of the right side, semi-axes in mm, whether there is a left one.
AIR_CAVITIES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float], bool]] = {
    "frontal": ((9, 76, 2), (7, 5, 9), True),
    "ethmoid": ((7, 52, -36), (6, 15, 8), True),
    "sphenoid": ((6, 24, -40), (7, 10, 7), True),
    "mastoid": ((59, -38, -46), (5, 6, 8), True),
    "petrous": ((40, -26, -46), (9, 5, 5), True),
}

COARSE = 3
"""Step in mm of the distance maps."""

Mesh = tuple[np.ndarray, np.ndarray, np.ndarray]
Frame = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Centre [3], semi-axes [3] and rotation [3, 3] of an ellipsoid in MNI RAS mm."""

CMB_PLACES = ("white_matter", "cortex", "basal_ganglia", "cerebellum", "thalamus", "brainstem")


@dataclass(frozen=True)
class Atlas:
    """Maps on the 1 mm MNI lattice, float32 [z, y, x] unless said otherwise.

    Attributes:
        grey, white: tissue fractions 0..1.
        brain: fraction of brain, including the ventricles and the sulci inside.
        iron: excess of susceptibility of the deep nuclei in ppm.
        iron_box: the part of the lattice outside of which ``iron`` is 0.
        regions: uint8, 1 lobar, 2 deep, 3 infratentorial, 0 outside the brain.
        head_distance: signed distance in mm to the outline of the brain with its clefts closed (positive outside), on
            every third voxel: skull and scalp lie at a distance from it.
        brain_distance: signed distance in mm to the brain itself, on every third voxel.
        ventricles: bool, lateral and third ventricle.
        ventricle_pull: float32 [4, z, y, x] on every third voxel: distance in mm from the lateral and third
            ventricles, and its
            gradient along MNI x, y, z.
        places: for each of ``CMB_PLACES`` the MNI RAS points [N, 3] at which a microbleed of that place may lie.
        sulci: MNI RAS points [N, 3] of cerebrospinal fluid between the gyri, where pial vessels run.
        pallida: the right and the left one.
        cavities: air in the skull: name, place [3] in MNI RAS mm, least radius around it.
        veins: courses of veins that the head itself has; None where all are drawn.
        head: the labels that the tissue comes from; None for the template.
        scale: length in the atlas over that in the head itself.
    """

    grey: np.ndarray
    white: np.ndarray
    brain: np.ndarray
    iron: np.ndarray
    iron_box: tuple[slice, slice, slice]
    regions: np.ndarray
    head_distance: np.ndarray
    brain_distance: np.ndarray
    ventricles: np.ndarray
    ventricle_pull: np.ndarray
    places: dict[str, np.ndarray]
    sulci: np.ndarray
    pallida: tuple[Frame, Frame]
    cavities: tuple[tuple[str, np.ndarray, float], ...]
    veins: tuple[VesselPath, ...] | None = None
    head: SubjectHead | None = None
    scale: float = 1.0


def to_index(points: np.ndarray, step: float = 1.0) -> np.ndarray:
    """[..., 3] MNI RAS x, y, z in mm -> [3, ...] z, y, x index on the lattice that keeps every ``step``-th voxel."""
    return np.moveaxis((points[..., ::-1] - ORIGIN) / step, -1, 0)


def to_mni(index: np.ndarray) -> np.ndarray:
    """[N, 3] z, y, x index on the 1 mm lattice -> [N, 3] MNI RAS x, y, z in mm."""
    return (index + ORIGIN)[:, ::-1]


def ellipsoid_distance(
    points: np.ndarray, centre: np.ndarray, axes: np.ndarray, rotation: np.ndarray | None = None
) -> np.ndarray:
    """Signed distance to the surface of an ellipsoid, to first order (exact for a sphere); negative inside.

    Args:
        points: [..., 3] in mm.
        centre: [3] in mm.
        axes: [3] semi-axes in mm.
        rotation: [3, 3], rows are the directions of the axes.
    """
    local = points - np.asarray(centre, dtype=points.dtype)
    if rotation is not None:
        local = local @ np.asarray(rotation, dtype=points.dtype).T
    scaled = local / np.asarray(axes, dtype=points.dtype)
    radius = np.sqrt((scaled**2).sum(-1))
    slope = np.sqrt(((scaled / np.asarray(axes, dtype=points.dtype)) ** 2).sum(-1))
    return (radius - 1) * np.where(slope > 1e-6, radius / np.maximum(slope, 1e-6), np.min(axes))


def nucleus_frame(name: str, side: int) -> Frame:
    """Centre [3], semi-axes [3] and rotation [3, 3] of a nucleus in MNI RAS mm; ``side`` is 1 for right, -1 for
    left."""
    (x, y, z), axes, turn, _ = NUCLEI[name]
    angle = np.deg2rad(turn) * side
    rotation = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return np.array([x * side, y, z]), np.array(axes), rotation


@functools.lru_cache(maxsize=1)
def load_atlas() -> Atlas:
    """The atlas; built once per process (about 4 s)."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_gm_template, load_mni152_wm_template

    loaders = (load_mni152_gm_template, load_mni152_wm_template, load_mni152_brain_mask)
    grey, white, brain = (_zyx(load(resolution=1).get_fdata(dtype=np.float32)) for load in loaders)
    brain_mask = ndimage.binary_fill_holes(brain > 0.5)
    # The template is an average of many heads: its tissue borders are broad ramps. One subject's are steep.
    grey, white = _steepened(grey, white, brain_mask)
    mesh = mni_mesh(brain_mask.shape)
    iron = np.zeros(brain_mask.shape, np.float32)
    nuclei: dict[str, np.ndarray] = {}
    for name, (*_, ppm) in NUCLEI.items():
        nuclei[name] = np.zeros(brain_mask.shape, bool)
        for side in (1, -1):
            _add_nucleus(nuclei[name], iron, name, side, ppm)
    ventricles = find_ventricles(grey, white, brain_mask, mesh)
    distance = inner_distance(~ventricles)
    infratentorial = brain_mask & below_tentorium(mesh)
    deep = brain_mask & ~infratentorial & is_deep(mesh, distance)
    regions = np.where(infratentorial, INFRATENTORIAL, np.where(deep, DEEP, LOBAR)).astype(np.uint8) * brain_mask
    head_distance, brain_distance = head_distances(brain_mask)
    sulci = (1 - grey - white > 0.45) & brain_mask & (regions != DEEP) & (distance > 12)
    iron = ndimage.gaussian_filter(iron, 0.6)
    return Atlas(
        grey=grey,
        white=white,
        brain=ndimage.gaussian_filter(brain_mask.astype(np.float32), 0.5),
        iron=iron,
        iron_box=ndimage.find_objects((iron > 1e-4).astype(np.uint8))[0],
        regions=regions,
        head_distance=head_distance,
        brain_distance=brain_distance,
        ventricles=ventricles,
        ventricle_pull=ventricle_pull(distance),
        places=cmb_places(grey, white, regions, nuclei, mesh),
        sulci=to_mni(np.argwhere(sulci)),
        pallida=(nucleus_frame("pallidum", 1), nucleus_frame("pallidum", -1)),
        cavities=tuple(
            (f"{name}_{'right' if side > 0 else 'left'}", np.array(place) * (side, 1, 1), min(axes))
            for name, (place, axes, paired) in AIR_CAVITIES.items()
            for side in ((1, -1) if paired else (1,))
        ),
    )


def nucleus_masks(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """bool [z, y, x] of each of ``NUCLEI``, both sides, as drawn."""
    masks = {name: np.zeros(shape, bool) for name in NUCLEI}
    for name, mask in masks.items():
        for side in (1, -1):
            _add_nucleus(mask, np.zeros(shape, np.float32), name, side, 0.0)
    return masks


def _zyx(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(2, 1, 0))


def _steepened(
    grey: np.ndarray, white: np.ndarray, brain: np.ndarray, power: float = 2.5
) -> tuple[np.ndarray, np.ndarray]:
    fluid = 1.7 * np.clip(1 - grey - white, 0, 1)  # more of it: the sulci of old age are wide
    total = grey**power + white**power + fluid**power + 1e-6
    return grey**power / total * brain, white**power / total * brain


def mni_mesh(shape: tuple[int, ...]) -> Mesh:
    """MNI x, y, z of the 1 mm lattice as arrays that broadcast to [z, y, x]."""
    z, y, x = (np.arange(n, dtype=np.float32) + np.float32(o) for n, o in zip(shape, ORIGIN, strict=True))
    return x[None, None, :], y[None, :, None], z[:, None, None]


def _add_nucleus(mask: np.ndarray, iron: np.ndarray, name: str, side: int, ppm: float) -> None:
    centre, axes, rotation = nucleus_frame(name, side)
    reach = axes.max() + 3
    low = np.floor(to_index(centre - reach)).astype(int)
    high = np.ceil(to_index(centre + reach)).astype(int) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    points = (
        np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True)), indexing="ij"), -1) + ORIGIN
    )
    depth = -ellipsoid_distance(points[..., ::-1], centre, axes, rotation)
    if name == "dentate":  # a folded sheet: only its shell holds iron
        depth = 1.2 - np.abs(depth - 1.2)
    mask[box] |= depth > 0
    iron[box] = np.maximum(iron[box], ppm * np.clip(depth / 2 + 0.5, 0, 1))


def find_ventricles(grey: np.ndarray, white: np.ndarray, brain: np.ndarray, mesh: Mesh) -> np.ndarray:
    """bool: the lateral and the third ventricle, told from other fluid by their place."""
    x, y, z = np.abs(mesh[0]), mesh[1], mesh[2]
    inner = (x < 40) & (y > -52) & (y < 36) & (z > -6) & (z < 32)
    inner &= ~((x < 14) & (y < -31) & (z < 14)) & ~((x < 8) & (y < -31))  # the cisterns behind the midbrain
    inner &= ~((x < 4) & ((y > 18) | (z > 21)))  # the fissure between the hemispheres
    inner &= ~((x > 30) & (y > -38))  # the Sylvian fissure
    fluid = (1 - grey - white > 0.5) & inner & brain
    labels, count = ndimage.label(fluid)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    return fluid & (sizes > 150)[labels]


def inner_distance(mask: np.ndarray, step: int = 2) -> np.ndarray:
    """Distance in mm from each voxel of ``mask`` to its outside, computed on every second voxel."""
    coarse = ndimage.distance_transform_edt(mask[::step, ::step, ::step], sampling=step).astype(np.float32)
    fine = coarse.repeat(step, 0).repeat(step, 1).repeat(step, 2)
    return fine[: mask.shape[0], : mask.shape[1], : mask.shape[2]]


def ventricle_pull(distance: np.ndarray) -> np.ndarray:
    """``Atlas.ventricle_pull`` from the distance in mm to the ventricles."""
    smooth = ndimage.gaussian_filter(distance[::COARSE, ::COARSE, ::COARSE], 0.7)
    return np.stack([smooth, *(g / COARSE for g in np.gradient(smooth)[::-1])]).astype(np.float32)


def below_tentorium(mesh: Mesh) -> np.ndarray:
    """Cerebellum and brainstem: below the tentorium, and below the plane where the midbrain begins."""
    x, y, z = np.abs(mesh[0]), mesh[1], mesh[2]
    apex = np.interp(y, (-95, -90, -75, -60, -50, -42), (-22, -21, -8, -1, 3, 4))
    side = np.interp(y, (-95, -90, -75, -60, -50, -42), (-22, -21, -19, -27, -31, -31))
    behind = (y < -40) & (z < apex + (side - apex) * np.clip(x / 50, 0, 1.2))
    below_temporal = (y >= -40) & (y < -28) & (z < -24 - 0.15 * x)
    stem = ((x / 17) ** 2 + ((y + 25) / 18) ** 2 < 1) & (z < -14 - (10 + y) * 18 / 28)
    return behind | below_temporal | stem


def is_deep(mesh: Mesh, distance: np.ndarray) -> np.ndarray:
    """Basal ganglia, thalamus, capsules, corpus callosum and the white matter within 8 mm of the ventricles (MARS)."""
    x, y, z = np.abs(mesh[0]), mesh[1], mesh[2]
    core = ((x - 17) / 17) ** 2 + ((y + 3) / 32) ** 2 + ((z - 6) / 19) ** 2 < 1
    thalamus = (x < 24) & (y > -34) & (y < 4) & (z > -12) & (z < 18)
    return core | thalamus | ((distance < 8) & (z > -8))


def head_distances(brain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances in mm to the brain with its clefts closed (a closing by 21 mm), and to the brain, on every
    third voxel."""
    margin = 12
    coarse = np.pad(brain[::COARSE, ::COARSE, ::COARSE], margin, mode="edge")
    outside = ndimage.distance_transform_edt(~coarse, sampling=COARSE)
    closed = ndimage.distance_transform_edt(outside <= 21, sampling=COARSE) > 21
    hull = ndimage.distance_transform_edt(~closed, sampling=COARSE) - ndimage.distance_transform_edt(
        closed, sampling=COARSE
    )
    inner = (slice(margin, -margin),) * 3
    head = ndimage.gaussian_filter(hull.astype(np.float32), 1.0)[inner]
    distance = outside - ndimage.distance_transform_edt(coarse, sampling=COARSE)
    return head, distance[inner].astype(np.float32)


def cmb_places(
    grey: np.ndarray, white: np.ndarray, regions: np.ndarray, nuclei: dict[str, np.ndarray], mesh: Mesh
) -> dict[str, np.ndarray]:
    """``Atlas.places`` from tissue fractions, regions and masks of the nuclei."""
    brainstem = (regions == INFRATENTORIAL) & (np.abs(mesh[0]) < 14) & (mesh[1] > -36)
    ganglia = nuclei["putamen"] | nuclei["pallidum"] | nuclei["caudate"]
    tissue = grey + white > 0.9
    masks = {
        "white_matter": (white > 0.9) & (regions != INFRATENTORIAL) & ~ganglia & ~nuclei["thalamus"],
        "cortex": (grey > 0.6) & (regions == LOBAR),
        "basal_ganglia": ganglia & tissue,
        "cerebellum": tissue & (regions == INFRATENTORIAL) & ~brainstem,
        "thalamus": nuclei["thalamus"] & tissue,
        "brainstem": tissue & brainstem,
    }
    return {name: to_mni(np.argwhere(mask)).astype(np.float32) for name, mask in masks.items()}
