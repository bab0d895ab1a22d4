// Draws one view: parts of HTML and plotly figures, in place of what stood there.

// plotly's script takes a second or more to read, and longer on a busy machine, while anywidget waits two
// seconds for this module. So it is read here, once for all explorers of a page, when the first figure is
// drawn. It looks for `module`, and finds one that is its own.
function plotly(model) {
  globalThis.genrecPlotly ??= (async () => {
    const own = `const made = {exports: {}};
      (function (module, exports, define) { ${model.get('plotly')}
      }).call(globalThis, made, made.exports, undefined);
      export default made.exports;`;
    const address = URL.createObjectURL(new Blob([own], {type: 'text/javascript'}));
    try { return (await import(address)).default; } finally { URL.revokeObjectURL(address); }
  })().catch(error => { delete globalThis.genrecPlotly; throw error; });
  return globalThis.genrecPlotly;
}

const idOf = point => point.data.ids ? point.data.ids[point.pointNumber]
  : point.data.meta === 'items' ? String(point.customdata) : undefined;

function element(name) {
  const div = document.createElement('div');
  div.className = name;
  return div;
}

// A figure that cannot be drawn, for want of WebGL or of anything else, says so in its place.
function complain(div, error) {
  div.className = 'genrec-broken';
  div.textContent = `This figure cannot be drawn here: ${error.message || error}`;
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
  const clear = div => { if (div.genrecListens) plotly(model).then(drawer => drawer.purge(div)); };
  let latest = 0, alive = true;
  function draw() {
    const parts = JSON.parse(model.get('parts')), turn = ++latest;
    const spare = [...el.querySelectorAll('.genrec-plot')];
    const drawn = parts.map(part => {
      if (part.figure) return spare.shift() || element('genrec-plot');
      const div = element('');
      div.innerHTML = part.html;
      return div;
    });
    spare.forEach(clear);
    el.replaceChildren(...drawn);
    parts.forEach(async (part, place) => {
      if (!part.figure) return;
      const div = drawn[place], {data, layout} = part.figure;
      try {
        const drawer = await plotly(model);
        if (!alive || turn !== latest) return;
        div.genrecPart = part;
        await drawer.react(div, data, layout, model.get('config'));
        listen(div, model);
      } catch (error) {
        complain(div, error);
      }
    });
  }
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
