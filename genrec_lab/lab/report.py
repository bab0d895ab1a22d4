"""report.html: everything that a run found, in one file that opens without a kernel and without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import polars as pl
from plotly.offline import get_plotlyjs

from genrec_lab.evaluation.papers import beside_papers
from genrec_lab.lab import results
from genrec_lab.lab.files import write_text
from genrec_lab.lab.locks import writing
from genrec_lab.lab.progress import clock
from genrec_lab.lab.rankings import rankings
from genrec_lab.lab.report_page import SCRIPT, STYLE
from genrec_lab.lab.store import Run
from genrec_lab.viz.theme import Mode, template

_ORDINARY_EVENTS = (
    "stage_started", "stage_finished", "stage_already_finished", "chain_started", "chain_finished",
)  # fmt: skip


def build_report(run: Run) -> Path:
    """Write a run's report.html anew from what its folder holds, and return its path.

    Every saved figure is in it, plotly's script once; links to the executed notebooks are relative.
    """
    manifest = run.manifest()
    index = results.figure_index(run.folder)
    stages = sorted({*manifest["stages"], *manifest["notebooks"]})
    sections = [("results", "Results", _results(run))]
    for name in stages:
        names = [figure for figure, entry in index.items() if entry["stage"] == name]
        sections.append((f"stage-{name}", _stage_title(name), _stage(run, manifest, name, names, index)))
    others = [figure for figure, entry in index.items() if entry["stage"] not in stages]
    if others:
        sections.append(("figures", "Other figures", _figures(run.folder, others, index)))
    sections += [
        ("parameters", "Parameters", _parameters(manifest)),
        ("data", "Data and repairs", _data(run, manifest)),
        ("provenance", "Provenance and hardware", _provenance(manifest)),
        ("log", "Log", _log(run)),
    ]
    page = run.folder / "report.html"
    with writing(run.folder):
        write_text(page, _page(run, manifest, sections))
    return page


def _page(run: Run, manifest: Mapping[str, Any], sections: Sequence[tuple[str, str, str]]) -> str:
    contents = "".join(f'<li><a href="#{escape(key)}">{escape(title)}</a></li>' for key, title, _ in sections)
    body = "".join(
        f'<section id="{escape(key)}"><h2>{escape(title)}{_badge(run, key)}</h2>{content}</section>'
        for key, title, content in sections
    )
    parameters = run.parameters
    seconds = sum(record["seconds"] for record in manifest["stages"].values())
    lead = (
        f"preset {parameters['preset']}, dataset {parameters['dataset']['name']}, seed {parameters['seed']}, "
        f"{clock(seconds)} of work in {len(manifest['stages'])} stages"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(run.name)}: report</title><style>{STYLE}</style></head><body>"
        f'<header><h1>{escape(run.name)}</h1><p class="lead">{escape(lead)}</p>'
        f'<nav aria-label="Contents"><ol>{contents}</ol></nav></header><main>{body}</main>'
        f"<footer>Written by genrec_lab {escape(manifest['source']['version'])}.</footer>"
        "<noscript><p>The figures are drawn by a script in this file; allow it to run.</p></noscript>"
        f'<script type="application/json" id="templates">{_templates()}</script>'
        f"<script>{get_plotlyjs()}</script><script>{SCRIPT}</script></body></html>\n"
    )


def _badge(run: Run, key: str) -> str:
    if not key.startswith("stage-"):
        return ""
    name = key.removeprefix("stage-")
    if name not in run.manifest()["stages"]:
        return ""
    status = run.state(name, verify=False).status
    return f'<span class="badge {status}">{status}</span>'


def _results(run: Run) -> str:
    ranked, skipped = rankings(run.metrics()), run.skipped()
    left_out = f"<h3>Rows that were skipped</h3>{_pairs(skipped)}" if skipped else ""
    if ranked is None:
        nothing = "No metrics have been recorded yet; the notebooks 05 to 07 do that."
        return f'<p class="note">{nothing}</p>{left_out}'
    first, *others = ranked.by_domain.items()
    html = f"<h3>{escape(first[0])} by domain</h3>{_ranking(first[1])}"
    html += f"<h3>Averages over users</h3>{_ranking(ranked.averages)}"
    for metric, table in others:
        html += _details(f"{metric} by domain", _ranking(table))
    html += _papers(run.metrics()) + left_out
    notes = results.read_metrics(run.folder)["notes"]
    if notes:
        flat = {method: _text(note) for method, note in notes.items()}
        html += f"<h3>Notes on the methods</h3>{_pairs(flat)}"
    return html


def _papers(metrics: pl.DataFrame) -> str:
    """What papers print of the same data beside what was measured, a table a paper; may be empty."""
    html = ""
    for (paper,), rows in beside_papers(metrics).group_by("paper", maintain_order=True):
        lines = [
            (row["method"], row["domain"], f"{row['metric']}@{row['k']}", f"{row['ours']:.4f}",
             f"{row['theirs']:.4f}", f"{row['difference']:+.1f} %")
            for row in rows.iter_rows(named=True)
        ]  # fmt: skip
        headings = ("row", "domain", "metric", "ours", "the paper's", "difference")
        html += f"<h3>Beside {escape(str(paper))}</h3>{_table(headings, lines, numbers_from=3)}"
    return html


def _ranking(table: pl.DataFrame) -> str:
    best = table["rank"].index_of("1")  # None where only the bound was recorded
    return _table(table.columns, table.rows(), numbers_from=2, marked=best)


def _stage_title(name: str) -> str:
    number, _, words = name.partition("_")
    return f"{number} {words.replace('_', ' ')}"


def _stage(
    run: Run, manifest: Mapping[str, Any], name: str, figures: Sequence[str], index: Mapping[str, Any]
) -> str:
    facts: list[str] = []
    record, notebook = manifest["stages"].get(name), manifest["notebooks"].get(name)
    html = ""
    if record is not None:
        attempts = f" in {record['attempts']} attempts" if record["attempts"] > 1 else ""
        facts.append(f"{clock(record['seconds'])} of work{attempts}, begun {record['started_at']}")
        state = run.state(name, verify=False)
        if not state.usable:
            html += f"<p>{escape(state.reason[:1].upper() + state.reason[1:])}</p>"
    line = escape("; ".join(facts))
    executed = Path("notebooks") / f"{name}.ipynb"
    if (run.folder / executed).is_file():
        took = f" ({clock(notebook['seconds'])})" if notebook and notebook["seconds"] is not None else ""
        line += "; " if line else ""
        line += f'<a href="{escape(executed.as_posix())}">executed notebook</a>{escape(took)}'
        printed = executed.with_suffix(".log")
        if (run.folder / printed).is_file():
            line += f', <a href="{escape(printed.as_posix())}">what it printed</a>'
    html += f'<p class="note">{line}</p>' + _figures(run.folder, figures, index)
    if record is not None and record.get("outputs"):
        rows = [(path, f"{file['bytes']:,}", file["sha256"][:16]) for path, file in record["outputs"].items()]
        html += _details(
            f"{len(rows)} output file{'s' * (len(rows) > 1)}", _table(("file", "bytes", "sha256"), rows)
        )
    return html


def _figures(folder: Path, names: Iterable[str], index: Mapping[str, Any]) -> str:
    html = ""
    for name in names:
        stored = (folder / "figures" / f"{name}.json").read_text(encoding="utf-8")
        safe, key = _in_script(stored), escape(name)
        html += (
            f'<figure id="figure-{key}"><div class="drawing" data-figure="data-{key}"></div>'
            f"<figcaption>{escape(index[name]['caption'])}</figcaption>"
            f'<script type="application/json" id="data-{key}">{safe}</script></figure>'
        )
    return html


def _templates() -> str:
    modes: tuple[Mode, ...] = ("light", "dark")
    return _in_script(json.dumps({mode: template(mode).to_plotly_json() for mode in modes}))


def _in_script(text: str) -> str:
    # inside a script element only "<" could end it or open a comment, and JSON can spell it otherwise
    return text.replace("<", "\\u003c")


def _parameters(manifest: Mapping[str, Any]) -> str:
    given = {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
             for key, value in manifest["parameters"].items()}  # fmt: skip
    config = json.dumps(manifest["config"], indent=2, ensure_ascii=False)
    return _pairs(given) + _details("the whole config, defaults included", f"<pre>{escape(config)}</pre>")


def _data(run: Run, manifest: Mapping[str, Any]) -> str:
    recorded = manifest.get("dataset")
    if recorded is None:
        html = '<p class="note">The dataset has not been recorded yet; notebook 01 does that.</p>'
    else:
        told = {key: value for key, value in recorded.items() if key != "repairs" and value not in ({}, [])}
        html = _pairs({key: _text(value) for key, value in told.items()})
        repairs = recorded.get("repairs") or {}
        html += "<h3>Repairs</h3>" + (
            _table(("what was mended", "times"), [(what, f"{count:,}") for what, count in repairs.items()])
            if repairs
            else '<p class="note">Nothing had to be mended.</p>'
        )
    events = [event for event in results.read_log(run.folder) if "repair" in event["event"]]
    return html + (_events("Logged repairs", events) if events else "")


def _provenance(manifest: Mapping[str, Any]) -> str:
    source, hardware = manifest["source"], manifest["hardware"]
    dirty = {True: "with uncommitted changes", False: "clean", None: ""}[source["dirty"]]
    gpus = hardware["gpus"]
    facts = {
        "genrec_lab": source["version"],
        "revision": f"{source['revision'] or 'unknown'} {dirty}".strip(),
        "python": manifest["python"],
        "system": hardware["system"],
        "processor": hardware["cpu"],
        "cores": hardware["cores"],
        "memory": "unknown" if hardware["memory_gb"] is None else f"{hardware['memory_gb']} GB",
        "GPUs": "not looked for" if gpus is None else (", ".join(gpus) or "none"),
    }
    packages = {name: version for name, version in manifest["packages"].items() if name != "genrec_lab"}
    durations = [
        (name, record["status"], clock(record["seconds"]), str(record["attempts"]))
        for name, record in sorted(manifest["stages"].items())
    ]
    html = f'<div class="columns"><div>{_pairs(facts)}</div><div>{_pairs(packages)}</div></div>'
    return html + "<h3>Durations</h3>" + _table(("stage", "status", "time", "attempts"), durations)


def _log(run: Run) -> str:
    events = results.read_log(run.folder)
    notable = [event for event in events if event["event"] not in _ORDINARY_EVENTS]
    html = (
        _events("Notable events", notable) if notable else '<p class="note">Nothing out of the ordinary.</p>'
    )
    return html + _details(f"all {len(events)} events", _events("", events))


def _events(title: str, events: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for event in events:
        rest = {key: value for key, value in event.items() if key not in ("time", "stage", "event")}
        rows.append((event["time"], event["stage"] or "", event["event"], _text(rest) if rest else ""))
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return heading + _table(("time", "stage", "event", "details"), rows)


def _table(
    headings: Sequence[str],
    rows: Iterable[Sequence[Any]],
    numbers_from: int | None = None,
    marked: int | None = None,
) -> str:
    """An HTML table; columns from `numbers_from` on are aligned to the right, the row `marked` stands out."""

    def cells(tag: str, values: Sequence[Any]) -> str:
        right = len(values) if numbers_from is None else numbers_from
        kinds = ["" if column < right else ' class="number"' for column in range(len(values))]
        return "".join(
            f"<{tag}{kind}>{escape(str(value))}</{tag}>" for kind, value in zip(kinds, values, strict=True)
        )

    body = "".join(
        f"<tr{' class=best' if number == marked else ''}>{cells('td', row)}</tr>"
        for number, row in enumerate(rows)
    )
    head = f"<thead><tr>{cells('th', headings)}</tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _pairs(content: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td class="name">{escape(str(name))}</td><td class="value">{escape(str(value))}</td></tr>'
        for name, value in content.items()
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>'


def _details(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _text(value: Any) -> str:
    """A JSON value for people: "beams: 20, parameters: 123,456"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(inner) for inner in value) + "]"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return value if isinstance(value, str) else json.dumps(value)
