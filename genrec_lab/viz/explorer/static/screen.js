// The explorer's screen: it sends `{act, …}` and draws the answers `{kind, …}`. They come from a kernel, or from
// offline.js in a standalone file.

function isDark() {
  const body = document.body;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === 'false';
  return body.classList.contains('vscode-dark') || body.classList.contains('vscode-high-contrast');
}

function screen(el, model) {
  el.classList.add('genrec-explorer');
  el.innerHTML = model.shell;  // a file of this package, without data
  const part = Object.fromEntries([...el.querySelectorAll('[data-part]')].map(one => [one.dataset.part, one]));
  const ask = (act, rest = {}, buffers = []) => model.send({act, ...rest}, buffers);
  const select = go => ask('select', go);
  const items = new Map(), facts = item => items.get(item) || model.item?.(item) || {title: `item ${item}`, domain: '', codes: ''};
  let start = null, chosen = null, colouring = null, openTab = '', lasso = false;
  const grid = makeGrid(part.grid, select, {name: 'codes', hint: 'filter: words, or items < 5'});
  const map = makeMap(part.map, {
    hover: debounced(item => ask('hover', {item}), 40),
    click: item => select({item}),
    lasso: found => ask('lasso', {}, [Int32Array.from(found).buffer]),
    go: select,
  });

  function options(place, list, value) {
    place.replaceChildren(...list.map(([text, key]) => made('option', '', text, {value: key, selected: key === value})));
    place.hidden = list.length < 2;
  }

  const draw = {
    start(content) {
      start = content;
      draw.codes(content);
      options(part.domain, [['all domains', ''], ...content.domains.map(one => [one, one])], '');
      part.domain.hidden = content.domains.length < 2;
      options(part.level, content.levels.map(level => [`level ${level + 1}`, String(level)]), '0');
      options(part.method, content.methods.map(one => [one, one]), content.methods[0]);
      part.tabs.replaceChildren(...content.tabs.map(name => {
        const tab = button(name, () => show(openTab === name ? '' : name), 'genrec-tabname', `${name}: open or close`);
        tab.setAttribute('role', 'tab');
        return tab;
      }));
      part.exports.hidden = content.alone;
      document.fonts?.ready.then(() => map.reset());
    },
    // What depends on which codes are shown: the final ones, or those of an epoch.
    codes(content) {
      part.name.textContent = content.name;
      part.health.replaceChildren(...chips(content.health.map(one => ({...one, go: one.tab})), tab => show(tab)).childNodes);
      options(part.colour, content.colours.map(one => [one, one]), content.colours[0]);
    },
    selection(content) {
      const focus = el.contains(document.activeElement) && (part.page.contains(document.activeElement) ? part.page : grid);
      chosen = content;
      for (const [item, one] of content.items) items.set(item, one);
      part.said.textContent = content.said;
      part.path.replaceChildren(...content.path.map(one => one.go ? button(one.text, () => select(one.go), 'genrec-step', one.says || '') : made('span', 'genrec-step', one.text)));
      el.querySelector('[data-act=back]').disabled = !content.back;
      el.querySelector('[data-act=forward]').disabled = !content.forward;
      part.domain.value = content.domain || '';
      part.level.value = String(content.level);
      part.gridname.textContent = content.grid.name;
      grid.show(content.grid, content.grid.marked ?? -1);
      drawPage(part.page, content.page, facts, select, []);
      map.mark(content.item);
      // Keyboard users keep their focus after a redraw.
      if (focus && !el.contains(document.activeElement)) focus.focus({preventScroll: true});
      options(part.slices, [['open a slice', ''], ...content.slices.map(one => [one, one])], '');
      colour();
    },
    points(content, buffers) {
      part.method.value = content.method;
      const both = new Float32Array(buffers[0]);
      const count = both.length / 2;
      map.points(both.subarray(0, count), both.subarray(count));
      colour();
    },
    colours(content, buffers) {
      colouring = {...content, values: new Int16Array(buffers[0]), inside: new Uint8Array(buffers[1])};
      part.colour.value = content.by;
      colour();
    },
    tab(content) {
      for (const [item, one] of content.items) items.set(item, one);
      drawTab(content);
    },
    hits(content) {
      for (const [item, one] of content.items) items.set(item, one);
      const rows = content.hits.map(one => {
        const hit = button('', () => { part.hits.hidden = true; select(one.go); }, 'genrec-hit');
        hit.setAttribute('role', 'option');
        hit.append(made('b', '', one.text), made('span', 'genrec-quiet', one.says));
        return hit;
      });
      part.hits.replaceChildren(made('div', 'genrec-quiet', content.said), ...rows);
      part.hits.hidden = false;
    },
    hover({item, lines}) { map.tell(item, lines); },
    said({text}) { part.said.textContent = text; },
    download({name, text}) {
      const link = made('a', '', '', {download: name, href: URL.createObjectURL(new Blob([text], {type: 'text/csv'}))});
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      part.said.textContent = `${name} is in your downloads`;
    },
    code({text}) { part.tab.hidden = false; el.classList.add('genrec-open'); part.tab.prepend(made('pre', '', text)); part.tab.scrollTop = 0; },
  };

  // Colours of the page's theme; unselected items are grey.
  function colour() {
    if (!colouring) return;
    const {values, inside, palette, names} = colouring, rgba = new Uint8Array(4 * values.length);
    const grey = dark() ? [104, 114, 126, 140] : [190, 197, 205, 140], some = inside.includes(0);
    for (let item = 0; item < values.length; item++) {
      const own = !inside[item] ? grey : values[item] < 0 ? [128, 138, 150, 200] : palette[values[item]];
      rgba[4 * item] = own[0]; rgba[4 * item + 1] = own[1]; rgba[4 * item + 2] = own[2]; rgba[4 * item + 3] = own[3] ?? 205;
    }
    map.colours(rgba, some ? inside : new Uint8Array(inside.length), colouring.labels);
    part.legend.replaceChildren(...names.map(({text, colour: place, go, says}) => {
      const one = go ? button('', () => select(go), 'genrec-chip', says || '') : made('span', 'genrec-chip', '', {title: says || ''});
      const dot = made('i', 'genrec-swatch');
      dot.style.background = place < 0 ? '#808A96' : `rgb(${palette[place].slice(0, 3)})`;
      one.append(dot, text);
      return one;
    }));
    if (colouring.said) part.legend.prepend(made('span', 'genrec-quiet', colouring.said));
  }

  function drawTab(content) {
    const shownParts = [], after = [];
    const choices = made('div', 'genrec-line');
    const held = part.tab.contains(document.activeElement) && document.activeElement.name;
    for (const {name, value, values, act, slider} of content.choices || []) {
      const place = values.findIndex(([, key]) => key === value);
      const list = slider
        ? made('input', 'genrec-scrubber', '', {type: 'range', min: 0, max: values.length - 1, value: place, ariaLabel: name, ariaValueText: values[place][0], name})
        : made('select', '', '', {ariaLabel: name, title: name, name});
      if (!slider) list.append(...values.map(([text, key]) => made('option', '', text, {value: key, selected: key === value})));
      const told = made('span', 'genrec-quiet', slider ? values[place][0] : '');
      if (slider) list.addEventListener('input', () => { told.textContent = values[list.value][0]; });
      list.addEventListener('change', () => ask(act, {name, value: slider ? values[list.value][1] : list.value}));
      choices.append(made('label', 'genrec-quiet', `${name} `), list, told);
    }
    if (content.choices?.length) shownParts.push(choices);
    shownParts.push(...content.said.map(text => made('p', '', text)));
    const row = made('div', 'genrec-tabparts');
    for (const one of content.parts) {
      const box = made('div', `genrec-tabpart${one.wide ? ' genrec-wide' : ''}`);
      if (one.title) box.append(made('b', '', one.title));
      if (one.note) box.append(made('p', 'genrec-quiet', one.note));
      if (one.table) {
        const place = made('div', 'genrec-tabgrid');
        box.append(place);
        const fit = (least, high) => { box.style.setProperty('--need', `${least + 2}px`); place.style.maxHeight = `${high}px`; };
        const own = makeGrid(place, go => (go.act ? ask(go.act, go) : select(go)), {name: one.title || content.name, barFrom: 8, fit});
        after.push(() => own.show(one.table));
      } else if (one.cards) {
        const cards = made('div', 'genrec-cards');
        cards.append(...one.cards.map(([item, note]) => card(item, note, facts, select, item === chosen?.item)));
        box.append(cards);
      } else if (one.figure) {
        const place = made('div', 'genrec-plot');
        place.style.height = `${one.figure.layout.height}px`;
        box.append(place);
        after.push(() => drawFigure(place, one, model, start.config, id => ask('mark', {id})));
      }
      row.append(box);
    }
    shownParts.push(row);
    part.tab.querySelectorAll('.genrec-plot').forEach(plot => globalThis.genrecPlotly?.then(drawer => drawer.purge(plot)));
    part.tab.replaceChildren(...shownParts);
    if (held) part.tab.querySelector(`[name="${held}"]`)?.focus();
    after.forEach(act => act());
  }

  function show(name) {
    openTab = name;
    for (const tab of part.tabs.children) tab.setAttribute('aria-selected', tab.textContent === name);
    part.tab.hidden = !name;
    el.classList.toggle('genrec-open', Boolean(name));
    ask('tab', {name});
  }

  const dark = () => el.classList.contains('genrec-dark');
  function theme(on) {
    el.classList.toggle('genrec-dark', on);
    el.classList.toggle('genrec-light', !on);
    colour();
    if (start) ask('theme', {dark: on});
  }

  const acts = {
    back: () => ask('back'), forward: () => ask('forward'), csv: () => ask('csv'), python: () => ask('python'),
    theme: () => theme(!dark()),
    full: () => (document.fullscreenElement ? document.exitFullscreen() : el.requestFullscreen?.()),
    lasso: place => { lasso = !lasso; place.setAttribute('aria-pressed', lasso); map.lassoMode(lasso); },
    in: () => map.zoom(1.5), out: () => map.zoom(1 / 1.5), fit: () => map.reset(),
    slice: () => {
      const field = made('input', '', '', {placeholder: 'name of the slice, then Enter', ariaLabel: 'name of the slice'});
      field.addEventListener('keydown', event => { if (event.key === 'Enter') { ask('keep', {name: field.value}); field.remove(); } if (event.key === 'Escape') field.remove(); });
      part.exports.prepend(field);
      field.focus();
    },
  };
  for (const one of el.querySelectorAll('[data-act]')) one.addEventListener('click', () => acts[one.dataset.act](one));
  part.domain.addEventListener('change', () => select({domain: part.domain.value || null}));
  part.level.addEventListener('change', () => select({level: Number(part.level.value)}));
  part.method.addEventListener('change', () => ask('map', {method: part.method.value}));
  part.colour.addEventListener('change', () => ask('colour', {by: part.colour.value}));
  part.slices.addEventListener('change', () => ask('slice', {name: part.slices.value}));
  const find = () => (part.search.value.trim() ? ask('search', {text: part.search.value}) : (part.hits.hidden = true));
  part.search.addEventListener('input', debounced(find, 180));
  part.search.addEventListener('keydown', event => {
    if (event.key === 'Enter') find();
    if (event.key === 'ArrowDown') part.hits.querySelector('button')?.focus();
    if (event.key === 'Escape') part.hits.hidden = true;
  });
  part.hits.addEventListener('keydown', event => {
    const hits = [...part.hits.querySelectorAll('button')], place = hits.indexOf(document.activeElement);
    if (event.key === 'ArrowDown') hits[Math.min(place + 1, hits.length - 1)]?.focus();
    else if (event.key === 'ArrowUp') (hits[place - 1] || part.search).focus();
    else if (event.key === 'Escape') { part.hits.hidden = true; part.search.focus(); }
    else return;
    event.preventDefault();
  });
  el.addEventListener('click', event => { if (!event.target.closest?.('.genrec-find')) part.hits.hidden = true; });
  el.addEventListener('keydown', event => {
    if (event.altKey && event.key === 'ArrowLeft') ask('back');
    else if (event.altKey && event.key === 'ArrowRight') ask('forward');
    else if (event.key === '/' && !event.target.matches?.('input, select')) part.search.focus();
    else if (event.key === 'Escape' && chosen?.lasso) ask('lasso', {}, [new ArrayBuffer(0)]);
    else return;
    event.preventDefault();
  });
  // JupyterLab uses the arrows and Enter for its own shortcuts, unless the focused element opts out.
  el.addEventListener('focusin', event => { event.target.dataset.lmSuppressShortcuts = 'true'; });

  model.listen((content, buffers) => {
    try { draw[content.kind]?.(content, buffers.map(one => one.buffer ? one.buffer.slice(one.byteOffset, one.byteOffset + one.byteLength) : one)); }
    catch (error) { part.said.textContent = `The ${content.kind} cannot be drawn: ${error.message || error}`; }
  });
  const watch = new MutationObserver(() => { if (model.follows) theme(isDark()); });
  watch.observe(document.body, {attributes: true, attributeFilter: ['data-jp-theme-light', 'class']});
  theme(model.follows ? isDark() : model.dark);
  ask('start', {dark: dark()});
  el.genrecMap = map;
  return () => { watch.disconnect(); map.end(); };
}

// In a notebook, the kernel behind anywidget's model answers. The page says if it is silent for 30 s.
function render({model, el}) {
  const asked = {};
  let silent;
  const inner = {
    shell: model.get('shell'), follows: model.get('mode') === 'page', dark: model.get('mode') === 'dark',
    send(content, buffers) {
      clearTimeout(silent);
      if (content.act !== 'hover') silent = setTimeout(() => {
        const said = el.querySelector('[data-part=said]');
        if (said) said.textContent = 'The kernel has not answered for 30 s; it may be busy or dead.';
      }, 30000);
      model.send(content, undefined, buffers);
    },
    listen(act) {
      inner.listener = (content, buffers) => {
        clearTimeout(silent);
        if (content.kind === 'script') asked[content.name]?.(content.text);
        else act(content, buffers || []);
      };
      model.on('msg:custom', inner.listener);
    },
    script(name) { return new Promise(done => { asked[name] = done; model.send({act: 'script', name}); }); },
  };
  const end = screen(el, inner);
  return () => { model.off('msg:custom', inner.listener); clearTimeout(silent); end(); };
}
