"""Stages 08 and 09, and the comparison of any runs: what differs, and how much it matters.

Letters: U test users, S seeds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.evaluation import METRICS, health_table, metric_needs, metrics_table, paired_bootstrap
from genrec_lab.evaluation.papers import paper_ablations
from genrec_lab.evaluation.ranking import AVERAGE, metric_per_user
from genrec_lab.evaluation.significance import per_user
from genrec_lab.lab.adapt import codes_in_use
from genrec_lab.lab.evaluate import (
    BEST_POSSIBLE,
    COMPARISON,
    EVALUATION,
    labelled,
    load_rankings,
    ranking_in,
    ranking_tasks,
    run_metrics,
    shown_row,
)
from genrec_lab.lab.files import RunError, read_json, write_json
from genrec_lab.lab.prepare import data_summary
from genrec_lab.lab.results import Record, differences, flat, records_in
from genrec_lab.lab.rows import facts_of, known_facts
from genrec_lab.lab.store import Run, Task, Work, existing_run
from genrec_lab.presets import ABLATIONS, MethodConfig, variants
from genrec_lab.viz.figures import summarise
from genrec_lab.viz.live import end_notebook

ABLATION = "08_ablations"
_DESCRIBES = ("name", "provenance", "compare", "tuning")  # fields that are not settings of the method
_KS = (5, 10)
# What two seeds of one run may differ in without a word.
_EXPECTED_DIFFERENCES = ("run", "seed", "config.provenance", "config.reference_codes")


class SeedRuns(NamedTuple):
    """runs: evaluated ones, one for each seed, by seed. left_out: the others by name, with a sentence why."""

    runs: tuple[Run, ...]
    left_out: dict[str, str]


def runs_of(name: str, root: Path) -> SeedRuns:
    """Find the evaluated runs of a name, `<name>` and `<name>-seed<s>`, among the folders of `root`.

    A folder `<name>` that only holds a comparison is ignored. If two runs have the same seed, the one named
    after it is kept.
    """
    pattern = re.compile(re.escape(name) + r"-seed([0-9]+)")
    folders = [file.parent.name for file in root.glob("*/manifest.json")]
    seeded = sorted((int(found[1]), found[0]) for found in map(pattern.fullmatch, folders) if found)
    by_seed: dict[int, Run] = {}
    left_out: dict[str, str] = {}
    for candidate in [*(folder for _, folder in seeded), *([name] if name in folders else [])]:
        try:
            run = existing_run(candidate, root)
            if why := why_not_evaluated(run):
                if candidate != name or (run.folder / EVALUATION).is_dir():
                    left_out[candidate] = why
            elif run.seed in by_seed:
                left_out[candidate] = f"{by_seed[run.seed].name} already has seed {run.seed}."
            else:
                by_seed[run.seed] = run
        except (RunError, ValueError) as error:  # a preset or key that this version does not know
            left_out[candidate] = f"it cannot be opened: {error}"
    return SeedRuns(tuple(by_seed[seed] for seed in sorted(by_seed)), left_out)


def why_not_evaluated(run: Run) -> str:
    """Why the rankings of a run cannot be used; empty if they can."""
    if known_facts(run) is None:
        return "its data have not been prepared."
    tasks = _ranked_rows(run)
    for state in (run.state(task, verify=False) for task in tasks.values()):
        if not state.usable:
            return f"{state.task.place} cannot be used: {state.reason}"
    return "" if tasks else "none of its rows can be ranked."


# -- stage 09 ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Several runs, or one alone. `str` says what is compared and everything that is wrong."""

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
            lines.append("A single run has no standard deviation; genrec run --seeds 1,2,3 trains several.")
        lines += [f"LEFT OUT: {name}: {why}" for name, why in self.left_out.items()]
        if self.differences.height:
            names = ", ".join(self.differences["parameter"].to_list()[:6])
            lines.append(
                f"DIFFERENT between runs, so the standard deviation does not come from seeds alone: {names}."
            )
        return "\n".join(lines)


def comparison_tasks(run: Run) -> list[Task]:
    """What stage 09 makes: the metrics of all seeds of a run, one below the other."""
    return [_comparison_task(_runs_or_planned(run))]


def _runs_or_planned(run: Run) -> list[Run]:
    return [run.planned.get(one.name, one) for one in runs_of(run.name, run.folder.parent).runs]


def _comparison_task(runs: Sequence[Run]) -> Task:
    kept = [run for run in runs if run.name not in _on_other_data(runs)]
    seeds = {run.name: run.seed for run in kept}
    rankings = {
        f"{run.name}/{row}": task.belonging_to(run) for run in kept for row, task in _ranked_rows(run).items()
    }
    measured, components = dict[str, Any](), dict[str, Any]()
    for run in kept:
        asked = run.config.evaluation.measured
        # Metrics that need more than rankings are not compared.
        metrics = [name for name in asked["metrics"] if not metric_needs(name)]
        measured[run.name] = {"ks": asked["ks"], "metrics": metrics}
        components |= {name: METRICS.find(name) for name in metrics}
    given, code = {"seeds": seeds, "measured": measured}, tuple(components.values())
    return Task(COMPARISON, "comparison", _collect, given, {"rankings": rankings}, code)


def _ranked_rows(run: Run) -> dict[str, Task]:
    """The rankings of a run's rows as tasks, also where its data are damaged and are made again."""
    facts = known_facts(run)
    return {} if facts is None else ranking_tasks(facts)


def compare_runs(run: Run) -> Comparison:
    """Compare the runs named `<run>` and `<run>-seed<s>`; write their records.

    Runs on other data than most are left out, with a warning. If `<run>` was not evaluated itself, its
    metrics are the records of its seeds, so that its report shows the table. Raises RunError if no run has
    been evaluated.
    """
    found = runs_of(run.name, run.folder.parent)
    if not found.runs:
        reasons = "".join(f"\n  {name}: {why}" for name, why in found.left_out.items())
        raise RunError(
            f"No run named {run.name!r} or '{run.name}-seed<s>' in {run.folder.parent} has been evaluated. "
            f"Run the notebook {EVALUATION}.ipynb first.{reasons}"
        )
    records = pl.read_parquet(run.make(_comparison_task(found.runs)) / "records.parquet")
    strangers = _on_other_data(found.runs)
    metrics = records.select("metric", "k").unique(maintain_order=True).iter_rows()
    summary = [
        summarise(records, metric, k).with_columns(metric=pl.lit(metric), k=pl.lit(k, pl.Int64))
        for metric, k in metrics
    ]
    comparison = Comparison(
        runs=pl.DataFrame([_circumstances(run) for run in found.runs]),
        records=records,
        summary=pl.concat(summary).select("method", "domain", "metric", "k", "mean", "sd", "seeds"),
        durations=_durations(found.runs),
        differences=settings_that_differ([run for run in found.runs if run.name not in strangers]),
        left_out={**strangers, **found.left_out},
    )
    frames = ("runs", "summary", "durations", "differences")
    content = {frame: getattr(comparison, frame).to_dicts() for frame in frames}
    write_json(run.folder / "comparison.json", {"run": run.name, "left_out": comparison.left_out, **content})
    for name, why in comparison.left_out.items():
        run.log("run_left_out_of_comparison", run=name, why=why)
    return comparison


def _collect(
    work: Work, seeds: Mapping[str, int], measured: Mapping[str, Any], rankings: Mapping[str, Path]
) -> None:
    """Compute the metrics of each run's rows and put them one below the other."""
    found = []
    for place, folder in rankings.items():
        run, _, row = place.partition("/")
        if row == BEST_POSSIBLE:
            table = pl.read_parquet(folder / "metrics.parquet")
        else:
            frame, ranking = ranking_in(folder)
            table = metrics_table(ranking, frame["target"], frame["domain"], **measured[run])
        found.append(labelled(table, run=run, method=row, seed=seeds[run]))
    pl.concat(found).write_parquet(work.folder / "records.parquet")


def _on_other_data(runs: Sequence[Run]) -> dict[str, str]:
    """The runs whose dataset is not the one that most have (in a tie, the first has), and what is wrong."""
    prints = {run.name: data_summary(run)["fingerprint"] for run in runs}
    usual = max(prints.values(), key=list(prints.values()).count, default="")
    like = ", ".join(name for name, fingerprint in prints.items() if fingerprint == usual)
    return {
        name: f"ITS DATASET DIFFERS: fingerprint {fingerprint[:12]}, but {usual[:12]} in {like}. "
        "Numbers on different data cannot be compared."
        for name, fingerprint in prints.items()
        if fingerprint != usual
    }


def _made(run: Run) -> list[Record]:
    """The records of what a run made by itself, stage by stage, as far as they can be read."""
    records = (record for _, record, _ in records_in(run.folder) if record is not None)
    return [record for record in records if record.stage not in (ABLATION, COMPARISON)]


def _circumstances(run: Run) -> dict[str, Any]:
    records = _made(run)
    revisions = dict.fromkeys((record.made["source"]["revision"] or "unknown")[:12] for record in records)
    hardware = records[-1].made["hardware"] if records else {"gpus": None, "cpu": "unknown"}
    return {
        "run": run.name,
        "seed": run.seed,
        "preset": run.parameters["preset"],
        "dataset": data_summary(run)["fingerprint"][:12],
        "revision": ", ".join(revisions),
        "processor": ", ".join(hardware["gpus"] or [hardware["cpu"]]),
        "minutes": round(sum(record.made["seconds"] for record in records) / 60, 1),
    }


def _durations(runs: Sequence[Run]) -> pl.DataFrame:
    rows = [(run.name, record.stage, float(record.made["seconds"])) for run in runs for record in _made(run)]
    frame = pl.DataFrame(rows, schema=["run", "stage", "seconds"], orient="row")
    return frame.pivot("run", index="stage", values="seconds", aggregate_function="sum").sort("stage")


def settings_that_differ(runs: Sequence[Run]) -> pl.DataFrame:
    """Parameters, code and packages that are not the same in all runs: frame `parameter`, a column a run."""
    values = {run.name: dict(flat(_parameters(run))) for run in runs}
    rows = []
    for parameter in {name: None for of_run in values.values() for name in of_run}:
        found = [of_run.get(parameter, "not set") for of_run in values.values()]
        row = [value if isinstance(value, str) else json.dumps(value) for value in found]
        if len(set(row)) > 1 and parameter not in _EXPECTED_DIFFERENCES:
            rows.append([parameter, *row])
    return pl.DataFrame(rows, schema=dict.fromkeys(["parameter", *values], pl.String), orient="row")


def _parameters(run: Run) -> dict[str, Any]:
    # the config holds the overrides already
    given = {name: value for name, value in run.parameters.items() if name != "overrides"}
    code: dict[str, dict[str, str]] = {}
    packages: dict[str, str] = {}
    for record in _made(run):
        code.setdefault(record.stage, {})[record.name.replace(".", "_")] = record.code
        packages |= record.made["packages"]
    return {**given, "config": run.config.model_dump(mode="json"), "code": code, "packages": packages}


# -- any runs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SideBySide:
    """A comparison of any runs."""

    settings: pl.DataFrame  # parameter, then its value in each run
    table: pl.DataFrame  # run, row, its metric; difference, low and high to the first run's row of that name
    codes: pl.DataFrame  # health of each generative row's codes, level by level
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.notes)


def put_beside(runs: Sequence[Run], metric: str = "ndcg", k: int = 10) -> SideBySide:
    """Compare runs: settings that differ, a table with paired intervals, and their codes.

    Each row is compared with the first run's row of the same name, else with the row that the first run
    shows, by a paired bootstrap over the test users (95 %), if both runs rank the same users for the same
    targets. Raises RunError if one of them has not been evaluated.
    """
    for run in runs:
        if why := why_not_evaluated(run):
            raise RunError(f"{run.name} cannot be compared: {why} Run the notebook {EVALUATION}.ipynb first.")
    first, rankings = runs[0], {run.name: load_rankings(run) for run in runs}
    base, shown, who = rankings[first.name], shown_row(first), ("user", "domain", "target")
    notes, rows = [], []
    for run in runs:
        found = rankings[run.name]
        same = found.users.select(who).equals(base.users.select(who))
        if not same:
            notes.append(f"{run.name} and {first.name} have different test users or targets: no intervals.")
        overall = dict(_over_domains(run_metrics(run), metric, k).select("method", "value").iter_rows())
        for row in found.items:
            other = row if row in base.items else shown
            compared: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "compared_with"))
            if same and not (run is first and row == other):
                own, of_base = per_user(found, row, metric, k), per_user(base, other, metric, k)
                result = paired_bootstrap(own, of_base, seed=first.seed)
                compared = {name: getattr(result, name) for name in ("difference", "low", "high")}
                compared["compared_with"] = f"{first.name}: {other}"
            rows.append({"run": run.name, "row": row, f"{metric}@{k}": overall.get(row), **compared})
    codes = {f"{run.name}: {row}": codes_in_use(run, row) for run in runs for row in facts_of(run).generative}
    health = health_table(codes) if codes else pl.DataFrame()
    table = pl.DataFrame(rows, infer_schema_length=None)
    return SideBySide(settings_that_differ(runs), table, health, tuple(notes))


def _over_domains(metrics: pl.DataFrame, metric: str, k: int) -> pl.DataFrame:
    """A metric's average over domains, or its values in the only domain."""
    of_metric = metrics.filter(metric=metric, k=k)
    average = of_metric.filter(domain=AVERAGE)
    return average if average.height else of_metric


# -- stage 08 ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ablation:
    """A method and its variants, each without one part, over the evaluated seeds of a run."""

    method: str
    parts: pl.DataFrame  # variant, what the paper calls it, changed: the settings that differ
    # variant, domain, metric, k, whole, without, difference (without - whole), change (in percent of whole),
    # sd (of the change over seeds, null for one), low, high (95 % over users, in percent), users, seeds
    worth: pl.DataFrame
    # paper, row, domain, metric, k, change: the papers' variants of this method, in percent
    papers: pl.DataFrame
    health: pl.DataFrame  # `health_table` of each row's codes before any policy, of the first seed
    runs: tuple[str, ...]
    left_out: dict[str, str]  # variant or run -> why it is not shown

    def overall(self, metric: str, k: int) -> pl.DataFrame:
        """The lines of `worth` over all domains: of the average, or of the only domain."""
        return _over_domains(self.worth, metric, k)

    def __str__(self) -> str:
        parts = ", ".join(self.parts["variant"].to_list())
        lines = [f"{self.method} compared with {parts}.", f"Runs: {', '.join(self.runs)}."]
        lines += [f"LEFT OUT: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join(lines)


def ablation_tasks(run: Run) -> list[Task]:
    """What stage 08 makes: what each part of the run's method is worth, over the seeds of the run."""
    parts = variants(run.config)
    return [_ablation_task(run, _runs_or_planned(run), tuple(parts))] if parts else []


def _ablation_task(run: Run, runs: Sequence[Run], parts: tuple[str, ...]) -> Task:
    rankings = {
        f"{seed.name}/{row}": task.belonging_to(seed)
        for seed in runs
        for row, task in _ranked_rows(seed).items()
        if row in (run.config.name, *parts)
    }
    given = {"method": run.config.name, "variants": parts, "seed": run.seed}
    return Task(ABLATION, "ablation", _weigh, given, {"rankings": rankings})


def weigh_parts(run: Run) -> Ablation:
    """Compare the run's method with its variants, on all evaluated seeds of the run.

    Raises RunError if no run has been evaluated, or the run's method has no variant among its rows.
    """
    parts = variants(run.config)
    if not parts:
        raise RunError(
            f"The run {run.name!r} compares its method {run.config.name} with no variant that leaves out a "
            f"part. Name some in compare: {', '.join(ABLATIONS)}."
        )
    found = runs_of(run.name, run.folder.parent)
    if not found.runs:
        raise RunError(f"The run {run.name!r} has not been evaluated. Run {EVALUATION}.ipynb first.")
    folder = run.make(_ablation_task(run, found.runs, tuple(parts)))
    worth, lacking = pl.read_parquet(folder / "worth.parquet"), read_json(folder / "lacking.json")
    shown = [name for name in parts if name not in lacking]
    first = found.runs[0]
    of_papers = paper_ablations().filter(pl.col("row").is_in(list(parts))).with_columns(
        paper=pl.concat_str("paper", "table", separator=" ")
    )  # fmt: skip
    return Ablation(
        method=run.config.name,
        parts=pl.DataFrame([_part(run.config, name, parts[name]) for name in shown]),
        worth=worth,
        papers=of_papers.select("paper", "row", "domain", "metric", "k", "change"),
        health=health_table({name: codes_in_use(first, name) for name in (run.config.name, *shown)}),
        runs=tuple(seed.name for seed in found.runs if seed.name not in lacking),
        left_out={**lacking, **found.left_out},
    )


def end_without_variants(run: Run) -> None:
    """Say that there is nothing to show, and let the cells below do nothing, where no part is left out."""
    if not variants(run.config):
        end_notebook(
            f"no row of the run {run.name!r} is its method without one of its parts; name some in "
            "overrides['compare'], such as 'gmc_without_lora' or 'utgrec_without_tree'."
        )


def _weigh(work: Work, method: str, variants: Sequence[str], seed: int, rankings: Mapping[str, Path]) -> None:
    of_runs: dict[str, dict[str, pl.DataFrame]] = {}
    ranked: dict[tuple[str, str], Any] = {}
    for place, folder in rankings.items():
        run, _, row = place.partition("/")
        of_runs.setdefault(run, {})[row], ranked[run, row] = ranking_in(folder)
    users = next(iter(of_runs.values()))[method].select("user", "domain", "target")
    lacking = {
        run: "its test users differ from those of the other seeds."
        for run, rows in of_runs.items()
        if not rows[method].select("user", "domain", "target").equals(users)
    }
    kept = [run for run in of_runs if run not in lacking]
    shown = [name for name in variants if all(name in of_runs[run] for run in kept)]
    lacking |= {name: "it was not ranked in every run." for name in variants if name not in shown}
    targets, domains = users["target"].to_numpy(), users["domain"].to_numpy()
    worth = []
    for metric in ("recall", "ndcg"):
        for k in _KS:
            of_row = {
                name: np.stack([metric_per_user(metric, ranked[run, name], targets, k) for run in kept])
                for name in (method, *shown)
            }
            for name in shown:
                for domain in [*dict.fromkeys(domains.tolist()), AVERAGE]:
                    chosen = slice(None) if domain == AVERAGE else domains == domain
                    cell = _row(of_row[method][:, chosen], of_row[name][:, chosen], seed)
                    worth.append({"variant": name, "domain": domain, "metric": metric, "k": k, **cell})
    table = pl.DataFrame(worth).with_columns(pl.col("sd").cast(pl.Float64))
    if len(set(domains.tolist())) == 1:  # whose own figures the average would repeat
        table = table.filter(pl.col("domain") != AVERAGE)
    table.write_parquet(work.folder / "worth.parquet")
    write_json(work.folder / "lacking.json", lacking)


def _row(whole: npt.NDArray[np.float64], without: npt.NDArray[np.float64], seed: int) -> dict[str, Any]:
    """What (S, U) values of the method and of a variant say; users are drawn, each with the mean of seeds."""
    mean = float(whole.mean())
    found = paired_bootstrap(without.mean(0), whole.mean(0), seed=seed)
    changes = (without.mean(1) - whole.mean(1)) / whole.mean(1) if whole.mean(1).all() else None
    scale = 100 / mean if mean else np.nan
    return {
        "whole": mean,
        "without": float(without.mean()),
        "difference": found.difference,
        "change": scale * found.difference,
        "sd": 100 * float(changes.std(ddof=1)) if changes is not None and len(changes) > 1 else None,
        "low": scale * found.low,
        "high": scale * found.high,
        "users": found.users,
        "seeds": len(whole),
    }


def _part(whole: MethodConfig, name: str, without: MethodConfig) -> dict[str, str]:
    settings = (config.model_dump(mode="json", exclude={*_DESCRIBES}) for config in (whole, without))
    changed = [line.replace(" before, ", " -> ").removesuffix(" now") for line in differences(*settings)]
    return {"variant": name, "what": ABLATIONS[name].what, "changed": "; ".join(changed)}
