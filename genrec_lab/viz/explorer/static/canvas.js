// Draws one tab: parts of HTML and plotly figures, in place of what stood there. What comes in place of the
// line below is plotly's own script; it looks for `module`, and finds one that is its own.
const made = {exports: {}};
let broken = '';
try {
  (function (module, exports, define) {
    /* plotly.js */
  }).call(globalThis, made, made.exports, undefined);
} catch (error) {
  broken = error;
}
const Plotly = made.exports;

const idOf = point => point.data.ids ? point.data.ids[point.pointNumber]
  : point.data.meta === 'items' ? String(point.customdata) : undefined;

function element(name, text) {
  const div = document.createElement('div');
  div.className = name;
  if (text) div.textContent = text;
  return div;
}

// A figure that cannot be drawn, for want of WebGL or of anything else, says so in its place.
function complain(div, error) {
  div.replaceChildren(element('genrec-broken', `This figure cannot be drawn here: ${error.message || error}`));
}

function listen(div, model) {
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

function render({model, el}) {
  el.classList.add('genrec-canvas');
  const clear = div => { if (Plotly.purge) Plotly.purge(div); };
  function draw() {
    const parts = JSON.parse(model.get('parts'));
    const spare = [...el.querySelectorAll('.genrec-plot')];
    const drawn = parts.map(part => {
      if (part.figure) return spare.shift() || element('genrec-plot');
      const div = element('');
      div.innerHTML = part.html;
      return div;
    });
    spare.forEach(clear);
    el.replaceChildren(...drawn);
    parts.forEach((part, place) => {
      if (!part.figure) return;
      const div = drawn[place];
      div.genrecPart = part;
      const {data, layout} = part.figure;
      Promise.resolve()
        .then(() => { if (broken) throw broken; return Plotly.react(div, data, layout, model.get('config')); })
        .then(() => listen(div, model))
        .catch(error => complain(div, error));
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
    el.querySelectorAll('.genrec-plot').forEach(clear);
  };
}

export default {render};
