// The code page: numbers, words, attributes, coherence, example cards, and neighbouring codes.

function fact(name, value, says = '') {
  const box = made('div', 'genrec-fact', '', {title: says});
  box.append(made('span', 'genrec-quiet', name), made('b', '', value));
  return box;
}

function section(name, ...content) {
  const box = made('section', 'genrec-section');
  box.append(made('h4', '', name), ...content);
  return box;
}

function chips(list, select) {
  const box = made('div', 'genrec-chips');
  for (const {text, says, go} of list) box.append(go ? button(text, () => select(go), 'genrec-chip', says) : made('span', 'genrec-chip', text, {title: says || ''}));
  return box;
}

function card(item, note, facts, select, chosen) {
  const box = button('', () => select({item}), `genrec-card${chosen ? ' genrec-chosen' : ''}`);
  const {title, domain, codes, picture: source, marked} = facts(item);
  if (source) box.append(picture('genrec-picture', source, ''));
  const words = made('span', 'genrec-words'), name = made('span', 'genrec-title', marked ? '' : title || 'without a title');
  box.title = title;
  if (marked) name.append(...marked.map(([text, differs]) => made(differs ? 'mark' : 'span', '', text)));
  words.append(name, made('span', 'genrec-quiet', [domain, codes, note].filter(Boolean).join(' · ')));
  box.append(words);
  return box;
}

// Coherence on a line from the lowest to the highest value: the members as a dot, chance as a band.
function coherence({value, low, mean, high, said}) {
  const box = made('div', 'genrec-scale', '', {title: said}), least = Math.min(0, low, value), most = Math.max(1, value);
  const place = at => `${100 * (at - least) / (most - least)}%`;
  const band = made('i', 'genrec-band'), line = made('i', 'genrec-mean'), dot = made('i', 'genrec-dot');
  band.style.left = place(low);
  band.style.width = `calc(${place(high)} - ${place(low)})`;
  line.style.left = place(mean);
  dot.style.left = place(value);
  box.append(band, line, dot);
  return section('Coherence', made('p', 'genrec-quiet', said), box);
}

function histogram({counts, edges, name}) {
  const most = Math.max(...counts, 1), box = made('div', 'genrec-bars', '', {title: `${name}: ${shown(edges[0])} to ${shown(edges[edges.length - 1])}`});
  counts.forEach((number, place) => {
    const bar = made('i', '', '', {title: `${shown(edges[place])} to ${shown(edges[place + 1])}: ${number} items`});
    bar.style.height = `${number ? Math.max(4, 100 * number / most) : 0}%`;
    box.append(bar);
  });
  const ends = made('div', 'genrec-ends genrec-quiet');
  ends.append(made('span', '', shown(edges[0])), made('span', '', shown(edges[edges.length - 1])));
  return section(name, box, ends);
}

function facet({name, values, said}) {
  if (said) return section(name, made('p', '', said));
  const table = made('table'), head = made('tr');
  head.append(...['', 'here', 'elsewhere'].map(text => made('th', '', text)));
  table.append(head);
  for (const [value, here, rest] of values) {
    const row = made('tr');
    row.append(made('td', '', value), made('td', '', share(here)), made('td', '', share(rest)));
    table.append(row);
  }
  return section(name, table);
}

function drawPage(box, page, facts, select, grids) {
  const parts = [];
  const head = made('div', 'genrec-pagehead');
  head.append(made('h3', '', page.heading), ...(page.parents || []).map(one => button(one.text, () => select(one.go), 'genrec-chip', one.says)));
  parts.push(head, ...(page.lines || []).map(line => made('p', '', line)));
  const facts_ = made('div', 'genrec-facts');
  facts_.append(...(page.facts || []).map(one => fact(...one)));
  parts.push(facts_);
  if (page.decoded) {
    const decoded = section('What its decoder draws', made('p', '', page.decoded.words));
    if (page.decoded.picture) decoded.append(picture('genrec-drawn', page.decoded.picture, 'picture drawn from these codes'));
    parts.push(decoded);
  }
  if (page.words?.length) parts.push(section('Words', chips(page.words.map(([text, titles, score]) => ({text: `${text} ${titles}`, says: `in ${titles} titles; z = ${score.toFixed(1)} against the other items`})), select)));
  if (page.coherence) parts.push(coherence(page.coherence));
  for (const group of page.groups || []) {
    if (!group.cards.length) continue;
    const grid = made('div', 'genrec-cards');
    grid.append(...group.cards.map(([item, note]) => card(item, note, facts, select, item === page.item)));
    parts.push(section(group.name, grid));
  }
  parts.push(...(page.facets || []).map(facet));
  if (page.histogram) parts.push(histogram(page.histogram));
  if (page.near?.length) parts.push(section('Nearest codewords', chips(page.near, select)));
  if (page.same) {
    const place = made('div', 'genrec-same');
    parts.push(section(page.same.name, place));
    const grid = makeGrid(place, select, {name: page.same.name, barFrom: 12});
    grids.push(() => grid.show(page.same.table));
  }
  box.replaceChildren(...parts);
  grids.splice(0).forEach(draw => draw());
  box.scrollTop = 0;
}
