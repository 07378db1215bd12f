"""Makes the built-in map of coarse regions in MNI space from nilearn's MNI152 template and simple geometry.

    python -m benchmarks.tools.make_coarse_map [--output cmb_plugin/anatomy/data/coarse.nii.gz]

The map has 2 mm voxels and the labels of cmb_plugin/anatomy/data/coarse.tsv. No atlas is read:

- the brain is where the T1 template is brighter than 0.2, as in nilearn's own mask, with its holes filled;
- ventricles are fluid (little grey and white matter) in a box around the centre of the brain, less the fissures and
  cisterns that reach into it; the fourth ventricle lies in a box of its own;
- infratentorial is what lies below a tentorium drawn by hand: a roof that falls from its apex to the sides, the floor
  of the temporal lobes, and a cylinder for midbrain, pons and medulla, which is the brainstem;
- deep is an ellipsoid around the basal ganglia and capsules, a box around the thalami, the corpus callosum as white
  matter near the midline above the ventricles, and white matter within 10 mm of the lateral or third ventricle;
- CSF is fluid wider than about 4 mm elsewhere; the rest is lobar.

All points are MNI millimetres (x right, y anterior, z superior), from atlases and textbooks of MNI space.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from cmb_plugin.anatomy.white_matter import PERIVENTRICULAR_MM
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.images import Grid, write_image

LOBAR, DEEP, BRAINSTEM, CEREBELLUM, VENTRICLE, CSF = 1, 2, 3, 4, 5, 6
STEP = 2  # mm
ROOT = Path(__file__).parents[2]
Mesh = tuple[np.ndarray, np.ndarray, np.ndarray]


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the map."""
    arguments = parser(__doc__)
    arguments.add_argument("--output", type=Path, default=ROOT / "cmb_plugin/anatomy/data/coarse.nii.gz", help="file")
    output: Path = arguments.parse_args(argv).output
    labels, (x, y, z) = coarse_map()
    labels = np.ascontiguousarray(labels[::STEP, ::STEP, ::STEP])
    # nilearn's arrays run to the right and to the front: minus LPS.
    turned = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
    shape = (labels.shape[0], labels.shape[1], labels.shape[2])
    write_image(output, labels, Grid(shape, (STEP, STEP, STEP), (-x, -y, z), turned))
    print(f"{output}: {shape}, {output.stat().st_size} bytes")
    return 0


def coarse_map() -> tuple[np.ndarray, tuple[float, float, float]]:
    """uint8 [z, y, x] at 1 mm, and MNI x, y, z of its first voxel."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    loaders = (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template)
    images = [load(resolution=1) for load in loaders]
    t1, grey, white = (np.ascontiguousarray(i.get_fdata(dtype=np.float32).transpose(2, 1, 0)) for i in images)
    corner = tuple(float(v) for v in images[0].affine[:3, 3])
    sizes = (t1.shape[2], t1.shape[1], t1.shape[0])
    x, y, z = (np.arange(n, dtype=np.float32) + np.float32(o) for n, o in zip(sizes, corner, strict=True))
    mesh = (np.abs(x)[None, None, :], y[None, :, None], z[:, None, None])

    brain = ndimage.binary_fill_holes(t1 > 0.2)
    fluid = brain & (grey + white < 0.5)
    upper, fourth = ventricles(fluid, mesh)
    stem = brainstem(mesh) & brain
    below = (below_tentorium(mesh) | stem) & brain
    near = ndimage.distance_transform_edt(~upper) < PERIVENTRICULAR_MM
    deep = nuclei(mesh) | callosum(white, mesh) | (near & (white > grey))
    labels = np.where(brain, LOBAR, 0).astype(np.uint8)
    labels[brain & deep] = DEEP
    labels[below] = CEREBELLUM
    labels[stem] = BRAINSTEM
    labels[ndimage.binary_opening(fluid, ball(2)) & brain] = CSF
    labels[upper | fourth] = VENTRICLE
    return labels, (corner[0], corner[1], corner[2])


def ball(radius: int) -> np.ndarray:
    """Voxels of a ball, a structuring element."""
    z, y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    return z**2 + y**2 + x**2 <= radius**2


def ventricles(fluid: np.ndarray, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Lateral and third ventricle; fourth ventricle."""
    x, y, z = mesh
    inner = (x < 40) & (y > -52) & (y < 36) & (z > -8) & (z < 32)
    inner = inner & ~((x < 14) & (y < -31) & (z < 14)) & ~((x < 8) & (y < -31))  # cisterns behind the midbrain
    inner = inner & ~((x < 4) & ((y > 18) | (z > 21)))  # fissure between the hemispheres
    inner = inner & ~((x > 30) & (y > -38))  # Sylvian fissure
    fourth = (x < 12) & (y > -58) & (y < -34) & (z > -46) & (z < -18)
    return large(fluid & inner), large(fluid & fourth)


def large(mask: np.ndarray, voxels: int = 150) -> np.ndarray:
    """The pieces of a mask that have more than so many voxels."""
    pieces, count = ndimage.label(mask)
    return mask & (np.bincount(pieces.ravel(), minlength=count + 1) > voxels)[pieces]


def below_tentorium(mesh: Mesh) -> np.ndarray:
    """Below a roof whose ridge runs from the inner occiput up to the splenium and which falls towards the sides."""
    x, y, z = mesh
    ridge = np.interp(y, (-95, -90, -75, -60, -50, -42), (-24, -22, -10, -3, 1, 3))
    eaves = np.interp(y, (-95, -90, -75, -60, -50, -42), (-26, -24, -23, -28, -31, -31))
    cerebellum = (y < -40) & (z < ridge + (eaves - ridge) * np.clip(x / 48, 0, 1.2))
    return cerebellum | ((y >= -40) & (y < -28) & (z < -25 - 0.15 * x))


def brainstem(mesh: Mesh) -> np.ndarray:
    """Midbrain below the plane through the posterior commissure and the mamillary bodies, pons, medulla."""
    x, y, z = mesh
    middle = np.interp(z, (-70, -50, -30, -10), (-44, -38, -27, -24))  # it leans forward as it rises
    depth = np.interp(z, (-70, -50, -34, -22, -8), (11, 12, 16, 16, 14))
    width = np.interp(z, (-70, -50, -34, -22, -8), (10, 12, 18, 18, 17))
    top = -6 - (y + 38) * 12 / 28  # from the tectum down to the mamillary bodies
    return ((x / width) ** 2 + ((y - middle) / depth) ** 2 < 1) & (z < top)


def nuclei(mesh: Mesh) -> np.ndarray:
    """Basal ganglia with the capsules around them, and the thalami."""
    x, y, z = mesh
    core = ((x - 18) / 17) ** 2 + ((y + 1) / 32) ** 2 + ((z - 6) / 20) ** 2 < 1
    return core | ((x < 24) & (y > -34) & (y < 4) & (z > -12) & (z < 18))


def callosum(white: np.ndarray, mesh: Mesh) -> np.ndarray:
    """White matter that joins the hemispheres."""
    x, y, z = mesh
    return (white > 0.5) & (x < 14) & (y > -46) & (y < 36) & (z > -8) & (z < 32)


if __name__ == "__main__":
    sys.exit(main())
