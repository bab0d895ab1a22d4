// A table of any length: only the visible rows are in the page. A click on a column sorts it, words or a
// condition such as `items < 5` filter it, and the arrow keys move through it.
const ROW = 24;
const WIDE = new Set(['words', 'title', 'first_title', 'finding', 'why', 'target', 'predicted']);
const CONDITION = /^\s*(.+?)\s*(<=|>=|<|>|=)\s*(-?[\d.]+)\s*(%?)\s*$/;

function makeGrid(box, select, settings = {}) {
  let table = {columns: [], go: []}, order = [], active = -1, chosen = -1, sorted = null, pressed = null;
  const frame = made('div', 'genrec-grid');
  const filter = made('input', 'genrec-filter', '', {type: 'search', placeholder: settings.hint || 'filter',
    ariaLabel: `filter ${settings.name || 'rows'}: words, or a condition as items < 5`});
  const kinds = made('select', 'genrec-kinds', '', {ariaLabel: 'which rows'});
  const count = made('span', 'genrec-quiet genrec-count');
  const head = made('div', 'genrec-row genrec-head'), body = made('div', 'genrec-body'), tall = made('div', 'genrec-tall');
  body.tabIndex = 0;
  body.setAttribute('role', 'grid');
  body.setAttribute('aria-label', settings.name || 'rows');
  head.setAttribute('role', 'row');
  tall.setAttribute('role', 'rowgroup');
  body.append(head, tall);
  const bar = made('div', 'genrec-gridbar');
  bar.append(filter, kinds, count);
  frame.append(bar, body);
  box.replaceChildren(frame);

  const column = name => table.columns.find(one => one.name === name);
  const rows = () => (table.columns[0] ? table.columns[0].values.length : 0);

  const pen = document.createElement('canvas').getContext('2d');
  // Width in pixels of a cell with a text of this weight.
  function wide(text, weight) {
    const {fontFamily, fontSize} = getComputedStyle(frame);
    pen.font = `${weight} ${fontSize} ${fontFamily}`;
    return Math.ceil(pen.measureText(text).width) + 12;
  }

  function widths() {
    let least = 0;
    const columns = table.columns.map(one => {
      const text = one.kind === 'text', long = WIDE.has(one.name);
      let longest = '000';
      for (const value of one.values.slice(0, 400)) {
        const written = shown(value, one.kind);
        if (written.length > longest.length) longest = written;
      }
      // A value from a short list, such as a state or a cause, is not cut; a title may end in an ellipsis.
      const inside = long ? 90 : wide(text && one.name !== 'setting' ? longest.slice(0, 15) : longest, 400);
      const width = Math.max(inside, wide(`${one.title}▾`, 600));
      least += width;
      return text ? `minmax(${width}px, ${long ? 4 : 1}fr)` : `${width}px`;
    });
    frame.style.setProperty('--columns', columns.join(' '));
    frame.style.setProperty('--least', `${least}px`);
    settings.fit?.(least, ROW * (rows() + 1) + (bar.hidden ? 2 : 32));
  }

  function wanted(row) {
    const kind = column('state');
    if (kinds.value && kind && kind.values[row] !== kinds.value) return false;
    const text = filter.value.trim().toLowerCase();
    if (!text) return true;
    const found = CONDITION.exec(text);
    const by = found && table.columns.find(one => one.title.toLowerCase().startsWith(found[1]) && one.kind !== 'text');
    if (by) {
      const value = by.values[row], limit = Number(found[3]) / (found[4] || by.kind === 'share' ? 100 : 1);
      if (value === null) return false;
      return {'<': value < limit, '>': value > limit, '<=': value <= limit, '>=': value >= limit, '=': value === limit}[found[2]];
    }
    return table.columns.some(one => String(one.values[row] ?? '').toLowerCase().includes(text) && (one.kind === 'text' || String(one.values[row]) === text));
  }

  function arrange() {
    order = [];
    for (let row = 0; row < rows(); row++) if (wanted(row)) order.push(row);
    const by = sorted && column(sorted.name);
    if (by) {
      const {values} = by, sign = sorted.down ? -1 : 1;
      order.sort((a, b) => {
        const one = values[a], other = values[b];
        if (one === null || other === null) return (one === null) - (other === null) || a - b;
        return sign * (typeof one === 'string' ? one.localeCompare(other) : one - other) || a - b;
      });
    }
    count.textContent = order.length === rows() ? `${rows().toLocaleString('en')}` : `${order.length.toLocaleString('en')} of ${rows().toLocaleString('en')}`;
    body.setAttribute('aria-rowcount', order.length);
    tall.style.height = `${order.length * ROW}px`;
    active = Math.min(active, order.length - 1);
    draw();
  }

  function drawHead() {
    head.replaceChildren(...table.columns.map(one => {
      const mark = sorted && sorted.name === one.name ? (sorted.down ? '▾' : '▴') : '';
      const cell = made('span', 'genrec-sort'), sort = button(one.title + mark, () => {
        sorted = sorted && sorted.name === one.name ? {name: one.name, down: !sorted.down} : {name: one.name, down: one.kind !== 'text' && one.name !== 'code'};
        drawHead();
        arrange();
      }, `genrec-cell genrec-${one.kind}`, one.says || `sort by ${one.title}`);
      cell.setAttribute('role', 'columnheader');
      if (mark) cell.setAttribute('aria-sort', sorted.down ? 'descending' : 'ascending');
      cell.append(sort);
      return cell;
    }));
  }

  function line(place) {
    const row = order[place], element = made('div', 'genrec-row');
    element.style.top = `${place * ROW}px`;
    element.setAttribute('role', 'row');
    element.setAttribute('aria-rowindex', place + 1);
    element.id = `${body.id || 'g'}-${place}`;
    if (place === active) element.classList.add('genrec-active');
    if (row === chosen) element.classList.add('genrec-chosen');
    if (!table.go[row]) element.classList.add('genrec-nowhere');
    for (const one of table.columns) {
      const text = shown(one.values[row], one.kind), cell = made('span', `genrec-cell genrec-${one.kind}`, text);
      cell.setAttribute('role', 'gridcell');
      if (one.kind === 'text') cell.title = text;
      if (one.bar && one.values[row]) cell.style.setProperty('--bar', `${Math.max(2, 100 * one.values[row] / one.most)}%`);
      if (one.bar) cell.classList.add('genrec-bar');
      element.append(cell);
    }
    element.addEventListener('click', () => { active = place; open(row); });
    element.addEventListener('pointerdown', () => { pressed = {element, go: table.go[row]}; });
    return element;
  }

  function draw() {
    const first = Math.max(0, Math.floor(body.scrollTop / ROW) - 4);
    const last = Math.min(order.length, first + Math.ceil((body.clientHeight || 400) / ROW) + 8);
    const lines = [];
    for (let place = first; place < last; place++) lines.push(line(place));
    tall.replaceChildren(...lines);
    if (active >= 0) body.setAttribute('aria-activedescendant', `${body.id || 'g'}-${active}`);
  }

  function open(row) {
    draw();
    if (table.go[row]) select(table.go[row]);
  }

  body.addEventListener('scroll', draw, {passive: true});
  // A row that is redrawn while the button is down gets no click event; the pressed row is opened anyway.
  body.addEventListener('pointerup', () => {
    if (pressed?.go && !pressed.element.isConnected) select(pressed.go);
    pressed = null;
  });
  body.addEventListener('keydown', event => {
    const steps = {ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12, Home: -1e9, End: 1e9};
    if (event.key in steps) {
      active = Math.max(0, Math.min(order.length - 1, active + steps[event.key]));
      const top = active * ROW;
      if (top < body.scrollTop) body.scrollTop = top;
      if (top + 2 * ROW > body.scrollTop + body.clientHeight) body.scrollTop = top + 2 * ROW - body.clientHeight;
      draw();
    } else if (event.key === 'Enter' && active >= 0) open(order[active]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  filter.addEventListener('input', debounced(() => { body.scrollTop = 0; arrange(); }, 80));
  kinds.addEventListener('change', () => { body.scrollTop = 0; arrange(); });
  if (globalThis.ResizeObserver) new ResizeObserver(draw).observe(body);

  return {
    // Keep the user's order and filter, unless the columns have changed.
    show(next, mark = -1) {
      const before = table.columns.map(one => one.name).join();
      table = next;
      for (const one of table.columns) if (one.bar) one.most = Math.max(1e-12, ...one.values);
      const states = column('state') ? [...new Set(column('state').values)] : [];
      const kind = kinds.value;
      kinds.replaceChildren(...['', ...states].map(one => made('option', '', one || 'all states', {value: one})));
      kinds.value = states.includes(kind) ? kind : '';
      kinds.hidden = states.length < 2;
      bar.hidden = rows() < (settings.barFrom || 0);
      if (before !== table.columns.map(one => one.name).join()) { sorted = table.columns.some(one => one.name === 'items') && column('code') ? {name: 'items', down: true} : null; filter.value = ''; }
      widths();
      chosen = mark;
      active = -1;
      body.scrollTop = 0;
      drawHead();
      arrange();
    },
    focus() { body.focus(); },
    table: () => table,
  };
}
