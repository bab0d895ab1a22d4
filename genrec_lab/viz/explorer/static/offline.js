// Answers without a kernel: the page contains Python's answer for every prefix, which is looked up here.

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text.trim()), sign => sign.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  return JSON.parse(await new Response(stream).text());
}

async function alone() {
  const place = document.getElementById('explorer');
  let data;
  try { data = await unpacked(document.getElementById('data').textContent); }
  catch (error) { return complain(place, 'This file', error); }
  const {start, items, points, colours, pages} = data, count = items.title.length, levels = items.codes.length;
  const palette = [[0, 114, 178], [230, 159, 0], [0, 158, 115], [204, 121, 167], [213, 94, 0], [86, 180, 233], [153, 153, 51]];
  let answer = () => {}, steps = [{prefix: [], level: 0, domain: null, item: null, everywhere: null, lasso: null}], at = 0;
  let method = start.methods[0], by = start.colours[0];
  const now = () => steps[at], codesOf = item => items.codes.map(level => level[item]);
  const written = codes => codes.join(' › ');
  const fact = item => ({title: items.title[item], codes: written(codesOf(item)), domain: items.domain.length ? start.domains[items.domain[item]] : ''});
  const visits = item => (items.traffic.length ? `${items.traffic[item]} interactions` : '');

  function inside() {
    const {prefix, domain, everywhere, lasso} = now(), flags = new Uint8Array(count), gathered = lasso && new Set(lasso);
    const number = domain === null ? -1 : start.domains.indexOf(domain);
    for (let item = 0; item < count; item++) {
      let kept = everywhere ? items.codes[everywhere[0]][item] === everywhere[1] : prefix.every((code, level) => items.codes[level][item] === code);
      if (kept && number >= 0) kept = items.domain[item] === number;
      flags[item] = kept && (!gathered || gathered.has(item)) ? 1 : 0;
    }
    return flags;
  }

  // A page without an answer from Python, as for a lasso or a single item: its items, without computed values.
  function plain(flags, heading) {
    const found = [];
    for (let item = 0; item < count; item++) if (flags[item]) found.push(item);
    const shown = items.traffic.length ? [...found].sort((a, b) => items.traffic[b] - items.traffic[a]) : found;
    return {
      grid: {name: heading, columns: [{name: 'title', title: 'title', kind: 'text', values: found.map(item => items.title[item])},
        {name: 'codes', title: 'codes', kind: 'text', values: found.map(item => written(codesOf(item)))}], go: found.map(item => ({item}))},
      page: {heading, facts: [['items', found.length.toLocaleString('en'), '']], groups: [{name: 'Items', cards: shown.slice(0, 15).map(item => [item, visits(item)])}], item: now().item},
    };
  }

  function selection(said = '') {
    const {prefix, domain, everywhere, lasso, item, level} = now(), flags = inside();
    const key = everywhere ? `*${everywhere.join('.')}` : prefix.join('.');
    const heading = everywhere ? `Code ${everywhere[1]} of level ${everywhere[0] + 1}, under any prefix` : prefix.length ? `Prefix ${written(prefix)}` : 'All items';
    const own = domain === null && !lasso && pages[key] ? pages[key] : plain(flags, lasso ? `${heading}, in the lasso` : domain === null ? heading : `${heading}, of ${domain}`);
    const path = [{text: 'All', go: {prefix: []}}];
    if (everywhere) path.push(...Array(everywhere[0]).fill({text: '*'}), {text: String(everywhere[1]), go: {everywhere}});
    else prefix.forEach((code, place) => path.push({text: String(code), go: {prefix: prefix.slice(0, place + 1)}}));
    if (lasso) path.push({text: `lasso ${lasso.length} ×`, go: {lasso: null}});
    const page = {...own.page, item};
    if (item !== null) {
      const others = page.groups.map(group => ({...group, cards: group.cards.filter(([one]) => one !== item)}));
      page.groups = [{name: 'The selected item', cards: [[item, visits(item)]]}, ...others];
    }
    answer({kind: 'selection', said, path, back: at > 0, forward: at + 1 < steps.length, level, domain, item, lasso: Boolean(lasso), grid: own.grid, page, items: [], slices: []}, []);
    colour(flags);
  }

  function colour(flags = inside()) {
    const {level, prefix} = now(), values = new Int16Array(count), taken = [];
    let names = [], said = '', used = palette;
    const sizes = new Map();
    for (let item = 0; item < count; item++) if (flags[item]) sizes.set(items.codes[level][item], (sizes.get(items.codes[level][item]) || 0) + 1);
    const ordered = [...sizes].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
    const go = code => (level === prefix.length ? {prefix: [...prefix, code]} : level < prefix.length ? {prefix: [...prefix.slice(0, level), code]} : {everywhere: [level, code]});
    const grid = level === prefix.length && !now().everywhere && pages[prefix.join('.')]?.grid, words = new Map();
    if (grid) { const [codes, texts] = ['code', 'words'].map(name => grid.columns.find(one => one.name === name)?.values || []); codes.forEach((code, row) => words.set(code, texts[row])); }
    const called = (code, most) => (words.get(code) ? `${code} · ${words.get(code).split(', ').slice(0, most).join(', ')}` : String(code));
    if (by === 'code') {
      ordered.slice(0, palette.length).forEach(([code, size], place) => { taken[code] = place; names.push({text: called(code, 2), colour: place, go: go(code), says: `${size} items`}); });
      if (ordered.length > palette.length) names.push({text: 'other codes', colour: -1});
      for (let item = 0; item < count; item++) values[item] = taken[items.codes[level][item]] ?? -1;
    } else if (by === 'domain') {
      names = start.domains.slice(0, palette.length).map((text, place) => ({text, colour: place, go: {domain: text}}));
      for (let item = 0; item < count; item++) values[item] = items.domain[item] < palette.length ? items.domain[item] : -1;
    } else {
      const one = colours[by][Math.min(level, colours[by].length - 1)];
      values.set(one.values);
      [names, said, used] = [one.names, one.said, one.palette];
    }
    const [xs, ys] = placed(), labels = [];
    for (const [code] of ordered.slice(0, 60)) {
      const mine = [];
      for (let item = 0; item < count; item++) if (flags[item] && items.codes[level][item] === code && xs[item] === xs[item]) mine.push(item);
      const middle = list => list.sort((a, b) => a - b)[list.length >> 1];
      if (mine.length) labels.push({x: middle(mine.map(item => xs[item])), y: middle(mine.map(item => ys[item])), text: called(code, 1), go: go(code)});
    }
    answer({kind: 'colours', by, palette: used, names, labels, said}, [values.buffer, flags.buffer.slice(0)]);
  }

  function placed() {
    const of = points[method], own = of[Math.min(now().level, of.length - 1)];
    return own.map(axis => Float32Array.from(axis, value => value ?? NaN));
  }

  function map() {
    const both = new Float32Array(2 * count);
    placed().forEach((axis, place) => both.set(axis, place * count));
    answer({kind: 'points', method}, [both.buffer]);
  }

  function select(changes, said) {
    const next = {...now(), ...changes}, level = now().level;
    if (changes.everywhere) Object.assign(next, {prefix: [], item: null, level: changes.everywhere[0]}, changes);
    else if ('prefix' in changes) Object.assign(next, {everywhere: null, level: Math.min(changes.prefix.length, levels - 1)}, 'item' in changes ? {} : {item: null});
    else if (changes.item !== undefined && changes.item !== null) Object.assign(next, {everywhere: null, prefix: codesOf(changes.item), level, lasso: null, domain: now().domain !== null && fact(changes.item).domain !== now().domain ? null : now().domain});
    if (JSON.stringify(next) === JSON.stringify(now())) return;
    steps = [...steps.slice(0, at + 1), next].slice(-500);
    at = steps.length - 1;
    moved(level, said);
  }

  function moved(level, said) {
    if (level !== now().level && points[method].length > 1) map();
    selection(said);
  }

  function search(text) {
    const wanted = text.trim().toLowerCase(), hits = [];
    const any = /^((?:\*[\s›>/,.·-]*)+)(\d{1,9})$/.exec(wanted), exact = /^(?:all[\s›>/,.·-]+)?\d{1,9}(?:[\s›>/,.·-]+\d{1,9})*(?:[\s›>/,.·-]+\*)*$/.test(wanted);
    if (any && pages[`*${any[1].split('*').length - 1}.${any[2]}`]) hits.push({text: `Code ${any[2]} of level ${any[1].split('*').length}, under any prefix`, says: '', go: {everywhere: [any[1].split('*').length - 1, Number(any[2])]}});
    const codes = exact ? wanted.match(/\d+/g).map(Number) : [];
    if (exact && codes.length <= levels) hits.push({text: `Prefix ${written(codes)}`, says: '', go: {prefix: codes}});
    const found = [];
    for (let item = 0; item < count; item++) if (items.title[item].toLowerCase().includes(wanted) || (items.more[item] || '').toLowerCase().includes(wanted)) found.push(item);
    if (items.traffic.length) found.sort((a, b) => items.traffic[b] - items.traffic[a]);
    hits.push(...found.slice(0, 20).map(item => ({text: items.title[item], says: fact(item).codes, go: {item}})));
    answer({kind: 'hits', said: `${found.length.toLocaleString('en')} items hold “${text.trim()}”.`, hits, items: []}, []);
  }

  const acts = {
    start() { answer({...start, kind: 'start'}, []); map(); selection(); },
    select: changes => select(changes),
    lasso(_, buffers) { const found = [...new Int32Array(buffers[0])]; select({lasso: found.length ? found : null}); },
    back() { if (at > 0) { const {level} = now(); at--; moved(level); } },
    forward() { if (at + 1 < steps.length) { const {level} = now(); at++; moved(level); } },
    map(content) { method = content.method; map(); colour(); },
    colour(content) { ({by} = content); colour(); },
    hover({item}) { const one = fact(item); answer({kind: 'hover', item, lines: [one.title, one.codes, one.domain, visits(item)].filter(Boolean)}, []); },
    search: content => search(content.text),
  };
  screen(place, {
    shell: document.getElementById('shell').innerHTML, follows: false, dark: matchMedia('(prefers-color-scheme: dark)').matches, item: fact,
    send: (content, buffers) => acts[content.act]?.(content, buffers), listen: act => { answer = act; },
    script: async () => { throw new Error('it needs a kernel'); },
  });
}
