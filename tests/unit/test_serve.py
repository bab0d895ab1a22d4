"""The example service: fifty clients at once get what the library gives, and nonsense does not end it."""

from __future__ import annotations

import re
import runpy
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec_lab.lab.serving import open_served
from genrec_lab.models.hub import CardFacts
from tests.unit.conftest import tiny_recommender, unique_codes

uvicorn = pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx", reason="the extra `serve` is not installed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "serve.py"


@pytest.fixture(scope="module")
def model() -> Any:
    codes = unique_codes({"Garden": 40, "Shed": 20}, (4, 5, 6))
    made = tiny_recommender(codes, sharpness=3.0)
    assert codes.domains is not None
    titles = [f"Rake {item}" for item in range(60)]
    made.shared_items = pl.DataFrame(
        {"domain": codes.domains.tolist(), "key": [f"K{item}" for item in range(60)], "title": titles}
    )
    return made


@pytest.fixture(scope="module")
def address(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = model.save_pretrained(tmp_path_factory.mktemp("shared") / "it", CardFacts(dataset="made up"))
    app = runpy.run_path(str(EXAMPLE))["make_app"](open_served(folder))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(timeout=20)


def test_fifty_clients_at_once_are_answered_as_by_the_library(model: Any, address: str) -> None:
    rng = np.random.default_rng(0)
    garden = model.codes.domain_items("Garden")
    questions = []
    for number in range(150):
        history = rng.choice(garden, size=rng.integers(1, 30)).tolist()
        allow = None if number % 3 else rng.choice(garden, size=rng.integers(1, 40), replace=False).tolist()
        questions.append((history, allow, bool(number % 2)))

    def ask(question: tuple[list[int], list[int] | None, bool]) -> tuple[dict[str, Any], float]:
        history, allow, exclude = question
        body = {"history": [f"K{item}" for item in history], "domain": "Garden", "exclude_seen": exclude}
        body |= {} if allow is None else {"allow": [f"K{item}" for item in allow]}
        began = time.perf_counter()
        answer = httpx.post(f"{address}/recommend", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json(), time.perf_counter() - began

    with ThreadPoolExecutor(50) as clients:
        answers = list(clients.map(ask, questions))
    for (history, allow, exclude), (answer, _) in zip(questions, answers, strict=True):
        seen = [history] if exclude else False
        wanted = model.recommend([history[-20:]], 10, "Garden", allow=allow, exclude_seen=seen)
        found = wanted.items[0] >= 0
        assert answer["items"] == [f"K{item}" for item in wanted.items[0][found]]
        assert answer["scores"] == pytest.approx(wanted.scores[0][found].tolist(), abs=1e-5)
    p50, p99 = np.percentile([seconds for _, seconds in answers], [50, 99]) * 1000
    print(f"50 clients: p50 {p50:.0f} ms, p99 {p99:.0f} ms")


@pytest.mark.parametrize(
    "body, status, message",
    [
        (b'{"history": ["' + b"x" * 1_000_000 + b'"]}', 413, "at most 256,000 bytes"),
        (b"\x00\xff nonsense", 400, "error parsing the body"),
        (b"[]", 422, "history|dictionary|object"),
        (b"[" * 100_000, 400, "error parsing the body"),
        (b'{"history": ["K0"], "domain": "Garden", "hstory": 1}', 422, "hstory"),
        (b'{"history": ["K0"], "domain": "Attic"}', 422, "Attic"),
        (b'{"history": ["K0"]}', 422, "domain is missing; give one of"),
        (b'{"history": ["nowhere"], "domain": "Garden"}', 422, "'nowhere'"),
        (b'{"history": [], "domain": "Garden", "allow": []}', 422, "none of the 40 items of Garden is left"),
        (b'{"history": [], "domain": "Garden", "top_k": 1000000000}', 422, "less than or equal to 100"),
    ],
)
def test_nonsense_is_refused_and_the_server_lives(
    address: str, body: bytes, status: int, message: str
) -> None:
    answer = httpx.post(
        f"{address}/recommend", content=body, headers={"content-type": "application/json"}, timeout=60
    )
    assert answer.status_code == status and re.search(message, answer.text), answer.text[:300]
    assert httpx.get(f"{address}/health", timeout=60).json()["items"] == 60
