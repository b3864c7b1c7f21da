"""The front as a page that needs no network, and as a PNG."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from sweep.config import StudyConfig
from sweep.objectives import Table, make_table
from sweep.pictures import draw_front, write_front_page
from sweep.results import TrialResult
from tests.sweep.studies import knows, make_study, store_trial

pytestmark = pytest.mark.usefixtures("stored")
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """What a browser would fetch, the table's cells, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.rows: list[list[str]] = []
        self.framed: list[bool] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.fetched += [value for name, value in attributes if name in ("src", "href") and value]
        if tag == "tr":
            self.rows.append([])
            self.framed.append(dict(attributes).get("class") == "front")
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self.rows[-1][-1] += data
        if self._inside == "script":
            self.scripts[-1] += data


def charts(page: Page) -> list[list[dict[str, Any]]]:
    """The traces of each chart, as plotly is given them."""
    found = []
    for script in page.scripts:
        for match in re.finditer(r'Plotly\.newPlot\(\s*"[^"]+",\s*', script):
            found.append(json.JSONDecoder().raw_decode(script[match.end() :])[0])
    return found


@pytest.fixture
def results() -> list[TrialResult]:
    study = make_study()
    return [
        store_trial(study, "alpha/baseline", knows(8, tokens=90)),
        store_trial(study, "alpha/rtn-w8-g64-sym", knows(6, tokens=95)),
        store_trial(study, "alpha/rtn-w2-g64-sym", knows(1, tokens=10)),
        store_trial(study, "beta/baseline", knows(7, tokens=80)),
        store_trial(study, "beta/magnitude-2:4", knows(5, tokens=120)),
    ]


def write_page(study: StudyConfig, table: Table) -> Page:
    write_front_page(study, table, Path("front.html"))
    return Page(Path("front.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(results: list[TrialResult]) -> None:
    page = write_page(make_study(), make_table(make_study(), results))
    assert page.fetched == []
    assert any(len(script) > 1_000_000 for script in page.scripts)  # plotly itself
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1


def test_each_other_objective_has_a_chart_with_every_trial(results: list[TrialResult]) -> None:
    study = make_study()
    table = make_table(study, results)
    tokens, bits = charts(write_page(study, table))
    assert [[trace["name"] for trace in chart] for chart in (tokens, bits)] == [["alpha", "beta"]] * 2
    hover = [text for trace in tokens for text in trace["text"]]
    assert [text.split("</b>")[0] for text in hover] == [f"<b>{row.trial.name}" for row in table.rows]
    sizes = [size for trace in tokens for size in trace["marker"]["size"]]
    assert [size > 9 for size in sizes] == [row.on_front for row in table.rows]
    assert {row.on_front for row in table.rows} == {True, False}


def test_the_page_ends_in_the_table(results: list[TrialResult]) -> None:
    study = make_study()
    table = make_table(study, results)
    page = write_page(study, table)
    assert page.rows[0] == ["trial", "accuracy", "recovery", "tokens_per_question", "effective_bits"]
    assert [cells[0] for cells in page.rows[1:]] == [row.trial.name for row in table.rows]
    assert page.framed[1:] == [row.on_front for row in table.rows]
    assert page.rows[2][1:4] == ["0.75", "0.75", "95"]


@pytest.mark.parametrize(
    "objectives",
    [{"accuracy": "max"}, {"accuracy": "max", "usd_per_1k_questions": "min"}, {"recovery": "max"}],
    ids=str,
)
def test_pictures_of_objectives_that_few_or_no_trials_have(
    objectives: dict[str, str], results: list[TrialResult], tmp_path: Path
) -> None:
    study = make_study(objectives=objectives)
    for found in ([], results):
        table = make_table(study, found)
        write_page(study, table)
        draw_front(study, table, tmp_path / "front.png")
        assert (tmp_path / "front.png").read_bytes().startswith(PNG)


def test_the_picture_shows_each_trial_in_its_models_colour(results: list[TrialResult], tmp_path: Path) -> None:
    def pixels(shown: list[TrialResult], colour: tuple[int, int, int]) -> int:
        path = tmp_path / "made" / f"{len(shown)}.png"
        draw_front(make_study(), make_table(make_study(), shown), path)
        picture = imread(path)
        assert picture.shape[1] > picture.shape[0]  # one chart beside the other
        return int((abs(picture[..., :3] * 255 - colour).max(axis=-1) < 2).sum())

    blue, red = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    assert pixels([], blue) == 0
    legend_and_one, both = pixels(results[:1], blue), pixels(results[:2], blue)
    assert 0 < legend_and_one < both
    assert pixels(results[:3], red) == 0 < pixels(results, red)
