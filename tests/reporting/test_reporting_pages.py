"""Pages from templates: text is escaped, nothing is left out silently, and no page needs the network."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from cmb_plugin.reporting.pages import TEMPLATES, PageTable, render

ROOT = Path(__file__).parents[2]
TASK = {
    "name": "Task001 <a&b>",
    "n_cases": 2,
    "n_lesions": 3,
    "numbers": PageTable(("method", "FROC"), [("<script>alert(1)</script>", None), ("ours", 0.81249)]),
    "costs": PageTable(("method",), [("ours",)]),
}


def test_names_from_outside_are_escaped_and_numbers_have_three_decimals():
    page = render("benchmark", title="Benchmark", tasks=[TASK], notes=["1 < 2"])
    assert "<script>" not in page
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td><td>-</td>" in page
    assert "<td>ours</td><td>0.812</td>" in page
    assert "Task001 &lt;a&amp;b&gt;" in page
    assert "1 &lt; 2" in page


def test_content_that_a_template_needs_and_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="notes"):
        render("benchmark", title="Benchmark", tasks=[TASK])


def test_a_page_is_whole_html_that_asks_for_nothing_else():
    page = render("benchmark", title="Benchmark", tasks=[TASK], notes=[])
    assert page.startswith("<!doctype html>\n")
    assert page.endswith("</html>\n")
    assert not re.findall(r"https?:|<script|<link|@import", page)
    for name in ("div", "table", "thead", "tbody", "tr", "td", "th", "p", "h2"):
        assert len(re.findall(rf"<{name}[ >]", page)) == page.count(f"</{name}>"), name


def test_every_template_is_installed_with_the_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    patterns = config["options.package_data"]["cmb_plugin.reporting"].split()
    files = [path for path in TEMPLATES.rglob("*") if path.is_file()]
    assert files
    assert all(any(path.relative_to(TEMPLATES.parent).match(pattern) for pattern in patterns) for path in files)
