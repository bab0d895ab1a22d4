"""report.html: whole, self-contained, and safe whatever the data say."""

import json
import math
import shutil
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from genrec_lab.lab import (
    Task,
    existing_run,
    open_run,
    prepare_data,
    rank_test_users,
    train_recommenders,
)
from genrec_lab.lab.report import build_report
from genrec_lab.lab.results import forget_hashes
from genrec_lab.lab.store import Run

SCRIPT = files("genrec_lab.lab").joinpath("templates", "report.js").read_text(encoding="utf-8")
EVIL = "</script><script>alert('title')</script>"
ROW = f"slow {EVIL}"
DATA, TRAINING, RANKING = "01_data_preparation", "05_recommender_training", "07_evaluation"


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the content of every script by its id."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.scripts, self.texts = [], {}, []
        self._script = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag == "script":
            self._script = dict(attributes).get("id", f"script {len(self.scripts)}")
            self.scripts[self._script] = ""

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.texts.append(data)
        else:
            self.scripts[self._script] += data

    @property
    def text(self):
        return " ".join(self.texts)

    def having(self, attribute):
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]


def fail(work):
    raise ValueError(f"wrong {EVIL}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two rows over data that try to break out of the page, with two figures and a failed task."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "toy.py").write_text((Path(__file__).parent / "toy.py").read_text())
    run = open_run(
        "evil",
        dataset={"name": "toy.py:toy", "domain": f"shop {EVIL}", "note": EVIL},
        preset="baselines_tiny",
        overrides={"compare": ["popularity", ROW], f"rows.{ROW}.model.kind": "toy.py:Slow"},
        seed=1,
        root=folder / "runs",
        base=folder,
    )
    prepare_data(run)
    run.log("repair", what=f"item without text {EVIL}", count=3)
    run.figure(
        "curve", go.Figure(go.Scatter(y=[1, 2, 3]), layout={"title": {"text": EVIL}}), f"caption {EVIL}"
    )
    train_recommenders(run)
    run.figure("bars-2", go.Figure(go.Bar(y=[1, float("nan")], text=["<!--", EVIL])))
    rank_test_users(run)
    with pytest.raises(ValueError, match="wrong"):
        run.make(Task(RANKING, "failing", fail))
    (run.folder / "notebooks").mkdir()
    (run.folder / "notebooks" / f"{TRAINING}.ipynb").write_text("{}")
    return run


@pytest.fixture
def run(finished, tmp_path):
    """The finished run in a folder of its own."""
    shutil.copytree(finished.folder, tmp_path / "evil")
    (tmp_path / "toy.py").write_text((Path(__file__).parent / "toy.py").read_text())
    return existing_run("evil", tmp_path)


@pytest.fixture
def page(run):
    return Page(build_report(run).read_text(encoding="utf-8"))


def test_every_figure_is_in_it_unchanged(run, page):
    assert page.having("data-figure") == ["data-curve", "data-bars-2"]
    for name in ("curve", "bars-2"):
        saved = json.loads((run.folder / "figures" / f"{name}.json").read_text())
        assert json.loads(page.scripts[f"data-{name}"]) == saved


def test_the_finding_stands_above_the_results_and_every_row_is_explained(page):
    assert "has the highest NDCG@10" in page.text.partition("Results")[0]
    rows = page.text.partition("What the rows are")[2]
    assert "Ranks items by their count in the training sequences" in rows
    assert "this run's method" not in page.text  # this run has no method of its own


def test_plotly_is_in_it_once_and_our_script_after_it(page):
    scripts = [content.strip() for content in page.scripts.values()]
    assert scripts.count(get_plotlyjs().strip()) == 1
    assert scripts.index(SCRIPT.strip()) > scripts.index(get_plotlyjs().strip())


def test_nothing_is_fetched_from_elsewhere(run, page):
    links = page.having("href") + page.having("src") + page.having("srcset") + page.having("action")
    assert links
    for link in links:
        assert link.startswith("#") or (run.folder / link).is_file(), link
    assert not [
        tag for tag, _ in page.elements if tag in ("link", "iframe", "img", "object", "embed", "base")
    ]
    styles = page.text  # the style sheet is text to this parser
    assert "url(" not in styles
    assert "@import" not in styles
    assert "http" not in SCRIPT


def test_data_cannot_break_out(page):
    assert [content for content in page.scripts.values() if content.startswith("alert")] == []
    assert not [tag for tag, _ in page.elements if tag == "b"]
    for said in ("caption ", "wrong ", "mended ", "item without text ", "slow ", "shop "):
        assert said + EVIL in page.text


def test_contents_lead_to_every_section(page):
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    inner = [link.removeprefix("#") for link in page.having("href") if link.startswith("#")]
    assert inner == sections
    assert f"stage-{TRAINING}" in sections


def test_it_says_state_repairs_metrics_and_origin(run, page):
    for said in (
        "finished",
        "1,200",
        run.provenance()[0]["data"],
        f"{1 / math.log2(3):.4f}",  # the row ranks everybody's item at place seed + 1
        "NDCG@10",
        "rows.slow",
        "Ties in time are unknown: the source gives no times.",
    ):
        assert said in page.text


def test_results_that_are_not_there_any_more_leave_their_stage_unfinished_and_the_tables(run):
    for row in (run.folder / RANKING).iterdir():
        if row.name != "popularity":
            shutil.rmtree(row)
    page = Page(build_report(run).read_text(encoding="utf-8"))
    assert f"{1 / math.log2(3):.4f}" not in page.text
    assert "it has not been made yet" in page.text
    assert "missing" in page.text  # the stage's badge


def test_edited_metrics_are_written_anew_and_never_read(run, page):
    file = run.folder / "metrics.json"
    before = file.read_text()
    assert {record["method"] for record in json.loads(before)["records"]} == {"popularity", ROW}
    file.write_text(before.replace('"value": 0.', '"value": 0.99'))
    again = Page(build_report(run).read_text(encoding="utf-8"))
    assert "0.99" not in again.text
    assert file.read_text() == before


def test_figures_follow_the_theme_of_the_page(page):
    templates = json.loads(page.scripts["templates"])
    assert templates["light"]["layout"]["paper_bgcolor"] != templates["dark"]["layout"]["paper_bgcolor"]


def test_an_empty_run_has_a_report_too(opened):
    page = Page(build_report(opened()).read_text(encoding="utf-8"))
    assert "No metrics have been recorded yet" in page.text
    assert page.having("data-figure") == []


def test_lines_and_figures_that_cannot_be_read_are_left_out_and_said(run):
    whole = Page(build_report(run).read_text(encoding="utf-8"))
    assert "left out" not in whole.text
    lines = len((run.folder / "log.jsonl").read_bytes().splitlines())
    with (run.folder / "log.jsonl").open("ab") as stream:
        stream.write(b'{"time": "a\n[1]\n{"event": "seen", "what": 1}\n\n\xff\xfe\n{"time": "cut o')
    (run.folder / "figures" / "curve.json").write_text('{"data": [')
    page = Page(build_report(run).read_text(encoding="utf-8"))
    # The third one lacks its checksum, the fourth is empty, the last one was cut off by a kill.
    broken = ", ".join(str(lines + number) for number in (1, 2, 3, 5))
    assert f"4 lines of log.jsonl cannot be trusted and are left out: {broken}." in page.text
    assert "figures/curve.json is left out: its figure curve was changed after it was saved." in page.text
    assert page.having("data-figure") == ["data-bars-2"]


def test_figures_of_results_that_have_changed_since_are_left_out(run):
    other = {**run.dataset, "users": 9}
    run = open_run("evil", dataset=other, change=True, root=run.folder.parent)
    prepare_data(run)
    page = Page(build_report(run).read_text(encoding="utf-8"))
    assert page.having("data-figure") == []
    assert f"2 figures of results that have changed since are left out; run again: {DATA}" in page.text


def made(stage, row=None, **values):
    return {
        "stage": stage, "row": row, "scope": None, "revision": "4d015e413326" + 28 * "0", "dirty": False,
        "code": f"code {stage}", "settings": "aaaabbbbcccc", "data": "abc123", "threads": 2,
        "precision": "fp32", "device": "cpu", "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        "made_at": "2026-01-02 03:04:05", "seconds": 60.0, "kept_despite": [], **values,
    }  # fmt: skip


def test_provenance_is_that_of_the_results_and_what_all_share_is_said_once(run, monkeypatch):
    gpu = {"device": f"H200 {EVIL}", "versions": {"torch": "2.13.0+cu", "numpy": "2.4.6"}, "dirty": True}
    results = [made(DATA), made(TRAINING, ROW, scope="Garden"), made(RANKING, ROW, **gpu)]
    monkeypatch.setattr(Run, "provenance", lambda self: results, raising=False)
    text = Page(build_report(run).read_text(encoding="utf-8")).text
    section = text[text.index("Code, settings and hardware") : text.index("Durations")]
    for shared in ("2.4.6", "fp32", "abc123", "aaaabbbbcccc"):
        assert section.count(shared) == 1, shared
    assert f"cpu, H200 {EVIL}" in section  # the line of the row whose two results differ
    assert "4d015e413326, 4d015e413326 (modified)" in section
    assert f"{TRAINING} Garden" in section
    assert "2 min 00 s" in section
    assert "No result is recorded for this row alone." in section  # the other row


def test_rows_that_were_kept_despite_changed_code_are_marked(run, monkeypatch):
    old = made(TRAINING, ROW, kept_despite=["genrec_lab.losses.dcl", "mine.f"])
    monkeypatch.setattr(Run, "provenance", lambda self: [made(DATA), old])
    page = Page(build_report(run).read_text(encoding="utf-8"))
    assert [text for text in page.texts if text.startswith(ROW)].count(f"{ROW} †") == 6
    said = f"{TRAINING} was made before genrec_lab.losses.dcl, mine.f changed."
    assert f"† Made by older code and kept by --keep-old-code. {ROW}: {said}" in page.text
    assert "popularity †" not in page.text
    monkeypatch.setattr(Run, "provenance", lambda self: [made(DATA, kept_despite=["mine.g"]), old])
    text = Page(build_report(run).read_text(encoding="utf-8")).text
    assert f"popularity: {DATA} was made before mine.g changed." in text  # what serves all rows marks all


def test_a_damaged_result_has_no_number_in_the_report(run):
    file = next((run.folder / RANKING).glob("slow*/rankings.parquet"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    forget_hashes()
    page = Page(build_report(run).read_text(encoding="utf-8"))
    assert f"{1 / math.log2(3):.4f}" not in page.text
