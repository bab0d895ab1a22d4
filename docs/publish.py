"""Puts what runs measured into docs/results: `python -m docs.publish NAME`, once its runs are evaluated.

`python -m docs.publish NAME --without ROW` first takes out what stands there of a row, as is needed where its
settings have changed.

`docs/results/<name>.json` holds a record for each row and seed, so that rows and seeds that were measured at
other times, on other machines, come together: what a run measured takes the place of what stood there for the
same row and seed, and all else stays. Prints the table of the means, the papers' figures beside them where
their data are the same. Raises ValueError where data or a row's settings are not those of what stands there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from genrec_lab.evaluation.papers import beside_papers
from genrec_lab.evaluation.ranking import AVERAGE
from genrec_lab.lab import Run, runs_root
from genrec_lab.lab.compare import runs_of
from genrec_lab.lab.evaluate import EVALUATION, METRICS_SCHEMA
from genrec_lab.lab.files import hash_json, read_json, write_json
from genrec_lab.lab.prepare import data_summary, ties_in_short
from genrec_lab.lab.results import records_in
from genrec_lab.lab.tables import KEPT, kept_note, kept_reasons
from genrec_lab.presets import MethodConfig, item_rows, methods

FOLDER = Path(__file__).parent / "results"
# Of a generative row's config: what says nothing of the row itself.
_NOT_THE_ROW = {"name", "provenance", "compare", "rows", "tuning", "own_row", "reference_codes"}
# Of what made a result: what is its own, however alike the results of a run were made.
_OF_EACH_RESULT = {
    "stage", "row", "scope", "revision", "dirty", "code", "settings", "made_at", "seconds", "kept_despite",
}  # fmt: skip


def main(name: str, outdated: Sequence[str] = ()) -> None:
    """Bring together what stands in docs/results and the runs of a name, and print the table.

    What stands there of the rows that are `outdated` is taken out first; ValueError where there is nothing.
    """
    file = FOLDER / f"{name}.json"
    found = runs_of(name, runs_root())
    for left, why in found.left_out.items():
        print(f"LEFT OUT: {left}: {why}")
    before = read_json(file) if file.is_file() else None
    for row in outdated:
        before = without(row, before)
    content = together(name, before, [measured(run) for run in found.runs])
    write_json(file, content)
    print(table(content))


def measured(run: Run) -> dict[str, Any]:
    """What one run adds: its circumstances, the settings (by hash) and results of each row, and its records.

    A row's results say what made them, as `Run.provenance` does; `made` holds what all of them share.
    """
    records, provenance = run.metrics().to_dicts(), run.provenance()
    rows = {str(record["method"]): [{}] for record in records}
    for row in rows:
        own = [each for each in provenance if each["row"] == row]
        # Popularity may have no result of its own: what counts is how it was evaluated.
        rows[row] = own or [
            each for each in provenance if each["row"] is None and each["stage"] == EVALUATION
        ]
    every = [result for own in rows.values() for result in own]
    made = {
        name: every[0][name]
        for name in (every[0] if every else ())
        if name not in _OF_EACH_RESULT and all(each.get(name) == every[0][name] for each in every)
    }
    return {
        "run": run.name,
        "seed": run.seed,
        "preset": run.parameters["preset"],
        "dataset": data_summary(run)["fingerprint"][:12],
        "ties": ties_in_short(run),
        "processor": ", ".join(_processors(run)),
        "made": made,
        "rows": {
            row: {
                "settings": key,
                "revision": ", ".join(dict.fromkeys(map(_revision, rows[row]))) or "unknown",
                "results": [
                    {name: each[name] for name in each if name not in made and name != "row" and each[name]}
                    for each in rows[row]
                ],
            }
            for row, key in settings(run.config, rows).items()
        },
        "records": records,
    }


def _processors(run: Run) -> list[str]:
    """What the results of a run were computed on."""
    machines = [record.made["hardware"] for _, record, _ in records_in(run.folder) if record]
    return list(dict.fromkeys(name for one in machines for name in one["gpus"] or [one["cpu"]]))


def _revision(result: Mapping[str, Any]) -> str:
    return (result["revision"] or "unknown")[:12] + (" (modified)" if result["dirty"] else "")


def settings(config: MethodConfig, rows: Iterable[str]) -> dict[str, str]:
    """A hash of all that each row follows from but data and seed, by the row's name."""
    over_items, generative = item_rows(config), methods(config)
    found = {}
    for name in rows:
        own: Any = None  # popularity has no settings
        if name in over_items:
            own = over_items[name].model_dump(mode="json", exclude={"tuning"})
            own |= {
                "transfer": config.transfer.model_dump(mode="json"),
                "text": config.text.model_dump(mode="json"),
            }
        elif name in generative:
            own = generative[name].model_dump(mode="json", exclude=_NOT_THE_ROW)
        found[name] = hash_json(own)[:12]
    return found


def together(
    name: str, before: Mapping[str, Any] | None, runs: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Bring what stands in a file and what runs measured together; ValueError where they do not fit."""
    told = list(before["runs"]) if before else []
    records = pl.DataFrame(before["records"] if before else [], schema=METRICS_SCHEMA)
    for run in runs:
        _must_fit(run, told)
        fresh = pl.DataFrame(run["records"], schema=METRICS_SCHEMA)
        records = pl.concat([records.join(fresh, on=["method", "seed"], how="anti"), fresh])
        # Of an earlier run of the seed only the rows that this one does not have are left.
        told = [
            {
                **earlier,
                "rows": {row: made for row, made in earlier["rows"].items() if row not in run["rows"]},
            }
            if earlier["seed"] == run["seed"]
            else earlier
            for earlier in told
        ]
        told = [earlier for earlier in told if earlier["rows"]]
        told.append({key: value for key, value in run.items() if key != "records"})
    records = records.sort("method", "seed", maintain_order=True)
    cells = ["method", "domain", "metric", "k"]
    summary = (
        records.group_by(cells, maintain_order=True)
        .agg(mean=pl.col("value").mean(), sd=pl.col("value").std(), seeds=pl.len())
        .to_dicts()
    )
    return {"run": name, "runs": told, "summary": summary, "records": records.to_dicts()}


def without(row: str, content: Mapping[str, Any] | None) -> dict[str, Any]:
    """What stands in a file but all that was measured of a row; ValueError where the file has none of it."""
    records = list(content["records"]) if content else []
    known = {record["method"] for record in records}
    if content is None or row not in known:
        raise ValueError(
            f"there are no records of {row!r} to take out; there are {', '.join(sorted(known)) or 'none'}"
        )
    told = [{**run, "rows": {k: v for k, v in run["rows"].items() if k != row}} for run in content["runs"]]
    left = {
        "runs": [run for run in told if run["rows"]],
        "records": [record for record in records if record["method"] != row],
    }
    return together(content["run"], left, [])


def _must_fit(run: Mapping[str, Any], told: Iterable[Mapping[str, Any]]) -> None:
    for other in told:
        if other["dataset"] != run["dataset"]:
            raise ValueError(
                f"{run['run']} has the data {run['dataset']}, but {other['run']} in the file "
                f"{other['dataset']}: numbers on different data cannot be compared; publish them under "
                "another name"
            )
        unlike = [
            row
            for row, made in run["rows"].items()
            if other["rows"].get(row, made)["settings"] != made["settings"]
        ]
        if unlike and other["seed"] != run["seed"]:
            raise ValueError(
                f"{unlike[0]} has other settings in {run['run']} than in {other['run']}, which the file "
                "holds: a mean over both means nothing; take its records out of the file (--without), or "
                "run the seeds alike"
            )


def table(content: Mapping[str, Any], k: int = 10) -> str:
    """The means over seeds as markdown, a table for each domain: papers' rows in their order first.

    Below them stands which revisions made the rows, and what is not known of how they were made.
    """
    records = pl.DataFrame(content["records"], schema=METRICS_SCHEMA).filter(pl.col("k") == k)
    summary = pl.DataFrame(content["summary"]).filter(pl.col("k") == k)
    papers = beside_papers(records)
    made: dict[str, list[Mapping[str, Any]]] = {}
    for run in content["runs"]:
        for row, how in run["rows"].items():
            made.setdefault(row, []).append({"seed": run["seed"], **how})
    kept = {
        row: "; ".join(kept_reasons(each for seed in made[row] for each in seed.get("results", ())))
        for row in made
    }
    kept = {row: reasons for row, reasons in kept.items() if reasons}
    lines: list[str] = []
    domains = [name for name in records["domain"].unique(maintain_order=True) if name != AVERAGE]
    for domain in domains if len(domains) == 1 else [*domains, AVERAGE]:
        of_paper = papers.filter(pl.col("domain") == domain)
        own = summary.filter(pl.col("domain") == domain)
        rows = dict.fromkeys([*of_paper["method"], *own.sort("mean", descending=True)["method"]])
        lines += [f"**{domain}**", ""]
        lines += [f"| row | seeds | Recall@{k} | paper | | NDCG@{k} | paper | |", "|---" * 8 + "|"]
        for row in rows:
            name = f"{row} {KEPT}" if row in kept else row
            lines.append("| " + " | ".join([name, *_cells(row, own, of_paper)]) + " |")
        lines.append("")
    (data,) = {run["dataset"] for run in content["runs"]}
    lines += [f"Data {data}.", *dict.fromkeys(run["ties"] for run in content["runs"] if run.get("ties")), ""]
    return "\n".join([*lines, *([kept_note(kept), ""] if kept else []), *_origins(made)])


def _origins(made: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Which revision made which rows and seeds, and for which rows nothing more was recorded."""
    revisions: dict[str, dict[str, list[str]]] = {}
    for row, seeds in made.items():
        for each in seeds:
            revisions.setdefault(each["revision"], {}).setdefault(row, []).append(str(each["seed"]))
    lines = ["Made with", ""]
    for revision, rows in revisions.items():
        by = ", ".join(f"{row} (seeds {', '.join(sorted(seeds))})" for row, seeds in sorted(rows.items()))
        lines.append(f"- revision {revision}: {by}")
    unknown = [
        row
        for row, seeds in made.items()
        if not all(each.get("results") and all("code" in one for one in each["results"]) for each in seeds)
    ]
    if unknown:
        lines += [
            "",
            "Unknown are the digest of the code, threads, precision and package versions of "
            f"{', '.join(sorted(unknown))}: they were not recorded.",
        ]
    return lines


def _cells(row: str, own: pl.DataFrame, papers: pl.DataFrame) -> list[str]:
    cells: list[str] = []
    for metric in ("recall", "ndcg"):
        ours = own.filter(method=row, metric=metric).to_dicts()[0]
        if not cells:
            cells.append(str(ours["seeds"]))
        spread = "" if ours["sd"] is None else f" ± {_short(ours['sd'])}"
        theirs = papers.filter(method=row, metric=metric).to_dicts()
        cells += [_short(ours["mean"]) + spread]
        cells += [_short(theirs[0]["theirs"]), f"{theirs[0]['difference']:+.0f} %"] if theirs else ["", ""]
    return cells


def _short(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m docs.publish", description=__doc__.split("\n\n")[0])
    parser.add_argument("name", help="of the runs, as baselines_scientific")
    parser.add_argument(
        "--without", action="append", default=[], metavar="ROW", help="take out what stands of it"
    )
    asked = parser.parse_args()
    main(asked.name, asked.without)
