"""Stage 09: the runs of one name, a seed each: means, standard deviations, durations, and what differs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from genrec_lab.lab.files import RunError, write_json
from genrec_lab.lab.results import METRICS_SCHEMA
from genrec_lab.lab.seeds import COMPARISON, EVALUATION, OVER_SEEDS, own_records, runs_of, signatures
from genrec_lab.lab.store import Run
from genrec_lab.viz.figures import summarise

# What two seeds of one run may differ in without a word.
_EXPECTED_DIFFERENCES = ("run", "seed", "config.provenance", "config.reference_codes")


@dataclass(frozen=True)
class Comparison:
    """Several seeds of a run, or one run alone. `str` says what is compared and everything that is amiss."""

    runs: pl.DataFrame  # run, seed, preset, dataset, revision, processor, minutes; all that were evaluated
    records: pl.DataFrame  # run, method, domain, metric, k, value, users, seed; of the runs on the same data
    summary: pl.DataFrame  # method, domain, metric, k, mean, sd, seeds; sd is null for one seed
    durations: pl.DataFrame  # stage, then the seconds in each run
    differences: pl.DataFrame  # parameter, then its value in each run; only those that are not equal
    left_out: dict[str, str]  # run -> why none of its numbers is used

    def __str__(self) -> str:
        compared = self.records["run"].unique(maintain_order=True).to_list()
        seeds = self.records["seed"].unique(maintain_order=True).to_list()
        lines = [f"Compared: {', '.join(compared)} (seeds {', '.join(map(str, seeds))})."]
        if len(compared) == 1:
            lines.append(
                "One run has no standard deviation; --seeds 1,2,3 of the command makes several runs."
            )
        lines += [f"LEFT OUT: {name}: {why}" for name, why in self.left_out.items()]
        if self.differences.height:
            names = ", ".join(self.differences["parameter"].to_list()[:6])
            lines.append(f"NOT EQUAL in all runs, so the standard deviation is not of seeds alone: {names}.")
        return "\n".join(lines)


def compare_runs(run: Run) -> Comparison:
    """Compare the runs named `<run>` and `<run>-seed<s>`; write comparison.json and comparison.parquet.

    The parquet file holds the records, the json file everything else. Runs on other data than most are left
    out, and said to be. Where `<run>` was not evaluated itself, the records of its seeds become its metrics,
    so that its report shows the table. Raises RunError where no run has been evaluated.
    """
    found = runs_of(run.name, run.folder.parent)
    if not found.runs:
        reasons = "".join(f"\n  {name}: {why}" for name, why in found.left_out.items())
        raise RunError(
            f"No run named {run.name!r} or '{run.name}-seed<s>' in {run.folder.parent} has been evaluated. "
            f"Run the notebook {EVALUATION}.ipynb first.{reasons}"
        )
    also = {"runs": signatures(found.runs), "left_out": found.left_out}
    with run.stage(COMPARISON, uses=(), also=also) as stage:
        comparison = _compared(found.runs, found.left_out)
        if not stage.is_finished:
            comparison.records.write_parquet(stage.folder / "comparison.parquet")
            write_json(stage.folder / "comparison.json", _content(run.name, comparison))
            if EVALUATION not in run.manifest()["stages"]:
                for (method,), rows in comparison.records.group_by("method", maintain_order=True):
                    run.record_metrics(str(method), rows.drop("run", "method"))
            for name, why in comparison.left_out.items():
                run.log("run_left_out_of_comparison", run=name, why=why)
    return comparison


def _compared(runs: Sequence[Run], left_out: Mapping[str, str]) -> Comparison:
    manifests = {run.name: run.manifest() for run in runs}
    strangers = _on_other_data(manifests)
    records = pl.concat([_records(run) for run in runs if run.name not in strangers])
    metrics = records.select("metric", "k").unique(maintain_order=True).iter_rows()
    summary = [
        summarise(records, metric, k).with_columns(metric=pl.lit(metric), k=pl.lit(k, pl.Int64))
        for metric, k in metrics
    ]
    return Comparison(
        runs=pl.DataFrame([_circumstances(run, manifests[run.name]) for run in runs]),
        records=records,
        summary=pl.concat(summary).select("method", "domain", "metric", "k", "mean", "sd", "seeds"),
        durations=_durations(manifests),
        differences=_differences(
            {name: manifest for name, manifest in manifests.items() if name not in strangers}
        ),
        left_out={**strangers, **left_out},
    )


def _on_other_data(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The runs whose dataset is not the one that most have (in a tie, the first has), and what is wrong."""
    prints = {name: manifest["dataset"]["fingerprint"] for name, manifest in manifests.items()}
    (usual, _), *_ = Counter(prints.values()).most_common(1)
    like = [name for name, fingerprint in prints.items() if fingerprint == usual]
    return {
        name: f"ITS DATASET DIFFERS: fingerprint {fingerprint[:12]}, but {usual[:12]} in {', '.join(like)}. "
        "Numbers on different data cannot be compared."
        for name, fingerprint in prints.items()
        if fingerprint != usual
    }


def _records(run: Run) -> pl.DataFrame:
    rows = [[run.name, *(record[name] for name in METRICS_SCHEMA)] for record in own_records(run)]
    frame = pl.DataFrame(rows, schema={"run": pl.String, **METRICS_SCHEMA}, orient="row")
    return frame.filter(pl.col("k").is_not_null())


def _circumstances(run: Run, manifest: Mapping[str, Any]) -> dict[str, Any]:
    seconds = sum(record["seconds"] for name, record in manifest["stages"].items() if name not in OVER_SEEDS)
    return {
        "run": run.name,
        "seed": run.seed,
        "preset": run.parameters["preset"],
        "dataset": manifest["dataset"]["fingerprint"][:12],
        "revision": (manifest["source"]["revision"] or "unknown")[:12],
        "processor": ", ".join(manifest["hardware"]["gpus"] or [manifest["hardware"]["cpu"]]),
        "minutes": round(seconds / 60, 1),
    }


def _durations(manifests: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    known = {stage for manifest in manifests.values() for stage in manifest["stages"]}
    stages = sorted(known.difference(OVER_SEEDS))
    columns = {
        name: [manifest["stages"].get(stage, {}).get("seconds") for stage in stages]
        for name, manifest in manifests.items()
    }
    return pl.DataFrame({"stage": stages, **columns}, schema_overrides=dict.fromkeys(columns, pl.Float64))


def _differences(manifests: Mapping[str, Mapping[str, Any]]) -> pl.DataFrame:
    """Parameters, code and packages that are not the same in all runs, as text."""
    values = {name: dict(_flat(_parameters(manifest))) for name, manifest in manifests.items()}
    names = dict.fromkeys(name for of_run in values.values() for name in of_run)
    rows = []
    for parameter in names:
        row = [of_run.get(parameter, "not set") for of_run in values.values()]
        if len(set(row)) > 1 and parameter not in _EXPECTED_DIFFERENCES:
            rows.append([parameter, *row])
    return pl.DataFrame(rows, schema=dict.fromkeys(["parameter", *values], pl.String), orient="row")


def _parameters(manifest: Mapping[str, Any]) -> dict[str, Any]:
    # the config holds the overrides already
    given = {name: value for name, value in manifest["parameters"].items() if name != "overrides"}
    return {
        **given,
        "config": manifest["config"],
        "code": {"version": manifest["source"]["version"], "revision": manifest["source"]["revision"]},
        "packages": manifest["packages"],
    }


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _content(name: str, comparison: Comparison) -> dict[str, Any]:
    frames = ("runs", "summary", "durations", "differences")
    return {
        "run": name,
        "left_out": comparison.left_out,
        **{frame: getattr(comparison, frame).to_dicts() for frame in frames},
    }
