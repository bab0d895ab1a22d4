"""How a recommender treats a single user, as small frames for notebooks 05 and 07."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import torch

from genrec_lab.codes import EOS
from genrec_lab.data import Dataset
from genrec_lab.evaluation.significance import Rankings
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.viz.sentences import sentence, story_title
from genrec_lab.viz.tables import table_figure
from genrec_lab.viz.text import counted, percent

_BETWEEN_CODES = " · "
_RECOMMENDED, _HIT = "recommended", "recommended, the target"


def typical_user(users: pl.DataFrame, length: int = 5) -> dict[str, Any]:
    """Return the first user of a part of the split whose history length is closest to `length` items."""
    distance = (pl.col("history").list.len().cast(pl.Int64) - length).abs()
    return users.sort(distance, maintain_order=True).row(0, named=True)


def history_tokens(model: CodeRecommender, dataset: Dataset, history: Sequence[int]) -> pl.DataFrame:
    """Return the network's input for a history: frame `item, title, identifier, tokens`.

    A token is a level's offset in the vocabulary plus the code. A T5 that reads whole histories adds an end
    token after them; a causal model adds a token before them.
    """
    tokens = model.inputs([list(history)])["input_ids"][0].tolist()
    levels = model.codes.levels
    before = int(tokens[0] == EOS) if history else 0
    rows: list[tuple[int | None, str, str, str]] = []
    for place, (item, title) in enumerate(zip(history, _titles(dataset, history), strict=True)):
        group = tokens[before + place * levels :][:levels]
        rows.append((item, title, _identifier(model.codes.codes[item]), " ".join(map(str, group))))
    if before:
        rows.insert(0, (None, "(begin of the history)", "", str(EOS)))
    elif len(tokens) > len(history) * levels:
        rows.append((None, "(end of the history)", "", str(EOS)))
    schema = {"item": pl.Int64, "title": pl.String, "identifier": pl.String, "tokens": pl.String}
    return pl.DataFrame(rows, schema, orient="row")


@torch.inference_mode()
def watch_beams(
    model: CodeRecommender, dataset: Dataset, history: Sequence[int], domain: str, beams: int = 5
) -> pl.DataFrame:
    """Run a beam search for one user and return each level's allowed codes, kept prefixes and their scores.

    Frame `level, prefix, log_probability, allowed, of, legal_mass, items, example`, one row per kept beam,
    best first. allowed, of: how many codes the trie allowed, and how many the level has. legal_mass: the
    probability that the model gave to the allowed codes. items, example: the number of items below the
    prefix, and the title of the first. `beam_search` gives the same results.
    """
    model.eval()
    trie, memory = model.trie(domain), model.remember([list(history)])
    catalogue = model.codes.domain_items(domain)
    open_beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    rows = []
    for level in range(trie.depth):
        prefixes = torch.tensor([prefix for _, prefix in open_beams], dtype=torch.long)
        users = torch.zeros(len(open_beams), dtype=torch.long)
        log_probs = model.continuations(memory.of_users(users), prefixes).cpu().numpy()
        candidates = []
        for (score, prefix), of_codes in zip(open_beams, log_probs, strict=True):
            legal = trie.children(prefix)
            mass = float(np.exp(of_codes[legal]).sum())
            for code in legal.tolist():
                candidates.append((score + float(of_codes[code]), (*prefix, code), len(legal), mass))
        kept = sorted(candidates, key=lambda candidate: -candidate[0])[:beams]
        open_beams = [(score, prefix) for score, prefix, _, _ in kept]
        for score, prefix, allowed, mass in kept:
            below = catalogue[(model.codes.codes[catalogue, : level + 1] == prefix).all(axis=1)]
            size, (title,) = model.codes.sizes[level], _titles(dataset, below[:1].tolist())
            rows.append((level + 1, _identifier(prefix), score, allowed, size, mass, len(below), title))
    columns = ("level", "prefix", "log_probability", "allowed", "of", "legal_mass", "items", "example")
    return pl.DataFrame(rows, schema=columns, orient="row")


@sentence
def tell_beams(steps: pl.DataFrame) -> str:
    """Describe in words, level by level, how the item that ranks first was found; steps: of `watch_beams`."""
    winner = steps.filter(pl.col("level") == pl.col("level").max()).row(0, named=True)
    codes, lines = winner["prefix"].split(_BETWEEN_CODES), []
    for level in range(1, len(codes) + 1):
        kept = steps.filter(pl.col("level") == level)
        path = _BETWEEN_CODES.join(codes[:level])
        place = kept["prefix"].to_list().index(path)
        row = kept.row(place, named=True)
        after = f"After {_BETWEEN_CODES.join(codes[: level - 1])} the trie" if level > 1 else "The trie"
        lines.append(
            f"Level {level}. {after} allows {row['allowed']} of {row['of']} codes, to which the model gives "
            f"{percent(row['legal_mass'])} of its probability. The path continues with {codes[level - 1]}; "
            f"{path} is number {place + 1} of the {counted(kept.height, 'kept prefix', 'kept prefixes')}, at "
            f"log-probability {row['log_probability']:.2f}. Below it: {counted(row['items'], 'item')}, such "
            f"as {row['example']!r}."
        )
    return "\n".join(lines)


def user_story(rankings: Rankings, dataset: Dataset, method: str, row: int, places: int = 5) -> pl.DataFrame:
    """Return the titles of a test user's history, a method's recommendations with scores, and the target.

    Frame `part, place, title, score`; part is "history", "recommended" or "recommended, the target", and
    finally "target". row: row of the test part. places: number of recommendations.
    """
    user = rankings.users.row(row, named=True)
    items = [int(item) for item in rankings.items[method][row][:places] if item >= 0]
    scores = [float(score) for score in rankings.scores[method][row][: len(items)]]
    hit = [_HIT if item == user["target"] else _RECOMMENDED for item in items]
    frame = {
        "part": ["history"] * len(user["history"]) + hit + ["target"],
        "place": [*range(1, len(user["history"]) + 1), *range(1, len(items) + 1), None],
        "title": _titles(dataset, [*user["history"], *items, user["target"]]),
        "score": [*[None] * len(user["history"]), *scores, None],
    }
    return pl.DataFrame(frame, schema_overrides={"place": pl.Int64, "score": pl.Float64})


def story_figure(story: pl.DataFrame, method: str) -> go.Figure:
    """Draw `user_story` as a table for the report; its title states the target's rank, if it has one."""
    hits = story.filter(pl.col("part") == _HIT)
    shown = story.filter(pl.col("part").is_in([_RECOMMENDED, _HIT])).height
    title = story_title(method, hits["place"][0] if hits.height else None, shown)
    places = story["place"].cast(pl.String).fill_null("").to_list()
    scores = ["" if score is None else f"{score:.2f}" for score in story["score"]]
    columns: dict[str, list[str]] = {"": story["part"].to_list(), "place": places}
    columns |= {"title": story["title"].to_list(), "log-probability": scores}
    note = "history: oldest first; target: the user's next item"
    return table_figure(title, note, columns, widths=[200, 56, 500, 130], left=3)


def places_already_had(rankings: Rankings) -> pl.DataFrame:
    """Return each row's share of recommendations from the user's own history: frame `row, already_had`."""
    shares = []
    for name, shown in rankings.items.items():
        pairs = zip(shown, rankings.users["history"].to_list(), strict=True)
        taken = sum(int(np.isin(row, history).sum()) for row, history in pairs)
        shares.append((name, taken / int((shown >= 0).sum())))
    return pl.DataFrame(shares, schema=["row", "already_had"], orient="row").sort("already_had")


def _titles(dataset: Dataset, items: Sequence[int]) -> list[str]:
    return list(dataset.items["title"].gather(list(items)).to_list()) if len(items) else []


def _identifier(codes: Sequence[int] | np.ndarray) -> str:
    return _BETWEEN_CODES.join(str(int(code)) for code in codes)
