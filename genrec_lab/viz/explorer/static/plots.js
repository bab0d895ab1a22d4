// plotly's script takes a second or more to load, longer on a busy machine, but anywidget waits only two
// seconds for this module. The script is therefore loaded here when the first figure is drawn, once for all
// explorers of a page. It looks for `module`, so it gets its own.
function plotly(model) {
  globalThis.genrecPlotly ??= (async () => {
    const own = `const made = {exports: {}};
      (function (module, exports, define) { ${await model.script('plotly')}
      }).call(globalThis, made, made.exports, undefined);
      export default made.exports;`;
    const address = URL.createObjectURL(new Blob([own], {type: 'text/javascript'}));
    try { return (await import(address)).default; } finally { URL.revokeObjectURL(address); }
  })().catch(error => { delete globalThis.genrecPlotly; throw error; });
  return globalThis.genrecPlotly;
}

async function drawFigure(place, {figure, click}, model, config, mark) {
  try {
    const drawer = await plotly(model);
    if (!place.isConnected) return;
    await drawer.react(place, figure.data, {...figure.layout, autosize: true, width: undefined}, {...config, responsive: true});
    if (click) place.on('plotly_click', event => {
      const [point] = event.points, id = point.data.ids ? point.data.ids[point.pointNumber] : undefined;
      if (id !== undefined) mark(String(id));
    });
  } catch (error) {
    complain(place, 'This figure', error);
  }
}
