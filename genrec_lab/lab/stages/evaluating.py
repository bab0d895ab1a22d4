"""Stage 07: every row ranks the whole catalogue for every test user."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from genrec_lab.bazaar import best_possible
from genrec_lab.bazaar.oracle import MAX_ORACLE_ITEMS
from genrec_lab.decoding import Ranked, beam_search, exact_top_k
from genrec_lab.evaluation import metrics_table
from genrec_lab.lab.stages.adapting import ADAPTING, load_adapted
from genrec_lab.lab.stages.preparing import PREPARATION, Prepared, load_prepared
from genrec_lab.lab.stages.recommending import RECOMMENDING, load_item_model, popularity_of
from genrec_lab.lab.stages.rows import generative_rows, served, skipped_rows, trained_item_rows
from genrec_lab.lab.stages.tokenizing import TOKENIZING
from genrec_lab.lab.stages.training import part_of
from genrec_lab.lab.store import Run
from genrec_lab.training import rank_in_shares

EVALUATION = "07_evaluation"
BEST_POSSIBLE = "best possible"
TOP_K = 10


@dataclass(frozen=True)
class Rankings:
    """What the rows of a run recommend to the same test users."""

    users: pl.DataFrame  # user, domain, history, target: the test part
    items: dict[str, np.ndarray]  # (U, 10) item indices by row
    scores: dict[str, np.ndarray]  # (U, 10)


def rank_test_users(run: Run) -> Rankings:
    """Rank for every row and test user, record Recall and NDCG at 5 and 10, and write the rankings."""
    adapting = (ADAPTING,) if generative_rows(run) else ()  # notebook 06 has nothing to do without
    inputs = (PREPARATION, TOKENIZING, RECOMMENDING, *adapting)
    with run.stage(
        EVALUATION, inputs=inputs, uses=("dataset", "decoding", "transfer.targets", "compare", "seed")
    ) as stage:
        if not stage.is_finished:
            data = load_prepared(run)
            test = ranked_users(run)
            for name in _ranked_rows(run, data):
                started = time.monotonic()
                ranked = _rank(run, data, name, test)
                _write(ranked, test, stage.folder / f"{name}.parquet")
                rate = test.height / (time.monotonic() - started)
                run.record_metrics(
                    name,
                    metrics_table(ranked, test["target"], test["domain"]),
                    users_per_second=round(rate, 1),
                )
                print(f"{name}: {test.height:,} users ranked, {rate:,.0f} users/s", flush=True)
            for name, why in skipped_rows(run.config, data.dataset).items():
                run.record_skipped(name, why)
                print(f"{name}: skipped, {why}", flush=True)
            if run.dataset["name"] == "bazaar" and data.dataset.n_items <= MAX_ORACLE_ITEMS:
                _record_best_possible(run, test)
        return _read(stage.folder, ranked_users(run))


def load_rankings(run: Run) -> Rankings:
    """Read what stage 07 wrote."""
    return _read(run.read_stage(EVALUATION), ranked_users(run))


def ranked_users(run: Run) -> pl.DataFrame:
    """Read the users of the test part that are ranked: those of the domains in which the run recommends."""
    data = load_prepared(run)
    return part_of(data.split.test, served(run.config, data.dataset.domains))


def compare_beam_with_exact(
    run: Run, method: str, beams: tuple[int, ...] = (10, 20, 50), users: int = 100
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Return the model's true top 10 (U, 10), and by its width what beam search finds.

    The U users are a seeded sample of the test users.
    """
    sample = ranked_users(run)
    sample = sample.sample(min(users, sample.height), seed=run.seed).sort("domain", maintain_order=True)
    exact: list[Ranked] = []
    found: dict[int, list[Ranked]] = {width: [] for width in beams}
    for (domain,), rows in sample.group_by("domain", maintain_order=True):
        model = load_adapted(run, method, str(domain))
        histories, trie = rows["history"].to_list(), model.trie(str(domain))
        exact.append(exact_top_k(model, histories, trie, TOP_K))
        for width in beams:
            found[width].append(beam_search(model, histories, trie, width, TOP_K))
    return Ranked.concatenate(exact).items, {
        width: Ranked.concatenate(parts).items for width, parts in found.items()
    }


def _rank(run: Run, data: Prepared, name: str, test: pl.DataFrame) -> Ranked:
    items = np.full((test.height, TOP_K), -1, dtype=np.int64)
    scores = np.full((test.height, TOP_K), -np.inf, dtype=np.float32)
    domains = test["domain"].to_numpy()
    for domain in dict.fromkeys(domains.tolist()):
        rows = np.flatnonzero(domains == domain)
        of_domain = part_of(test, (domain,))
        recommend = partial(_recommended, run, data, name, domain)
        items[rows], scores[rows] = rank_in_shares(recommend, of_domain)
    return Ranked(items, scores)


def _ranked_rows(run: Run, data: Prepared) -> tuple[str, ...]:
    popularity = ("popularity",) if "popularity" in run.config.compare else ()
    return (*generative_rows(run), *trained_item_rows(run.config, data.dataset), *popularity)


def _recommended(run: Run, data: Prepared, name: str, domain: str, users: pl.DataFrame) -> Ranked:
    histories = users["history"].to_list()
    if name == "popularity":
        return popularity_of(data, domain).recommend(histories, TOP_K)
    if name in run.config.rows:
        return load_item_model(run, name, domain).recommend(histories, TOP_K, users["user"].to_list())
    model, decoding = load_adapted(run, name, domain), run.config.decoding
    return model.recommend(histories, TOP_K, domain, beams=decoding.test_beams, precision=decoding.precision)


def _record_best_possible(run: Run, test: pl.DataFrame) -> None:
    """On Bazaar the true distribution is known: what its best ranking scores on the very same test users."""
    metrics = best_possible(run.dataset, test, (5, 10)).metrics
    run.record_metrics(BEST_POSSIBLE, metrics.rename({"realised": "value"}).drop("expected"))


def _write(ranked: Ranked, test: pl.DataFrame, file: Path) -> None:
    pl.DataFrame({"user": test["user"], "items": ranked.items, "scores": ranked.scores}).write_parquet(file)


def _read(folder: Path, test: pl.DataFrame) -> Rankings:
    frames = {file.stem: pl.read_parquet(file) for file in sorted(folder.glob("*.parquet"))}
    return Rankings(
        test,
        {name: frame["items"].to_numpy() for name, frame in frames.items()},
        {name: frame["scores"].to_numpy() for name, frame in frames.items()},
    )
