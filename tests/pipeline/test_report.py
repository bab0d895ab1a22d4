"""report.html: whole, self-contained, and safe whatever the data say."""

import json
from html.parser import HTMLParser
from importlib.resources import files

import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs

from genrec_lab.lab.report import build_report
from genrec_lab.lab.store import Run

SCRIPT = files("genrec_lab.lab").joinpath("templates", "report.js").read_text(encoding="utf-8")
EVIL = "</script><script>alert('title')</script>"
DATA, TOKENS = "01_data_preparation", "02_tokenizer_training"


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


@pytest.fixture
def run(opened):
    """A run with two figures, one in a stage that failed, and data that try to break out of the page."""
    run = opened(dataset={"name": f"bazaar {EVIL}"}, overrides={"tokenizer.levels": 4})
    with run.stage(DATA) as stage:
        (stage.folder / "items & <b>.txt").write_text("x")
        run.log("repair", what=f"item without text {EVIL}", count=3)
    run.record_dataset("abc123", users=1234, repairs={f"users <too> short {EVIL}": 1200})
    run.figure(
        "curve", go.Figure(go.Scatter(y=[1, 2, 3]), layout={"title": {"text": EVIL}}), f"caption {EVIL}"
    )
    with pytest.raises(ValueError, match="wrong"), run.stage(TOKENS, inputs=(DATA,)):
        raise ValueError(f"wrong {EVIL}")
    run.figure("bars-2", go.Figure(go.Bar(y=[1, float("nan")], text=["<!--", EVIL])))
    for method, value in (("gmc", 0.25), (f"pop {EVIL}", 0.125)):
        row = {"metric": "ndcg", "k": 10, "value": value, "users": 7}
        run.record_metrics(method, [{**row, "domain": name} for name in ("A", "average")], note=EVIL)
    (run.folder / "notebooks").mkdir()
    (run.folder / "notebooks" / f"{TOKENS}.ipynb").write_text("{}")
    return run


@pytest.fixture
def page(run):
    return Page(build_report(run).read_text(encoding="utf-8"))


def test_every_figure_is_in_it_unchanged(run, page):
    assert page.having("data-figure") == ["data-curve", "data-bars-2"]
    for name in ("curve", "bars-2"):
        saved = json.loads((run.folder / "figures" / f"{name}.json").read_text())
        assert json.loads(page.scripts[f"data-{name}"]) == saved


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
    for said in ("caption ", "wrong ", "users <too> short ", "item without text ", "pop ", "bazaar "):
        assert said + EVIL in page.text


def test_contents_lead_to_every_section(page):
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    inner = [link.removeprefix("#") for link in page.having("href") if link.startswith("#")]
    assert inner == sections
    assert f"stage-{TOKENS}" in sections


def test_it_tells_state_repairs_metrics_and_origin(page):
    for said in (
        "unfinished",
        "finished",
        "1,200",
        "abc123",
        "0.2500",
        "0.1250",
        "NDCG@10",
        "tokenizer.levels",
    ):
        assert said in page.text


def test_figures_follow_the_theme_of_the_page(page):
    templates = json.loads(page.scripts["templates"])
    assert templates["light"]["layout"]["paper_bgcolor"] != templates["dark"]["layout"]["paper_bgcolor"]


def test_an_empty_run_has_a_report_too(opened):
    page = Page(build_report(opened()).read_text(encoding="utf-8"))
    assert "No metrics have been recorded yet" in page.text
    assert page.having("data-figure") == []


def test_lines_and_figures_that_cannot_be_read_are_left_out_and_said(run):
    whole = Page(build_report(run).read_text(encoding="utf-8"))
    assert "cannot be read" not in whole.text
    with (run.folder / "log.jsonl").open("ab") as stream:
        stream.write(b'{"time": "a\n[1]\n{"event": "seen", "what": 1}\n\n\xff\xfe\n{"time": "cut o')
    (run.folder / "figures" / "curve.json").write_text('{"data": [')
    page = Page(build_report(run).read_text(encoding="utf-8"))
    lines = len((run.folder / "log.jsonl").read_bytes().splitlines())
    broken = ", ".join(str(lines - back) for back in (5, 4, 1, 0))
    assert f"4 lines of log.jsonl cannot be read and are left out: {broken}." in page.text
    assert "seen" in page.text
    assert "figures/curve.json cannot be read" in page.text
    assert page.having("data-figure") == ["data-bars-2"]


@pytest.mark.parametrize("content", ['{"curve": {"cap', "[]", '{"curve": 3}', ""])
def test_figures_without_a_readable_index_stand_at_the_end(run, content):
    (run.folder / "figures" / "index.json").write_text(content)
    page = Page(build_report(run).read_text(encoding="utf-8"))
    assert page.having("data-figure") == ["data-bars-2", "data-curve"]
    assert "figures/index.json cannot be read" in page.text
    assert "figures" in [attributes["id"] for tag, attributes in page.elements if tag == "section"]


def made(stage, row=None, **values):
    return {
        "stage": stage, "row": row, "scope": None, "revision": "4d015e413326" + 28 * "0", "dirty": False,
        "code": f"code {stage}", "settings": "aaaabbbbcccc", "data": "abc123", "threads": 2,
        "precision": "fp32", "device": "cpu", "versions": {"torch": "2.13.0", "numpy": "2.4.6"},
        "made_at": "2026-01-02 03:04:05", "seconds": 60.0, "kept_despite": [], **values,
    }  # fmt: skip


def test_provenance_is_that_of_the_results_and_what_all_share_is_said_once(run, monkeypatch):
    gpu = {"device": f"H200 {EVIL}", "versions": {"torch": "2.13.0+cu", "numpy": "2.4.6"}, "dirty": True}
    results = [made(DATA), made(TOKENS, "gmc", scope="Garden"), made("05_recommender_training", "gmc", **gpu)]
    monkeypatch.setattr(Run, "provenance", lambda self: results, raising=False)
    text = Page(build_report(run).read_text(encoding="utf-8")).text
    section = text[text.index("What made the results") : text.index("Durations")]
    for shared in ("2.4.6", "fp32", "abc123", "aaaabbbbcccc"):
        assert section.count(shared) == 1, shared
    assert f"cpu, H200 {EVIL}" in section  # the line of gmc, whose two results differ
    assert "4d015e413326, 4d015e413326 (modified)" in section
    assert f"{TOKENS} Garden" in section
    assert "2 min 00 s" in section
    assert "No result is recorded for this row alone." in section  # the other row


def test_rows_that_were_kept_despite_changed_code_are_marked(run, monkeypatch):
    old = made("05_recommender_training", "gmc", kept_despite=["genrec_lab.losses.dcl", "mine.f"])
    monkeypatch.setattr(Run, "provenance", lambda self: [made(DATA), old], raising=False)
    page = Page(build_report(run).read_text(encoding="utf-8"))
    cells = [text for text in page.texts if text.startswith("gmc")]
    assert cells.count("gmc †") == 3  # two tables, provenance
    said = "05_recommender_training was made before genrec_lab.losses.dcl, mine.f changed."
    assert f"† Made by older code and kept by --keep-old-code. gmc: {said}" in page.text
    assert f"pop {EVIL} †" not in page.text
    monkeypatch.setattr(Run, "provenance", lambda self: [made(DATA, kept_despite=["mine.g"]), old])
    text = Page(build_report(run).read_text(encoding="utf-8")).text
    assert f"pop {EVIL}: {DATA} was made before mine.g changed." in text  # what serves all rows marks all


def test_what_an_older_run_did_not_record_is_unknown(page):
    section = page.text[page.text.index("What made the results") :]
    assert "unknown" in section[: section.index("By row")]
