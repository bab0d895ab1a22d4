"""A shared recommender as a web service: `python examples/serve.py FOLDER [--row ROW] [--port 8000]`.

FOLDER is what `genrec export`, `genrec add-items` or `Recommender.save_pretrained` wrote. Ask it with

    curl localhost:8000/recommend -H 'content-type: application/json' \
         -d '{"history": ["B00004YMBI"], "top_k": 5, "exclude_seen": true}'

Needs the extra `serve`. docs/serving.md says what it costs.
"""

from __future__ import annotations

import argparse
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from genrec_lab.lab.files import RunError
from genrec_lab.lab.serving import Served, open_served

LARGEST_REQUEST = 256_000  # bytes: an allow list of about 15,000 keys
_Key = str


class Question(BaseModel):
    """One shopper's history by item keys, oldest first, and what may be recommended."""

    model_config = ConfigDict(extra="forbid")

    history: list[_Key] = Field(max_length=1_000)
    domain: str | None = None  # the only one, where there is one
    top_k: int = Field(10, ge=1, le=100)
    allow: list[_Key] | None = None
    deny: list[_Key] | None = None
    exclude_seen: bool = False
    beams: int | None = Field(None, ge=1, le=500)


class Answer(BaseModel):
    """Keys and scores, best first; fewer than top_k where fewer are allowed."""

    items: list[str]
    scores: list[float]


def make_app(served: Served) -> FastAPI:
    """Return the service over the models of a folder."""
    app, one_at_a_time = FastAPI(title="genrec_lab"), threading.Lock()
    keys = served.catalogue.items["key"]
    for domain in served.domains:
        served.model(domain)  # loaded now, not when the first request waits for it

    @app.middleware("http")
    async def refuse_large(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        size = 0
        chunks = []
        async for chunk in request.stream():  # a length that is stated may be wrong, or missing
            size += len(chunk)
            if size > LARGEST_REQUEST:
                return JSONResponse({"detail": f"a request has at most {LARGEST_REQUEST:,} bytes"}, 413)
            chunks.append(chunk)
        request._body = b"".join(chunks)
        return await go_on(request)

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"row": served.row, "domains": served.domains, "items": len(keys)}

    @app.post("/recommend")
    def recommend(question: Question) -> Answer:
        try:
            domain = question.domain or _only(served)
            lists = {
                name: served.items(given, domain, name)
                for name in ("allow", "deny")
                if (given := getattr(question, name)) is not None
            }
            history = served.items(question.history, domain, "history").tolist()
            with one_at_a_time:  # torch shares its threads, so two at once are no faster
                ranked = served.recommend(
                    [history], question.top_k, domain, **lists,
                    exclude_seen=question.exclude_seen, beams=question.beams,
                )  # fmt: skip
        except (RunError, ValueError) as error:
            raise HTTPException(422, str(error)) from error
        found = ranked.items[0] >= 0
        return Answer(
            items=keys.gather(ranked.items[0][found]).to_list(), scores=ranked.scores[0][found].tolist()
        )

    return app


def _only(served: Served) -> str:
    if len(served.domains) > 1:
        raise RunError(f"domain is missing; give one of {', '.join(served.domains)}.")
    return served.domains[0]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--row")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    uvicorn.run(make_app(open_served(asked.folder, asked.row)), host=asked.host, port=asked.port)
