"""Answers to the page as JSON, from a kernel or in the HTML file: grid, code page and search results."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl

from genrec_lab.viz import IntArray, theme
from genrec_lab.viz.explorer import points
from genrec_lab.viz.explorer.code_tables import below, code_states, prefixes_of
from genrec_lab.viz.explorer.collisions import differences
from genrec_lab.viz.explorer.selection import ALL, largest
from genrec_lab.viz.explorer.state import EXPLORER_VIEWS, ExplorerState, Table
from genrec_lab.viz.explorer.words import telling_terms
from genrec_lab.viz.figures.pictures import drawn_uri, thumbnail
from genrec_lab.viz.sentences import sentence
from genrec_lab.viz.text import counted, percent, shorten, written

Answer = dict[str, Any]

MOST_CARDS = 15
"""Cards shown at once, and so the most pictures that are sent after a click."""
_PICTURE = 92  # pixels: the longer side
_LONGEST = 300  # characters; longer texts are cut before they are sent
_QUANTILES = {0.0: "nearest to the codeword", 0.25: "25 %", 0.5: "median", 0.75: "75 %", 1.0: "farthest"}
_OF_EACH = 3
_WORDS = 14
_MOST_VALUES = 5
_BINS = 24
_SAYS = {
    "pure": "share of the items that are of the commonest domain",
    "alike": "mean cosine similarity of all pairs of the items",
    "twins": "items whose whole identifier another item has too",
    "traffic": "share of the interactions of what is selected",
}


def start(state: ExplorerState, *, alone: bool = False) -> Answer:
    """Return what stays the same: name, code health, lists of domains, levels, maps, colours and views."""
    catalogue = state.catalogue
    return {
        "kind": "start",
        "name": shorten(catalogue.name, 60),
        "health": health(state, alone=alone),
        "domains": list(catalogue.domains),
        "levels": list(range(catalogue.levels)),
        "methods": points.methods(state),
        "colours": list(points.colourings(state)),
        "tabs": [] if alone else list(EXPLORER_VIEWS),
        "config": theme.CONFIG,
        "alone": alone,
    }


@sentence
def health(state: ExplorerState, *, alone: bool = False) -> list[Answer]:
    """Return a line on the health of all codes; each number opens the view with its details."""
    found, catalogue = state.catalogue.health, state.catalogue
    by_level = " · ".join(f"{value:.0f}" for value in found.perplexity)
    chips = [(counted(catalogue.n_items, "item"), "", "")]
    if catalogue.sizes_known:
        codes = sum(found.used) + sum(found.dead)
        chips += [
            (f"used {percent(sum(found.used) / codes)}", "Training", "codes that items have, of all"),
            (f"dead {sum(found.dead):,}", "Remedies", "codes that no item has"),
        ]
    else:
        chips.append(("sizes unknown", "", "the files do not say how many codes a level has"))
    chips += [
        (f"perplexity {by_level}", "Training", "by level: as many evenly used codes would say as much"),
        (f"collisions {percent(found.collision_rate)}", "Collisions", "items that share their identifier"),
    ]
    return [{"text": text, "tab": "" if alone else tab, "says": says} for text, tab, says in chips]


def selected(state: ExplorerState, said: str = "") -> Answer:
    """Return everything that depends on the selection, except the map and the open view."""
    selection = state.selection
    shown = page(state)
    items = [item for group in shown["groups"] for item, _ in group["cards"]]
    return {
        "kind": "selection",
        "said": said,
        "path": _path(state),
        "back": state.can_go_back,
        "forward": state.can_go_forward,
        "level": selection.level,
        "domain": selection.domain,
        "item": selection.item,
        "lasso": selection.lasso is not None,
        "grid": grid(state),
        "page": shown,
        "items": facts(state, items),
        "slices": state.slice_names(),
    }


def _path(state: ExplorerState) -> list[Answer]:
    """Return the steps of the path to the selection, such as All, 12, 4 and "*" of three levels."""
    prefix = list(state.selection.prefix)
    steps: list[Answer] = [{"text": ALL, "go": {"prefix": []}}]
    if state.selection.everywhere is not None:
        level, code = state.selection.everywhere
        steps += [*[{"text": "*"}] * level, {"text": str(code), "go": {"everywhere": [level, code]}}]
    else:
        steps += [{"text": str(code), "go": {"prefix": prefix[:at]}} for at, code in enumerate(prefix, 1)]
        steps += [{"text": "*"}] if len(prefix) < state.catalogue.levels else []
    if state.selection.lasso is not None:
        text = f"lasso {len(state.selection.lasso):,} ×"
        steps.append({"text": text, "go": {"lasso": None}, "says": "let the gathered items go (Esc)"})
    return steps


def table(shown: Table) -> Answer:
    """Return a table in the format of the page's grid, column by column."""
    columns = []
    for name, values in shown.frame.to_dict().items():
        kind = "text" if values.dtype == pl.String else "share" if name in shown.shares else "number"
        listed = (values.round(4).fill_nan(None) if values.dtype.is_float() else values).to_list()
        more = {"kind": kind, "values": listed, "bar": name in shown.bars, "says": _SAYS.get(name, "")}
        columns.append({"name": name, "title": name.replace("_", " ")} | more)
    return {"columns": columns, "go": list(shown.go) or [None] * shown.frame.height}


def grid(state: ExplorerState) -> Answer:
    """Return a table of all codes below the prefix, including dead ones; at the last level, of its items."""
    selection, found, marked = state.selection, below(state), -1
    if selection.everywhere is not None:
        level, code = selection.everywhere
        name = f"Prefixes that end in code {code} of level {level + 1}"
    elif len(selection.prefix) == state.catalogue.levels:
        name, items = f"Items of {written(selection.prefix)}", [one and one.get("item") for one in found.go]
        marked = items.index(selection.item) if selection.item in items else -1
    else:
        under = f" below {written(selection.prefix)}" if selection.prefix else ""
        name = f"Codes of level {len(selection.prefix) + 1}{under}"
    return {"name": name, "marked": marked} | table(found)


def page(state: ExplorerState) -> Answer:
    """Return what is known about the selected items and their code."""
    catalogue, selection, items = state.catalogue, state.selection, state.items()
    named = bool(selection.prefix) or selection.everywhere is not None
    found: Answer = {"heading": _heading(state), "facts": _facts(state, items), "item": selection.item}
    found |= {"groups": _examples(state, items, named), "parents": _parents(state)}
    if 0 < items.size < catalogue.n_items:
        places = np.flatnonzero(np.isin(catalogue.order.items, items))
        telling = telling_terms(catalogue.words, catalogue.phrases, places, _WORDS)
        found["words"] = [[word.word, word.titles, round(word.score, 2)] for word in telling]
        found["facets"] = _facets(state, items)
        found["coherence"] = _coherence(state, items)
    if not named:
        return found
    level, code = state.place()
    if items.size and catalogue.distances is not None:
        edges = np.linspace(0, float(catalogue.distances[:, level].max()) or 1.0, _BINS + 1)
        counts = np.histogram(catalogue.distances[items, level], edges)[0]
        name = "Distance to the codeword"
        found["histogram"] = {"counts": counts.tolist(), "edges": edges.tolist(), "name": name}
    says = "code {} of level {}; distance of the codewords"
    near = catalogue.nearest_codes(level, code)
    found["near"] = [
        {"text": f"{one} ({away:.2g})", "says": says.format(one, level + 1), "go": go}
        for (one, away), go in zip(near, state.goes_to(level, [one for one, _ in near]), strict=True)
    ]
    if level and selection.everywhere is None:
        name = f"Code {code} of level {level + 1} under all prefixes"
        found["same"] = {"name": name, "table": table(prefixes_of(state))}
    if (decoded := state.decoded()) is not None:
        drawn = {} if decoded.picture is None else {"picture": drawn_uri(decoded.picture, _PICTURE)}
        found["decoded"] = {"words": ", ".join(decoded.words)} | drawn
    return found


@sentence
def _heading(state: ExplorerState) -> str:
    selection = state.selection
    parts = []
    if selection.everywhere is not None:
        level, code = selection.everywhere
        parts.append(f"Code {code} of level {level + 1}, under any prefix")
    elif selection.prefix:
        parts.append(f"Prefix {written(selection.prefix)}")
    if selection.lasso is not None:
        parts.append("in the lasso")
    if selection.domain is not None:
        parts.append(f"of {shorten(selection.domain, 40)}" if parts else shorten(selection.domain, 40))
    text = " ".join(parts) or f"{ALL} items"
    return text[0].upper() + text[1:]


@sentence
def _facts(state: ExplorerState, items: IntArray) -> list[tuple[str, str, str]]:
    catalogue = state.catalogue
    found = [("items", f"{items.size:,}", f"{percent(items.size / catalogue.n_items)} of the catalogue")]
    traffic = int(catalogue.traffic.sum())
    if traffic:
        share = int(catalogue.traffic[items].sum()) / traffic
        found.append(("traffic", percent(share), "share of all interactions"))
    by_domain = np.bincount(catalogue.codes.domain_index[items], minlength=len(catalogue.domains))
    if len(catalogue.domains) > 1 and items.size and state.selection.domain is None:
        most = int(by_domain.argmax())
        shares = by_domain[by_domain > 0] / items.size
        says = f"entropy of the domains: {(shares * -np.log2(shares)).sum():.2f} bits"
        found.append((shorten(catalogue.domains[most], 24), percent(by_domain[most] / items.size), says))
    ambiguous = int(catalogue.ambiguous[items].sum())
    found.append(("twins", f"{ambiguous:,}", "items whose whole identifier another one has too"))
    if state.selection.prefix and not items.size:
        level, code = state.place()
        kind = code_states(catalogue, level, np.zeros(catalogue.codes.sizes[level], dtype=np.int64))[code]
        everywhere = catalogue.order.with_code(level, code).size
        found.append(("state", kind, f"{counted(everywhere, 'item')} under other prefixes or domains"))
    return found


def _examples(state: ExplorerState, items: IntArray, named: bool) -> list[Answer]:
    """Return cards of the selected item and of examples by quantile of distance (or traffic)."""
    catalogue, item = state.catalogue, state.selection.item
    groups = [] if item is None else [{"name": "The selected item", "cards": [[item, _visits(state, item)]]}]
    level = state.place()[0] if named else 0
    if not named or catalogue.distances is None or items.size <= 2 * _OF_EACH:
        ordered = np.sort(items)
        best = ordered[largest(catalogue.traffic[ordered], MOST_CARDS)].tolist()
        name = "The most visited" if catalogue.traffic.any() and items.size > 1 else "Items"
        return [*groups, {"name": name, "cards": [[one, _visits(state, one)] for one in best if one != item]}]
    distances = catalogue.distances[items, level]
    ranked = items[np.lexsort((items, distances))]
    seen: set[int] = set() if item is None else {item}
    for share, name in _QUANTILES.items():
        middle = round(share * (ranked.size - 1))
        first = min(max(middle - _OF_EACH // 2, 0), ranked.size - _OF_EACH)
        chosen = [one for one in ranked[first : first + _OF_EACH].tolist() if one not in seen]
        seen.update(chosen)
        cards = [[one, f"{catalogue.distances[one, level]:.3g} away"] for one in chosen]
        groups.append({"name": f"By distance: {name}", "cards": cards})
    return groups


def _visits(state: ExplorerState, item: int) -> str:
    traffic = state.catalogue.traffic
    return counted(int(traffic[item]), "interaction") if traffic.any() else ""


def _parents(state: ExplorerState) -> list[Answer]:
    """Return links to the parent prefixes, and to the same code under any prefix."""
    if not state.selection.prefix:
        return []
    *up, code = state.selection.prefix
    level, name = len(up), written(up) if up else ALL
    parent = {"text": f"↑ {name}", "says": "one level up", "go": {"prefix": up}}
    if not level:
        return [parent]
    total = state.catalogue.order.with_code(level, code).size
    says = f"code {code} of level {level + 1} under any prefix: {counted(total, 'item')}"
    text = f"{'* › ' * level}{code}: {total:,}"
    return [{"text": text, "says": says, "go": {"everywhere": [level, code]}}, parent]


@sentence
def _coherence(state: ExplorerState, items: IntArray) -> Answer | None:
    catalogue, compared = state.catalogue, state.compared().size
    value = float("nan") if catalogue.unit is None else state.alike(0)[0].mean
    if np.isnan(value):
        return None
    low, mean, high = catalogue.chance(min(items.size, 256))
    sample = "" if compared == items.size else f" of {counted(compared, 'item')} drawn at random"
    said = f"mean cosine of all pairs{sample} {value:.2f} ({catalogue.alike}); "
    said += f"as many items at random {mean:.2f} (90 % from {low:.2f} to {high:.2f})"
    return {"value": value, "low": low, "mean": mean, "high": high, "said": said}


def _facets(state: ExplorerState, items: IntArray) -> list[Answer]:
    """Return the attribute values that are most over-represented in the selected items."""
    catalogue = state.catalogue
    found: list[Answer] = []
    inside = np.zeros(catalogue.n_items, dtype=bool)
    inside[items] = True
    for column in (one for one in catalogue.attributes if one.dtype.is_numeric()):
        known = column.cast(pl.Float64).fill_nan(None)
        medians = (known.filter(pl.Series(part)).to_frame().median() for part in (inside, ~inside))
        here, rest = (one.item() for one in medians)
        if here is not None:
            elsewhere = "unknown" if rest is None else f"{rest:.4g}"
            found.append({"name": column.name, "said": f"median {here:.4g}; elsewhere {elsewhere}"})
    for name, (texts, places) in catalogue.valued.items():
        parts = (places[part & (places >= 0)] for part in (inside, ~inside))
        counts = [np.bincount(part, minlength=len(texts)) for part in parts]
        here, rest = (one / max(int(one.sum()), 1) for one in counts)
        best = np.argsort(rest - here, kind="stable")[:_MOST_VALUES]
        best = best[here[best] > rest[best]]
        if best.size:
            rows = [[shorten(texts[one], 40), round(here[one], 4), round(rest[one], 4)] for one in best]
            found.append({"name": name, "values": rows})
    return found


def facts(state: ExplorerState, items: Iterable[int], *, pictures: bool = True) -> list[tuple[int, Answer]]:
    """Return the contents of item cards: title, domain, codes, small picture, differences from twins."""
    chosen, catalogue = list(dict.fromkeys(items)), state.catalogue
    several, differing = len(catalogue.domains) > 1, {}
    # Of items with the selected identifier: which words of their titles differ.
    codes, prefix = catalogue.codes.codes, list(state.selection.prefix)
    twins = [item for item in chosen if codes[item].tolist() == prefix]
    if 1 < len(twins) <= MOST_CARDS:
        marked = differences([catalogue.titles[item][:_LONGEST] for item in twins])
        spaced = [[(f"{word} ", apart) for word, apart in one] for one in marked]
        differing = dict(zip(twins, spaced, strict=True))
    found = []
    for row in catalogue.cards(chosen).iter_rows(named=True):
        domain = shorten(row["domain"], 30) if several else ""
        one: Answer = {"title": row["title"][:_LONGEST], "codes": row["codes"], "domain": domain}
        if pictures and row["image"] is not None and (drawn := thumbnail(row["image"], _PICTURE)):
            one["picture"] = drawn
        if row["item"] in differing:
            one["marked"] = differing[row["item"]]
        found.append((row["item"], one))
    return found


def hover(state: ExplorerState, item: int) -> Answer:
    """Return the map's hover text for an item."""
    ((_, one),) = facts(state, [item], pictures=False)
    title = shorten(one["title"], 120) or "without a title"
    lines = filter(None, [title, one["codes"], one["domain"], _visits(state, item)])
    return {"kind": "hover", "item": item, "lines": list(lines)}


def hits(state: ExplorerState, text: str) -> Answer:
    """Return search results: first a prefix, or a code under any prefix, then items."""
    found = state.search(text)
    rows: list[Answer] = []
    if found.everywhere is not None:
        rows.append({"text": str(found), "says": "", "go": {"everywhere": list(found.everywhere)}})
    elif found.prefix is not None:
        text, go = f"Prefix {written(found.prefix)}", {"prefix": list(found.prefix)}
        rows.append({"text": text, "says": counted(found.prefix_items, "item"), "go": go})
    for item, one in facts(state, found.items.tolist(), pictures=False):
        says = " · ".join(filter(None, [one["codes"], one["domain"]]))
        text = shorten(one["title"], 110) or "without a title"
        rows.append({"text": text, "says": says, "go": {"item": item}})
    return {"kind": "hits", "said": str(found), "hits": rows, "items": []}
