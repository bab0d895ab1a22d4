"""What a page looks like in numbers: boxes that overlap, texts that are cut, contents beyond an edge."""

from __future__ import annotations

from playwright.sync_api import Locator

# Panels and controls that stand side by side; what scrolls inside a panel is looked at by its panel.
_OVERLAPS = """root => {
  const shown = e => { const b = e.getBoundingClientRect(); return b.width > 0 && b.height > 0; };
  const name = e => e.dataset.part || e.dataset.act || e.className || e.textContent.slice(0, 20);
  const found = [];
  const groups = '.genrec-line, .genrec-columns, .genrec-facts, .genrec-chips, .genrec-cards';
  for (const group of root.querySelectorAll(groups)) {
    const parts = [...group.children].filter(shown);
    parts.forEach((one, place) => parts.slice(place + 1).forEach(other => {
      const a = one.getBoundingClientRect(), b = other.getBoundingClientRect();
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 1) found.push(`${name(one)} over ${name(other)}`);
    }));
  }
  return found;
}"""
# Buttons, numbers and headings must be whole; titles and words may end in an ellipsis.
_CUT = """root => {
  const whole = ['button:not(.genrec-card, .genrec-chip, .genrec-hit)', 'h3', 'h4',
    '.genrec-fact b', '.genrec-row .genrec-number', '.genrec-row .genrec-share'];
  const cut = e => e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1;
  return [...root.querySelectorAll(whole.join())].filter(cut).map(e => e.textContent.slice(0, 40));
}"""
_BEYOND = """root => {
  const inside = root.getBoundingClientRect();
  const parts = '.genrec-panel, .genrec-top, .genrec-tabs, .genrec-tab:not([hidden])';
  return [...root.querySelectorAll(parts)].filter(e => {
    const b = e.getBoundingClientRect();
    return b.right > inside.right + 1 || b.bottom > inside.bottom + 1 || b.left < inside.left - 1;
  }).map(e => e.className);
}"""


def overlaps(root: Locator) -> list[str]:
    """Pairs of neighbours whose boxes overlap."""
    return list(root.evaluate(_OVERLAPS))


def cut_texts(root: Locator) -> list[str]:
    """Texts of buttons, numbers and headings that do not fit their boxes."""
    return list(root.evaluate(_CUT))


def beyond_the_edge(root: Locator) -> list[str]:
    """Panels that reach over the edge of the explorer."""
    return list(root.evaluate(_BEYOND))
