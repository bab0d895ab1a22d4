"""How fast the explorer's map pans in Chromium: `python -m benchmarks.explorer_map [ITEMS …]`.

By default 100,000 and 1,000,000 points with 60 labels, which must reach 10 frames a second. The pointer drags
the map in a circle, once a frame; a frame counts when a pixel of it has been read back, so that software
rendering cannot run behind. While the map moves it draws a sample of the points; the time until all of them
stand there again is printed as well. Exits with 1 where panning is too slow; without Chromium nothing is
measured, and it says so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, sync_playwright

from docs.crawl import FLAGS
from genrec_lab.viz.explorer.html_file import script, style_sheet

ITEMS = (100_000, 1_000_000)
LEAST_FRAMES = 10.0
_PAGE = """<!doctype html><style>{style}</style>
<div class="genrec-explorer genrec-light"><div class="genrec-map" style="width: 760px; height: 620px">
</div></div>
<script type="module">{script}
window.makeMap = makeMap;</script>"""
# Points in 256 round clouds of several colours, one cloud a label.
_FILL = """async items => {
  let seed = 1;
  const random = () => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 4294967296;
  const x = new Float32Array(items), y = new Float32Array(items), colours = new Uint8Array(4 * items);
  const labels = [];
  for (let cloud = 0; cloud < 256; cloud++) {
    const [left, low, hue] = [random() * 2, random() * 2, random()];
    if (cloud < 60) labels.push({x: left, y: low, text: `${cloud} · word`, go: {prefix: [cloud]}});
    for (let item = cloud; item < items; item += 256) {
      const angle = 6.2832 * random(), far = .12 * Math.sqrt(-Math.log(1 - random()));
      x[item] = left + far * Math.cos(angle); y[item] = low + far * Math.sin(angle);
      colours.set([255 * hue, 120, 255 * (1 - hue), 200], 4 * item);
    }
  }
  const nothing = () => {}, on = {hover: nothing, click: nothing, go: nothing, lasso: nothing};
  window.map = makeMap(document.querySelector('.genrec-map'), on);
  map.points(x, y);
  map.colours(colours, new Uint8Array(items).fill(1), labels);
  return Boolean(document.querySelector('canvas.genrec-gl').getContext('webgl2'));
}"""
_PAN = """async seconds => {
  const gl = document.querySelector('canvas.genrec-gl').getContext('webgl2');
  const over = document.querySelector('.genrec-over'), spot = over.getBoundingClientRect();
  over.setPointerCapture = () => {};  // a pointer of this script is none that could be captured
  const frame = () => new Promise(requestAnimationFrame), pixel = new Uint8Array(4);
  const drawn = () => gl.readPixels(380, 310, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
  const point = (kind, turn) => over.dispatchEvent(new PointerEvent(kind, {
    pointerId: 1, button: 0, bubbles: true,
    clientX: spot.left + 380 + 150 * Math.sin(turn / 9), clientY: spot.top + 310 + 150 * Math.cos(turn / 9),
  }));
  point('pointerdown', 0);
  const started = performance.now(), times = [started];
  for (let turn = 1; performance.now() - started < 1000 * seconds; turn++) {
    point('pointermove', turn);
    await frame();  // the map asked first, so that it has drawn when this goes on
    drawn();
    times.push(performance.now());
  }
  const longest = Math.max(...times.slice(1).map((time, place) => time - times[place]));
  const frames = 1000 * (times.length - 1) / (times.at(-1) - started), rest = performance.now();
  await new Promise(over => setTimeout(over, 160));  // then the map asks to draw all points
  await frame();
  drawn();
  point('pointerup', 0);
  return [frames, longest, performance.now() - rest];
}"""


def pan(browser: Browser, items: int, seconds: float = 5.0) -> tuple[float, float, float]:
    """Return frames a second, the longest frame and the time until all points stand there, both in ms.

    Raises RuntimeError if the browser has no WebGL.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "map.html"
        filled = _PAGE.replace("{style}", style_sheet()).replace("{script}", script())
        file.write_text(filled, encoding="utf-8")
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.goto(file.as_uri())
        page.wait_for_function("() => 'makeMap' in window")
        if not page.evaluate(_FILL, items):
            raise RuntimeError("the browser has no WebGL 2: expected one with a GPU or software rendering")
        page.wait_for_timeout(1000)
        frames, longest, rest = page.evaluate(_PAN, seconds)
        page.close()
    return frames, longest, rest


def main(sizes: list[int]) -> int:
    """Print a line for each number of points; return the exit status."""
    chromium = shutil.which("chromium")
    if chromium is None:
        print("Chromium is not installed: nothing was measured. On Debian or Ubuntu: apt install chromium")
        return 0
    fine = True
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        for items in sizes:
            frames, longest, rest = pan(browser, items)
            late = "" if frames >= LEAST_FRAMES else "  TOO SLOW"
            fine &= not late
            print(
                f"{items:9,} points: {frames:5.1f} frames a second{late}, the longest {longest:4.0f} ms; "
                f"all points {rest:5.0f} ms after the last move"
            )
        browser.close()
    return 0 if fine else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", nargs="*", type=int, default=list(ITEMS), help="numbers of points")
    sys.exit(main(parser.parse_args().items))
