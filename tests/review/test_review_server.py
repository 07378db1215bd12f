"""The review server: decisions are on the disk at once, tabs do not overwrite each other, and strangers get nothing."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from review_task import make_review_task, open_session, predict

from cmb_plugin.commands.review import main as nndet_review
from cmb_plugin.conversion import grow_points
from cmb_plugin.dataset import Dataset, boxes_file, read_truth, write_scans
from cmb_plugin.errors import UserError
from cmb_plugin.files import read_json, write_json
from cmb_plugin.images import read_mask, read_scan
from cmb_plugin.paths import TaskFolder
from cmb_plugin.review.decisions import BadEventError, CaseScope, Review, checked_event
from cmb_plugin.review.export import export
from cmb_plugin.review.queue import QueuedScan, ReviewQueue
from cmb_plugin.review.session import ReviewSession

pytest.importorskip("starlette")
from starlette.testclient import TestClient

from cmb_plugin.review.server import MOST_BYTES, build_app

TOKEN = "a-token"
SCOPE = CaseScope(3, (10, 20, 30), 1)


@pytest.fixture
def session(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path))
    return open_session(make_review_task(tmp_path))


@pytest.fixture
def client(session):
    return TestClient(build_app(session, TOKEN), base_url="http://127.0.0.1:8000")


def decide(client, event, revision, number=0, **options):
    return client.post(f"/{TOKEN}/api/cases/{number}/events", json={"revision": revision, "event": event}, **options)


def test_a_page_lists_scans_and_candidates_by_rank(client, session):
    assert "niivue" in client.get(f"/{TOKEN}/").text
    assert len(client.get(f"/{TOKEN}/niivue.umd.js").content) > 100_000  # from nilearn, not from the internet
    listing = client.get(f"/{TOKEN}/api/cases").json()
    assert [case["case"] for case in listing["cases"]] == ["sub-51", "sub-52"]
    case = client.get(f"/{TOKEN}/api/cases/0").json()
    assert [own["lesion"] for own in case["candidates"]] == [str(i + 1) for i in range(len(case["candidates"]))]
    assert [image["name"] for image in case["images"]] == ["swi", "phase"]
    first = case["images"][0]
    sent = client.get(f"/{TOKEN}/api/cases/0/images/{first['number']}/{first['file']}").content
    assert sent == session.cases["sub-51"].case.images[0].read_bytes()
    predictions = session.cases["sub-51"].read()
    box = np.array(case["candidates"][0]["box"])
    np.testing.assert_allclose((box[:3] + box[3:]) / 2, predictions.detections.centres[0], atol=1e-2)
    assert case["shape"] == list(predictions.grid.shape)
    assert [image["bright"] for image in case["images"]] == [False, False]


def test_a_lesion_is_previewed_as_it_is_exported(client, session):
    """On a labelled lesion the preview grows to about its mask; what is no point of the scan is refused."""
    box = read_truth(session.cases["sub-51"].case).boxes[0].astype(float)
    centre = (box[:3] + box[3:]) / 2
    point = dict(zip("zyx", centre.tolist(), strict=True))
    grown = client.get(f"/{TOKEN}/api/cases/0/grown", params=point).json()
    array, grid = read_scan(session.cases["sub-51"].case.images[0])
    expected = grow_points(array, grid.spacing, centre[None])[0]
    assert grown["how"] == expected.how == "grown"
    np.testing.assert_array_equal(grown["voxels"], expected.voxels)
    assert grown["volume_mm3"] == pytest.approx(len(expected.voxels) * np.prod(grid.spacing), abs=0.01)
    for wrong in ({}, {**point, "z": "nan"}, {**point, "y": "-1"}, {**point, "x": "24"}, {**point, "x": "../1"}):
        assert client.get(f"/{TOKEN}/api/cases/0/grown", params=wrong).status_code == 400


def test_a_decision_is_on_the_disk_when_the_answer_comes(client, session):
    answer = decide(client, {"kind": "judge", "lesion": "1", "verdict": "reject", "location": "deep"}, 0)
    assert answer.status_code == 200
    again = open_session(session.dataset.task)  # a new server
    state = again.review("sub-51").state()
    assert state["lesions"] == {"1": {"verdict": "reject", "location": "deep"}}
    assert state["revision"] == 1
    assert not [file for file in session.store.folder.iterdir() if file.name.startswith(".")]


def test_two_tabs_do_not_overwrite_each_other(client, session):
    assert decide(client, {"kind": "judge", "lesion": "1", "verdict": "accept"}, 0).status_code == 200
    late = decide(client, {"kind": "judge", "lesion": "1", "verdict": "reject"}, 0)
    assert late.status_code == 409
    assert late.json()["state"]["lesions"]["1"]["verdict"] == "accept"
    assert decide(client, {"kind": "judge", "lesion": "1", "verdict": "reject"}, 1).status_code == 200
    assert decide(client, {"kind": "judge", "lesion": "1", "verdict": "accept"}, 0, number=1).status_code == 200


def test_undo_takes_back_one_decision_after_another_and_nothing_is_forgotten(client, session):
    events = [{"kind": "judge", "lesion": "1", "verdict": "accept"}, {"kind": "add", "point": [3.5, 4, 5]},
              {"kind": "judge", "lesion": "a1", "verdict": "possible"}]  # fmt: skip
    for revision, event in enumerate(events):
        state = decide(client, event, revision).json()["state"]
    assert state["lesions"]["a1"] == {"verdict": "possible", "class": 0, "point": [3.5, 4.0, 5.0]}
    expected = [{"1", "a1"}, {"1"}, set()]
    for revision, names in enumerate(expected, start=3):
        state = decide(client, {"kind": "undo"}, revision).json()["state"]
        assert set(state["lesions"]) == names
    assert not state["can_undo"]
    assert decide(client, {"kind": "undo"}, 6).status_code == 400
    log = session.store.write_log().read_text(encoding="utf-8").splitlines()
    assert len(log) == 1 + 6
    assert "ann" in log[1]


def test_a_folder_of_predictions_is_reviewed_without_a_task(session, tmp_path, capsys):
    """Same page and same export as by the Task; scans that are gone are left out, others are judged in the folder."""
    found = tmp_path / "found"
    with pytest.raises(UserError, match=r"scans\.tsv: the table of scans cannot be read.*run nndet_predict"):
        ReviewSession.of_folder(found, "ann")
    cases = [own.case for own in session.cases.values()]
    (found / "scans.tsv").write_text("damaged")
    write_scans(found, cases[:1], session.dataset.modalities)
    write_scans(
        found, [cases[1], replace(cases[1], case_id="gone", images=(tmp_path / "gone.nii.gz",) * 2)], ["a", "b"]
    )
    write_scans(found, cases[1:], session.dataset.modalities)  # another run into the folder
    own = ReviewSession.of_folder(found, "ann")
    assert own.dataset.modalities == session.dataset.modalities
    assert own.dataset.classes == session.dataset.classes
    for case_id in session.cases:
        assert own.describe(case_id) == session.describe(case_id)
    assert list(own.cases) == list(session.cases)
    client = TestClient(build_app(own, TOKEN), base_url="http://127.0.0.1:8000")
    for revision, event in enumerate(
        [{"kind": "judge", "lesion": "1", "verdict": "accept"}, {"kind": "done", "done": True}]
    ):
        assert decide(client, event, revision).status_code == 200
    assert (found / "review" / "ann").is_dir()
    assert not session.store.folder.exists()
    write_json(found / "run.json", {})
    assert nndet_review([str(found), "--reader", "ann", "--queue", "q.json"]) == 2
    assert "is a folder of predictions - leave out --queue" in capsys.readouterr().err
    assert nndet_review([str(found), "--reader", "ann", "--export", str(tmp_path / "Task301_Judged")]) == 2
    assert capsys.readouterr().err.startswith("error: --export ")
    assert nndet_review([str(found), "--reader", "ann", "--export", "Task301_Judged"]) == 0
    judged = Dataset.load(TaskFolder(tmp_path / "Task301_Judged"))
    assert judged.modalities == session.dataset.modalities
    (case,) = judged.cases("Tr")
    assert len(read_truth(case).boxes) == 1
    assert case.images[0].resolve() == session.cases[case.case_id].case.images[0].resolve()


def test_a_case_that_cannot_be_read_stops_no_other(client, session):
    decide(client, {"kind": "judge", "lesion": "1", "verdict": "accept"}, 0)
    session.cases["sub-52"].predictions.write_text("{")
    first, second = client.get(f"/{TOKEN}/api/cases").json()["cases"]
    assert (first["judged"], "sub-52_boxes.json" in second["problem"]) == (1, True)
    answer = client.get(f"/{TOKEN}/api/cases/1")
    assert (answer.status_code, "sub-52_boxes.json" in answer.json()["error"]) == (422, True)
    report = export(session, TaskFolder(session.dataset.task.root.with_name("Task901_Reviewed")))
    assert (list(report.lesions), list(report.left_out)) == (["sub-51"], ["sub-52"])


def test_the_log_holds_every_case_of_the_reader(client, session):
    decide(client, {"kind": "judge", "lesion": "1", "verdict": "accept"}, 0)
    later = replace(session, cases={"sub-52": session.cases["sub-52"]})  # a second queue, of another scan
    later.store.append("sub-52", later.key("sub-52"), {"kind": "done", "done": True}, 0, later.scope("sub-52"))
    (later.store.folder / "damaged.json").write_text("{")
    text = later.store.write_log().read_text(encoding="utf-8")
    assert [line.split("\t")[2] for line in text.splitlines()[1:]] == ["sub-51", "sub-52"]


def test_a_second_reader_does_not_see_the_first(client, session):
    decide(client, {"kind": "judge", "lesion": "1", "verdict": "accept"}, 0)
    other = open_session(session.dataset.task, "ben")
    assert other.review("sub-51").state()["lesions"] == {}
    with pytest.raises(UserError, match="cannot name a folder"):
        open_session(session.dataset.task, "../ann")


def test_decisions_about_other_predictions_are_not_taken_over(client, session):
    decide(client, {"kind": "judge", "lesion": "1", "verdict": "accept"}, 0)
    task = session.dataset.task
    predict(task, task.root.parent / "found", "sub-51", extra=2)
    assert open_session(task).review("sub-51").revision == 0


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/wrong/api/cases", {}, 403),
        ("/", {}, 403),
        ("/a-token/api/cases", {"Origin": "http://evil.example"}, 403),
        ("/a-token/api/cases", {"Origin": "null"}, 403),
        ("/a-token/api/cases", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("/a-token/api/cases", {"Host": "evil.example:8000"}, 403),
        ("/a-token/api/cases", {"Origin": "http://127.0.0.1:8000"}, 200),
        ("/a-token/../../etc/passwd", {}, 403),
        ("/a-token/..%2F..%2Fsetup.cfg", {}, 404),
        ("/a-token/decisions.py", {}, 404),
        ("/a-token/api/cases/7", {}, 404),
        ("/a-token/api/cases/-1", {}, 404),
        ("/a-token/api/cases/..%2F0", {}, 404),
        ("/a-token/api/cases/0/images/9/scan.nii.gz", {}, 404),
        ("/a-token/api/cases/0/images/0/..%2F..%2Fx", {}, 404),
    ],
)
def test_strangers_and_paths_get_nothing(client, path, headers, status):
    answer = client.get(path, headers=headers)
    assert answer.status_code == status
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert b"root:" not in answer.content


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "judge", "lesion": "4", "verdict": "accept"},
        {"kind": "judge", "lesion": "../1", "verdict": "accept"},
        {"kind": "judge", "lesion": "01", "verdict": "accept"},
        {"kind": "judge", "lesion": 1, "verdict": "accept"},
        {"kind": "judge", "lesion": "1", "verdict": "<script>"},
        {"kind": "judge", "lesion": "1", "class": 1},
        {"kind": "judge", "lesion": "1", "class": True},
        {"kind": "judge", "lesion": "1"},
        {"kind": "judge", "lesion": "a1", "verdict": "accept"},
        {"kind": "add", "point": [1, 2, 30]},
        {"kind": "add", "point": [1, 2, float("nan")]},
        {"kind": "add", "point": "1 2 3"},
        {"kind": "remove", "lesion": "1"},
        {"kind": "done", "done": 1},
        {"kind": "undo"},
        {"kind": "exec"},
        {},
    ],
)
def test_what_cannot_be_meant_is_no_decision(event):
    with pytest.raises(BadEventError):
        checked_event(event, Review("a", "ann"), SCOPE)


def test_only_what_belongs_to_a_decision_is_kept():
    event = checked_event(
        {"kind": "judge", "lesion": "2", "verdict": "unsure", "at": "never", "x": 1}, Review("a", "b"), SCOPE
    )
    assert event == {"kind": "judge", "lesion": "2", "verdict": "unsure"}


def test_huge_odd_and_broken_bodies_are_refused(client, session):
    place = f"/{TOKEN}/api/cases/0/events"
    huge = b'{"event": "' + b"x" * MOST_BYTES + b'"}'
    assert client.post(place, content=huge, headers={"Content-Type": "application/json"}).status_code == 413
    assert client.post(place, content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    for body in (b"", b"{", b"[]", b"{}", b'{"event": [], "revision": 0}', b"[" * 9000):
        assert client.post(place, content=body, headers={"Content-Type": "application/json"}).status_code == 400
    assert client.get(place).status_code == 405
    assert not session.store.folder.exists() or not list(session.store.folder.iterdir())


def test_decisions_become_labels(client, session):
    task, n = session.dataset.task, len(session.cases["sub-51"].read().detections)
    for revision in range(n - 1):
        verdict = "possible" if revision == 0 else "accept"
        decide(client, {"kind": "judge", "lesion": str(revision + 1), "verdict": verdict, "location": "deep"}, revision)
    with pytest.raises(UserError, match="no scan is done"):
        export(session, TaskFolder(task.root.with_name("Task901_Reviewed")), done_only=True)
    decide(client, {"kind": "add", "point": [10.5, 18.5, 18.5]}, n - 1)
    decide(client, {"kind": "done", "done": True}, n)
    assert nndet_review(["900", "--predictions", str(task.root.parent / "found"), "--reader", "ann",
                         "--export", "Task901_Reviewed"]) == 0  # fmt: skip
    made = Dataset.load(TaskFolder(task.root.with_name("Task901_Reviewed")))
    assert read_json(made.task.root / "dataset.json")["task"] == "Task901_Reviewed"
    (case,) = made.cases("Tr")
    truth, before = read_truth(case), read_truth(Dataset.load(task).cases("Ts")[0])
    assert len(truth) == n  # the outlined ones, and the one that was added; the weak candidate was not judged
    np.testing.assert_array_equal(truth.boxes[: n - 1], before.boxes)
    assert truth.certainty == ["possible", *["definite"] * (n - 1)]
    assert made.is_weak("sub-51")
    assert case.images[0].resolve() == session.cases["sub-51"].case.images[0].resolve()
    assert boxes_file(task.root.parent / "found", "sub-51").is_file()
    with pytest.raises(UserError, match="--overwrite"):
        export(session, made.task)
    assert made.cases("Tr")[0].judged is None
    assert export(session, made.task, overwrite=True, done_only=True).left_out == {"sub-52": "not done"}
    assert export(session, made.task, overwrite=True).left_out == {"sub-52": "nothing is judged"}


def test_an_export_keeps_the_sessions_of_a_subject_together(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path))
    task = make_review_task(tmp_path)
    found, scan = tmp_path / "found", Dataset.load(task).cases("Ts")[0].images[0]
    names = ("sub-1_ses-1", "sub-1_ses-2", "sub-2_run-1", "sub-51")
    for name in names[:-1]:
        shutil.copy(boxes_file(found, "sub-51"), boxes_file(found, name))
    cases = {name: {0: scan} for name in names}
    queued = tuple(QueuedScan(name, images, found) for name, images in cases.items())
    session = ReviewSession.of_queue(Dataset.load(task), ReviewQueue(task.name, "", queued, {}), "ann")
    for name in names:
        session.store.append(name, session.key(name), {"kind": "done", "done": True}, 0, session.scope(name))
        session.store.append(
            name, session.key(name), {"kind": "judge", "lesion": "1", "verdict": "accept"}, 1, session.scope(name)
        )
    made = TaskFolder(tmp_path / "Task901_Reviewed")
    export(session, made)
    assert Dataset.load(made).session_id == {"sub-1_ses-1": "sub-1", "sub-1_ses-2": "sub-1", "sub-2_run-1": "sub-2"}


def test_an_export_replaces_an_earlier_one_and_nothing_else(client, session):
    decide(client, {"kind": "judge", "lesion": "1", "verdict": "accept"}, 0)
    target = TaskFolder(session.dataset.task.root.with_name("Task901_Reviewed"))
    export(session, target)
    others = [
        target.preprocessed / "splits.json", target.root / "review" / "ben" / "sub-51.json",
        target.images("Ts") / "new_0000.nii.gz", target.labels("Ts") / "new.nii.gz",
    ]  # fmt: skip
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of the user")
    decide(client, {"kind": "done", "done": True}, 1)
    before = Dataset.load(target).cases("Tr")[0].label.stat().st_ino
    export(session, target, overwrite=True)
    (case,) = Dataset.load(target).cases("Tr")
    assert case.label.stat().st_ino != before
    assert case.images[0].resolve() == session.cases["sub-51"].case.images[0].resolve()
    assert [path.read_text() for path in others] == ["of the user"] * 4
    assert not [path for path in target.root.parent.iterdir() if path.name.startswith(".")]

    (target.images("Tr") / "own_0000.nii.gz").write_text("of the user")
    with pytest.raises(UserError, match=r"own_0000.*no export"):
        export(session, target, overwrite=True)
    (session.dataset.task.root / "reviewed.json").write_text("{}")
    with pytest.raises(UserError, match="the Task that is reviewed"):
        export(session, session.dataset.task, overwrite=True)
    assert session.cases["sub-51"].case.images[0].is_file()


def test_without_a_search_for_missed_lesions_only_judged_places_are_labelled(client, session):
    case_id, found = "sub-51", session.cases["sub-51"].read().detections
    decide(client, {"kind": "judge", "lesion": "1", "verdict": "reject"}, 0)
    decide(client, {"kind": "judge", "lesion": "2", "verdict": "accept"}, 1)
    report = export(session, TaskFolder(session.dataset.task.root.with_name("Task901_Reviewed")))
    assert report.in_places == [case_id]
    made = Dataset.load(report.task)
    (case,) = made.cases("Tr")
    assert made.is_weak(case_id)
    judged, labels = read_mask(case.judged)[0], case.read_labels(1)
    assert len(labels.classes) == 1
    middles = np.floor(found.centres).astype(int)
    assert [int(judged[tuple(place)]) for place in middles[:2]] == [1, 1]
    assert not any(judged[tuple(place)] for place in middles[2:])  # of them nothing was said
    assert 0 < judged.mean() < 0.2
    assert labels.mask[tuple(middles[0])] == 0
