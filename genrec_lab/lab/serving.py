"""What a run or a folder of models answers: items by keys, for one history or a file of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from genrec_lab.data.preparation import MAX_HISTORY
from genrec_lab.data.rules import NO_ITEM
from genrec_lab.data.whole_files import sha256_of, whole_file
from genrec_lab.decoding import Ranked
from genrec_lab.lab.evaluate import load_serving, ranked_by_domain, shown_row
from genrec_lab.lab.files import RunError, hash_json, read_json, require_known, write_json
from genrec_lab.lab.own_tables import read_histories, read_keys
from genrec_lab.lab.prepare import load_prepared
from genrec_lab.lab.rows import facts_of
from genrec_lab.lab.store import Run, existing_run
from genrec_lab.models.hub import ITEM_COLUMNS, Catalogue
from genrec_lab.models.recommenders.base import read_recommender, require_accepted, with_accepted
from genrec_lab.viz.text import counted

EXPORTED = "export.json"  # in a folder that `genrec export` or `genrec add-items` wrote
_PART = 1024  # users in one part of the work
_COLUMNS = {"user": pl.String, "domain": pl.String, "rank": pl.Int64, "item": pl.String, "score": pl.Float32}
Unknown = Literal["refuse", "drop"]


@dataclass(frozen=True, eq=False)
class Served:
    """The models of one row by domain, and the catalogue whose keys they are asked by."""

    source: str
    row: str
    domains: tuple[str, ...]
    catalogue: Catalogue
    max_history: int
    places: Mapping[str, Any]  # by domain the folder of its model, or its run
    identity: Mapping[str, Any]  # what the answers depend on
    _loaded: dict[str, Any] = field(default_factory=dict)

    def model(self, domain: str) -> Any:
        """Return the recommender of a domain; RunError for a domain that is not served."""
        require_known(domain, self.domains, f"{self.source} does not serve", "it serves")
        place = self.places[domain]
        key = str(place) if isinstance(place, Path) else domain
        if key not in self._loaded:
            of_run = isinstance(place, Run)
            self._loaded[key] = load_serving(place, domain, self.row) if of_run else read_model(place)
        return self._loaded[key]

    def items(self, keys: Sequence[str], domain: str, what: str) -> np.ndarray:
        """Return the items with these keys in a domain; RunError names those that are unknown."""
        found = self.catalogue.places(keys, domain)
        unknown = [key for key, item in zip(keys, found, strict=True) if item == NO_ITEM]
        self.require_none(unknown, len(keys), f"in {domain}", what)
        return found

    def require_none(self, unknown: Sequence[str], of: int, where: str, what: object) -> None:
        """Raise RunError if some of a number of keys are unknown, naming the first."""
        if unknown:
            raise RunError(
                f"{what}: {len(unknown):,} of {of:,} items are unknown {where}, the first is {unknown[0]!r}; "
                f"keys are those of the source, such as {self.catalogue.items['key'][0]!r}."
            )

    def recommend(self, histories: Sequence[Sequence[int]], top_k: int, domain: str, **asked: Any) -> Ranked:
        """Return the top_k items of a domain after histories of item indices, however long they are.

        asked: `allow`, `deny`, `exclude_seen` and `beams` as of `recommend_after`. Raises RunError if the
        row's recommender takes no such filter, and for what it refuses.
        """
        model, domains = self.model(domain), [domain] * len(histories)
        try:
            return recommend_after(model, histories, top_k, domains, self.max_history, **asked)
        except ValueError as error:
            raise RunError(f"{domain}: {error}.") from error


def recommend_after(
    model: Any,
    histories: Sequence[Sequence[int]],
    top_k: int,
    domains: Sequence[str],
    max_history: int,
    *,
    allow: Sequence[int] | np.ndarray | None = None,
    deny: Sequence[int] | np.ndarray | None = None,
    exclude_seen: bool = False,
    beams: int | None = None,
) -> Ranked:
    """Return a recommender's top_k items of each history's domain, however long the histories are.

    It reads the most recent `max_history` items; `exclude_seen` counts all of them. Raises RecommenderError
    if it takes no such filter, and ValueError for what it refuses.
    """
    asked = {"allow": allow, "deny": deny, "exclude_seen": histories if exclude_seen else None}
    filters = {name: value for name, value in asked.items() if value is not None}
    require_accepted(model.recommend, *filters)
    offered: dict[str, Any] = {"domain": list(domains), **({"beams": beams} if beams else {}), **filters}
    recent = [list(history)[-max_history:] for history in histories]
    return with_accepted(model.recommend, recent, top_k, **offered)


def history_length(model: Any) -> int:
    """Return how many items of a history a recommender reads: as it or its config states, or the default."""
    of_config = getattr(getattr(model, "config", None), "max_history", None)
    return int(getattr(model, "max_history", None) or of_config or MAX_HISTORY)


def open_served(source: str | Path, row: str | None = None) -> Served:
    """Open what recommends: a folder of `save_pretrained`, `genrec export` or `genrec add-items`, or a run.

    row: by default the run's own, of an export its first. Raises RunError if there is no such row, and
    SharingError for a folder that was altered.
    """
    folder = Path(source).expanduser()
    if (folder / EXPORTED).is_file():
        name, models = exported_row(folder, read_json(folder / EXPORTED), row)
        if not models:
            raise RunError(
                f"{folder} holds no model of {name!r} that this version can read; use the run itself."
            )
        return _of_models(folder, name, models)
    if (folder / "shared.json").is_file():
        return _of_models(folder, folder.name, {None: folder})
    if folder.is_dir() and "/" in str(source):
        raise RunError(
            f"{folder} has no shared.json and no {EXPORTED}; give a folder that save_pretrained or `genrec "
            "export` wrote, or the name of a run."
        )
    run = existing_run(str(source))
    name, data, domains = row or shown_row(run), load_prepared(run), facts_of(run).served
    load_serving(run, domains[0], name)  # says now that there is no such row
    catalogue = Catalogue(data.dataset.items.select(ITEM_COLUMNS))
    identity = {"run": run.name, "row": name, "results": run.reads}
    places = dict.fromkeys(domains, run)
    return Served(run.name, name, domains, catalogue, data.split.max_history, places, identity)


def exported_row(folder: Path, about: Mapping[str, Any], row: str | None) -> tuple[str, dict[str, Path]]:
    """Return a row of an export, by default its first, and the folders of its models by domain."""
    name = row or next(iter(about["rows"]))
    require_known(name, about["rows"], f"{folder} has no row", "it has")
    return name, {domain: folder / place for domain, place in about["rows"][name]["models"].items()}


def _of_models(folder: Path, row: str, models: Mapping[Any, Path]) -> Served:
    """Open folders of models by domain; None stands for all domains that the model has."""
    first = read_model(next(iter(models.values())))
    if first.shared_items is None:
        raise RunError(
            f"{folder} has no items.parquet with the keys of its items; share the model with items."
        )
    catalogue = Catalogue(first.shared_items)
    if None in models:
        own = getattr(first, "codes", None)
        held = own.domain_names if own is not None and own.domains is not None else ()
        domains = held or tuple(catalogue.items["domain"].unique(maintain_order=True))
        models = dict.fromkeys(domains, models[None])
    identity = {str(place): sha256_of(place / "shared.json") for place in models.values()}
    history = history_length(first)
    return Served(str(folder), row, tuple(models), catalogue, history, models, identity)


def read_model(folder: Path) -> Any:
    """Read a recommender that was shared; RunError if it cannot be used."""
    try:
        return read_recommender(folder)
    except (ValueError, OSError) as error:
        raise RunError(f"{folder} cannot be used: {error}") from error


# -- files ---------------------------------------------------------------------------------------------------


def recommend_to_file(
    source: str | Path,
    histories: Path,
    out: Path,
    top_k: int,
    *,
    row: str | None = None,
    allow: Path | None = None,
    deny: Path | None = None,
    exclude_seen: bool = False,
    unknown: Unknown = "refuse",
    beams: int | None = None,
    say: Any = print,
) -> Path:
    """Recommend to every user of a file: `user, domain, rank, item, score`, with the source's keys.

    Parts are kept next to `out` until all are there, so that a killed call resumes where it stopped. unknown:
    "drop" leaves out items that the model does not know or that are of another domain than their history,
    and users with no other items, and says how many. `say` takes sentences about the file. Raises RunError
    for files that cannot be used.
    """
    if top_k < 1:
        raise RunError(f"top-k is {top_k}; expected 1 or more.")
    if out.suffix not in (".parquet", ".csv"):
        raise RunError(f"{out} has an unknown ending; write to .parquet or .csv.")
    users, model = read_histories(histories), open_served(source, row)
    users, numbered = _numbered(users, model, histories, unknown, say)
    names = users["domain"].unique(maintain_order=True)
    lists = {name: file for name, file in (("allow", allow), ("deny", deny)) if file is not None}
    keys = {name: read_keys(file) for name, file in lists.items()}
    if any(getattr(model.model(name), "knows_users", False) for name in names):
        say(
            f"{model.row} has learned vectors of its training users, but a file's users count as unknown, so "
            "the run's users get other lists than in its rankings.parquet."
        )
    known = set(model.catalogue.items["key"])
    for name, of_list in keys.items():
        strange = [key for key in of_list if key not in known]
        model.require_none(strange, len(of_list), f"to {model.source}", lists[name])
    plan = {
        "of": hash_json(model.identity), "histories": sha256_of(histories), "top_k": top_k, "beams": beams,
        "exclude_seen": exclude_seen, "unknown": unknown, "row": model.row,
        "lists": {name: hash_json(sorted(of)) for name, of in keys.items()},
    }  # fmt: skip
    parts = out.with_name(f"{out.name}.parts")
    if not (parts / "plan.json").is_file() or read_json(parts / "plan.json") != plan:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        write_json(parts / "plan.json", plan)
    starts = range(0, users.height, _PART)
    files = [parts / f"{start:09d}.parquet" for start in starts]
    for start, file in zip(starts, files, strict=True):
        if not file.is_file():
            rows = slice(start, start + _PART)
            asked = {"exclude_seen": exclude_seen, "beams": beams}
            made = _part(model, users[rows], numbered[rows], top_k, keys, **asked)
            with whole_file(file) as partial:
                made.write_parquet(partial)
    found = pl.scan_parquet(files)
    with whole_file(out) as partial:
        (found.sink_csv if out.suffix == ".csv" else found.sink_parquet)(partial)
    shutil.rmtree(parts)
    return out


def _part(
    model: Served, users: pl.DataFrame, histories: Sequence[Sequence[int]], top_k: int,
    lists: Mapping[str, Sequence[str]], **asked: Any,
) -> pl.DataFrame:  # fmt: skip
    """Recommend to some users: the rows of each together, in their order; lists: keys to allow or deny."""

    def rank(domain: str, rows: np.ndarray) -> Ranked:
        places = {name: model.catalogue.places(keys, domain) for name, keys in lists.items()}
        filters = {name: found[found != NO_ITEM] for name, found in places.items()}
        own = [histories[row] for row in rows.tolist()]
        return model.recommend(own, top_k, domain, **filters, **asked)

    items, scores = ranked_by_domain(users["domain"], top_k, rank)
    return named_rankings(users["user"], users["domain"], items, scores, model.catalogue.items["key"])


def named_rankings(
    users: pl.Series, domains: pl.Series, items: np.ndarray, scores: np.ndarray, keys: pl.Series
) -> pl.DataFrame:
    """Return rankings (U, K) as rows `user, domain, rank, item, score` with keys, rank from 1."""
    row, place = np.nonzero(items != NO_ITEM)
    columns = [
        users.gather(row).cast(pl.String).alias("user"),
        domains.gather(row).alias("domain"),
        pl.Series("rank", place + 1),
        keys.gather(items[row, place]).alias("item"),
        pl.Series("score", scores[row, place]),
    ]
    return pl.DataFrame(columns).cast(_COLUMNS)  # type: ignore[arg-type]


def _numbered(
    users: pl.DataFrame, model: Served, file: Path, unknown: Unknown, say: Any
) -> tuple[pl.DataFrame, list[list[int]]]:
    """Return the users with their domains, and their histories as item indices.

    A history that names no domain belongs to the only one, or to the one that has its last known item. Items
    that this domain lacks are refused or left out, and so are users of whom no item is left.
    """
    homes: dict[str, list[str]] = {}
    for domain, key in model.catalogue.items.select("domain", "key").iter_rows():
        homes.setdefault(key, []).append(domain)
    found: list[tuple[str, str, list[str], list[int]]] = []
    strange: list[str] = []
    crossing: list[str] = []
    lost: list[str] = []
    for user, named, history in users.iter_rows():
        last = next((homes[key] for key in reversed(history) if key in homes), [])
        possible = [named] if named else model.domains if len(model.domains) == 1 else last
        if len(possible) != 1 and (last or (not history and unknown == "refuse")):
            raise RunError(
                f"{file}: the history of user {user!r} does not say to which domain it belongs; add a column "
                f"'domain' with one of {', '.join(model.domains)}."
            )
        domain = possible[0] if possible else ""
        if domain:
            model.model(domain)  # says now that a domain is not served
        places = model.catalogue.places(history, domain).tolist()
        for key, item in zip(history, places, strict=True):
            if item == NO_ITEM and key in homes:
                crossing.append(f"{key!r} of {' and '.join(homes[key])} in the {domain} history of {user!r}")
            elif item == NO_ITEM:
                strange.append(f"{key!r} of user {user!r}")
        kept = [item for item in places if item != NO_ITEM]
        if domain and (kept or not history):
            found.append((user, domain, history, kept))
        else:
            lost.append(user)
    total = users["history"].list.len().sum()
    for items, what, mend in (
        (strange, f"unknown to {model.source}", "Leave them out of the file"),
        (crossing, "in a history that crosses domains", "Give each domain's items a history of their own"),
    ):
        if items:
            message = (
                f"{file}: {len(items):,} of {total:,} items of histories are {what}, the first is {items[0]}"
            )
            if unknown == "refuse":
                raise RunError(f"{message}. {mend}, or pass --unknown drop.")
            say(f"{message}; they are left out.")
    if lost:
        say(f"Left out {counted(len(lost), 'user')} without a known item, the first is {lost[0]!r}.")
    if not found:
        raise RunError(f"{file}: no user has an item that {model.source} knows.")
    longer = sum(len(history) > model.max_history for *_, history in found)
    if longer:
        say(f"{longer:,} histories are longer than {model.max_history}; their most recent items are read.")
    kept_users = pl.DataFrame([row[:3] for row in found], schema=users.schema, orient="row")
    return kept_users, [row[3] for row in found]
