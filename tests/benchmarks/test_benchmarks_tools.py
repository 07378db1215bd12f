"""What counts in the code and what compares results sees what is there."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from benchmarks.tools import code_numbers, golden

ENGINE = {
    "__init__.py": "",
    "a/__init__.py": "from .one import f\n",
    "a/one.py": "def f(x, *, y=1):\n    from cmb_plugin.a import two\n    return two\n",
    "a/two.py": "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .three import g\n",
    "a/three.py": "from .one import f\n\n\nclass _Private:\n    def g(self):\n        '''Says nothing.'''\n",
    "b.py": "import os\n\n# why\nx = os\na = 1\nb = 2\nc = 3\nd = 4\ne = 5\n",
    "c.py": "def h():\n    '''Text.'''\n    a = 1\n    b = 2\n\n    c = 3\n    d = 4\n    e = 5\n",
}


def checkout(root: Path) -> dict[str, code_numbers.Module]:
    for name, text in ENGINE.items():
        path = root / "cmb_plugin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return code_numbers.modules(root)


def test_circles_are_seen_wherever_the_import_stands(tmp_path: Path) -> None:
    known = checkout(tmp_path)
    graph = {name: code_numbers.imports(module, known) for name, module in known.items()}
    assert code_numbers.circles(graph) == [["cmb_plugin.a.one", "cmb_plugin.a.three", "cmb_plugin.a.two"]]
    graph["cmb_plugin.a.three"] = set()
    assert code_numbers.circles(graph) == []


def test_equal_lines_are_found_once_and_whole(tmp_path: Path) -> None:
    members = list(checkout(tmp_path).values())
    assert code_numbers.duplicates(members, 4) == [("cmb_plugin.b:5", "cmb_plugin.c:3", 5)]
    assert code_numbers.duplicates(members, 6) == []


def test_lines_parameters_and_docstrings_are_counted(tmp_path: Path) -> None:
    known = checkout(tmp_path)
    assert code_numbers.parameters(known, "cmb_plugin.a.one", "f") == 2
    assert code_numbers.lines(known["cmb_plugin.b"]) == 8
    named = [node.name for module in known.values() for node in code_numbers.functions(module)]
    assert sorted(named) == ["f", "g", "h"]
    assert [node.name for node in code_numbers.public_definitions(known["cmb_plugin.a.three"])] == []


def test_a_bit_a_name_and_a_missing_file_are_differences(tmp_path: Path, capsys) -> None:
    weight = torch.zeros(2)
    run = {"weights": {"w": golden.digest(weight)}, "files": {"a_boxes.json": {"score": [0.1, 0.2]}}}
    before = {"versions": "x", "scans": {}, "plans": {}, "runs": {"Task/Trainer": run}}
    after = json.loads(json.dumps(before))
    for name, record in (("before", before), ("after", after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / golden.RECORD).write_text(json.dumps(record))
    words = ["compare", str(tmp_path / "before"), str(tmp_path / "after")]
    assert golden.main(words) == 0
    weight.view(torch.int32)[0] ^= 1
    after["runs"]["Task/Trainer"] = {
        "weights": {"w": golden.digest(weight)},
        "files": {"a_boxes.json": {"score": [0.1, 0.2000001]}, "metrics.json": {}},
    }
    (tmp_path / "after" / golden.RECORD).write_text(json.dumps(after))
    capsys.readouterr()
    assert golden.main(words) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [
        "Task/Trainer weights",
        "Task/Trainer a_boxes.json.score[1]",
        "Task/Trainer metrics.json",
    ]
    after["runs"]["Task/Trainer"] = {**run, "weights": {"renamed": run["weights"]["w"]}}
    (tmp_path / "after" / golden.RECORD).write_text(json.dumps(after))
    assert golden.main(words) == 1
    assert "have another name and the same values: w ... renamed" in capsys.readouterr().out
