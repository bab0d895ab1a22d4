"""Goes through a built site without a network: `python -m docs.crawl build/site`.

Prints every link that leads nowhere, everything that a page would fetch from the web, every error in the
browser's console, every picture or figure that stays empty, and every formula that stays TeX. Exits with 1
where there is one. Needs playwright and Chromium.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from html.parser import HTMLParser
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
# No host but the server's is found. To stop each request here instead would turn the browser's cache off.
_ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
LEFT = "net::ERR_ABORTED"
"""What a request fails with whose page was left before it ended."""
_FETCHED = {"img": "src", "script": "src", "iframe": "src", "link": "href"}
# Draws every figure, also those below the screen, and waits until each has a mark and each formula is set.
_EMPTY = """async () => {
  const marks = '.trace, .hm, .point, .table, .gl-canvas, .scene canvas, .shapelayer path, .annotation';
  const drawn = (one) => one.querySelector(marks);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const frame = (one) => one.contentDocument?.body?.querySelector('.genrec-row');
  const empty = () => [
    ...all('.drawing').filter((one) => !drawn(one)).map((one) => `figure ${one.dataset.figure}`),
    ...all('img').filter((one) => !one.complete || !one.naturalWidth).map((one) => `picture ${one.src}`),
    ...all('.math').filter((one) => !one.querySelector('mjx-container')).map((one) => one.textContent),
    ...all('iframe').filter((one) => !frame(one)).map((one) => `frame ${one.src}`),
  ];
  all('img').forEach((one) => { one.loading = 'eager'; });
  window.dispatchEvent(new Event('beforeprint'));
  for (let waited = 0; waited < 30000 && empty().length; waited += 100) {
    await new Promise((done) => setTimeout(done, 100));
  }
  return empty();
}"""


def main(folder: str) -> int:
    """Print what is wrong with a site; returns the exit status."""
    broken = False
    for said in chain(dead_links(Path(folder)), broken_pages(Path(folder))):
        print(said, flush=True)
        broken = True
    if not broken:
        print(f"{folder}: nothing is broken.")
    return broken


def dead_links(site: Path) -> Iterator[str]:
    """Links to files or places that are not there, and what a page would fetch from the web."""
    for file in _pages(site):
        for tag, address in _parsed(file).links:
            if not address or address.startswith(("data:", "mailto:")):
                continue
            parts, where = urlsplit(address), f"{file.relative_to(site)}: {address}"
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if parts.scheme or parts.netloc:
                if tag != "a":
                    yield f"{where} is fetched from the web"
            elif not target.is_file():
                yield f"{where} leads nowhere"
            elif parts.fragment and unquote(parts.fragment) not in _parsed(target).places:
                yield f"{where} names a place that is not on the page"


def _pages(site: Path) -> list[Path]:
    """The pages, without the way to the first, the explorer, which is tested by itself, and copied code."""
    pages = sorted(site.rglob("*.html"))
    left_out = [site / name for name in ("_modules", "_static", "explorer.html", "index.html")]
    return [page for page in pages if not any(page.is_relative_to(one) for one in left_out)]


class _Parsed(HTMLParser):
    """A page's links, each with its tag, and the places on it that a link may name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, str | None]] = []
        self.places: set[str | None] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.places.add(values.get("id"))
        if tag == "a" or tag in _FETCHED:
            self.links.append((tag, values.get(_FETCHED.get(tag, "href"))))


@cache
def _parsed(file: Path) -> _Parsed:
    return _Parsed(file.read_text(encoding="utf-8"))


def broken_pages(site: Path) -> Iterator[str]:
    """What goes wrong when the pages are opened in Chromium: errors, requests, empty pictures and figures."""
    with _served(site) as address, sync_playwright() as playwright:
        chromium = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=[*FLAGS, _ALONE])
        opened, found = browser.new_page(viewport={"width": 1280, "height": 800}), []
        opened.set_default_timeout(180_000)
        _listen(opened, found)
        for file in _pages(site):
            name = file.relative_to(site).as_posix()
            opened.goto(f"{address}/{name}")
            found += [f"{one} stays empty" for one in opened.evaluate(_EMPTY)]
            yield from (f"{name}: {one}" for one in dict.fromkeys(found))
            found.clear()
        browser.close()


def _listen(page: Page, found: list[str]) -> None:
    page.on("pageerror", lambda error: found.append(f"{error}"))
    page.on("console", lambda said: said.type == "error" and found.append(f"console: {said.text}"))
    page.on(
        "requestfailed", lambda asked: asked.failure != LEFT and found.append(f"{asked.url} is not there")
    )


class _Silent(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/favicon.ico":  # no page names it, the browser asks by itself
            self.send_response(HTTPStatus.NO_CONTENT)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _served(site: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=site))
    server.handle_error = lambda *_: None  # a page that is left closes its connection
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
