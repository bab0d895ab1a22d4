"""A JupyterLab of its own on loopback, and a notebook in it as a user sees it in Chromium."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

REPOSITORY = Path(__file__).parents[2]
_STARTS_WITHIN = 180.0
_PATIENCE = 60_000  # milliseconds: on a busy machine a page is slow, not wrong
expect.set_options(timeout=_PATIENCE)
# Everything is in the page, so that a test may look at any cell, and no dialog asks about news.
_SETTINGS: dict[str, dict[str, Any]] = {
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "docmanager-extension/plugin": {"autosave": False},
}
# A page that is still being set up asks for a kernel instead of running, so its own promises are waited for.
_RUN_ALL = """async () => {
    await jupyterapp.restored;
    const notebook = jupyterapp.shell.currentWidget;
    await notebook.revealed;
    await notebook.sessionContext.ready;
    await jupyterapp.commands.execute('notebook:run-all-cells');
    const outputs = notebook.context.model.toJSON().cells.flatMap(cell => cell.outputs || []);
    return outputs.filter(one => one.output_type === 'error').map(one => one.ename + ': ' + one.evalue);
}"""
_SETTLE = """async () => {
    const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
    for (let quiet = 0; quiet < 3; quiet = kernel.status === 'idle' ? quiet + 1 : 0) await wait(60);
}"""


def heading(root: Locator | Page) -> Locator:
    """What the explorer's page of the selection is about."""
    return root.locator(".genrec-page h3")


def fact(root: Locator | Page, name: str) -> Locator:
    """A number of the explorer's page of the selection, by its name."""
    return root.locator(".genrec-fact").filter(has_text=name).locator("b")


@dataclass(frozen=True)
class Lab:
    """A running server: its address and token, and the folder whose notebooks it opens."""

    url: str
    token: str
    root: Path

    def start_kernel(self, notebook: str) -> None:
        """Start the kernel of a notebook, as opening it would."""
        asked = {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
        request = urllib.request.Request(  # noqa: S310
            f"{self.url}/api/sessions?token={self.token}",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300):  # noqa: S310
            pass


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@contextmanager
def served(folder: Path, runs: Path, theme: str = "JupyterLab Light") -> Iterator[Lab]:
    """Serve folder/notebooks with kernels that import this checkout and keep their runs in `runs`."""
    root = folder / "notebooks"
    root.mkdir(exist_ok=True)
    lab = Lab(f"http://127.0.0.1:{free_port()}", secrets.token_hex(16), root)
    settings = folder / "settings" / "@jupyterlab"
    for name, content in {**_SETTINGS, "apputils-extension/themes": {"theme": theme}}.items():
        file = settings / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "JUPYTERLAB_WORKSPACES_DIR")
    environment = os.environ | {name: str(folder / name.lower()) for name in own}
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")])),
        "GENREC_RUNS": str(runs),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
    }
    options = [
        f"--ServerApp.port={lab.url.rsplit(':', 1)[1]}",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={root}",
        f"--IdentityProvider.token={lab.token}",
        "--ServerApp.open_browser=False",
        "--ServerApp.allow_root=True",
        "--LabApp.expose_app_in_browser=True",
    ]
    with (folder / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait_for(lab, server, folder / "server.log")
            yield lab
        finally:
            server.terminate()
            server.wait(30)


def _wait_for(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _STARTS_WITHIN
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{lab.url}/api/status?token={lab.token}", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start; it said:\n{log.read_text(encoding='utf-8')[-3000:]}")


class NotebookPage:
    """A notebook opened in a browser: its cells, and what the page complained about."""

    def __init__(self, browser: Browser, lab: Lab, name: str, width: int = 1280, height: int = 900) -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(_PATIENCE)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        # A script that got into the page by a title would open a dialog.
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        # With its kernel already there the page never asks which one to take.
        lab.start_kernel(name)
        address = f"{lab.url}/lab/workspaces/{secrets.token_hex(4)}/tree/{name}?token={lab.token}&reset"
        self.page.goto(address, wait_until="domcontentloaded", timeout=120_000)
        self.page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=120_000)

    def run_all(self) -> None:
        """Run all cells, as the menu does, to the last; raises RuntimeError with what a cell raised."""
        if errors := self.page.evaluate(_RUN_ALL):
            raise RuntimeError(f"A cell failed: {errors[0]}")

    def explorer(self, number: int = 0) -> Locator:
        """The explorer of the notebook that was opened as the number-th."""
        found = self.page.locator(".genrec-explorer").nth(number)
        found.wait_for()
        return found

    def wide(self, width: int, height: int = 900) -> None:
        """Make the window so wide."""
        self.page.set_viewport_size({"width": width, "height": height})

    def close(self) -> None:
        """Close the page."""
        self.page.close()

    def start_over(self, explorer: Locator) -> None:
        """Bring an explorer back to its first selection, without a view below."""
        for tab in explorer.locator("[role=tab][aria-selected=true]").all():
            tab.click()
        self.page.keyboard.press("Escape")
        explorer.get_by_role("button", name="All", exact=True).click()
        self.settle()
        expect(explorer.locator(".genrec-page h3")).to_have_text("All items")

    def open_tab(self, explorer: Locator, name: str) -> None:
        """Open a tab and wait until the page shows it."""
        tab = explorer.get_by_role("tab", name=name, exact=True)
        if tab.get_attribute("aria-selected") != "true":
            tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")
        self.settle()

    def settle(self) -> None:
        """Wait until the kernel has nothing left to do for the page."""
        self.page.evaluate(_SETTLE)

    def click_row(self, explorer: Locator, row: int = 0) -> None:
        """Click on a row of the grid of codes."""
        explorer.locator("[data-part=grid] .genrec-tall .genrec-row").nth(row).click()
        self.settle()

    def lasso(self, explorer: Locator, inset: float = 0.02) -> None:
        """Draw a line around the middle of the map with the shift key, `inset` of its size from the edges."""
        box = explorer.locator("[data-part=map]").bounding_box()
        assert box is not None
        left, right = box["x"] + inset * box["width"], box["x"] + (1 - inset) * box["width"]
        top, bottom = box["y"] + inset * box["height"], box["y"] + (1 - inset) * box["height"]
        self.page.keyboard.down("Shift")
        self.page.mouse.move(left, top)
        self.page.mouse.down()
        for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
            self.page.mouse.move(x, y, steps=6)
        self.page.mouse.up()
        self.page.keyboard.up("Shift")
        self.settle()

    def shoot(self, explorer: Locator, file: Path, width: int = 1280, height: int = 800) -> None:
        """Keep a picture of a window of this size with the explorer in it."""
        self.wide(width, height)
        explorer.scroll_into_view_if_needed()
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=file)
