"""The papers' statistics of Amazon data, and how a prepared Dataset differs from them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from genrec_lab.data.dataset import Dataset
from genrec_lab.data.rules import DataError, nearest

_FIELDS = ("users", "items", "interactions")
_TOGETHER, _PRETRAINING_DOMAINS = "Pre-training", 5
# The paper that uses an edition.
TABLES = {"amazon2018": "GMC Table 2", "amazon2023": "UTGRec Table 1"}

# Users, items and interactions by domain. The pre-training row counts its five domains together.
PUBLISHED: dict[str, dict[str, tuple[int, int, int]]] = {
    "GMC Table 2": {
        "Scientific": (8_317, 4_344, 58_492),
        "Pantry": (13_073, 4_897, 126_693),
        "Instruments": (24_772, 9_922, 206_153),
        "Arts": (45_141, 20_956, 390_832),
        "Office": (86_554, 25_847, 675_882),
    },
    "UTGRec Table 1": {
        "Pre-training": (999_334, 344_412, 8_609_909),
        "Instrument": (57_439, 24_587, 511_836),
        "Scientific": (50_985, 25_848, 412_947),
        "Game": (94_762, 25_612, 814_586),
        "Office": (223_308, 77_551, 1_577_570),
    },
}


def compared_with_paper(
    dataset: Dataset, table: str, rows: dict[str, list[str]] | None = None
) -> pl.DataFrame:
    """The dataset's statistics beside a paper's: a row for each of the paper's that the dataset has.

    `table` is "GMC Table 2" or "UTGRec Table 1"; `rows` maps a row of it to the domains that it counts
    together, by default each row to the domain of its name. Columns `row`, then for users, items and
    interactions ours, `paper_...` and `off_...` (ours minus theirs), and `differs`. Raises DataError for an
    unknown table, row or domain, and where no row is left.
    """
    if table not in PUBLISHED:
        raise DataError(f"table {table!r} is unknown{nearest(table, PUBLISHED)}")
    known = PUBLISHED[table]
    chosen = rows if rows is not None else {row: [row] for row in known if row in dataset.domains}
    if not chosen:
        raise DataError(
            f"{table} has {', '.join(known)}, the dataset has {', '.join(dataset.domains)}; say which belong "
            'together, as rows={"Game": ["Video_Games"]}'
        )
    counted = dataset.statistics()
    found = []
    for row, domains in chosen.items():
        if row not in known:
            raise DataError(f"{table} has no row {row!r}{nearest(row, known)}")
        for domain in domains:
            if domain not in dataset.domains:
                raise DataError(f"row {row!r}: unknown domain {domain!r}{nearest(domain, dataset.domains)}")
        ours = counted.filter(pl.col("domain").is_in(domains)).select(pl.col(_FIELDS).sum()).row(0)
        values: dict[str, object] = {"row": row}
        for name, own, theirs in zip(_FIELDS, ours, known[row], strict=True):
            values |= {name: own, f"paper_{name}": theirs, f"off_{name}": own - theirs}
        found.append({**values, "differs": ours != known[row]})
    return pl.DataFrame(found)


def lines_beside_paper(dataset: Dataset, source: str, targets: Sequence[str] = ()) -> list[str]:
    """Sentences that hold an Amazon dataset against the table of the paper that uses its edition.

    `targets` are the downstream domains; where five others are there, none with a row of its own, they are
    UTGRec's pre-training row. No sentence for another source, or where no domain has the name of a row.
    """
    table = TABLES.get(source)
    if table is None:
        return []
    rows = {row: [row] for row in PUBLISHED[table] if row in dataset.domains}
    others = [domain for domain in dataset.domains if domain not in targets]
    pretraining = len(others) == _PRETRAINING_DOMAINS and not any(domain in rows for domain in others)
    if _TOGETHER in PUBLISHED[table] and pretraining:
        rows = {_TOGETHER: others} | rows
    if not rows:
        return []
    lines = []
    for row in compared_with_paper(dataset, table, rows).iter_rows(named=True):
        parts = [
            f"{row[name]:,} {name}" + (f" ({row[f'off_{name}']:+,})" if row[f"off_{name}"] else "")
            for name in _FIELDS
        ]
        verdict = f"DIFFERS from {table}" if row["differs"] else f"as {table}"
        lines.append(f"{row['row']}: {', '.join(parts)}: {verdict}")
    return lines
