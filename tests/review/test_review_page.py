"""The page in a real browser, the system's Chromium, driven by Playwright: what a reader does with keys and clicks."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from review_task import make_review_task, open_session

from cmb_plugin.dataset import read_truth
from cmb_plugin.images import read_scan

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

FLAGS = [
    *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL 2 without a graphics card
    *("--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
]
PATIENCE = 120_000  # ms: drawing without a graphics card is slow where other tests run too
SIZE = {"width": 1000, "height": 640}


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=FLAGS, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture
def tabs(chromium):
    """Opens tabs; whatever goes wrong in their scripts fails the test."""
    errors = []
    with contextlib.closing(chromium.new_context(viewport=SIZE, bypass_csp=False)) as context:

        def opened(address):
            tab = context.new_page()
            tab.set_default_timeout(PATIENCE)
            tab.on("pageerror", lambda error: errors.append(str(error)))
            tab.goto(address)
            ready(tab)
            return tab

        yield opened
    assert errors == []


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server in a thread: the session and its address."""
    monkeypatch.setenv("det_data", str(tmp_path))
    session = open_session(make_review_task(tmp_path, modalities=("swi",)))
    with serving(session) as address:
        yield session, address


@contextlib.contextmanager
def serving(session):
    """Answers for a session in a thread."""
    uvicorn = pytest.importorskip("uvicorn")
    from cmb_plugin.review.server import build_app

    server = uvicorn.Server(uvicorn.Config(build_app(session, "token"), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/token/"
    finally:
        server.should_exit = True
        thread.join()


def ready(tab, case=0):
    tab.wait_for_selector(f'body[data-ready="{case}"]')


def says(tab, text):
    """Waits until the status is ``text``."""
    tab.locator("#status", has_text=text).wait_for()


def events(session, case_id="sub-51"):
    return [{k: v for k, v in event.items() if k != "at"} for event in session.review(case_id).events]


def settled(tab, revision):
    """Waits until so many decisions were taken."""
    tab.locator(f'body[data-revision="{revision}"]').wait_for()


def caption(tab):
    """The value under the cursor, and its voxel z, y, x."""
    text = tab.locator("figcaption").first.inner_text()
    value, x, y, z = re.search(r": ([-\d.]+) at (\d+), (\d+), (\d+)", text).groups()
    return float(value), (int(z), int(y), int(x))


def looks_at(tab, point):
    """Waits until the cursor is drawn in the voxel of a point z, y, x."""
    z, y, x = np.floor(point).astype(int).tolist()
    tab.locator("figcaption", has_text=f"at {x}, {y}, {z}").first.wait_for()


def press(tab, *keys):
    for key in keys:
        tab.keyboard.press(key)


def test_keys_alone_judge_add_undo_and_finish_a_scan(tabs, served):
    session, address = served
    n = len(session.cases["sub-51"].read().detections)
    tab = tabs(address)
    press(tab, "a", "r", "p", "3", "Backspace")  # quicker than the answers come
    settled(tab, 4)
    assert events(session) == [
        {"kind": "judge", "lesion": "1", "verdict": "accept"},
        {"kind": "judge", "lesion": "2", "verdict": "reject"},
        {"kind": "judge", "lesion": "2", "location": "infratentorial"},
        {"kind": "undo"},
    ]
    press(tab, "PageUp", "ArrowLeft", "+")
    tab.locator("#preview-text", has_text="voxels").wait_for()
    press(tab, "ArrowUp", "Escape", "+")
    tab.locator("#preview-text", has_text="voxels").wait_for()
    press(tab, "Enter")
    settled(tab, 5)
    assert tab.locator("#lesion-title").inner_text() == "Added 1"
    press(tab, "o", "w")
    settled(tab, 7)
    lesions = session.review("sub-51").state()["lesions"]
    assert lesions["a1"]["verdict"] == "possible"
    looks_at(tab, lesions["a1"]["point"])
    assert session.review("sub-51").state()["done"]
    tab.reload()  # nothing is lost; the first scan that is not done is opened
    ready(tab, 1)
    press(tab, "[")
    ready(tab, 0)
    options = tab.locator("[role=option]")
    assert options.count() == n + 1
    marks = options.locator(".mark").all_inner_texts()
    assert (marks[0], marks[1], marks[-1]) == ("✓ accept", "✕ reject", "○ possible")
    press(tab, *["n"] * n, "Delete")
    settled(tab, 8)
    assert options.count() == n


def test_what_is_drawn_lies_where_the_file_has_it(tabs, served):
    """On an oblique scan: cursor, picture, value and added point mean the same voxel."""
    session, address = served
    case = session.cases["sub-51"].case
    array, boxes = read_scan(case.images[0])[0], read_truth(case).boxes.astype(float)
    centres = (boxes[:, :3] + boxes[:, 3:]) / 2
    tab = tabs(address)
    tab.locator("#marks").uncheck()
    tab.locator("#layout").select_option("axial")
    for centre in centres:
        looks_at(tab, centre)
        value, voxel = caption(tab)
        assert value == pytest.approx(array[voxel], abs=0.01)
        picture = shot(tab)
        row, column = cross(picture)
        at, around = picture[row, column].mean(), picture[row - 60 : row + 60, column - 60 : column + 60].mean()
        assert at < 60 < around  # a dark lesion
        press(tab, "n")
    press(tab, *["p"] * len(centres))
    looks_at(tab, centres[0])
    row, column = cross(shot(tab))  # of the first lesion; then elsewhere, and back by a click
    press(tab, *["ArrowLeft", "ArrowUp"] * 2)
    looks_at(tab, centres[0] + (0, 2, 2))  # the right and the front of the patient
    before = tab.locator("figcaption").first.inner_text()
    tab.locator(".overlay").click(position={"x": column, "y": row})
    tab.locator("figcaption", has_not_text=before).first.wait_for()
    assert np.abs(np.array(caption(tab)[1]) + 0.5 - centres[0]).max() <= 1  # a pixel is less than a voxel
    press(tab, "+")
    tab.locator("#preview-text", has_text="Grows to").wait_for()
    press(tab, "+")
    settled(tab, 1)
    assert np.abs(np.array(events(session)[0]["point"]) - centres[0]).max() < 1


def shot(tab):
    """What is on the screen of the first scan, [row, column, RGB]."""
    from io import BytesIO

    from PIL import Image

    return np.asarray(Image.open(BytesIO(tab.locator(".frame").first.screenshot())).convert("RGB")).astype(float)


def cross(picture):
    """Row and column of the cursor's lines, by their colour."""
    blue = (picture[..., 2] - picture[..., 0]).clip(0)
    return int(blue.sum(1).argmax()), int(blue.sum(0).argmax())


def test_a_second_tab_is_told_and_does_not_overwrite(tabs, served):
    session, address = served
    first, second = tabs(address), tabs(address)
    second.route(re.compile(r"/api/cases/0$"), lambda route: route.abort())  # it does not look anew by itself
    press(first, "a")
    settled(first, 1)
    press(second, "r")  # made on what this tab shows, which is no longer so
    says(second, "another tab")
    settled(second, 1)
    assert events(session) == [{"kind": "judge", "lesion": "1", "verdict": "accept"}]
    assert second.locator("[role=option] .mark").first.inner_text() == "✓ accept"
    press(second, "u")
    settled(second, 2)
    assert events(session)[-1]["verdict"] == "unsure"


def test_a_killed_server_loses_nothing_and_the_next_one_goes_on(tabs, tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path))
    make_review_task(tmp_path, modalities=("swi",))
    code = "import sys; from cmb_plugin.commands.review import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "900", "--predictions", str(tmp_path / "found"), "--reader", "ann"]

    def start():
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy())
        while not (match := re.search(r"Open (http://\S+)", line := server.stdout.readline())):
            assert line, server.wait()
        return server, match[1]

    server, address = start()
    try:
        tab = tabs(address)
        press(tab, "a", "r")
        settled(tab, 2)
        server.send_signal(signal.SIGKILL)
        server.wait()
        press(tab, "n", "u")
        says(tab, "Not saved")
        server, second = start()
        assert second != address  # another token
        tab.goto(second)
        ready(tab)
        assert tab.locator("[role=option] .mark").all_inner_texts()[:2] == ["✓ accept", "✕ reject"]
        press(tab, "Backspace")
        settled(tab, 3)
        server.send_signal(signal.SIGINT)
        assert "1 of 2 scans judged, 0 of them done" in server.stdout.read()
        assert server.wait(timeout=60) == 0
        log = (tmp_path / "Task900_Tiny" / "review" / "ann" / "decisions.tsv").read_text(encoding="utf-8")
        assert [line.split("\t")[4] for line in log.splitlines()[1:]] == ["judge", "judge", "undo"]
    finally:
        server.kill()


def test_markup_in_names_stays_text(tabs, tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path))
    nasty = "<img src=x onerror=alert(1)>"
    task = make_review_task(tmp_path, modalities=("<b>swi</b>",), classes=("<i>cmb</i>", "&lt;"))
    for file in [*task.root.rglob("sub-51*"), *(tmp_path / "found").glob("sub-51*")]:
        file.rename(file.with_name(file.name.replace("sub-51", nasty)))
    boxes = tmp_path / "found" / f"{nasty}_boxes.json"
    boxes.write_text(json.dumps({**json.loads(boxes.read_text(encoding="utf-8")), "case_id": nasty}))
    session = open_session(task)
    assert nasty in session.cases
    with serving(session) as address:
        tab = tabs(address)
        tab.on("dialog", lambda dialog: pytest.fail("a script in a name ran"))
        tab.locator("#cases").select_option(label=f"{nasty} (3)")
        ready(tab, list(session.cases).index(nasty))
        assert tab.locator("figure img, header img, option img, b, figcaption i, select i").count() == 0
        assert tab.locator("figcaption").first.inner_text().startswith("<b>swi</b>")
        assert tab.locator("#class option").all_inner_texts() == ["<i>cmb</i>", "&lt;"]


def test_a_page_of_another_origin_can_neither_read_nor_decide(tabs, served, chromium):
    session, address = served

    class Stranger(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>stranger</title>")

        def log_message(self, *args):
            pass

    other = HTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    try:
        page = chromium.new_page()
        page.goto(f"http://127.0.0.1:{other.server_port}/")
        outcomes = page.evaluate(
            """async (address) => {
                const body = JSON.stringify({ revision: 0, event: { kind: "done", done: true } });
                const tried = async (path, options) =>
                    fetch(address + path, options).then((answer) => answer.type + answer.status, () => "refused");
                return [
                    await tried("api/cases"),
                    await tried("api/cases/0/events", { method: "POST", body, mode: "no-cors" }),
                    await tried("api/cases/0/events",
                        { method: "POST", body, headers: { "Content-Type": "application/json" } }),
                    await new Promise((done) => {
                        const script = document.createElement("script");
                        script.onload = () => done("ran");
                        script.onerror = () => done("refused");
                        script.src = address + "api.js";
                        document.head.append(script);
                    }),
                ];
            }""",
            address,
        )
        assert outcomes == ["refused"] * 4 or outcomes == ["refused", "opaque0", "refused", "refused"]
        assert events(session) == []
        page.close()
    finally:
        other.shutdown()


def test_planes_are_those_of_niivue_without_stand_ins(tabs, served):
    """NiiVue colours, orders and draws by itself what the page gives it as grey levels through shaders of its own."""
    session, address = served
    path = session.images("sub-51")[0]
    flipped = sitk.PermuteAxes(sitk.ReadImage(str(path)), (2, 0, 1))[:, ::-1]  # axes in another order and direction
    sitk.WriteImage(flipped, str(path))
    tab = tabs(address)
    described = tab.evaluate("(address) => fetch(`${address}api/cases/0`).then((answer) => answer.json())", address)
    url = f"{address}api/cases/0/images/0/{described['images'][0]['file']}"
    own, theirs = tab.evaluate(
        """async (url) => {
            const [{ putInStandIns }, { Volume }] = [await import("./stand_ins.js"), await import("./volume.js")];
            const drawn = async (standIns) => {
                const canvas = document.createElement("canvas");
                canvas.width = canvas.height = 300;
                document.body.append(canvas);
                const own = new niivue.Niivue({ isResizeCanvas: false, crosshairWidth: 0, multiplanarShowRender: 0,
                    multiplanarLayout: 2, isOrientationTextVisible: false, backColor: [0, 0, 0, 1], loadingText: "" });
                await own.attachToCanvas(canvas);
                const image = await niivue.NVImage.loadFromUrl({ url, name: "scan.nii.gz" });
                if (standIns) putInStandIns(own);
                const volume = new Volume(image, false);
                own.addVolume(standIns ? volume.grey() : image);
                own.opts.sliceType = 3;
                own.scene.crosshairPos = [0.3, 0.4, 0.6];
                own.drawScene();
                const { gl } = own, pixels = new Uint8Array(4 * 300 * 300);
                gl.readPixels(0, 0, 300, 300, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
                return Array.from(pixels);
            };
            return [await drawn(true), await drawn(false)];
        }""",
        url,
    )
    own, theirs = (np.reshape(pixels, (300, 300, 4))[..., 0] for pixels in (own, theirs))
    assert np.ptp(theirs) > 100
    assert np.abs(own - theirs).max() <= 3  # NiiVue lifts the darkest levels by 2


def test_labels_and_contrast_pass_axe_in_light_and_dark(chromium, served):
    axe = axe_core()
    _, address = served
    with contextlib.closing(chromium.new_context(viewport=SIZE, bypass_csp=True)) as context:
        tab = context.new_page()
        tab.set_default_timeout(PATIENCE)
        tab.goto(address)
        ready(tab)
        press(tab, "a", "r", "u", "o")
        settled(tab, min(4, len(events_shown(tab))))
        for scheme in ("light", "dark"):
            tab.emulate_media(color_scheme=scheme)
            press(tab, "+")
            tab.locator("#preview-text", has_text="voxels").wait_for()
            assert violations(tab, axe) == []
            press(tab, "Escape", "?")
            assert violations(tab, axe) == []
            tab.locator("#keys button").click()


def events_shown(tab):
    return tab.locator("[role=option]").all()


def axe_core():
    """The script that axe_playwright_python brings; its Python part cannot be imported where the locale is ASCII."""
    package = importlib.util.find_spec("axe_playwright_python") or pytest.skip("needs axe_playwright_python")
    return Path(package.origin).with_name("axe.min.js").read_text(encoding="utf-8")


def violations(tab, axe):
    """What axe-core objects to, in short."""
    tab.evaluate(axe)
    found = tab.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    return [f"{own['id']}: {node['html'][:200]}" for own in found for node in own["nodes"]]
