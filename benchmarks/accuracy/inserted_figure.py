"""Draws what `nndet_example --into` did: each scan as it was measured, and with a lesion.

    nndet_example --task Task150_Block --into block --modalities t2s,phase --healthy 0 --copies 6 --field 7 --echo 12
    python -m benchmarks.accuracy.inserted_figure Task150_Block --output docs/images/into.png

Shows the slice through the clearest lesion of every case, up to eight, and at the right the plane across the slices.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmb_plugin.commands.cli import command, parser
from cmb_plugin.commands.names import find_task
from cmb_plugin.dataset import Case, Dataset
from cmb_plugin.files import read_json
from cmb_plugin.images import image_stem, read_scan


def clearest(case: Case) -> dict[str, object] | None:
    """The lesion of a case with the largest contrast-to-noise ratio."""
    path = case.extra("lesions")
    lesions = read_json(path)["lesions"] if path else []
    return max(lesions, key=lambda lesion: lesion["cnr"], default=None)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the figure."""
    arguments = parser(__doc__)
    arguments.add_argument("task", help="name or number of the Task")
    arguments.add_argument("--output", default="into.png", help="(default: %(default)s)")
    arguments.add_argument("--half", type=float, default=12.0, metavar="MM", help="half the side of a panel")
    args = arguments.parse_args(argv)
    from matplotlib.figure import Figure

    dataset = Dataset.load(find_task(args.task))
    sources = Path(read_json(dataset.task.root / "dataset.json")["inserted"]["folder"])
    shown = [(case, lesion) for case in dataset.cases("Tr") if (lesion := clearest(case))][:8]
    figure = Figure(figsize=(7.2, 2.1 * ((len(shown) + 1) // 2)), facecolor="white")
    panels = figure.subplots((len(shown) + 1) // 2, 6, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for number, (case, lesion) in enumerate(shown):
        source = read_json(case.extra("lesions"))["source"]  # type: ignore[arg-type]
        before_path = next(p for p in sorted(sources.iterdir()) if (image_stem(p) or "") in (source, f"{source}_0000"))
        (before, grid), (after, _) = read_scan(before_path), read_scan(case.images[0])
        z, y, x = np.floor(np.asarray(lesion["centre"], float)).astype(int)
        half = np.maximum(np.round(args.half / np.asarray(grid.spacing)).astype(int), 2)
        low = np.maximum(np.array([z, y, x]) - half, 0)
        box = tuple(slice(int(a), int(m + h + 1)) for a, m, h in zip(low, (z, y, x), half, strict=True))
        bright = float(np.percentile(after, 99.5))
        views = ((before[z][box[1:]], 1.0), (after[z][box[1:]], 1.0), (after[box[0], y, box[2]], None))
        for column, (plane, aspect) in enumerate(views):
            axes = panels[number // 2][3 * (number % 2) + column]
            across = grid.spacing[0] / grid.spacing[2] if aspect is None else grid.spacing[1] / grid.spacing[2]
            axes.imshow(plane, cmap="gray", vmin=0, vmax=bright, aspect=across, interpolation="nearest")
            if number < 2:
                axes.set_title(("measured", "with a lesion", "across")[column], fontsize=8)
    figure.tight_layout(pad=0.3)
    figure.savefig(args.output, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
