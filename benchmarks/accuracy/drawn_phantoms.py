"""Phantoms of another family: nothing is simulated, dark tubes and soft dark ellipsoids are drawn into a made-up brain.

What learned from the phantoms of nndet_example may have learned how they are made. These share no code, anatomy or
physics with them: a brain of smooth noise, tissue of even brightness, vessels as tubes along random walks, microbleeds
as ellipsoids of any contrast (as Hsu et al. 2026 put them into scans). A quarter of the cases is healthy, half of them
have a scalp; voxels of 1 mm, of 0.6 mm with slices of 1.5 mm, and of 0.8 mm with slices of 3 mm take turns.

    python -m benchmarks.accuracy.drawn_phantoms Task800_Drawn --test 36
    nndet_predict 800 pretrained --output found
    nndet_eval 800 --test --predictions found --output found_evaluation
    python -m benchmarks.accuracy.drawn_phantoms Task800_Drawn --sizes found_evaluation       found, by diameter
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy import ndimage

from benchmarks.tools.markdown import table_head, table_row
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.dataset import write_dataset
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import TaskFolder, data_root
from cmb_plugin.tabular import read_numbered_rows

FINE = 0.6  # mm; what is drawn, before it is scanned
SPACINGS = {"even": (1.0, 1.0, 1.0), "thin": (1.5, 0.6, 0.6), "thick": (3.0, 0.8, 0.8)}
SIZES = (0.0, 2.5, 3.5, 4.5, 6.0, 20.0)


@dataclass(frozen=True)
class Ellipsoid:
    """A lesion: ``centre`` in mm from the middle of the head, z, y, x; ``contrast`` is the share of signal it takes."""

    centre: np.ndarray
    diameter: float
    contrast: float


class Head:
    """What is drawn, on voxels of ``FINE`` mm.

    Args:
        rng: of everything in it.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        radii = np.array([58.0, 84.0, 66.0]) * rng.uniform(0.93, 1.05, 3)
        self.shape = tuple(int(2 * (r + 12) / FINE) for r in radii)
        self.middle = np.array(self.shape) / 2
        axes = (
            ((np.arange(n) - n / 2) * FINE).astype(np.float32).reshape([-1 if i == a else 1 for i in range(3)])
            for a, n in enumerate(self.shape)
        )
        self.z, self.y, self.x = axes
        self.radius = np.sqrt((self.z / radii[0]) ** 2 + (self.y / radii[1]) ** 2 + (self.x / radii[2]) ** 2)
        depth = (1 - self.radius) * radii.mean() + 1.2 * smooth_noise(rng, self.shape, 12)
        folds = np.abs(smooth_noise(rng, self.shape, 5))
        self.brain = depth > 0
        self.fluid = self.brain & (((folds < 0.16) & (depth < 18)) | (depth < 2) | self._pair(4, 4, 11, (8, 28, 6)))
        self.depth, self.cortex = depth, self.brain & ~self.fluid & (((folds < 0.5) & (depth < 20)) | (depth < 4))
        self.taken = np.zeros(self.shape, np.float32)  # share of the signal that tubes and lesions take
        self.mask = np.zeros(self.shape, np.uint16)
        self.lesions: list[Ellipsoid] = []

    def _pair(self, z: float, y: float, x: float, radii: tuple[float, float, float]) -> np.ndarray:
        """An ellipsoid on either side."""
        a, b, c = radii
        half = ((self.z + z) / a) ** 2 + ((self.y - y) / b) ** 2
        return (half + ((self.x - x) / c) ** 2 < 1) | (half + ((self.x + x) / c) ** 2 < 1)

    def places(self, where: np.ndarray, number: int) -> np.ndarray:
        """[number, 3] points in mm of the voxels of ``where``."""
        return (self.rng.permutation(np.argwhere(where))[:number] - self.middle) * FINE

    def add_vessels(self) -> None:
        """Tubes in the sulci, and others towards the ventricles."""
        rng = self.rng
        for point in self.places(self.fluid & (self.depth < 14), int(rng.integers(80, 200))):
            way = np.cross(point, rng.standard_normal(3))
            self._add_tube(point, way, rng.uniform(10, 50), rng.uniform(0.4, 1.4), 0.12, rng.uniform(0.4, 0.85))
        inner = self.brain & ~self.fluid & (self.depth > 8) & (self.depth < 40)
        for point in self.places(inner, int(rng.integers(150, 450))):
            way = 8 * rng.standard_normal(3) - point
            self._add_tube(point, way, rng.uniform(8, 35), rng.uniform(0.3, 1.0), 0.07, rng.uniform(0.3, 0.7))

    def _add_tube(
        self, point: np.ndarray, way: np.ndarray, length: float, radius: float, bend: float, contrast: float
    ) -> None:
        way, path = way / np.linalg.norm(way), []
        for _ in range(int(length / 0.4)):
            way = way + bend * self.rng.standard_normal(3)
            way /= np.linalg.norm(way)
            point = point + 0.4 * way
            path.append(point)
        places = np.stack(path)
        reach = int(np.ceil(radius / FINE + 1))
        around = np.stack(np.meshgrid(*3 * [np.arange(-reach, reach + 1)], indexing="ij"), -1).reshape(-1, 3)
        voxels = np.round(places / FINE + self.middle).astype(int)[:, None] + around
        distance = np.linalg.norm((voxels - self.middle) * FINE - places[:, None], axis=-1)
        inside = ((voxels >= 0) & (voxels < self.shape)).all(-1)
        value = contrast * np.clip(0.5 + (radius - distance[inside]) / FINE, 0, 1)
        np.maximum.at(self.taken, tuple(voxels[inside].T), value.astype(np.float32))

    def add_lesions(self, number: int) -> None:
        """Soft ellipsoids in tissue, at least 10 mm apart."""
        rng = self.rng
        for centre in self.places(self.brain & ~self.fluid & (self.depth > 4), 50 * number):
            if len(self.lesions) == number:
                return
            if any(np.linalg.norm(centre - other.centre) < 10 for other in self.lesions):
                continue
            diameter, long = float(np.exp(rng.normal(np.log(3.4), 0.35))), rng.uniform(1, 1.8)
            semi = diameter / 2 * np.array([long**0.5, long**-0.25, long**-0.25])
            turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
            lesion = Ellipsoid(centre, diameter, float(rng.uniform(0.55, 0.97)))
            low = np.maximum(np.floor((centre - semi.max() - 2) / FINE + self.middle), 0).astype(int)
            high = np.ceil((centre + semi.max() + 2) / FINE + self.middle).astype(int) + 1
            box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
            points = np.stack(np.broadcast_arrays(self.z[box[0]], self.y[:, box[1]], self.x[..., box[2]]), -1) - centre
            distance = np.linalg.norm(points @ turn / semi, axis=-1)
            value = lesion.contrast * np.clip((1.3 - distance) / 0.5, 0, 1)
            self.taken[box] = np.maximum(self.taken[box], value)
            self.lesions.append(lesion)
            self.mask[box][distance < 1] = len(self.lesions)

    def scanned(self, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
        """The image (float32) and the instance mask [z, y, x] on these voxels, with noise and a smooth brightness."""
        rng = self.rng
        tissue = np.where(self.fluid, rng.uniform(0.8, 1.2), np.where(self.cortex, 0.86, 0.72)) * self.brain
        nuclei = self._pair(6, -14, 22, (9, 16, 6)) & self.brain & ~self.fluid
        image = ndimage.gaussian_filter((tissue * (1 - 0.3 * rng.random() * nuclei)).astype(np.float32), 0.6)
        if rng.random() < 0.5:
            image += ndimage.gaussian_filter(1.1 * ((self.radius > 1.12) & (self.radius < 1.2)), 1.0)
        image *= (1 - self.taken * self.brain) * np.exp(0.15 * smooth_noise(rng, self.shape, 30))
        steps = [FINE / mm for mm in spacing]
        image = ndimage.zoom(ndimage.gaussian_filter(image, [0.34 / step for step in steps]), steps, order=1)
        mask = ndimage.zoom(self.mask, steps, order=0)
        for number, lesion in enumerate(self.lesions, 1):
            if not (mask == number).any():
                place = np.round((lesion.centre / FINE + self.middle) * steps).astype(int)
                mask[tuple(np.clip(place, 0, np.array(mask.shape) - 1))] = number
        noise = rng.standard_normal((2, *image.shape)) / rng.uniform(15, 30)
        return (1000 * np.hypot(image + noise[0], noise[1])).astype(np.float32), mask


def smooth_noise(rng: np.random.Generator, shape: Sequence[int], width_mm: float) -> np.ndarray:
    """Gaussian noise of standard deviation 1, smooth over ``width_mm`` on voxels of ``FINE`` mm."""
    coarse = max(1.0, width_mm / 2)
    small = ndimage.gaussian_filter(
        rng.standard_normal([max(4, round(n * FINE / coarse)) for n in shape]), width_mm / coarse, mode="wrap"
    )
    return ndimage.zoom(small / small.std(), [n / m for n, m in zip(shape, small.shape, strict=True)], order=1)


def write_case(task: TaskFolder, number: int, seed: int) -> str:
    """Draws and writes one test case; returns its kind of voxel."""
    rng = np.random.default_rng((seed, number))
    kind = tuple(SPACINGS)[number % len(SPACINGS)]
    head = Head(rng)
    head.add_vessels()
    head.add_lesions(0 if number % 4 == 3 else 1 + int(rng.poisson(6)))
    image, mask = head.scanned(SPACINGS[kind])
    name, grid = f"case_{number:03d}", Grid(image.shape, SPACINGS[kind])
    write_image(task.images("Ts") / f"{name}_0000.nii.gz", image, grid)
    write_image(task.labels("Ts") / f"{name}.nii.gz", mask, grid)
    instances = {str(n): 0 for n in range(1, len(head.lesions) + 1)}
    write_json(task.labels("Ts") / f"{name}.json", {"instances": instances})
    lesions = [{"diameter_mm": round(x.diameter, 2), "contrast": round(x.contrast, 2)} for x in head.lesions]
    write_json(task.extra("drawn", "Ts") / f"{name}.json", {"lesions": lesions})
    return kind


def print_sizes(task: TaskFolder, evaluation: Path) -> None:
    """The share found at the operating point, by diameter."""
    needed = ("case", "status", "lesion")
    table = read_numbered_rows(
        evaluation / "detections.tsv", needed, needed, "the list of detections", "give the --output of nndet_eval"
    )
    rows = [row for _, row in table if row["status"] in ("found", "missed")]
    drawn = {path.stem: read_json(path)["lesions"] for path in task.extra("drawn", "Ts").glob("*.json")}
    sizes = np.array([drawn[str(row["case"])][int(str(row["lesion"])) - 1]["diameter_mm"] for row in rows])
    found = np.array([row["status"] == "found" for row in rows])
    print(table_head("diameter, mm", "lesions", "found"))
    for low, high in pairwise(SIZES):
        these = (sizes >= low) & (sizes < high)
        print(table_row(f"{low:g} to {high:g}", str(these.sum()), f"{found[these].mean():.2f}" if these.any() else ""))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Draws the cases, or tells what was found of them."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="Task folder to make, below ${det_data}")
    arguments.add_argument("--test", type=int, default=36, metavar="N", help="cases (default: 36)")
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--sizes", type=Path, metavar="DIR", help="of nndet_eval: print what was found, by size")
    args = arguments.parse_args(argv)
    task = TaskFolder(data_root() / args.task)
    if args.sizes:
        print_sizes(task, args.sizes)
        return 0
    domain = {}
    for number in range(args.test):
        domain[f"case_{number:03d}"] = write_case(task, number, args.seed)
        print(f"{task.images('Ts') / f'case_{number:03d}_0000.nii.gz'}", flush=True)
    write_dataset(task, modalities=["SWI"], classes=["cmb"], test_labels=True, target_class=0, domain=domain)
    return 0


if __name__ == "__main__":
    sys.exit(main())
