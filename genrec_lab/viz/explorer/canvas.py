"""The place where a tab is drawn: its figures, tables and words, as one widget.

plotly's own FigureWidget would send its 5 MB script with every figure and again after every click. This one
sends it once, and afterwards only what changed on the page.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import anywidget
import plotly.graph_objects as go
import traitlets
from plotly.offline import get_plotlyjs

from genrec_lab.viz import theme
from genrec_lab.viz.explorer import markup
from genrec_lab.viz.explorer.tabs import Shown
from genrec_lab.viz.layout import untitled

_WIDTH = 822
"""Pixels of a figure: what a notebook of JupyterLab leaves at 1,280 pixels, its side bar open."""

# plotly's script looks for `module`, and finds one that is its own.
_SCRIPT = """
const made = {exports: {}};
(function (module, exports, define) { %s
}).call(globalThis, made, made.exports, undefined);
const Plotly = made.exports;
const CONFIG = {displaylogo: false, plotlyServerURL: '', showSendToCloud: false};
const idOf = point => point.data.ids ? point.data.ids[point.pointNumber]
  : point.data.meta === 'items' ? String(point.customdata) : undefined;
function render({model, el}) {
  el.classList.add('genrec-canvas');
  function plot() {
    const div = document.createElement('div');
    div.className = 'genrec-plot';
    return div;
  }
  function listen(div) {
    if (div.genrecListens) return;
    div.genrecListens = true;
    const send = (kind, points) => {
      const ids = points.map(idOf).filter(id => id !== undefined);
      if (kind === 'lasso' || ids.length) model.send({kind: kind, ids: ids});
    };
    div.on('plotly_click', event => { if (div.genrecPart.click) send('click', event.points.slice(0, 1)); });
    div.on('plotly_selected', event => { if (event && div.genrecPart.lasso) send('lasso', event.points); });
    div.on('plotly_deselect', () => { if (div.genrecPart.lasso) send('lasso', []); });
  }
  function draw() {
    const parts = JSON.parse(model.get('parts'));
    const spare = [...el.querySelectorAll('.genrec-plot')];
    const drawn = parts.map(part => {
      if (part.figure) return spare.shift() || plot();
      const div = document.createElement('div');
      div.innerHTML = part.html;
      return div;
    });
    spare.forEach(div => Plotly.purge(div));
    el.replaceChildren(...drawn);
    parts.forEach((part, place) => {
      if (!part.figure) return;
      const div = drawn[place];
      div.genrecPart = part;
      Plotly.react(div, part.figure.data, part.figure.layout, CONFIG).then(() => listen(div));
    });
  }
  let alive = true;
  // Texts have no size before they stand in the page, and plotly makes room for them by their size.
  const begin = () => {
    if (el.isConnected) { draw(); model.on('change:parts', draw); }
    else if (alive) requestAnimationFrame(begin);
  };
  begin();
  return () => {
    alive = false;
    model.off('change:parts', draw);
    el.querySelectorAll('.genrec-plot').forEach(div => Plotly.purge(div));
  };
}
export default {render};
"""


class Canvas(anywidget.AnyWidget):
    """Shows one tab at a time. parts: JSON, a list of `{html}` and `{figure, click, lasso}`."""

    _esm = _SCRIPT.replace("%s", get_plotlyjs())
    parts = traitlets.Unicode("[]").tag(sync=True)

    def show(self, shown: Shown, mode: theme.Mode) -> None:
        """Draw a tab in place of what is there."""
        parts = [_html(markup.line(text)) for text in shown.said]
        for figure in shown.figures:
            bare, title, note = untitled(figure)
            parts.append(_html(markup.finding(title, note)))
            if figure.data and figure.data[0].type == "table":
                parts.append(_html(markup.table_markup(figure.data[0])))
            else:
                parts.append(_drawing(bare, shown, mode))
        self.parts = f"[{','.join(parts)}]"

    def listen(self, click: Callable[[str], None], lasso: Callable[[list[str]], None]) -> None:
        """Call these with the id of what was clicked on, and with the ids of what a lasso holds."""

        def heard(_: object, content: object, __: object) -> None:
            if not isinstance(content, dict) or not isinstance(content.get("ids"), list):
                return
            ids = [str(found) for found in content["ids"]]
            if content.get("kind") == "lasso":
                lasso(ids)
            elif ids:
                click(ids[0])

        self.on_msg(heard)


def _html(markup_of_part: str) -> str:
    return json.dumps({"html": markup_of_part})


def _drawing(figure: go.Figure, shown: Shown, mode: theme.Mode) -> str:
    figure.update_layout(template=theme.template(mode), width=_WIDTH, autosize=False)
    if shown.lasso:
        figure.update_layout(dragmode="lasso", modebar={"remove": ["zoomin", "zoomout", "autoscale"]})
    options = json.dumps({"click": shown.click is not None, "lasso": shown.lasso})
    return f'{{"figure":{figure.to_json()},{options[1:]}'
