"""How well the atlas route places the true lesions of phantoms, and what it costs.

    python -m benchmarks.accuracy.atlas_accuracy TASK_FOLDER [--atlas builtin] [--cases 12] [--own]

Each case runs in a process of its own, on one core. The lesions are the true ones, with their drawn outlines. With
``--own`` the atlas is the phantoms' own definition of the regions in MNI space: what is wrong then is the
registration's fault alone, while the built-in map also ends deep white matter elsewhere (10 mm from the ventricles,
the phantoms 8 mm), and another atlas where it does. Prints a Markdown table and what the lesions add up to.

Phantoms are warped from the very template that is registered to them: patients are harder.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.tools.markdown import table_head, table_row
from benchmarks.tools.measured_on import measured_on
from cmb_plugin.anatomy import GROUPS, Place, RegionMap, atlas_regions, locate, read_atlas
from cmb_plugin.anatomy.regions import CODES
from cmb_plugin.anatomy.registration import load_template
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.detections import Detections
from cmb_plugin.files import read_json
from cmb_plugin.images import boxes_of_instances, read_mask, read_scan, write_image

NEAR_MM = 5.0  # of a border: there infratentorial and lobar may be taken for each other


def measure(raw: Path, split: str, case: str, file: str, table: str | None) -> dict[str, Any]:
    """One case: its lesions, Dice per group, seconds and peak GB of reading the scan and making the map."""
    atlas = read_atlas(file, table)
    image, grid = read_scan(raw / f"images{split}" / f"{case}_0000.nii.gz")
    loaded = time.perf_counter(), time.process_time()
    regions = atlas_regions(image, grid, atlas)
    seconds = [now - then for now, then in zip((time.perf_counter(), time.process_time()), loaded, strict=True)]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    codes = regions.group_codes()

    outlines, _ = read_mask(raw / f"labels{split}" / f"{case}.nii.gz")
    truth, _ = read_mask(raw / f"regions{split}" / f"{case}.nii.gz")  # 1 lobar, 2 deep, 3 infratentorial
    boxes = boxes_of_instances(outlines)
    lesions = read_json(raw / f"lesions{split}" / f"{case}.json")
    told = {lesion["instance"]: lesion["region"] for lesion in lesions["lesions"]}
    detections = Detections(np.array([*boxes.values()]), np.ones(len(boxes)), np.zeros(len(boxes)))
    renumbered = np.zeros(int(outlines.max(initial=0)) + 1, int)
    renumbered[list(boxes)] = np.arange(1, len(boxes) + 1)
    places = {0: Place("outside"), **{k: Place(group) for k, group in enumerate(GROUPS, start=1)}}
    reference = RegionMap(truth.astype(np.uint16), grid, places, "truth")
    ours, theirs = (locate(detections, r, renumbered[outlines]).columns for r in (regions, reference))
    sizes = {group: (codes == CODES[group], truth == k) for k, group in enumerate(GROUPS, start=1)}
    return {
        "protocol": lesions["protocol"],
        "lesions": [
            {
                "true": told[number],
                "found": str(ours["nearest_group"][k]),
                "border_mm": float(np.nan_to_num(theirs["border_mm"][k], nan=np.inf)),
                "side": bool(ours["side"][k] == theirs["side"][k]),
            }
            for k, number in enumerate(boxes)
        ],
        "dice": {g: 2 * np.count_nonzero(a & b) / (a.sum() + b.sum()) for g, (a, b) in sizes.items()},
        "quality": regions.quality,
        "why": regions.why,
        "seconds": seconds[0],
        "cpu": seconds[1],
        "gigabytes": memory,
    }


def own_atlas(folder: Path) -> tuple[str, str]:
    """The phantoms' regions in MNI space as a label file and its table."""
    from cmb_plugin.phantom.anatomy import load_atlas

    write_image(folder / "phantom.nii.gz", load_atlas().regions, load_template()[1])
    rows = "".join(f"{k}\t{group}\t{group}\n" for k, group in enumerate(GROUPS, start=1))
    (folder / "phantom.tsv").write_text("value\tname\tgroup\n" + rows, encoding="utf-8")
    return str(folder / "phantom.nii.gz"), str(folder / "phantom.tsv")


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table."""
    arguments = parser(__doc__)
    arguments.add_argument("task", type=Path, help="Task folder of phantoms")
    arguments.add_argument("--atlas", default="builtin", help="builtin, FILE or FILE:LABELS.tsv")
    arguments.add_argument("--own", action="store_true", help="the phantoms' own regions as atlas")
    arguments.add_argument("--cases", nargs="+", default=["12"], help="names, or how many of imagesTr from the first")
    args = arguments.parse_args(argv)
    raw = args.task / "raw_splitted"
    cases = sorted(path.name.removesuffix("_0000.nii.gz") for path in (raw / "imagesTr").glob("*_0000.nii.gz"))
    cases = cases[: int(args.cases[0])] if args.cases[0].isdecimal() else args.cases
    atlas = "of the phantoms" if args.own else args.atlas
    print(f"{measured_on('SimpleITK', 'nilearn', threads=1)}; atlas {atlas}\n")
    dice = f"Dice {', '.join(GROUPS)}"
    print(table_head("case", "protocol", "lesions placed right", dice, "quality", "s", "CPU s", "GB"), flush=True)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    load_template()  # once, before the processes part
    lesions = []
    with tempfile.TemporaryDirectory() as folder:
        file, _, table = (":".join(own_atlas(Path(folder))) if args.own else args.atlas).partition(":")
        for case in cases:
            with multiprocessing.get_context("fork").Pool(1) as apart:  # so that each case has its own peak memory
                lesions += row(case, apart.apply(measure, (raw, "Tr", case, file, table or None)))
    summary(lesions)
    return 0


def row(case: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    """Prints the row of a case and returns its lesions."""
    lesions: list[dict[str, Any]] = found["lesions"]
    right = sum(lesion["true"] == lesion["found"] for lesion in lesions)
    dice = ", ".join(f"{found['dice'][group]:.2f}" for group in GROUPS)
    cost = (f"{found['seconds']:.0f}", f"{found['cpu']:.1f}", f"{found['gigabytes']:.2f}")
    quality = f"{found['quality']:.2f} {found['why']}".strip()
    print(table_row(case, found["protocol"], f"{right} of {len(lesions)}", dice, quality, *cost), flush=True)
    return lesions


def summary(lesions: list[dict[str, Any]]) -> None:
    """Prints what all lesions add up to."""
    right = sum(lesion["true"] == lesion["found"] for lesion in lesions)
    far = [lesion for lesion in lesions if lesion["border_mm"] > NEAR_MM]
    confused = sum({lesion["true"], lesion["found"]} == {"infratentorial", "lobar"} for lesion in far)
    print(f"\n- right group: {right} of {len(lesions)} lesions ({right / max(1, len(lesions)):.1%})")
    print(
        f"- more than {NEAR_MM:g} mm from a border: {confused} of {len(far)} confused between infratentorial and lobar"
    )
    print(f"- right side: {sum(lesion['side'] for lesion in lesions)} of {len(lesions)}")
    for true in GROUPS:
        found = [lesion["found"] for lesion in lesions if lesion["true"] == true]
        print(f"- {true}: " + ", ".join(f"{found.count(group)} {group}" for group in sorted(set(found))))


if __name__ == "__main__":
    sys.exit(main())
