"""Atomic writes, JSON that a person can read, and locks."""

import json
import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cmb_plugin.errors import UserError, fixable
from cmb_plugin.files import atomic, locked, read_json, write_json


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def interrupted():
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_arrays_and_puts_number_lists_on_one_line(tmp_path):
    path = tmp_path / "deep" / "a.json"
    value = {
        "box": np.arange(6),
        "names": ["a", "b"],
        "nested": [{"size": [1.5, -2, 1e-7]}],
        "empty": [],
        "one": np.float32(2),
    }
    write_json(path, value)
    text = path.read_text(encoding="utf-8")
    assert '"box": [0, 1, 2, 3, 4, 5]' in text
    assert '"size": [1.5, -2, 1e-07]' in text
    assert json.loads(text)["nested"] == [{"size": [1.5, -2, 1e-7]}]


def test_text_that_looks_like_json_survives(tmp_path):
    value = {"a": "ends with [", "b": ["1 [", "]", "x"], "c": [[1, 2], [3, 4]], "d": [1, "["], "e": [True, None, 3]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, "{", "\udce4"])
def test_unreadable_json_is_one_line_with_the_file(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_two_hosts_with_one_process_number_write_one_file_without_disturbing_each_other(tmp_path):
    path = tmp_path / "a.txt"
    with atomic(path) as here, atomic(path) as there:
        here.write_text("here")
        there.write_text("there")
        assert here != there
        assert here.suffix == path.suffix
    assert path.read_text(encoding="utf-8") == "here"
    assert list(tmp_path.iterdir()) == [path]


def test_a_durable_file_is_on_the_disk_before_it_gets_its_name_and_its_folder_after(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.ckpt", []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append((os.fstat(descriptor).st_ino, path.exists())))
    with atomic(path, durable=True) as temporary:
        temporary.write_text("weights")
    assert synced == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]
    synced.clear()
    with atomic(path) as temporary:
        temporary.write_text("a picture")
    assert synced == []


@pytest.mark.parametrize("free", [0, 10**9])
def test_what_fails_on_a_full_disk_says_so_whatever_its_writer_says(tmp_path, monkeypatch, free):
    path = tmp_path / "a.ckpt"
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises((RuntimeError, OSError)) as caught, atomic(path):
        raise RuntimeError("unexpected pos 576 vs 534")  # of torch.save
    told = fixable(caught.value)
    assert (str(told) if told else None) == (
        None
        if free
        else f"{path}: No space left on device - free space there or choose another folder, then run the command again"
    )


def in_another_process(statement, path, wait=True):
    code = f"from cmb_plugin.files import locked\nimport os, sys, time\n{statement}"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    return process.communicate()[0].strip() if wait else process


TRY = """
from cmb_plugin.errors import UserError
try:
    with locked(sys.argv[1]): print("entered")
except UserError as error: print(error)
"""


def test_a_lock_is_held_against_other_processes_and_freed_at_the_end(tmp_path):
    path = tmp_path / "fold0" / "lock"
    with locked(path):
        answer = in_another_process(TRY, path)
        assert answer.startswith(f"{path}: process {os.getpid()} on {socket.gethostname()} is at work here")
        assert "remove this file" in answer
        with pytest.raises(UserError, match="at work"), locked(path):
            pass
        assert path.exists()
    assert not path.exists()
    assert in_another_process(TRY, path) == "entered"


def test_the_lock_of_a_killed_process_is_taken_over_by_exactly_one(tmp_path):
    path = tmp_path / "lock"
    in_another_process("with locked(sys.argv[1]): os._exit(9)", path)
    assert path.exists()
    hold = TRY.replace('print("entered")', '(print("entered", flush=True), time.sleep(3))')
    rivals = [in_another_process(hold, path, wait=False) for _ in range(4)]
    answers = [rival.communicate()[0].strip() for rival in rivals]
    assert answers.count("entered") == 1
    assert not path.exists()


def test_a_later_process_of_the_same_number_does_not_hold_the_lock(tmp_path):
    path = tmp_path / "lock"
    with locked(path):
        left_behind = read_json(path)
    path.write_text(json.dumps({**left_behind, "started": "1"}))
    with locked(path):
        pass


@pytest.mark.parametrize("content", [{"host": "elsewhere"}, {"space": "pid:[1]"}, None])
def test_a_lock_whose_process_cannot_be_seen_from_here_is_left_alone(tmp_path, content):
    path = tmp_path / "lock"
    with locked(path):
        left_behind = read_json(path)
    gone = {**left_behind, "pid": 2**22 + 1}
    path.write_text(json.dumps({**gone, **content}) if content else "")
    with pytest.raises(UserError, match="remove this file if it no longer runs"), locked(path):
        pass
    assert path.exists()
    path.write_text(json.dumps(gone))
    with locked(path):
        pass


def test_a_lock_removed_by_hand_and_taken_by_another_is_not_freed(tmp_path):
    path = tmp_path / "lock"
    with locked(path):
        other = {**read_json(path), "host": "elsewhere"}
        path.write_text(json.dumps(other))
    assert read_json(path) == other
