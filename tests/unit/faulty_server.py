"""A web server on this machine with scripted answers: it breaks off, lies, redirects, refuses."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FaultyServer:
    """Files by path, and for each path the faults of its next answers; then it answers soundly.

    Faults: "break" (closes halfway), "short" (announces more than it sends), "long" (announces less),
    "unsaid" (announces no length), "unsaid and broken", "again"
    (a redirect to the same path), "away" (a redirect to plain http elsewhere), "loop", "page" (an HTML page
    with 200), "no_range" (ignores Range), "wrong_range", "416", "stall" (closes before answering), and the
    status codes "403", "404", "429", "500", "503".
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.faults: dict[str, list[str]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.address = ""
        self.takes = 0.0  # seconds before each answer
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def plan(self, path: str, faults: Sequence[str]) -> None:
        """Say how the next answers for a path go wrong."""
        self.faults[path] = list(faults)

    def next_fault(self, path: str, wanted: str | None) -> str:
        """Note a request, and take its fault."""
        with self._lock:
            self.requests.append((path, wanted))
            waiting = self.faults.get(path, [])
            return waiting.pop(0) if waiting else "sound"

    def entered(self, step: int) -> None:
        """Count the requests under way."""
        with self._lock:
            self._now += step
            self.most_at_once = max(self.most_at_once, self._now)


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[FaultyServer]:
    """A FaultyServer that runs on the loopback address while the block does."""
    state = FaultyServer(files)

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            # Until its answer begins: who has the last byte may ask again before this thread ends.
            state.entered(1)
            time.sleep(state.takes)
            state.entered(-1)
            _answer(self, state)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _answer(handler: BaseHTTPRequestHandler, state: FaultyServer) -> None:
    path = handler.path.partition("?")[0]
    wanted = handler.headers.get("Range")
    fault = state.next_fault(path, wanted)
    handler.close_connection = True
    if fault == "stall":
        handler.connection.shutdown(socket.SHUT_RDWR)
        return
    if fault in ("again", "away", "loop"):
        target = {"again": path, "away": "http://example.invalid/x", "loop": path}[fault]
        if fault == "loop":
            state.faults[path] = ["loop"]
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    if fault.isdigit() or path not in state.files:
        body = b"no"
        handler.send_response(int(fault) if fault.isdigit() else 404)
        if fault == "429":
            handler.send_header("Retry-After", "7")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
        return
    _send(handler, state.files[path], wanted, fault)


def _send(handler: BaseHTTPRequestHandler, content: bytes, wanted: str | None, fault: str) -> None:
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    start = 0
    if wanted and fault != "no_range" and handler.headers.get("If-Range", tag) == tag:
        start = int(wanted.removeprefix("bytes=").partition("-")[0])
    body = b"<html>Please log in</html>" if fault == "page" else content[start:]
    announced = {"short": len(body) + 500, "long": max(len(body) // 2, 1)}.get(fault, len(body))
    handler.send_response(206 if start else 200)
    handler.send_header("ETag", tag)
    page = body.startswith(b"<html>")
    handler.send_header("Content-Type", "text/html" if page else "application/octet-stream")
    if start:
        first = start + 1 if fault == "wrong_range" else start
        handler.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
    if not fault.startswith("unsaid"):
        handler.send_header("Content-Length", str(announced))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2] if fault in ("break", "unsaid and broken") else body)
