"""The page of a comparison: what a browser makes of it."""

import html.parser
import pathlib
import re
import shutil
import subprocess

import pytest

from train_lib.analysis import comparison, comparison_page, comparison_tables
from train_lib.records import finished

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Reader(html.parser.HTMLParser):
    """The cells of tables, the addresses that a browser would ask for, and how many pictures."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.addresses, self.tags, self.pictures, self._in_cell = (
            [],
            [],
            set(),
            0,
            False,
        )
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.pictures += "plotly-graph-div" in (named.get("class") or "")
        self._in_cell = tag in ("td", "th")
        if self._in_cell:
            self.cells.append("")

    def handle_endtag(self, tag):
        self._in_cell = False

    def handle_data(self, data):
        if self._in_cell:
            self.cells[-1] += data


def compared(*paths):
    return comparison.compare(finished.load([str(path) for path in paths]))


@pytest.mark.parametrize(("kind", "pictures"), [("two", 6), ("numbers", 5), ("next", 5)])
def test_it_has_the_tables_and_asks_for_nothing_else(kind, pictures, write_run):
    found = compared(write_run("one", kind=kind), write_run("two", kind=kind, seeds=(4,), draw=1))
    read = Reader(comparison_page.page(found, "compare one two"))
    expected = []
    for rows in comparison_tables.tables(found).values():
        expected += [*rows[0], *(value for row in rows for value in row.values())]
    assert read.cells == expected
    assert read.addresses == []
    assert read.pictures == pictures


def test_names_are_text_wherever_they_stand(write_run):
    page = comparison_page.page(compared(write_run("<b>one"), write_run("<b>two", draw=1)), "<i>")
    assert not {"b", "i"} & Reader(page).tags
    for data in re.findall(r"Plotly\.newPlot\((.*?)\n", page.partition("</h2>")[2]):
        assert "<b>" not in data


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_a_browser_draws_every_picture(write_run, tmp_path):
    page = tmp_path / "compare.html"
    found = compared(write_run("one"), write_run("two", draw=1), write_run("three", seeds=(9,)))
    page.write_text(comparison_page.page(found, "compare"), "utf-8")
    drawn = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=20000", "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    plots = re.findall(r'<div id="[^"]*" class="plotly-graph-div js-plotly-plot"', drawn)
    assert len(plots) == 6
    assert drawn.count('class="scatterlayer') >= 6
    for words in ("seed 9", "two - one", "perfect"):
        assert words in drawn
    assert pathlib.Path(page).stat().st_size < 10**7
