"""Item cards beside the views: what is selected in words, and some of its items with their pictures.

The cards are a widget of their own, so that a click or the Enter key on one selects it. Its script writes
titles as text, never as HTML, and tells Python whether the page around it is dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anywidget
import numpy as np
import numpy.typing as npt
import polars as pl
import traitlets

from genrec_lab.viz.explorer.beams import BeamTree
from genrec_lab.viz.explorer.catalogue import CodedCatalogue, written
from genrec_lab.viz.explorer.code_page import CodePage
from genrec_lab.viz.explorer.state import ExplorerState
from genrec_lab.viz.explorer.thumbnails import drawn, thumbnail
from genrec_lab.viz.layout import counted, listed, percent, shorten

IntArray = npt.NDArray[np.int64]

MOST_CARDS = 12
"""Cards shown at once, and so the most pictures that are sent after a click."""
_OF_EACH_PART = 4
_MOST_WORDS = 6
_LONGEST_TITLE = 110
_MOST_HISTORY = 8
_HISTORY, _TARGET, _RESULTS = "History, oldest first", "What they took next", "What the beam recommends"

_SCRIPT = """
function isDark() {
  const body = document.body;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === 'false';
  return body.classList.contains('vscode-dark') || body.classList.contains('vscode-high-contrast');
}
function made(tag, name, text) {
  const element = document.createElement(tag);
  element.className = name;
  if (text) element.textContent = text;
  return element;
}
function card(model, item) {
  const button = made('button', 'genrec-card' + (item.chosen ? ' genrec-chosen' : ''));
  button.type = 'button';
  button.title = item.title;
  if (item.picture) {
    const picture = made('img', 'genrec-picture');
    picture.src = item.picture;
    picture.alt = '';
    picture.loading = 'lazy';
    button.append(picture);
  } else if (model.get('pictured')) {
    button.append(made('span', 'genrec-picture genrec-none', 'no picture'));
  }
  const words = made('span', 'genrec-words');
  words.append(made('span', 'genrec-title', item.title || 'without a title'));
  words.append(made('span', 'genrec-quiet', item.domain), made('span', 'genrec-codes', item.codes));
  words.append(made('span', 'genrec-quiet', item.note));
  button.append(words);
  button.addEventListener('click', () => model.send({item: item.item}));
  return button;
}
function grids(model) {
  const made_ones = [];
  let part = null, grid = null;
  for (const item of model.get('cards')) {
    if (grid === null || (item.part || '') !== part) {
      part = item.part || '';
      if (part) made_ones.push(made('h5', '', part));
      grid = made('div', 'genrec-grid');
      made_ones.push(grid);
    }
    grid.append(card(model, item));
  }
  return made_ones;
}
function render({model, el}) {
  el.classList.add('genrec-side');
  const draw = () => {
    const head = made('div', 'genrec-head');
    head.append(made('h4', '', model.get('heading')));
    for (const line of model.get('lines')) head.append(made('p', '', line));
    const told = model.get('told');
    if (told.words) {
      const box = made('div', 'genrec-told');
      if (told.picture) {
        const picture = made('img', 'genrec-drawn');
        picture.src = told.picture;
        picture.alt = 'picture drawn from these codes';
        box.append(picture);
      }
      box.append(made('p', '', told.words));
      head.append(box);
    }
    el.replaceChildren(head, ...grids(model));
  };
  const tell = () => { model.set('page_is_dark', isDark()); model.save_changes(); };
  model.on('change:heading change:lines change:cards change:told', draw);
  draw();
  tell();
  const watch = new MutationObserver(tell);
  watch.observe(document.body, {attributes: true, attributeFilter: ['data-jp-theme-light', 'class']});
  let alive = true;
  const guard = () => {
    // JupyterLab takes the arrows and Enter for its own shortcuts, unless what has the focus says no itself.
    const root = el.closest('.genrec-explorer');
    const mine = event => { event.target.dataset.lmSuppressShortcuts = 'true'; };
    if (root) root.addEventListener('focusin', mine);
    else if (alive) requestAnimationFrame(guard);
  };
  guard();
  return () => { alive = false; watch.disconnect(); };
}
export default {render};
"""


class Cards(anywidget.AnyWidget):
    """The panel of cards. page_is_dark: what the page says of its theme, None until it has said anything."""

    _esm = _SCRIPT
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
    """What the panel says: plain text, and a dict a card (`item, title, domain, codes, note, picture`,
    and `part`, under whose name those that follow each other stand)."""

    heading: str
    lines: list[str]
    cards: list[dict[str, Any]]
    told: dict[str, str]
    pictured: bool


def of_selection(state: ExplorerState) -> Content:
    """The selected prefix in words and its nearest, median and farthest items; the most visited of all else.

    A selected item stands first.
    """
    catalogue, item = state.catalogue, state.selection.item
    page = state.page(top=_OF_EACH_PART)
    if page is None:
        items = state.items()
        chosen = _most_visited(catalogue, items)
        heading = state.selection.domain or "All items"
        lines = [f"{counted(items.size, 'item')}. Shown: the most visited."]
        return _content(catalogue, heading, lines, chosen, {}, item)
    placed = page.frame()
    parts = placed.drop_nulls("part")
    known = parts.height > 0
    chosen = parts["item"].to_numpy() if known else _most_visited(catalogue, page.items)
    notes = {}
    for row in parts.iter_rows(named=True):
        notes[row["item"]] = f"{row['part']} · {row['distance']:.3g} from its codeword"
    told = {}
    if (said := state.told()) is not None:
        told["words"] = f"Its decoder tells: {', '.join(said.words)}"
        if said.picture is not None:
            told["picture"] = drawn(said.picture)
    name = f"Prefix {written(state.selection.prefix)}"
    return _content(catalogue, name, _lines(page, known), chosen, notes, item, told)


def of_items(catalogue: CodedCatalogue, items: IntArray, name: str) -> Content:
    """Some gathered items: how many, of which domains, and the words of their titles."""
    if not items.size:
        return _content(catalogue, name, ["No items."], items, {}, None)
    counts = np.bincount(catalogue.codes.domain_index[items], minlength=len(catalogue.domains))
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    names = [shorten(catalogue.domains[place], 30) for place in order]
    shares = [
        f"{name} {percent(counts[place] / items.size)}" for name, place in zip(names, order, strict=True)
    ]
    places = np.flatnonzero(np.isin(catalogue.order.items, items))
    words = [word.word for word in catalogue.words.telling(places, _MOST_WORDS)]
    lines = [f"{counted(items.size, 'item')}: {listed(shares)}."]
    lines += [f"Words: {', '.join(words)}."] if words else []
    return _content(catalogue, name, lines, _most_visited(catalogue, items), {}, None)


def of_beam(catalogue: CodedCatalogue, beam: BeamTree, chosen: int | None = None) -> Content:
    """A watched user: the last items of the history, what they took next, and what the beam recommends.

    chosen: the selected item, which is marked where it is among them.
    """
    history = beam.history[-_MOST_HISTORY:]
    first = len(beam.history) - len(history)
    last = beam.nodes.filter(pl.col("level") == len(beam.target)).sort("rank")
    scores = last["log_probability"].to_list()
    places = [
        f"place {place}{', what they took' if item == beam.target_item else ''} · {score:.2f}"
        for place, (item, score) in enumerate(zip(beam.results, scores, strict=True), start=1)
    ]
    rows = [
        (_HISTORY, item, f"{first + place} of {len(beam.history)}") for place, item in enumerate(history, 1)
    ]
    if beam.target_item is not None:
        rank = beam.rank
        rows.append((_TARGET, beam.target_item, "not kept" if rank is None else f"place {rank}"))
    rows += [(_RESULTS, item, note) for item, note in zip(beam.results, places, strict=True)]
    cards = _cards(catalogue, [item for _, item, _ in rows], [note for *_, note in rows])
    for card, (part, item, _) in zip(cards, rows, strict=True):
        card |= {"part": part, "chosen": item == chosen}
    cut = f", the last {len(history)} shown" if first else ""
    lines = [f"History of {counted(len(beam.history), 'item')}{cut}. {beam.told()}."]
    return Content("A test user's beam", lines, cards, {}, any(card["picture"] for card in cards))


def _lines(page: CodePage, known: bool) -> list[str]:
    if not page.support:
        return [f"This code is {page.state}: no item has it here."]
    words = ", ".join(word.word for word in page.words[:_MOST_WORDS])
    most = shorten(page.domains[int(page.by_domain.argmax())], 30)
    of = f", {percent(page.purity)} of {most}" if len(page.domains) > 1 else ""
    said = [f"Words: {words}."] if words else []
    traffic = f"{percent(page.traffic_share)} of all interactions"
    said.append(f"{counted(page.support, 'item')}{of}; {traffic}; {page.state}.")
    return said if known else [*said, "Shown: the most visited."]


def _most_visited(catalogue: CodedCatalogue, items: IntArray) -> IntArray:
    traffic = catalogue.traffic[items]
    if items.size > MOST_CARDS:
        # Only what could be among them is sorted.
        border = np.partition(traffic, items.size - MOST_CARDS)[items.size - MOST_CARDS]
        items, traffic = items[traffic >= border], traffic[traffic >= border]
    return items[np.lexsort((items, -traffic))][:MOST_CARDS]


def _content(
    catalogue: CodedCatalogue,
    heading: str,
    lines: Sequence[str],
    items: IntArray,
    notes: Mapping[int, str],
    first: int | None,
    told: Mapping[str, str] | None = None,
) -> Content:
    shown = list(dict.fromkeys([*([] if first is None else [first]), *items.tolist()]))[:MOST_CARDS]
    cards = _cards(catalogue, shown, [notes.get(item, "") for item in shown])
    for card in cards:
        card["chosen"] = card["item"] == first
    pictured = any(card["picture"] for card in cards)
    return Content(heading, list(lines), cards, dict(told or {}), pictured)


def _cards(catalogue: CodedCatalogue, items: Sequence[int], notes: Sequence[str]) -> list[dict[str, Any]]:
    frame: pl.DataFrame = catalogue.cards(items)
    cards = []
    for row, note in zip(frame.iter_rows(named=True), notes, strict=True):
        visits = counted(row["interactions"], "interaction")
        cards.append(
            {
                "item": row["item"],
                "title": shorten(row["title"], _LONGEST_TITLE),
                "domain": shorten(row["domain"], 40),
                "codes": row["codes"],
                "note": f"{note} · {visits}" if note else visits,
                "picture": None if row["image"] is None else thumbnail(row["image"]),
            }
        )
    return cards
