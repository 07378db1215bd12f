"""Measures whether the crop around the brain, which is found without labels, keeps every lesion.

For every phantom the brain is estimated on its SWI as for a scan that comes without any label; printed is, per protocol
and per way in which the image is made worse, how many mm of margin around the estimate's block the farthest lesion (and
the brain itself) needs. With --labels the same for a head given as tissue labels, whose image is drawn from them.

    python -m benchmarks.accuracy.brain_crop --cases 4
    python -m benchmarks.accuracy.brain_crop --labels SegmentedModel.nii.gz BrainMask.nii.gz
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.errors import UserError
from cmb_plugin.images import read_mask
from cmb_plugin.phantom import PhantomConfig, make_case
from cmb_plugin.preparation import estimate_brain, foreground_extent

PROTOCOLS = ("csiro", "ukb", "valdo3", "valdo1", "cuhk", "valdo2")
MARGINS = (0.0, 3.0, 6.0, 12.0)
# Brightness on a T2*-weighted scan by label of the QSM challenge's head; not named: brain, 1.
BRIGHTNESS = {10: 1.3, 11: 0.4, 13: 0.1, 14: 0.0, 15: 0.7, 16: 0.2, 0: 0.0}

Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def coil(image: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Three times as sensitive at the back as at the front."""
    return image * np.linspace(0.5, 1.5, image.shape[1], dtype=np.float32)[:, None]


def deep_coil(image: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A coil that hardly reaches the lower third: a fifth of the signal at the lowest slice."""
    return image * np.interp(np.linspace(0, 1, len(image)), (0, 0.35), (0.2, 1.0)).astype(np.float32)[:, None, None]


def noise(image: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rician noise of a tenth of the brain's signal."""
    real, imaginary = rng.normal(0, 0.1 * np.median(image[brain]), (2, *image.shape))
    return np.hypot(image + real, imaginary)


def fat(image: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is bright outside the brain four times as bright."""
    return np.where(~brain & (image > np.median(image[brain]) / 2), 4 * image, image)


def stripped(image: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The skull removed."""
    return image * brain


def unchanged(image: np.ndarray, brain: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image itself."""
    return image


CHANGES: dict[str, Change] = {
    "as it is": unchanged,
    "skull-stripped": stripped,
    "coil 3:1": coil,
    "weak coil below": deep_coil,
    "noise 10 %": noise,
    "fat x 4": fat,
}


def needed_margin(brain: np.ndarray | None, mask: np.ndarray, spacing: tuple[float, ...]) -> float:
    """mm by which ``mask`` reaches beyond the block of ``brain``; 0 without a brain: the scan is kept whole."""
    if brain is None:
        return 0.0
    start, stop = foreground_extent(brain[None])
    first, last = foreground_extent(mask[None])
    short = [max(a - b, d - c, 0) for a, b, c, d in zip(start, first, stop, last, strict=True)]
    return float(max(n * side for n, side in zip(short, spacing, strict=True)))


def phantoms(protocols: Sequence[str], cases: int) -> None:
    """One row per protocol and change."""
    heads = (f"beyond {margin:g} mm" for margin in MARGINS)
    needed = ("lesions need, mm", "brain needs, mm")
    print(table_head("protocol", "image", "scans", "not found", "lesions", *heads, *needed))
    for protocol in protocols:
        config = PhantomConfig((protocol,), ("swi",), ("cmb",))
        made = [make_case(3, index, config) for index in range(cases)]
        for name, change in CHANGES.items():
            needs, brains, missing = [], [], 0
            for index, case in enumerate(made):
                image, brain = case.images["swi"].astype(np.float32), case.brain > 0
                found = estimate_brain(change(image, brain, np.random.default_rng(index)), case.grid.spacing)
                missing += found is None
                needs += [needed_margin(found, case.mask == number, case.grid.spacing) for number in case.classes]
                brains.append(needed_margin(found, brain, case.grid.spacing))
            beyond = (sum(need > margin for need in needs) for margin in MARGINS)
            farthest = (f"{max(needs, default=0):.1f}", f"{max(brains):.1f}")
            print(table_row(protocol, name, cases, missing, len(needs), *beyond, *farthest), flush=True)


def labelled_head(labels: Path, brain_mask: Path) -> None:
    """The same for one head of tissue labels; every voxel of its brain could hold a lesion."""
    tissue, grid = read_mask(labels)
    brain = read_mask(brain_mask)[0] > 0
    rng = np.random.default_rng(0)
    levels = np.ones(int(tissue.max()) + 1, dtype=np.float32)
    for label, level in BRIGHTNESS.items():
        levels[label] = level
    image = np.hypot(levels[tissue] + rng.normal(0, 0.03, tissue.shape), rng.normal(0, 0.03, tissue.shape))
    print(table_head("image", "found, ml", "brain, ml", "brain needs, mm"))
    for name, change in CHANGES.items():
        found = estimate_brain(change(image.astype(np.float32), brain, rng), grid.spacing)
        volume = float(np.prod(grid.spacing)) / 1000
        millilitres = "-" if found is None else f"{np.count_nonzero(found) * volume:.0f}"
        need = needed_margin(found, brain, grid.spacing)
        print(table_row(name, millilitres, f"{np.count_nonzero(brain) * volume:.0f}", f"{need:.1f}"), flush=True)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("--cases", type=int, default=4, help="phantoms per protocol (default: %(default)s)")
    arguments.add_argument("--protocols", nargs="+", default=PROTOCOLS, metavar="NAME", help="default: all six")
    arguments.add_argument("--labels", nargs=2, type=Path, metavar=("LABELS", "BRAIN"), help="a head of tissue labels")
    args = arguments.parse_args(argv)
    if args.cases < 1:
        raise UserError(f"--cases {args.cases}: there is nothing to measure", remedy="give 1 or more")
    print(measured_on("numpy", "scipy") + "\n")
    if args.labels:
        labelled_head(*args.labels)
    else:
        phantoms(args.protocols, args.cases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
