"""Item cards beside the views: what is selected in words, and some of its items with their pictures.

The cards are a widget of their own, so that a click or the Enter key on one selects it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import anywidget
import numpy as np
import numpy.typing as npt
import polars as pl
import traitlets

from genrec_lab.viz.explorer import markup
from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.catalogue import CodedCatalogue
from genrec_lab.viz.explorer.code_page import CodePage
from genrec_lab.viz.explorer.selection import largest
from genrec_lab.viz.explorer.state import ExplorerState
from genrec_lab.viz.figures.pictures import drawn_uri, thumbnail
from genrec_lab.viz.text import counted, listed, percent, shorten, written

IntArray = npt.NDArray[np.int64]

MOST_CARDS = 12
"""Cards shown at once, and so the most pictures that are sent after a click."""
_SIDE = 112
"""Pixels: the longer side of a picture."""
_OF_EACH_PART = 4
_MOST_WORDS = 6
_LONGEST_TITLE = 110
_MOST_HISTORY = 8
_HISTORY, _TARGET, _RESULTS = "History, oldest first", "What they took next", "What the beam recommends"


class Cards(anywidget.AnyWidget):
    """The panel of cards. page_is_dark: what the page says of its theme, None until it has said anything."""

    _esm = markup.script("cards.js")
    heading = traitlets.Unicode("").tag(sync=True)
    lines = traitlets.List(traitlets.Unicode()).tag(sync=True)
    cards = traitlets.List(traitlets.Dict()).tag(sync=True)
    told = traitlets.Dict().tag(sync=True)
    pictured = traitlets.Bool(False).tag(sync=True)
    page_is_dark = traitlets.Bool(None, allow_none=True).tag(sync=True)

    def show(self, content: Content) -> None:
        """Show something else, in one message."""
        with self.hold_sync():
            self.heading, self.lines = content.heading, content.lines
            self.cards, self.told, self.pictured = content.cards, content.told, content.pictured


@dataclass(frozen=True)
class Content:
    """What the panel says: plain text, and a dict a card.

    cards: `item, title, domain, codes, note, picture, chosen`, and perhaps `part`, under whose name those
    that follow each other stand. told: `words` and `picture` that decoders made of the codes.
    """

    heading: str
    lines: list[str]
    cards: list[dict[str, Any]]
    told: dict[str, str] = field(default_factory=dict)

    @property
    def pictured(self) -> bool:
        """Whether any card has a picture, so that the others say that they have none."""
        return any(card["picture"] for card in self.cards)


def of_selection(state: ExplorerState) -> Content:
    """Return the selected prefix in words and its nearest, median and farthest items.

    Where nothing is selected, or no distances are known, the most visited ones. A selected item is the first.
    """
    catalogue, item = state.catalogue, state.selection.item
    page = state.page(top=_OF_EACH_PART)
    if page is None:
        items = state.items()
        lines = [f"{counted(items.size, 'item')}. Shown: the most visited."]
        shown = _first(item, _most_visited(catalogue, items))
        return Content(state.selection.domain or "All items", lines, _cards(catalogue, shown, chosen=item))
    parts = page.frame().drop_nulls("part")
    notes = {
        number: f"{part} · {distance:.3g} from its codeword" for part, number, distance in parts.iter_rows()
    }
    shown = _first(item, parts["item"].to_numpy() if notes else _most_visited(catalogue, page.items))
    told = {}
    if (said := state.told()) is not None:
        told["words"] = f"Its decoder tells: {', '.join(said.words)}"
        if said.picture is not None:
            told["picture"] = drawn_uri(said.picture, _SIDE)
    cards = _cards(catalogue, shown, [notes.get(number, "") for number in shown], item)
    return Content(f"Prefix {written(state.selection.prefix)}", _lines(page, bool(notes)), cards, told)


def of_items(catalogue: CodedCatalogue, items: IntArray, name: str) -> Content:
    """Return some gathered items: how many, of which domains, and the words of their titles."""
    if not items.size:
        return Content(name, ["No items."], [])
    counts = np.bincount(catalogue.codes.domain_index[items], minlength=len(catalogue.domains))
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)].tolist()
    shares = [
        f"{shorten(catalogue.domains[place], 30)} {percent(counts[place] / items.size)}" for place in order
    ]
    places = np.flatnonzero(np.isin(catalogue.order.items, items))
    words = [word.word for word in catalogue.words.telling(places, _MOST_WORDS)]
    lines = [f"{counted(items.size, 'item')}: {listed(shares)}."]
    lines += [f"Words: {', '.join(words)}."] if words else []
    return Content(name, lines, _cards(catalogue, _most_visited(catalogue, items).tolist()))


def of_beam(catalogue: CodedCatalogue, beam: BeamTree, chosen: int | None = None) -> Content:
    """Return a watched user: the last items of the history, what they took next, what the beam recommends.

    chosen: the selected item, which is marked where it is among them.
    """
    history = beam.history[-_MOST_HISTORY:]
    first = len(beam.history) - len(history)
    rows = [
        (_HISTORY, item, f"{first + place} of {len(beam.history)}") for place, item in enumerate(history, 1)
    ]
    if beam.target_item is not None:
        rank = beam.rank
        rows.append((_TARGET, beam.target_item, "not kept" if rank is None else f"place {rank}"))
    last = beam.nodes.filter(pl.col("level") == len(beam.target)).sort("rank")
    scored = zip(beam.results, last["log_probability"].to_list(), strict=True)
    for place, (item, score) in enumerate(scored, 1):
        taken = ", what they took" if item == beam.target_item else ""
        rows.append((_RESULTS, item, f"place {place}{taken} · {score:.2f}"))
    cards = _cards(catalogue, [item for _, item, _ in rows], [note for *_, note in rows], chosen)
    for card, (part, *_) in zip(cards, rows, strict=True):
        card["part"] = part
    cut = f", the last {len(history)} shown" if first else ""
    lines = [f"History of {counted(len(beam.history), 'item')}{cut}. {beam.told()}."]
    return Content("A test user's beam", lines, cards)


def _lines(page: CodePage, known: bool) -> list[str]:
    if not page.support:
        return [f"This code is {page.state}: no item has it here."]
    words = ", ".join(word.word for word in page.words[:_MOST_WORDS])
    most = shorten(page.domains[int(page.by_domain.argmax())], 30)
    of = f", {percent(page.purity)} of {most}" if len(page.domains) > 1 else ""
    traffic = f"{percent(page.traffic_share)} of all interactions"
    said = f"{counted(page.support, 'item')}{of}; {traffic}; {page.state}."
    return [f"Words: {words}."] * bool(words) + [said] + ["Shown: the most visited."] * (not known)


def _most_visited(catalogue: CodedCatalogue, items: IntArray) -> IntArray:
    ordered = np.sort(items)
    return ordered[largest(catalogue.traffic[ordered], MOST_CARDS)]


def _first(item: int | None, items: IntArray) -> list[int]:
    """The items, an item before them if there is one, and no more than there are cards."""
    return list(dict.fromkeys([*([] if item is None else [item]), *items.tolist()]))[:MOST_CARDS]


def _cards(
    catalogue: CodedCatalogue,
    items: Sequence[int],
    notes: Sequence[str] | None = None,
    chosen: int | None = None,
) -> list[dict[str, Any]]:
    rows = catalogue.cards(items).iter_rows(named=True)
    cards = []
    for row, note in zip(rows, notes or [""] * len(items), strict=True):
        visits = counted(row["interactions"], "interaction")
        card = {
            "item": row["item"],
            "title": shorten(row["title"], _LONGEST_TITLE),
            "domain": shorten(row["domain"], 40),
            "codes": row["codes"],
            "note": f"{note} · {visits}" if note else visits,
            "picture": None if row["image"] is None else thumbnail(row["image"], _SIDE),
            "chosen": row["item"] == chosen,
        }
        cards.append(card)
    return cards
