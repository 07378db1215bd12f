"""Atomic writes and JSON that a person can read."""

import json

import numpy as np
import pytest

from cmb_plugin.errors import UserError
from cmb_plugin.files import atomic, read_json, write_json


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
