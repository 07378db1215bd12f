"""Two readers of the same candidates: who agreed with whom, by scikit-learn's kappa and by counting."""

import json

import numpy as np
import pytest
from review_task import make_review_task, open_session
from sklearn.metrics import cohen_kappa_score

from cmb_plugin.commands.review import main as nndet_review
from cmb_plugin.errors import UserError
from cmb_plugin.review.agreement import compare_readers

VERDICTS = {"ann": ["accept", "reject", "accept", "possible"], "ben": ["accept", "accept", "accept", "unsure"]}


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setenv("det_data", str(tmp_path))
    return make_review_task(tmp_path)


def decide(session, case_id, *events):
    for event in events:
        session.store.append(
            case_id, session.key(case_id), event, session.review(case_id).revision, session.scope(case_id)
        )


def judged(task):
    for reader, verdicts in VERDICTS.items():
        session = open_session(task, reader)
        for number, verdict in enumerate(verdicts, start=1):
            place = "lobar" if number == 1 or reader == "ann" else "deep"
            decide(session, "sub-51", {"kind": "judge", "lesion": str(number), "verdict": verdict, "location": place})
        shift = 0.0 if reader == "ann" else 1.0
        decide(session, "sub-51", {"kind": "add", "point": [10.0, 20.0, 20.0 + shift]})
        if reader == "ben":
            decide(session, "sub-51", {"kind": "add", "point": [3.0, 20.0, 3.0]})
        decide(session, "sub-51", {"kind": "done", "done": True})


def test_readers_are_compared_lesion_by_lesion(task):
    judged(task)
    agreement = compare_readers(open_session(task, "ann"), open_session(task, "ben"))
    assert agreement.cases == ("sub-51",)  # the other scan was done by nobody
    pairs = [(row["verdict"], row["other_verdict"]) for row in agreement.rows]
    assert pairs == [*zip(VERDICTS["ann"], VERDICTS["ben"], strict=True), ("accept", "accept"), ("absent", "accept")]
    numbers = agreement.summary()
    assert (numbers["n_scans"], numbers["n_candidates"], numbers["n_by_one"]) == (1, 4, 1)
    assert numbers["verdict_agreement"][0] == 0.5
    assert numbers["verdict_kappa"][0] == pytest.approx(cohen_kappa_score(VERDICTS["ann"], VERDICTS["ben"]))
    assert numbers["positive_agreement"][0] == 2 * 3 / (2 * 3 + 2)  # 1, 3 and the added one; 2 and the other added one
    assert agreement.table("location")[1][0].tolist() == [1, 2, 0, 0]  # lobar to ann: 1, 3 and 4
    swapped = compare_readers(open_session(task, "ben"), open_session(task, "ann"))
    np.testing.assert_array_equal(swapped.table("verdict")[1], agreement.table("verdict")[1].T)


def test_who_looked_at_the_whole_scan_has_judged_what_he_did_not_mark(task):
    """Candidates that ben left alone are background to him; what he added where ann accepted a candidate is one lesion
    to both."""
    ann, ben = open_session(task, "ann"), open_session(task, "ben")
    for number in ("1", "2", "3"):
        decide(ann, "sub-51", {"kind": "judge", "lesion": number, "verdict": "accept"})
    decide(ben, "sub-51", {"kind": "judge", "lesion": "1", "verdict": "accept"})
    second = ben.cases["sub-51"].read().detections.centres[1] + (0, 0, 0.5)
    decide(ben, "sub-51", {"kind": "add", "point": second.tolist()})
    decide(ann, "sub-51", {"kind": "judge", "lesion": "4", "verdict": "reject"}, {"kind": "done", "done": True})
    decide(ben, "sub-51", {"kind": "done", "done": True})
    agreement = compare_readers(ann, ben)
    verdicts = [(row["lesion"], row["verdict"], row["other_verdict"]) for row in agreement.rows]
    assert verdicts == [("1", "accept", "accept"), ("2", "accept", "accept"), ("3", "accept", "absent")]
    numbers = agreement.summary()
    assert (numbers["n_candidates"], numbers["n_by_one"]) == (1, 1)
    assert numbers["positive_agreement"][0] == 4 / 5


def test_the_command_writes_a_table_and_a_figure(task, capsys):
    command = ["900", "--predictions", str(task.root.parent / "found"), "--agreement", "ann", "ben"]
    assert nndet_review(command) == 2
    assert "no decisions of ann" in capsys.readouterr().err
    judged(task)
    assert nndet_review(command) == 0
    assert "verdict kappa" in capsys.readouterr().out
    folder = task.root / "review" / "agreement"
    assert (folder / "ann_ben.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "ann_ben.json").read_text(encoding="utf-8"))["readers"] == ["ann", "ben"]
    assert len((folder / "ann_ben.tsv").read_text(encoding="utf-8").splitlines()) == 1 + 6
    assert nndet_review([*command[:-1], "ann"]) == 2
    assert "is one reader" in capsys.readouterr().err
    assert nndet_review([*command[:-1], "dan"]) == 2
    assert "readers are: ann, ben" in capsys.readouterr().err  # agreement is none


def test_without_a_scan_that_both_have_done_there_is_nothing_to_compare(task):
    for reader in VERDICTS:
        decide(open_session(task, reader), "sub-51", {"kind": "judge", "lesion": "1", "verdict": "accept"})
    with pytest.raises(UserError, match="no scan was done by both"):
        compare_readers(open_session(task, "ann"), open_session(task, "ben"))
