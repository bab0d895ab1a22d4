"""The report's own styles beside those of its figures."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from playwright.sync_api import Browser

import genrec_lab

STYLES = Path(genrec_lab.__file__).parent / "lab" / "templates" / "report.css"


def test_its_styles_leave_the_texts_of_figures_as_they_are(browser: Browser) -> None:
    """Plotly gives the lines of a text classes of its own, with names as common as "line"."""
    figure = go.Figure(layout={"annotations": [{"text": "one<br>two", "font": {"size": 11}}]})
    page = browser.new_page()
    page.set_content(f"<style>{STYLES.read_text(encoding='utf-8')}</style>{figure.to_html()}")
    lines = page.locator(".annotation-text tspan")
    lines.nth(1).wait_for()
    sizes = lines.evaluate_all("found => found.map(one => getComputedStyle(one).fontSize)")
    page.close()
    assert sizes == ["11px", "11px"]
