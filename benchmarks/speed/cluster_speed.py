"""Cost of a cohort on a Dask cluster as it grows: small scans x workers, and what each task costs beside its work.

    python -m benchmarks.speed.cluster_speed --cases 10 100 1000 --workers 1 2 4 --output cluster.tsv

Each case is a scan of 12 x 24 x 24 voxels that is read, preprocessed and stored as ``nndet_prep`` does it; the copies
are links. Columns: seconds of ``nndet_prep``'s preprocessing on so many workers (the start of the workers not counted),
seconds in this process, cases per second; and of tasks that do nothing: milliseconds for each, KiB that the process of
scheduler and command grew by for each. Nothing but a line per measurement is printed.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil  # type: ignore[import-untyped] # stubs would be one more package for one call

from cmb_plugin.dataset import Case, Dataset, write_dataset
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.schedulers import open_cluster
from cmb_plugin.settings import Overrides
from cmb_plugin.tabular import write_table
from cmb_plugin.workers import Workers
from cmb_plugin.workflows.prep import prepare

SHAPE = (12, 24, 24)


def make_task(root: Path, cases: int) -> TaskFolder:
    """A Task folder of ``cases`` test scans, links to one file, and two training scans with a lesion."""
    task = TaskFolder(root / f"Task900_Small{cases}")
    rng = np.random.default_rng(0)
    grid = Grid(SHAPE, (1.5, 1.2, 1.2), (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    image = (100 + 5 * rng.standard_normal(SHAPE)).astype(np.float32)
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[5:7, 10:12, 10:12] = 1
    image[mask > 0] -= 60
    for number in (1, 2):
        write_image(task.images("Tr") / f"train{number}_0000.nii.gz", image, grid)
        write_image(task.labels("Tr") / f"train{number}.nii.gz", mask, grid)
        (task.labels("Tr") / f"train{number}.json").write_text('{"instances": {"1": 0}}', encoding="utf-8")
    first = task.images("Ts") / "case00000_0000.nii.gz"
    write_image(first, image, grid)
    for number in range(1, cases):
        (task.images("Ts") / f"case{number:05d}_0000.nii.gz").symlink_to(first)
    write_dataset(task, modalities=("swi",), classes=("cmb",), test_labels=False)
    return task


def prepared_in(task: TaskFolder, workers: Workers) -> float:
    """Seconds of the whole preparation, from nothing."""
    shutil.rmtree(task.preprocessed, ignore_errors=True)
    begun = time.perf_counter()
    report = prepare(task, Overrides.parse(["planner_cfg.gpu_memory_gb=2"]), workers=workers, check=False)
    if report.failures:
        raise RuntimeError(report.failures[0].reason)
    return time.perf_counter() - begun


def nothing(case: Case) -> str:
    """A task that costs nothing."""
    return case.case_id


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; with ``--output`` also writes a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    rows: list[dict[str, object]] = []
    with TemporaryDirectory(prefix="cluster_speed_") as scratch:
        tasks = {cases: make_task(Path(scratch), cases) for cases in args.cases}
        alone = {cases: prepared_in(task, 0) for cases, task in tasks.items()}
        for workers in args.workers:
            with open_cluster(f"local:{workers}") as cluster:
                prepared_in(next(iter(tasks.values())), cluster)  # imports
                for cases, task in tasks.items():
                    seconds = prepared_in(task, cluster)
                    items = [replace(case, label=None) for case in Dataset.load(task).cases("Ts")]
                    process = psutil.Process()
                    before, begun = process.memory_info().rss, time.perf_counter()
                    cluster.run(nothing, items)
                    bare, grown = time.perf_counter() - begun, process.memory_info().rss - before
                    row: dict[str, object] = {
                        "cases": cases,
                        "workers": workers,
                        "seconds": round(seconds, 1),
                        "seconds_here": round(alone[cases], 1),
                        "cases_per_s": round(cases / seconds, 1),
                        "ms_per_empty_task": round(1000 * bare / cases, 1),
                        "kib_per_empty_task": round(grown / cases / 1024, 1),
                    }
                    rows.append(row)
                    print("\t".join(f"{name} {value}" for name, value in row.items()), flush=True)
    if args.output is not None:
        write_table(args.output, list(rows[0]), rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
