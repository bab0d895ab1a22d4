"""report.html: everything that a run found, in one file that opens without a kernel and without a network.

The page is templates/report.html, filled in by jinja2, which escapes whatever comes from data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

import genrec_lab
from genrec_lab.data.whole_files import sha256_of
from genrec_lab.evaluation.papers import beside_papers
from genrec_lab.evaluation.significance import differences_to_rows, strongest_other
from genrec_lab.lab.chain import STAGES, tasks_of
from genrec_lab.lab.evaluate import load_rankings
from genrec_lab.lab.files import RunError, damage, read_log, write_json, write_text
from genrec_lab.lab.prepare import data_summary, ties_in_short
from genrec_lab.lab.progress import clock
from genrec_lab.lab.store import Run, State
from genrec_lab.lab.tables import KEPT, effort_table, kept_reasons, kept_rows, notes_by_row, result_tables
from genrec_lab.presets.rows import in_words
from genrec_lab.viz.figures.results import BEST_POSSIBLE, summarise
from genrec_lab.viz.figures.training import metric_name
from genrec_lab.viz.sentences import lead_title, winner_title
from genrec_lab.viz.text import counted
from genrec_lab.viz.theme import Mode, template

EXPORTS = ("metrics.json", "comparison.json", "report.html")
_ORDINARY_EVENTS = ("started", "finished", "put_back", "chain_started", "chain_finished")
_DIGESTS = ("revision", "code", "settings", "data")  # shown by their first twelve letters
_OF_EACH_RESULT = ("code", "settings")  # never columns: no two results need to have the same
_NO_FACTS = ("stage", "row", "scope", "dirty", "versions", "made_at", "seconds", "kept_despite")


def build_report(run: Run) -> Path:
    """Write a run's report.html from what its folder holds, and return its path.

    Every saved figure is in it, plotly's script once; links to the executed notebooks are relative. Log lines
    and figures that cannot be read are left out, and the report says how many and which.
    """
    metrics, provenance, pages = run.metrics(), run.provenance(), run.manifest().get("pages", {})
    states = _states(run)
    events, broken = read_log(run.folder)
    drawn, problems = _read_figures(run, states)
    if broken:
        lines = ", ".join(map(str, broken[:10])) + ", …" * (len(broken) > 10)
        problems.append(
            f"{counted(len(broken), 'line')} of log.jsonl cannot be trusted and are left out: {lines}."
        )
    kept = kept_rows(provenance, metrics["method"].unique(maintain_order=True))
    has_results = (stage for stage, of_stage in states.items() if any(one.record for one in of_stage))
    made = {stage: _made(states[stage]) for stage in has_results}
    stages = sorted({*made, *pages})
    html = _environment().get_template("report.html").render(
        run=run,
        version=genrec_lab.__version__,
        problems=problems,
        findings=_findings(run, metrics),
        own=run.config.name if run.config.own_row else "",
        rows=_in_words(run, metrics["method"].unique(maintain_order=True)),
        tables=result_tables(metrics, kept),
        ties=ties_in_short(run),
        papers=beside_papers(metrics).to_dicts(),
        kept=kept,
        skipped=run.skipped(),
        effort=effort_table(notes_by_row([run])),
        made=made,
        data={name: value for name, value in data_summary(run).items() if name not in ("facts", "ties")},
        stages=stages,
        states=states,
        pages=pages,
        exists=lambda file: (run.folder / file).is_file(),
        figures={name: [each for each in drawn if each["stage"] == name] for name in stages},
        other_figures=[each for each in drawn if each["stage"] not in stages],
        repairs=[event for event in events if "repair" in event["event"]],
        provenance=_provenance(provenance, metrics["method"], kept),
        events=events,
        notable=[event for event in events if event["event"] not in _ORDINARY_EVENTS],
    )  # fmt: skip
    page = run.folder / "report.html"
    with run.edited_manifest() as manifest:
        write_json(run.folder / "metrics.json", {
            "records": metrics.to_dicts(), "notes": run.notes(), "skipped": run.skipped(),
        })  # fmt: skip
        write_text(page, html.lstrip())
        written = (name for name in EXPORTS if (run.folder / name).is_file())
        manifest["exports"] = {name: sha256_of(run.folder / name) for name in written}
    return page


def _findings(run: Run, metrics: pl.DataFrame) -> list[str]:
    """The best row, and how the run's own one compares with the best other; none before the evaluation."""
    known = metrics.filter(pl.col("k").is_not_null())
    if known.filter(metric="ndcg", k=10).is_empty():
        return []
    found = [winner_title(summarise(known, "ndcg", 10), metric_name("ndcg", 10), BEST_POSSIBLE)]
    with suppress(RunError):  # rankings that cannot be used leave the metrics that were recorded
        rankings, own = load_rankings(run), run.config.name
        other = strongest_other(rankings, own) if own in rankings.items else None
        if other is not None:
            only = replace(rankings, items={name: rankings.items[name] for name in (own, other)})
            row = differences_to_rows(only, own, seed=run.seed).row(0, named=True)
            interval = (row["difference"], row["low"], row["high"])
            found.append(lead_title(own, other, metric_name("ndcg", 10), interval, row["users"]))
    return [f"{sentence}." for sentence in found]


def _in_words(run: Run, methods: Iterable[str]) -> dict[str, str]:
    known = {
        BEST_POSSIBLE: "The expected score of a ranking by the true probabilities of the generated data."
    }
    described = {name: known.get(name) or in_words(run.config, name) for name in methods}
    return {name: text for name, text in described.items() if text}


def _states(run: Run) -> dict[str, list[State]]:
    """The state of every result that the run has or should have, by stage."""
    found: dict[str, State] = {}
    by_stage = {}
    for stage in STAGES:
        with suppress(RunError, ValueError):  # of a comparison whose runs are gone there is nothing to say
            by_stage[stage] = [run.state(task, False, found) for task in tasks_of(run, stage) or []]
    return by_stage


def _made(states: Sequence[State]) -> dict[str, Any]:
    """What a stage's results took, and what is wrong with the first that cannot be used."""
    made = [state.record.made for state in states if state.record is not None]
    unusable = next((state for state in states if not state.usable), None)
    return {
        "seconds": sum(one["seconds"] for one in made),
        "attempts": max(one["attempts"] for one in made),
        "started_at": min(one["started_at"] for one in made),
        "status": "finished" if unusable is None else unusable.status,
        "reason": "" if unusable is None else f"{unusable.task.place}: {unusable.reason}",
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("genrec_lab.lab"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"clock": clock, "plain": _plain, "in_script": _in_script, "json": _json}
    environment.globals |= {
        "KEPT": KEPT,
        "plotly": get_plotlyjs,
        "templates": json.dumps({mode: template(mode).to_plotly_json() for mode in get_args(Mode)}),
    }
    return environment


def _provenance(
    provenance: Sequence[Mapping[str, Any]], methods: Iterable[str], kept: Mapping[str, str]
) -> dict[str, Any]:
    """What all results share, and a line for each row with what distinguishes its results.

    facts, packages: what all share, by name. columns: the facts in which results differ. lines: a mapping for
    each row with a cell for each column, and its results below the headings.
    """
    facts = [_facts(result) for result in provenance]
    names = list(dict.fromkeys(name for each in facts for name in each))
    packages = {name for result in provenance for name in result["versions"]}
    shared = {name: facts[0][name] for name in names if len({each.get(name) for each in facts}) == 1}
    different = [name for name in names if name not in shared]
    columns = [name for name in different if name not in _OF_EACH_RESULT]
    lines = []
    for row in dict.fromkeys([*methods, *(result["row"] for result in provenance)]):
        made = [(result, own) for result, own in zip(provenance, facts, strict=True) if result["row"] == row]
        lines.append({
            "row": "for all rows" if row is None else f"{row} {KEPT}" if row in kept else row,
            "made": max((result["made_at"] or "" for result, _ in made), default=""),
            "seconds": sum(result["seconds"] or 0 for result, _ in made),
            "cells": [_each_once(own.get(name, "") for _, own in made) for name in columns],
            "results": [
                (f"{result['stage']} {result['scope'] or ''}", *(own.get(name, "") for name in different),
                 result["made_at"] or "", "" if result["seconds"] is None else clock(result["seconds"]))
                for result, own in made
            ],
            "kept": kept_reasons(result for result, _ in made),
        })  # fmt: skip
    return {
        "facts": {name: value for name, value in shared.items() if name not in packages},
        "packages": {name: value for name, value in shared.items() if name in packages},
        "columns": columns,
        "headings": ["result", *different, "made", "time"],
        "lines": lines,
    }


def _each_once(texts: Iterable[str]) -> str:
    """Lists of values as one list, without repetitions."""
    return ", ".join(dict.fromkeys(value for text in texts for value in text.split(", ")))


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    """What is known of how a result was made, in words."""
    known = {name: value for name, value in {**result, **result["versions"]}.items() if name not in _NO_FACTS}
    texts = {name: _plain(value)[:12] if name in _DIGESTS else _plain(value) for name, value in known.items()}
    if "precision" in texts:  # "training.precision auto; fp32": the values are enough here
        texts["precision"] = ", ".join(sorted({part.split()[-1] for part in texts["precision"].split("; ")}))
    if result["dirty"]:
        texts["revision"] += " (modified)"
    return texts


def _read_figures(run: Run, states: Mapping[str, Sequence[State]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The saved figures (`name, caption, stage, json`) of results as they are now, and what is left out."""
    digests = {state.task.place: state.digest for of_stage in states.values() for state in of_stage}
    saved = run.figures()
    drawn, problems, outdated = [], [], []
    for name, entry in saved.items():
        if broken := damage(run.figure_file(name), entry["sha256"], f"its figure {name}"):
            problems.append(f"figures/{name}.json is left out: {broken}.")
        elif any(place in digests and digests[place] != one for place, one in entry["reads"].items()):
            outdated.append(name)
        else:
            text = run.figure_file(name).read_text(encoding="utf-8")
            drawn.append({"name": name, "caption": entry["caption"], "stage": entry["stage"], "json": text})
    if outdated:
        stages = sorted({str(saved[name]["stage"]) for name in outdated})
        problems.append(
            f"{counted(len(outdated), 'figure')} of results that have changed since are left out; run again: "
            f"{', '.join(stages)}."
        )
    return drawn, problems


def _in_script(text: str) -> str:
    # inside a script element only "<" could end it or open a comment, and JSON can spell it otherwise
    return text.replace("<", "\\u003c")


def _json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False)


def _plain(value: Any) -> str:
    """A JSON value for people: "beams: 20, parameters: 123,456"."""
    if value is None:
        return "unknown"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_plain(inner) for inner in value) + "]" if value else "none"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)
