"""Stage 07: every row ranks the whole catalogue for all test users; metrics are computed from that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from genrec_lab.bazaar import best_possible
from genrec_lab.bazaar.oracle import MAX_ORACLE_ITEMS
from genrec_lab.codes import ItemCodes
from genrec_lab.codes.grouping import with_equals
from genrec_lab.data import NO_ITEM, Dataset
from genrec_lab.decoding import Ranked, beam_search, exact_top_k
from genrec_lab.evaluation import metric_needs, metrics_table
from genrec_lab.evaluation.beyond import metric_by_popularity
from genrec_lab.evaluation.papers import beside_papers, other_data
from genrec_lab.evaluation.ranking import SharedRanking
from genrec_lab.evaluation.significance import Rankings, per_user
from genrec_lab.lab.adapt import load_adapted, read_serving, serving_tasks
from genrec_lab.lab.files import require_known, safe_name
from genrec_lab.lab.prepare import load_prepared, prepared_task
from genrec_lab.lab.recommend import item_model_tasks, learnt_data, load_item_model, part_of, training_data
from genrec_lab.lab.rows import Facts, facts_of, known_facts, served
from genrec_lab.lab.store import Run, Task, Work
from genrec_lab.lab.tables import effort_of
from genrec_lab.lab.tokenise import codes_task, load_vectors, text_task
from genrec_lab.models.hub import ITEM_COLUMNS, NamesItems
from genrec_lab.models.popularity import Popularity
from genrec_lab.models.recommenders.base import ITEM_MODELS, RECOMMENDERS, recommend_to, require_accepted
from genrec_lab.presets import item_rows, methods
from genrec_lab.training import rank_in_shares
from genrec_lab.viz.figures import long_tail, paper_table

EVALUATION, COMPARISON = "07_evaluation", "09_compare_runs"
BEST_POSSIBLE = "best possible"
POPULARITY = "popularity"
TOP_K = 10
METRICS_SCHEMA = {
    "method": pl.String, "domain": pl.String, "metric": pl.String, "k": pl.Int64,
    "value": pl.Float64, "users": pl.Int64, "seed": pl.Int64,
}  # fmt: skip
_KS = (5, 10)
_LOWEST = "lowest.parquet"  # of rows whose items share identifiers
SAMPLED_WARNING = (
    "evaluation.sampled ranks the target among a sample of the catalogue: such metrics are much higher than "
    "those of the whole catalogue, may order methods differently (Krichene and Rendle, KDD 2020), and cannot "
    "be compared with them."
)
_USUAL = "tiger"  # UTGRec's Figure 4 draws what others gain over it


def ranking_tasks(facts: Facts) -> dict[str, Task]:
    """What stage 07 makes, by row: the rankings of all test users, on Bazaar also the best possible."""
    config, found = facts.config, {}
    shared: dict[str, Any] = {"domains": facts.served, "top_k": config.evaluation.top_k}
    if config.evaluation.exclude_seen:
        shared["exclude_seen"] = True
    if config.evaluation.sampled is not None:
        shared |= {"sampled": config.evaluation.sampled, "seed": facts.run.seed}
    data: dict[str, Any] = {"data": facts.data}
    for name, row in facts.generative.items():
        models, bases = serving_tasks(facts, name)
        given = {**shared, "kind": row.recommender.kind, "beams": config.decoding.test_beams}
        given["precision"] = config.decoding.precision
        inputs = {**data, "models": models, "bases": bases, "codes": codes_task(facts, name)}
        component = RECOMMENDERS.find(row.recommender.kind)
        found[name] = Task(EVALUATION, name, _rank_by_codes, given, inputs, (component,), name)
    for name, item in facts.over_items.items():
        given = {**shared, "kind": item.model.kind}
        inputs = {**data, "models": item_model_tasks(facts, name)}
        component = ITEM_MODELS.find(item.model.kind)
        found[name] = Task(EVALUATION, safe_name(name), _rank_by_items, given, inputs, (component,), name)
    if POPULARITY in config.compare:
        found[POPULARITY] = Task(EVALUATION, POPULARITY, _rank_by_popularity, shared, data, row=POPULARITY)
    options = facts.run.dataset
    if options["name"] == "bazaar" and facts.n_items <= MAX_ORACLE_ITEMS:
        given = {"domains": facts.served, "ks": config.evaluation.measured["ks"], "options": options}
        found[BEST_POSSIBLE] = Task(EVALUATION, BEST_POSSIBLE, _best_possible, given, data, row=BEST_POSSIBLE)
    return found


def rank_test_users(run: Run) -> Rankings:
    """Rank for every row and test user, and write the rankings; `run.metrics()` are derived from them."""
    facts = facts_of(run)
    for name, task in ranking_tasks(facts).items():
        fresh = not run.state(task).usable
        run.make(task)
        if fresh and (noted := _noted(run, task)):
            users, rate = noted.pop("users"), noted.pop("users_per_second")
            print(f"{name}: {users:,} users ranked, {rate:,.0f} users/s")
            for what, value in noted.items():  # of rows whose items share identifiers
                print(f"{name}: {what} {value}")
    for name, why in facts.skipped.items():
        print(f"{name}: skipped, {why}")
    for sentence in _what_to_know(facts):
        print(sentence)
    return load_rankings(run)


def _what_to_know(facts: Facts) -> Iterator[str]:
    """Say where a metric is not what it seems: small catalogues, targets that cannot be hit, samples."""
    run, config = facts.run, facts.config.evaluation
    for domain in facts.served:
        if small := [k for k in config.ks if facts.items[domain] <= k]:
            yield (
                f"{domain} has {facts.items[domain]} items, so its recall and hit rate at "
                f"{', '.join(map(str, small))} are 1 for any ranking of all of them."
            )
    if config.exclude_seen:
        test = _with_all_before(ranked_users(run), load_prepared(run).dataset)
        if again := test.filter(pl.col("had").list.contains(pl.col("target"))).height:
            yield (
                f"evaluation.exclude_seen: {again:,} of {test.height:,} test users already had their target, "
                "so no row can hit it."
            )
    if config.sampled is not None:
        yield SAMPLED_WARNING
    if "vectors" in _needed(run) and not _has_vectors(facts):
        yield "Metrics that need item vectors, such as diversity, are left out: the run has no text vectors."


def _with_all_before(test: pl.DataFrame, dataset: Dataset) -> pl.DataFrame:
    """Add `had`: the items of a test user before the target, also those that the history is too short for.

    `test` has all targets of its users. They are the last items of the user's sequence, in its order.
    """
    items = pl.col("items")
    left = (pl.len() - pl.int_range(pl.len())).over("user")  # this target and those after it
    place = items.list.len().cast(pl.Int64) - left
    return test.with_columns(items=dataset.sequences["items"].gather(test["user"])).select(
        *test.columns,
        had=pl.when(items.list.get(place, null_on_oob=True) == pl.col("target"))
        .then(items.list.head(place).list.set_union("history"))
        .otherwise("history"),  # a published row that does not follow from the sequence
    )


def load_rankings(run: Run) -> Rankings:
    """Read what stage 07 wrote; RunError if a row's rankings are missing or were made otherwise."""
    tasks = {name: task for name, task in ranking_tasks(facts_of(run)).items() if name != BEST_POSSIBLE}
    read = {name: ranking_in(run.read(task)) for name, task in tasks.items()}
    frames = {name: frame for name, (frame, _) in read.items()}
    return Rankings(
        ranked_users(run),
        {name: frame["items"].to_numpy() for name, frame in frames.items()},
        {name: frame["scores"].to_numpy() for name, frame in frames.items()},
        {name: ranking for name, (_, ranking) in read.items() if isinstance(ranking, SharedRanking)},
    )


def ranking_in(folder: Path) -> tuple[pl.DataFrame, SharedRanking | np.ndarray]:
    """Read a row's rankings: their frame, and what metrics take, items (U, K) or a SharedRanking."""
    frame = pl.read_parquet(folder / "rankings.parquet")
    if "identifiers" not in frame.columns:
        return frame, frame["items"].to_numpy()
    lowest = pl.read_parquet(folder / _LOWEST)["item"].to_numpy()
    return frame, SharedRanking(frame["identifiers"].to_numpy(), lowest)


def ranked_users(run: Run) -> pl.DataFrame:
    """Read the users of the test part that are ranked: those of the domains in which the run recommends."""
    data = load_prepared(run)
    return part_of(data.split.test, served(run.config, data.dataset.domains))


def load_serving(run: Run, domain: str, row: str | None = None) -> Any:
    """Read what recommends in a domain: of a generative row or of a row over items, or popularity."""
    facts, name = facts_of(run), row or shown_row(run)
    rows = (*facts.generative, *facts.over_items, POPULARITY)
    require_known(domain, facts.served, f"Run {run.name!r} does not serve", "it serves")
    require_known(name, rows, f"Run {run.name!r} has no row", "it has")
    data = load_prepared(run)
    if name in facts.generative:
        model = load_adapted(run, name, domain)
    elif name in facts.over_items:
        model = load_item_model(run, name, domain)
    else:
        model = Popularity().fit(training_data(data, (domain,)))
    if isinstance(model, NamesItems):
        model.shared_items = data.dataset.items.select(ITEM_COLUMNS)
        model.max_history = data.split.max_history
    return model


def run_metrics(run: Run) -> pl.DataFrame:
    """Compute the metrics of a run's rows from their rankings, as a frame of `METRICS_SCHEMA`.

    Rows whose rankings are missing, damaged, or of other settings, data or code have none. A run that only
    compares others has theirs.
    """
    facts, found = known_facts(run), []
    tasks = {} if facts is None else ranking_tasks(facts)
    folders = {name: run.read(task) for name, task in tasks.items() if run.state(task).usable}
    known = _facts_of_metrics(facts) if facts is not None and folders else {}
    for name, folder in folders.items():
        if name == BEST_POSSIBLE:
            table = pl.read_parquet(folder / "metrics.parquet")
        else:
            table = _measured(run, *ranking_in(folder), known)
            if (folder / "sampled.parquet").is_file():
                among_few = pl.read_parquet(folder / "sampled.parquet")
                sampled = _measured(run, among_few, among_few["items"].to_numpy(), known)
                among = pl.lit(f"_of_{run.config.evaluation.sampled}_sampled")
                table = pl.concat([table, sampled.with_columns(metric=pl.col("metric") + among)])
        found.append(labelled(table, method=name, seed=run.seed))
    if found:
        return pl.concat(found)
    compared = run.folder / COMPARISON / "comparison" / "records.parquet"
    if compared.is_file():
        return pl.read_parquet(compared).select(*METRICS_SCHEMA)
    return pl.DataFrame(schema=METRICS_SCHEMA)


def labelled(metrics: pl.DataFrame, **whose: str | int) -> pl.DataFrame:
    """Add columns such as the method and the seed, in the order and with the types of `METRICS_SCHEMA`."""
    columns = {name: pl.lit(value) for name, value in whose.items()}
    schema = {"run": pl.String, **METRICS_SCHEMA}
    whole = metrics.with_columns(**columns)
    return whole.select(pl.col(name).cast(kind) for name, kind in schema.items() if name in whole.columns)


def _measured(
    run: Run, ranked: pl.DataFrame, ranking: SharedRanking | np.ndarray, known: Mapping[str, Any]
) -> pl.DataFrame:
    asked = run.config.evaluation.measured
    at_hand = set(next(iter(known.values())))
    metrics = [name for name in asked["metrics"] if set(metric_needs(name)) <= at_hand]
    return metrics_table(ranking, ranked["target"], ranked["domain"], asked["ks"], metrics, known)


def _needed(run: Run) -> set[str]:
    return {need for name in run.config.evaluation.metrics for need in metric_needs(name)}


def _has_vectors(facts: Facts) -> bool:
    return facts.reads_text_vectors and facts.run.state(text_task(facts)).usable


def _facts_of_metrics(facts: Facts) -> dict[str, dict[str, Any]]:
    """By domain, what the run's metrics need apart from rankings; what the run lacks is left out."""
    run, needed, shared = facts.run, _needed(facts.run), dict[str, Any]()
    if not needed or not run.state(prepared_task(run)).usable:
        return {domain: {} for domain in facts.served}
    dataset = load_prepared(run).dataset
    if "popularity" in needed:
        shared["popularity"] = interactions(dataset.training_sequences(), dataset)
    if "vectors" in needed and _has_vectors(facts):
        shared["vectors"] = load_vectors(run)
    return {domain: {**shared, "items": dataset.domain_items(domain)} for domain in facts.served}


def run_notes(run: Run) -> dict[str, dict[str, Any]]:
    """What is noted with the metrics of each row: its training (`effort_of`), and users ranked per second."""
    facts, found = known_facts(run), dict[str, dict[str, Any]]()
    if facts is None:
        return found
    for name, task in ranking_tasks(facts).items():
        note = {} if name in (POPULARITY, BEST_POSSIBLE) else effort_of(facts, name)
        note |= {what: value for what, value in _noted(run, task).items() if what != "users"}
        if note:
            found[name] = note
    return found


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
    by_width = {width: Ranked.concatenate(parts).items for width, parts in found.items()}
    return Ranked.concatenate(exact).items, by_width


def floor_and_ceiling(run: Run, users: int = 2_000) -> pl.DataFrame:
    """What popularity reaches on validation users and, on Bazaar, what the best ranking can expect there.

    Frame `method, domain, metric, k, value, users`. At most `users` of them, a seeded sample. The methods are
    "popularity" and, where the generator is known and has at most 100,000 items, "best possible", whose
    values are expectations over the generator's chance.
    """
    data = load_prepared(run)
    valid = data.split.valid
    if valid.height > users:
        valid = valid.sample(users, seed=run.seed).sort("user")

    def rank(domain: str, rows: np.ndarray) -> Ranked:
        counted = Popularity().fit(training_data(data, (domain,)))
        return counted.recommend(valid[rows]["history"].to_list(), max(_KS))

    items, _ = ranked_by_domain(valid["domain"], max(_KS), rank)
    found = metrics_table(items, valid["target"], valid["domain"], _KS)
    known = [labelled(found, method=POPULARITY)]
    if run.dataset["name"] == "bazaar" and data.dataset.n_items <= MAX_ORACLE_ITEMS:
        expected = best_possible(run.dataset, valid, _KS).metrics
        known.append(labelled(expected.rename({"expected": "value"}), method=BEST_POSSIBLE))
    return pl.concat(known)


def rows_by_popularity(
    run: Run, rankings: Rankings, metric: str = "ndcg", k: int = 10, edges: Sequence[int] | None = None
) -> pl.DataFrame:
    """Each row's metric by how often the training part has the target; see `metric_by_popularity`."""
    dataset = load_prepared(run).dataset
    counts = interactions(dataset.training_sequences(), dataset)
    values = {row: per_user(rankings, row, metric, k) for row in rankings.items}
    return metric_by_popularity(values, counts[rankings.users["target"].to_numpy()], edges)


def interactions(sequences: pl.DataFrame, dataset: Dataset) -> np.ndarray:
    """Return how often each item of a dataset stands in sequences, (N,)."""
    return np.bincount(sequences["items"].explode().drop_nulls().to_numpy(), minlength=dataset.n_items)


def long_tail_figure(
    run: Run, rankings: Rankings, method: str, edges: Sequence[int] | None = None
) -> go.Figure:
    """Draw NDCG@10 by the target's popularity, relative to the row TIGER if there is one, else the method."""
    reference = _USUAL if _USUAL in rankings.items else method
    return long_tail(rows_by_popularity(run, rankings, edges=edges), reference)


def show_beside_papers(run: Run, metrics: pl.DataFrame | None = None) -> list[go.Figure]:
    """Draw and save a table with our metrics and a paper's, for each paper that has a run's data.

    `metrics` are by default the run's own, and may be those of several seeds.
    """
    measured = run_metrics(run) if metrics is None else metrics
    figures = []
    for (paper,), rows in beside_papers(measured).group_by("paper", maintain_order=True):
        name = "beside_" + str(paper).lower().replace(" ", "_")
        figures.append(
            run.figure(name, paper_table(rows), f"Rows of {paper} compared with ours, on the same data.")
        )
    if not figures:
        print("No table of the papers has rows on these data.")
    for sentence in other_data(measured):
        print(sentence)
    return figures


def tuning_of_rows(run: Run) -> pl.DataFrame:
    """Say for each row of a run's table what was searched: frame `row, trials, search_space, chosen_on`.

    It includes rows that the data cannot feed. A single trial means the preset's settings.
    """
    searched: dict[str, Any] = {**methods(run.config), **item_rows(run.config)}
    rows = [
        (
            name,
            row.tuning.trials,
            row.tuning.space or "1 trial: the preset",
            f"validation {row.training.monitor}",
        )
        for name, row in searched.items()
    ]
    if POPULARITY in run.config.compare:
        rows.append((POPULARITY, 1, "nothing to tune", "nothing"))
    columns = {"row": pl.String, "trials": pl.Int64, "search_space": pl.String, "chosen_on": pl.String}
    return pl.DataFrame(rows, schema=columns, orient="row")


def shown_row(run: Run) -> str:
    """Return the row that is looked at closely: the run's own, its first generative one, or its first."""
    return next(iter((*facts_of(run).generative, *facts_of(run).over_items, POPULARITY)))


def describe_skipped(run: Run) -> str:
    """Say which rows the data cannot feed, and why: a line each."""
    skipped = facts_of(run).skipped
    return "\n".join(f"{name} is skipped: {why}." for name, why in skipped.items()) or "No row is skipped."


def _noted(run: Run, task: Task) -> dict[str, Any]:
    """What a ranking noted: `users, users_per_second`, and how many items share identifiers, if any do."""
    record = run.state(task, verify=False).record
    return {} if record is None else dict(record.summary)


# -- the tasks ---------------------------------------------------------------------------------------------


def _rank_by_codes(
    work: Work,
    kind: str,
    top_k: int,
    beams: int,
    models: Mapping[str, Path],
    bases: Mapping[str, Path],
    codes: Path,
    **asked: Any,
) -> None:
    known = ItemCodes.read(codes / "codes.parquet")
    asked |= {"top_k": top_k, "beams": max(beams, top_k)}
    asked |= {} if known.unique else {"identifiers": True, "lowest": known.representatives()}
    _rank(work, lambda domain: read_serving(kind, models[domain], bases.get(domain), domain), **asked)


def _rank_by_items(work: Work, kind: str, models: Mapping[str, Path], **asked: Any) -> None:
    _rank(work, lambda domain: ITEM_MODELS.find(kind).load(models[domain] / "model"), **asked)


def _rank_by_popularity(work: Work, data: Path, **asked: Any) -> None:
    _rank(work, lambda domain: Popularity().fit(learnt_data(data, (domain,))), data=data, **asked)


def _rank(
    work: Work,
    model: Callable[[str], Any],
    data: Path,
    domains: Sequence[str],
    top_k: int,
    exclude_seen: bool = False,
    sampled: int | None = None,
    seed: int = 0,
    lowest: np.ndarray | None = None,
    **offered: Any,
) -> None:
    """Rank for the test users of some domains, a domain at a time, and write what came.

    sampled: also rank the target among this number of other items that the user does not have. lowest: (N,),
    if items share identifiers and these are ranked: the lowest item with the identifier of each item.
    """
    dataset = Dataset.read(data / "dataset")
    test = _with_all_before(part_of(pl.read_parquet(data / "test.parquet"), domains), dataset)
    started = time.monotonic()

    def ranked(hidden: Callable[[str, pl.DataFrame], Any] | None) -> tuple[np.ndarray, np.ndarray]:
        def rank(domain: str, rows: np.ndarray) -> Ranked:
            return rank_in_shares(partial(recommend, domain, hidden), test[rows])

        return ranked_by_domain(test["domain"], top_k, rank)

    def recommend(domain: str, hidden: Any, users: pl.DataFrame) -> Ranked:
        asked, loaded = dict(offered), model(domain)
        if hidden is not None:
            asked["exclude_seen"] = hidden(domain, users)
            require_accepted(loaded.recommend, "exclude_seen")
        return recommend_to(loaded, users, top_k, dataset.domain_items(domain), **asked)

    items, scores = ranked((lambda _, users: users["had"].to_list()) if exclude_seen else None)
    seconds = time.monotonic() - started
    if sampled is not None and lowest is None:
        found, worth = ranked(partial(_all_but_a_sample, dataset, sampled, seed))
        among = test.select("user", "domain", "target").with_columns(items=found, scores=worth)
        among.write_parquet(work.folder / "sampled.parquet")
    work.summary = {"users": test.height, "users_per_second": round(test.height / max(seconds, 1e-9), 1)}
    frame = test.select("user", "domain", "target")
    if lowest is not None:
        frame = frame.with_columns(identifiers=items)
        pl.DataFrame({"item": lowest}).write_parquet(work.folder / _LOWEST)
        counted = SharedRanking(items, lowest).optimistic_recall(test["target"].to_numpy(), top_k)
        work.summary |= {
            "items_sharing_identifiers": int((np.bincount(lowest)[lowest] > 1).sum()),
            f"optimistic_recall@{top_k}": float(counted.mean()),
        }
        items, scores = with_equals(items, lowest, scores)
    frame.with_columns(items=items, scores=scores).write_parquet(work.folder / "rankings.parquet")


def ranked_by_domain(
    domains: pl.Series, top_k: int, rank: Callable[[str, np.ndarray], Ranked]
) -> tuple[np.ndarray, np.ndarray]:
    """Items and scores (U, K) of users by their domains, each ranked by itself; rank: of a domain's rows."""
    items = np.full((len(domains), top_k), NO_ITEM, dtype=np.int64)
    scores = np.full((len(domains), top_k), -np.inf, dtype=np.float32)
    for domain in domains.unique(maintain_order=True):
        rows = np.flatnonzero((domains == domain).to_numpy())
        found = rank(domain, rows)
        items[rows], scores[rows] = found.items, found.scores
    return items, scores


def _all_but_a_sample(
    dataset: Dataset, size: int, seed: int, domain: str, users: pl.DataFrame
) -> list[np.ndarray]:
    """For each user all items of the domain but the target and `size` others that the user does not have."""
    items, hidden = dataset.domain_items(domain), []
    for user, target, had in users.select("user", "target", "had").iter_rows():
        strange = np.setdiff1d(items, [target, *had, *dataset.sequences["items"][user]])
        order = np.random.default_rng([seed, user]).permutation(len(strange))
        hidden.append(np.setdiff1d(items, [target, *strange[order[:size]]]))
    return hidden


def _best_possible(
    work: Work, domains: Sequence[str], ks: Sequence[int], options: Mapping[str, Any], data: Path
) -> None:
    """On Bazaar the true distribution is known: what its best ranking scores on the very same test users."""
    test = part_of(pl.read_parquet(data / "test.parquet"), domains)
    metrics = best_possible(dict(options), test, tuple(ks)).metrics
    metrics.rename({"realised": "value"}).drop("expected").write_parquet(work.folder / "metrics.parquet")
