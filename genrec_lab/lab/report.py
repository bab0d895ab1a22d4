"""report.html: everything that a run found, in one file that opens without a kernel and without a network.

The page is templates/report.html, filled in by jinja2, which escapes whatever comes from data.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

import genrec_lab
from genrec_lab.evaluation.papers import beside_papers
from genrec_lab.lab import results
from genrec_lab.lab.files import write_text
from genrec_lab.lab.locks import writing
from genrec_lab.lab.progress import clock
from genrec_lab.lab.store import Run
from genrec_lab.lab.tables import KEPT, kept_reasons, kept_rows, provenance_of, result_tables
from genrec_lab.viz.theme import Mode, template

_ORDINARY_EVENTS = (
    "stage_started", "stage_finished", "stage_already_finished", "chain_started", "chain_finished",
)  # fmt: skip
_DIGESTS = ("revision", "code", "settings", "data")  # shown by their first twelve letters
_OF_EACH_RESULT = ("code", "settings")  # never columns: no two results need to have the same
_NO_FACTS = ("stage", "row", "scope", "dirty", "versions", "made_at", "seconds", "kept_despite")


def build_report(run: Run) -> Path:
    """Write a run's report.html anew from what its folder holds, and return its path.

    Every saved figure is in it, plotly's script once; links to the executed notebooks are relative. Log lines
    and figures that cannot be read are left out, and the report says how many and which.
    """
    manifest, metrics, provenance = run.manifest(), run.metrics(), provenance_of(run)
    events, broken_lines = _read_log(run.folder)
    figures, broken_figures = _read_figures(run.folder)
    kept = kept_rows(provenance, metrics["method"].unique(maintain_order=True))
    stages = sorted({*manifest["stages"], *manifest["notebooks"]})
    html = _environment().get_template("report.html").render(
        run=run,
        manifest=manifest,
        version=genrec_lab.__version__,
        problems=[*broken_lines, *broken_figures],
        tables=result_tables(metrics, kept),
        papers=beside_papers(metrics).to_dicts(),
        kept=kept,
        skipped=run.skipped(),
        notes=_notes(run),
        stages=[_stage(run, manifest, name) for name in stages],
        figures={name: [each for each in figures if each["stage"] == name] for name in stages},
        other_figures=[each for each in figures if each["stage"] not in stages],
        repairs=[event for event in events if "repair" in event["event"]],
        provenance=_provenance(provenance, metrics["method"], kept),
        events=events,
        notable=[event for event in events if event["event"] not in _ORDINARY_EVENTS],
    )  # fmt: skip
    page = run.folder / "report.html"
    with writing(run.folder):
        write_text(page, html.lstrip())
    return page


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("genrec_lab.lab"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"clock": clock, "plain": _plain, "in_script": _in_script, "json": _json}
    environment.globals |= {
        "beside": _beside,
        "KEPT": KEPT,
        "plotly": get_plotlyjs,
        "templates": json.dumps({mode: template(mode).to_plotly_json() for mode in get_args(Mode)}),
    }
    return environment


def _notes(run: Run) -> dict[str, Any]:
    """JSON values that were recorded beside the metrics, by row."""
    ask = getattr(run, "notes", None)
    return dict(ask() if ask is not None else results.read_metrics(run.folder)["notes"])


def _stage(run: Run, manifest: Mapping[str, Any], name: str) -> dict[str, Any]:
    record, notebook = manifest["stages"].get(name), manifest["notebooks"].get(name)
    executed = Path("notebooks", f"{name}.ipynb")
    took = f" ({clock(notebook['seconds'])})" if notebook and notebook["seconds"] is not None else ""
    links = [(executed, "executed notebook", took), (executed.with_suffix(".log"), "what it printed", "")]
    number, _, words = name.partition("_")
    return {
        "name": name,
        "title": f"{number} {words.replace('_', ' ')}",
        "record": record,
        "state": None if record is None else run.state(name, verify=False),
        "links": [(file.as_posix(), *said) for file, *said in links if (run.folder / file).is_file()],
        "outputs": [
            (path, file["sha256"][:16], f"{file['bytes']:,}")
            for path, file in ((record or {}).get("outputs") or {}).items()
        ],
    }


def _provenance(
    provenance: Sequence[Mapping[str, Any]], methods: Iterable[str], kept: Mapping[str, str]
) -> dict[str, Any]:
    """What all results share, and a line for each row with what distinguishes its results.

    facts, packages: what all share, by name. columns: the facts in which results differ. lines: a mapping for
    each row with a cell for each column, and a table of its results with what differs among them.
    """
    facts = [_facts(result) for result in provenance]
    names = list(dict.fromkeys(name for each in facts for name in each))
    packages = {name for result in provenance for name in result["versions"]}
    shared = {name: facts[0][name] for name in names if _agree(name, facts)}
    columns = [name for name in names if name not in shared and name not in _OF_EACH_RESULT]
    lines = []
    for row in dict.fromkeys([*methods, *(result["row"] for result in provenance)]):
        made = [(result, own) for result, own in zip(provenance, facts, strict=True) if result["row"] == row]
        own = [own for _, own in made]
        fields = [name for name in names if name not in shared]
        fields = [name for name in fields if name not in columns or not _agree(name, own)]
        lines.append({
            "row": "for all rows" if row is None else f"{row} {KEPT}" if row in kept else row,
            "made": max((result["made_at"] or "" for result, _ in made), default=""),
            "seconds": sum(result["seconds"] or 0 for result, _ in made),
            "cells": [", ".join(dict.fromkeys(each.get(name, "") for each in own)) for name in columns],
            "headings": ["result", *fields, "made", "time"],
            "results": [
                (f"{result['stage']} {result['scope'] or ''}", *(own.get(name, "") for name in fields),
                 result["made_at"] or "", "" if result["seconds"] is None else clock(result["seconds"]))
                for result, own in made
            ],
            "kept": kept_reasons(result for result, _ in made),
        })  # fmt: skip
    return {
        "facts": {name: value for name, value in shared.items() if name not in packages},
        "packages": {name: value for name, value in shared.items() if name in packages},
        "columns": columns,
        "lines": lines,
    }


def _agree(name: str, facts: Iterable[Mapping[str, str]]) -> bool:
    return len({each.get(name) for each in facts}) <= 1


def _facts(result: Mapping[str, Any]) -> dict[str, str]:
    """What is known of how a result was made, in words."""
    known = {name: value for name, value in {**result, **result["versions"]}.items() if name not in _NO_FACTS}
    texts = {name: _plain(value)[:12] if name in _DIGESTS else _plain(value) for name, value in known.items()}
    if result["dirty"]:
        texts["revision"] += " (modified)"
    return texts


def _read_figures(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The saved figures (`name, caption, stage, json`), and a sentence for each that cannot be read."""
    problems, figures = [], []
    try:
        index = json.loads((folder / "figures" / "index.json").read_text(encoding="utf-8"))
        entries = {name: (entry["caption"], entry["stage"]) for name, entry in index.items()}
    except FileNotFoundError:
        entries = {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problems.append(f"figures/index.json cannot be read ({error}): the figures are without captions.")
        names = sorted(file.stem for file in (folder / "figures").glob("*.json"))
        entries = dict.fromkeys((name for name in names if name != "index"), ("", None))
    for name, (caption, stage) in entries.items():
        try:
            text = (folder / "figures" / f"{name}.json").read_text(encoding="utf-8")
            json.loads(text)
        except (OSError, ValueError, RecursionError) as error:
            problems.append(f"figures/{name}.json cannot be read ({error}): the figure is left out.")
        else:
            figures.append({"name": name, "caption": caption, "stage": stage, "json": text})
    return figures, problems


def _read_log(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The events of log.jsonl, and a sentence for lines that cannot be read, as the last one after a kill."""
    file = folder / "log.jsonl"
    events, broken = [], []
    for number, line in enumerate(file.read_bytes().splitlines() if file.is_file() else [], start=1):
        try:
            event = json.loads(line)
            events.append({**event, "event": str(event["event"])})
        except (ValueError, KeyError, TypeError, RecursionError):
            if line.strip():
                broken.append(str(number))
    if not broken:
        return events, []
    lines = f"{len(broken)} line{'s' * (len(broken) > 1)} of log.jsonl cannot be read and are left out"
    return events, [f"{lines}: {', '.join(broken[:10])}{', …' * (len(broken) > 10)}."]


def _beside(name: str) -> str:
    """The content of a file beside the template."""
    return files("genrec_lab.lab").joinpath("templates", name).read_text(encoding="utf-8")


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
