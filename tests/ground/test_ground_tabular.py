"""Tables as files and as text."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmb_plugin.tabular import as_csv, as_markdown, columns_of, show_interval, show_number, write_table

ROWS = [{"case": "a\tb\n c", "score": 0.123456789, "n": 3}, {"case": "x,y", "why": "late"}]


def test_a_tsv_has_four_decimals_and_stays_a_table_whatever_the_cells_hold(tmp_path):
    write_table(tmp_path / "t.tsv", ["case", "score", "n"], ROWS)
    assert (tmp_path / "t.tsv").read_text(encoding="utf-8") == "case\tscore\tn\na b c\t0.1235\t3\nx,y\t\t\n"


def test_a_path_with_two_blanks_comes_back_from_a_tsv(tmp_path):
    write_table(tmp_path / "t.tsv", ["file"], [{"file": "scans of  May/a.nii.gz"}])
    assert (tmp_path / "t.tsv").read_text(encoding="utf-8").splitlines()[1] == "scans of  May/a.nii.gz"


def test_a_csv_has_all_digits(tmp_path):
    assert columns_of(ROWS) == ["case", "score", "n", "why"]
    write_table(tmp_path / "t.csv", columns_of(ROWS), ROWS)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file)
    assert first == {"case": "a\tb\n c", "score": "0.123456789", "n": "3", "why": ""}
    assert second == {"case": "x,y", "score": "", "n": "", "why": "late"}


@given(st.lists(st.floats(allow_nan=False)))
def test_numbers_come_back_from_a_csv_as_they_were(values):
    lines = as_csv(["value"], ({"value": value} for value in values)).splitlines()
    assert [float(line) for line in lines[1:]] == values


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tsv or \.csv"):
        write_table(tmp_path / "t.txt", ["a"], [])
    assert not list(tmp_path.iterdir())


def test_markdown_shows_dashes_and_escapes_bars():
    assert as_markdown(["", "b"], [("x|y", 0.5), ("z", None)]) == "|  | b |\n|---|---|\n| x\\|y | 0.500 |\n| z | - |\n"


def test_intervals_are_written_as_people_read_them():
    assert show_interval(0.8124, 0.7, 0.9) == "0.812 (0.700-0.900)"
    assert show_interval(0.04, -0.01, 0.09, 2, signed=True) == "+0.04 (-0.01 to +0.09)"
    assert show_interval(2.2, 0.7, None, 1) == "2.2 (0.7-∞)"
    assert show_interval(0.5, None, None, 1) == "0.5"
    assert show_interval(None, 0.1, 0.2) == show_number(None) == "-"
