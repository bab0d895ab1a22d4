"""The explorer as a file that needs no kernel and no network, of anybody's codes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from benchmarks.explorer_map import pan
from genrec_lab.viz.explorer import ExplorerState
from genrec_lab.viz.explorer.html_file import write_html
from genrec_lab.viz.explorer.published import open_codes
from tests.browser.lab import heading
from tests.browser.layout import beyond_the_edge, cut_texts, overlaps

Scheme = Literal["light", "dark"]
# A browser that can draw with neither.
_NO_WEBGL = """HTMLCanvasElement.prototype.getContext = new Proxy(HTMLCanvasElement.prototype.getContext, {
  apply: (act, self, given) => given[0].startsWith('webgl') ? null : Reflect.apply(act, self, given),
});"""


@pytest.fixture(scope="module")
def state() -> ExplorerState:
    """400 items of 3 levels in files such as others publish."""
    generator = np.random.default_rng(0)
    words = ["oak", "lamp", "red", "kettle", "chair", "brass", "rug", "vase"]
    codes = {
        f"B{place:03}": [
            f"<{letter}_{code}>" for letter, code in zip("abc", generator.integers(0, 8, 3), strict=True)
        ]
        for place in range(400)
    }
    items = {
        key: {"title": " ".join(words[int(token[3])] for token in tokens), "brand": words[int(tokens[0][3])]}
        for key, tokens in codes.items()
    }
    return open_codes(codes, items, sizes=(9, 8, 8), name="published").state


@pytest.fixture(scope="module")
def file(state: ExplorerState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_html(state, tmp_path_factory.mktemp("alone") / "explorer.html")


def opened(
    browser: Browser, file: Path, width: int = 1280, height: int = 800, script: str = ""
) -> tuple[Page, list[str]]:
    page, complaints = browser.new_page(viewport={"width": width, "height": height}), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: request.url.startswith("http") and complaints.append(request.url))
    if script:
        page.add_init_script(script)
    page.goto(file.as_uri())
    page.locator(".genrec-tall .genrec-row").first.wait_for()
    return page, complaints


def test_walking_searching_and_the_map_work_without_a_kernel(
    browser: Browser, file: Path, state: ExplorerState
) -> None:
    page, complaints = opened(browser, file)
    codes = state.catalogue.codes.codes
    sizes = np.bincount(codes[:, 0], minlength=9)
    largest = int(sizes.argmax())
    page.locator(".genrec-tall .genrec-row").first.click()
    expect(heading(page)).to_have_text(f"Prefix {largest}")
    expect(page.locator(".genrec-fact b").first).to_have_text(str(sizes[largest]))
    page.get_by_label("search titles, attributes or codes").fill("* 5")
    page.locator(".genrec-hit").first.click()
    expect(heading(page)).to_have_text("Code 5 of level 2, under any prefix")
    expect(page.locator(".genrec-fact b").first).to_have_text(str((codes[:, 1] == 5).sum()))
    page.get_by_role("button", name="All", exact=True).click()
    x, y = page.locator(".genrec-explorer").evaluate("(root, item) => root.genrecMap.where(item)", 7)
    page.mouse.click(x, y)
    expect(page.locator(".genrec-page .genrec-chosen")).to_have_count(1)
    page.keyboard.press("Alt+ArrowLeft")
    expect(heading(page)).to_have_text("All items")
    assert complaints == []
    page.close()


def test_a_row_that_is_drawn_again_while_it_is_pressed_opens_all_the_same(
    browser: Browser, file: Path
) -> None:
    page, complaints = opened(browser, file)
    row = page.locator(".genrec-tall .genrec-row").nth(2)
    prefix = row.locator(".genrec-cell").first.inner_text()
    row.hover()
    page.mouse.down()
    page.locator(".genrec-tall").evaluate("tall => tall.parentElement.dispatchEvent(new Event('scroll'))")
    page.mouse.up()
    expect(heading(page)).to_have_text(f"Prefix {prefix}")
    row.hover()
    page.mouse.down()
    page.mouse.move(5, 5)
    page.mouse.up()
    expect(heading(page)).to_have_text(f"Prefix {prefix}")
    assert complaints == []
    page.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1920, 1080)])
def test_the_file_fits_the_screen(browser: Browser, file: Path, width: int, height: int) -> None:
    page, complaints = opened(browser, file, width, height)
    page.locator(".genrec-tall .genrec-row").first.click()
    root = page.locator(".genrec-explorer")
    assert overlaps(root) == cut_texts(root) == beyond_the_edge(root) == complaints == []
    assert page.evaluate("document.documentElement.scrollHeight") <= height
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_reader_of_the_screen_meets_nothing_serious(browser: Browser, file: Path, scheme: Scheme) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-playwright-python")
    page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    page.goto(file.as_uri())
    page.locator(".genrec-tall .genrec-row").first.click()
    expect(page.locator(".genrec-explorer")).to_have_class(re.compile(f"genrec-{scheme}"))
    found = axe.Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    page.close()


def test_panning_is_measured_frame_by_frame(browser: Browser) -> None:
    frames, longest, rest = pan(browser, 3_000, seconds=1.0)
    assert 1 < frames < 200 and longest >= 1000 / frames and rest >= 160


def test_without_webgl_a_map_that_stands_still_says_so(browser: Browser, file: Path) -> None:
    page, complaints = opened(browser, file, script=_NO_WEBGL)
    expect(page.locator(".genrec-mapnote")).to_have_text(
        "WebGL is not available here: a map that does not move."
    )
    page.wait_for_timeout(300)
    drawn = page.locator(".genrec-map canvas").first.evaluate(
        "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(value => value > 0)"
    )
    assert drawn and complaints == []
    page.close()
