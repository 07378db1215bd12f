"""How quickly the page of ``nndet_review`` opens a large scan, and whether judging slows down.

    python -m benchmarks.speed.review_speed [--shape 192 512 512] [--candidates 200] [--folder DIR]

Makes a scan of noise with dark spots (int16, gzipped, as scanners' files are converted) and a small one, serves both,
and drives the system's Chromium without a graphics card: the small scan is opened first, which starts NiiVue, then the
large one; that is what a reader waits for from scan to scan. Wall time needs an idle machine; the processor seconds of
the browser, which are printed beside it, do not. Then every candidate is judged by its key.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tools.measured_on import measured_on
from cmb_plugin.commands.cli import command, parser
from cmb_plugin.dataset import CasePredictions, Dataset, write_case_predictions, write_dataset
from cmb_plugin.detections import Detections
from cmb_plugin.errors import UserError
from cmb_plugin.images import Grid, write_image
from cmb_plugin.paths import TaskFolder
from cmb_plugin.review.session import ReviewSession

FLAGS = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-background-networking"]
PATIENCE = 600_000  # ms
DRAWN = """() => {
    const gl = document.querySelector(".frame canvas").getContext("webgl2");
    gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // waits until all is drawn
}"""


def make_case(task: TaskFolder, case_id: str, shape: tuple[int, int, int], candidates: int) -> None:
    """A test scan of noise with dark spots, and its candidates."""
    rng = np.random.default_rng(0)
    spacing = (0.8, 0.45, 0.45)
    grid = Grid(shape, spacing, (0.0, 0.0, 0.0), tuple(np.diag([-1.0, -1.0, 1.0]).ravel().tolist()))
    array = rng.integers(500, 700, size=shape, dtype=np.int16)
    centres = np.stack([rng.integers(4, side - 4, size=candidates) for side in shape], axis=1)
    for z, y, x in centres:
        array[z - 1 : z + 2, y - 2 : y + 3, x - 2 : x + 3] -= 400
    write_image(task.images("Ts") / f"{case_id}_0000.nii.gz", array, grid)
    boxes = np.concatenate([centres - np.array([1, 2, 2]), centres + np.array([2, 3, 3])], axis=1).astype(np.float32)
    scores = np.linspace(0.99, 0.1, candidates).astype(np.float32)
    detections = Detections(boxes, scores, np.zeros(candidates, np.int64))
    write_case_predictions(task.root / "found", CasePredictions(case_id, detections, grid, ("cmb",), 0.5))


def make_session(root: Path, shape: tuple[int, int, int], candidates: int) -> ReviewSession:
    """A small scan and a large one, made once."""
    task = TaskFolder(root / "Task800_Speed")
    if not (task.root / "dataset.json").is_file():
        make_case(task, "a-small", (32, 64, 64), 3)
        make_case(task, "b-large", shape, candidates)
        blank = Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))
        write_image(task.images("Tr") / "c-none_0000.nii.gz", np.zeros((4, 4, 4), np.int16), blank)
        write_dataset(task, name="Speed", modalities=["swi"], classes=["cmb"], test_labels=False)
    shutil.rmtree(task.root / "review", ignore_errors=True)
    folders = dict.fromkeys(("a-small", "b-large"), task.root / "found")
    return ReviewSession.of(Dataset.load(task), folders, "Ts", "speed", "speed")


def processor_seconds(browser: Any) -> float:
    """Seconds that the processes of the browser have used of the processor."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return float(sum(process["cpuTime"] for process in processes))


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the times."""
    arguments = parser(__doc__)
    arguments.add_argument("--shape", type=int, nargs=3, default=[192, 512, 512], help="voxels of the scan, z y x")
    arguments.add_argument("--candidates", type=int, default=200, help="to judge (default: %(default)s)")
    arguments.add_argument("--folder", type=Path, help="where the scans are kept; deleted afterwards by default")
    args = arguments.parse_args(argv)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise UserError("no Chromium on this machine", remedy="install it (Debian: apt-get install chromium)")
    import uvicorn
    from playwright.sync_api import sync_playwright

    from cmb_plugin.review.server import build_app

    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as playwright:
        session = make_session(args.folder or Path(scratch), args.shape, args.candidates)
        server = uvicorn.Server(uvicorn.Config(build_app(session, "token"), port=0, log_level="error"))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/token/"
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, chromium_sandbox=False)
        page = browser.new_page(viewport={"width": 1200, "height": 800})
        page.set_default_timeout(PATIENCE)
        print(measured_on("nilearn", "playwright") + f"; Chromium {browser.version}, no graphics card")
        page.goto(address)
        page.wait_for_selector('body[data-ready="0"]')
        page.evaluate(DRAWN)
        print(f"the browser used the processor for {processor_seconds(browser):.1f} s to start", flush=True)
        before, start = processor_seconds(browser), time.perf_counter()
        page.keyboard.press("]")
        page.wait_for_selector('body[data-ready="1"]')
        page.evaluate(DRAWN)
        wall, used = time.perf_counter() - start, processor_seconds(browser) - before
        size = " x ".join(map(str, args.shape[::-1]))
        print(f"{size} opened in {wall:.1f} s; the browser used the processor for {used:.1f} s")
        print(
            page.evaluate(
                "performance.getEntriesByType('measure').map((m) => `${m.name} ${Math.round(m.duration)} ms`)"
            )
        )
        _judge(page, browser, args.candidates)
        browser.close()
        server.should_exit = True
        thread.join()
    return 0


def _judge(page: Any, browser: Any, candidates: int) -> None:
    """Judges all candidates, the next as soon as one was taken, and prints the times of the first and the last."""
    part = max(1, candidates // 5)
    for first in range(0, candidates, part):
        before, start = processor_seconds(browser), time.perf_counter()
        for number in range(first + 1, min(first + part, candidates) + 1):
            page.keyboard.press("r")
            page.wait_for_selector(f'body[data-revision="{number}"]')
        wall, used = time.perf_counter() - start, processor_seconds(browser) - before
        print(
            f"candidates {first + 1}-{number}: {wall / part * 1000:.0f} ms each, processor {used / part * 1000:.0f} ms"
        )


if __name__ == "__main__":
    sys.exit(main())
