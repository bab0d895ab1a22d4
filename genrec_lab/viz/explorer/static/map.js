// The map of every item: WebGL points with wheel zoom, drag, hover, click and lasso, and labels that follow the
// zoom. Without WebGL, a plain canvas shows the same points as a still image, and says so.
const VERTEX = `#version 300 es
in vec2 at; in vec4 colour; uniform vec2 centre, scale; uniform float size; out vec4 paint;
void main() { paint = colour; gl_Position = vec4((at - centre) * scale, 0, 1); gl_PointSize = size; }`;
const FRAGMENT = `#version 300 es
precision highp float; in vec4 paint; uniform float size; out vec4 drawn;
void main() { vec2 off = gl_PointCoord - 0.5; if (size > 2.5 && dot(off, off) > 0.25) discard; drawn = paint; }`;
const REACH = 12;  // distance in pixels within which the mouse selects a point
const MOST_STILL = 60000;  // number of points that a plain canvas draws
const MOST_MOVING = 20000, REST = 150;  // most points drawn while the map moves, and milliseconds until all are drawn

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made));
  return made;
}

// The points by cells of a square grid, so that the point under the mouse is found quickly.
function cellsOf(x, y, box) {
  const side = Math.max(1, Math.ceil(Math.sqrt(x.length / 4))), wide = Math.max(box.size, 1e-9);
  const cell = (px, py) => {
    const column = Math.min(side - 1, Math.max(0, Math.floor((px - box.left) / wide * side)));
    return column + side * Math.min(side - 1, Math.max(0, Math.floor((py - box.low) / wide * side)));
  };
  const starts = new Uint32Array(side * side + 1), items = new Uint32Array(x.length);
  for (let item = 0; item < x.length; item++) if (x[item] === x[item]) starts[cell(x[item], y[item]) + 1]++;
  for (let place = 0; place < side * side; place++) starts[place + 1] += starts[place];
  const next = starts.slice();
  for (let item = 0; item < x.length; item++) if (x[item] === x[item]) items[next[cell(x[item], y[item])]++] = item;
  return {side, wide, starts, items};
}

// The same order each time, so that the first points are a sample that does not change.
function shuffle(items) {
  let seed = 1;
  for (let place = items.length - 1; place > 0; place--) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = Math.floor(seed / 4294967296 * (place + 1)), item = items[place];
    items[place] = items[other];
    items[other] = item;
  }
}

function inPolygon(px, py, path) {
  let inside = false;
  for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
    const [ax, ay] = path[a], [bx, by] = path[b];
    if ((ay > py) !== (by > py) && px < (bx - ax) * (py - ay) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

function makeMap(box, on) {
  const canvas = made('canvas', 'genrec-gl'), over = made('canvas', 'genrec-over');
  const note = made('div', 'genrec-mapnote'), tip = made('div', 'genrec-tip');
  over.tabIndex = 0;
  over.setAttribute('role', 'application');
  over.setAttribute('aria-label', 'map of all items: drag to move, wheel to zoom, arrows and + and − do the same, shift and drag to gather items');
  tip.hidden = true;
  box.replaceChildren(canvas, over, note, tip);
  let gl = null, paint = null, still = null;
  try {
    gl = canvas.getContext('webgl2', {antialias: false, alpha: true, premultipliedAlpha: false});
    if (gl) paint = program(gl);
  } catch (error) { gl = null; }
  if (!gl) standStill('WebGL is not available here: a map that does not move.');
  let x = new Float32Array(0), y = x, colours = new Uint8Array(0), order = new Uint32Array(0), outside = 0, count = 0;
  let cells = null, bounds = {left: 0, low: 0, size: 1}, view = {x: 0, y: 0, k: 1}, labels = [], boxes = [];
  let path = null, drag = null, hovered = -1, lassoMode = false, alive = true, waiting = false, sizes = [0, 0];
  let stale = false, moving = false, resting = 0;
  const buffers = gl ? ['at', 'colour'].map(() => gl.createBuffer()) : [];

  function standStill(why) {
    gl = null;
    still = made('canvas', 'genrec-gl');
    canvas.replaceWith(still);
    note.textContent = why;
  }
  canvas.addEventListener('webglcontextlost', () => { standStill('WebGL was lost: a map that does not move.'); later(); });

  const ratio = () => Math.min(globalThis.devicePixelRatio || 1, 2);
  const toPixel = (px, py) => [sizes[0] / 2 + (px - view.x) * view.k, sizes[1] / 2 - (py - view.y) * view.k];
  const toData = (px, py) => [view.x + (px - sizes[0] / 2) / view.k, view.y - (py - sizes[1] / 2) / view.k];
  const fitted = () => 0.93 * Math.min(sizes[0], sizes[1]) / bounds.size;
  const pointSize = () => {
    const usual = count > 300000 ? 1.2 : count > 50000 ? 2 : count > 8000 ? 3.2 : count > 1500 ? 4.6 : 6.5;
    return usual * Math.min(3, Math.max(1, Math.sqrt(view.k / (fitted() || 1))));
  };

  function resize() {
    const wide = box.clientWidth, high = box.clientHeight;
    if (!wide || !high || (wide === sizes[0] && high === sizes[1])) return;
    const before = fitted();
    sizes = [wide, high];
    view.k = before > 0 && isFinite(before) && view.k !== 1 ? view.k * fitted() / before : fitted();
    for (const one of [still || canvas, over]) { one.width = wide * ratio(); one.height = high * ratio(); }
    later();
  }

  // Without `all`, only labels, marks and the lasso are drawn again.
  function later(all = true) {
    stale = stale || all;
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      if (!alive) return;
      if (stale) drawPoints();
      stale = false;
      drawOver();
    });
  }

  function move() {
    moving = true;
    clearTimeout(resting);
    resting = setTimeout(() => { moving = false; later(); }, REST);
    later();
  }

  function drawPoints() {
    if (!gl) return drawStill();
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!count) return;
    gl.useProgram(paint);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    const place = name => gl.getUniformLocation(paint, name);
    gl.uniform2f(place('centre'), view.x, view.y);
    gl.uniform2f(place('scale'), 2 * view.k / sizes[0], 2 * view.k / sizes[1]);
    const at = gl.getAttribLocation(paint, 'at'), colour = gl.getAttribLocation(paint, 'colour');
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[0]);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, 2, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[1]);
    gl.enableVertexAttribArray(colour);
    gl.vertexAttribPointer(colour, 4, gl.UNSIGNED_BYTE, true, 0, 0);
    // Selected items are larger, especially if there are few of them.
    const size = pointSize() * ratio(), few = order.length - outside;
    const large = !outside ? size : Math.max(1.15 * size, (few < 500 ? 6.5 : few < 3000 ? 5 : 0) * ratio());
    for (const [from, to, wide] of [[0, outside, few ? 0.75 * size : size], [outside, order.length, large]]) {
      gl.uniform1f(place('size'), wide);
      const drawn = moving ? Math.min(to - from, MOST_MOVING) : to - from;
      if (drawn) gl.drawArrays(gl.POINTS, from, drawn);
    }
  }

  function drawStill() {
    const pen = still.getContext('2d'), size = pointSize() * ratio(), scale = ratio();
    pen.clearRect(0, 0, still.width, still.height);
    const step = Math.max(1, Math.ceil(order.length / MOST_STILL));
    for (let place = 0; place < order.length; place += step) {
      const item = order[place], [px, py] = toPixel(x[item], y[item]);
      pen.fillStyle = `rgba(${colours[4 * item]},${colours[4 * item + 1]},${colours[4 * item + 2]},${colours[4 * item + 3] / 255})`;
      pen.fillRect(px * scale - size / 2, py * scale - size / 2, size, size);
    }
  }

  // Labels in order of weight, each only if it does not overlap another; an outline makes them readable.
  function drawOver() {
    const pen = over.getContext('2d'), scale = ratio(), style = getComputedStyle(box);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    pen.clearRect(0, 0, sizes[0], sizes[1]);
    pen.font = '600 11px system-ui, sans-serif';
    pen.textAlign = 'center';
    pen.textBaseline = 'middle';
    pen.lineJoin = 'round';
    boxes = [];
    for (const label of labels) {
      const [px, middle] = toPixel(label.x, label.y), py = middle - 11, half = pen.measureText(label.text).width / 2 + 4;
      if (px - half < 0 || px + half > sizes[0] || py < 10 || py > sizes[1] - 10) continue;
      if (boxes.some(one => Math.abs(one.px - px) < one.half + half && Math.abs(one.py - py) < 17)) continue;
      boxes.push({px, py, half, go: label.go});
      pen.strokeStyle = style.getPropertyValue('--genrec-page') || '#fff';
      pen.lineWidth = 4;
      pen.strokeText(label.text, px, py);
      pen.fillStyle = style.getPropertyValue('--genrec-text') || '#000';
      pen.fillText(label.text, px, py);
      if (boxes.length >= 40) break;
    }
    const ring = (item, colour, size) => {
      const [px, py] = toPixel(x[item], y[item]);
      pen.beginPath();
      pen.arc(px, py, size, 0, 7);
      pen.strokeStyle = colour;
      pen.lineWidth = 2;
      pen.stroke();
    };
    if (marked >= 0 && x[marked] === x[marked]) ring(marked, style.getPropertyValue('--genrec-bad') || '#D55E00', 9);
    if (hovered >= 0) ring(hovered, style.getPropertyValue('--genrec-text') || '#000', 7);
    if (path) {
      pen.beginPath();
      path.forEach(([px, py], place) => pen[place ? 'lineTo' : 'moveTo'](px, py));
      pen.closePath();
      pen.fillStyle = 'rgba(0,114,178,0.15)';
      pen.fill();
      pen.strokeStyle = style.getPropertyValue('--genrec-accent') || '#0072B2';
      pen.lineWidth = 1.5;
      pen.stroke();
    }
  }
  let marked = -1;

  function nearest(px, py) {
    if (!cells) return -1;
    const [dx, dy] = toData(px, py), reach = REACH / view.k, {side, wide, starts, items} = cells;
    const range = (middle, low) => [-reach, reach].map(off => Math.min(side - 1, Math.max(0, Math.floor((middle + off - low) / wide * side))));
    const [left, right] = range(dx, bounds.left), [low, high] = range(dy, bounds.low);
    let best = -1, least = reach * reach;
    for (let row = low; row <= high; row++) for (let column = left; column <= right; column++) {
      const cell = row * side + column;
      for (let place = starts[cell]; place < starts[cell + 1]; place++) {
        const item = items[place], off = (x[item] - dx) ** 2 + (y[item] - dy) ** 2;
        if (off < least) { least = off; best = item; }
      }
    }
    return best;
  }

  const spot = event => {
    const inside = over.getBoundingClientRect();
    return [event.clientX - inside.left, event.clientY - inside.top];
  };
  over.addEventListener('pointerdown', event => {
    if (event.button) return;
    over.setPointerCapture(event.pointerId);
    const at = spot(event);
    drag = {at, from: {...view}, moved: false, lasso: lassoMode || event.shiftKey};
    if (drag.lasso) path = [at];
    over.focus({preventScroll: true});
  });
  over.addEventListener('pointermove', event => {
    const at = spot(event);
    if (drag) {
      drag.moved = drag.moved || Math.hypot(at[0] - drag.at[0], at[1] - drag.at[1]) > 3;
      if (drag.lasso) path.push(at);
      else if (drag.moved && gl) {
        view.x = drag.from.x - (at[0] - drag.at[0]) / view.k;
        view.y = drag.from.y + (at[1] - drag.at[1]) / view.k;
        move();
      }
      tip.hidden = true;
      return later(false);
    }
    const found = nearest(...at);
    over.style.cursor = found >= 0 || onLabel(at) ? 'pointer' : lassoMode ? 'crosshair' : 'grab';
    if (found === hovered) return;
    hovered = found;
    tip.hidden = true;
    if (found >= 0) { on.hover(found); tip.dataset.item = found; }
    later(false);
  });
  over.addEventListener('pointerleave', () => { hovered = -1; tip.hidden = true; later(false); });
  const onLabel = ([px, py]) => boxes.find(one => one.go && Math.abs(one.px - px) < one.half && Math.abs(one.py - py) < 9);
  over.addEventListener('pointerup', event => {
    const at = spot(event), was = drag;
    drag = null;
    if (!was) return;
    if (was.lasso && was.moved) {
      const drawn = path.map(point => toData(...point)), found = [];
      path = null;
      const xs = drawn.map(one => one[0]), ys = drawn.map(one => one[1]);
      const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      for (let item = 0; item < x.length; item++) {
        if (x[item] >= left && x[item] <= right && y[item] >= low && y[item] <= high && inPolygon(x[item], y[item], drawn)) found.push(item);
      }
      on.lasso(found);
    } else if (!was.moved) {
      path = null;
      const item = nearest(...at), label = onLabel(at);
      if (item >= 0) on.click(item);
      else if (label) on.go(label.go);
    }
    later();
  });
  function zoom(by, px, py) {
    if (!gl) return;
    const before = toData(px, py);
    view.k = Math.min(400 * fitted(), Math.max(0.4 * fitted(), view.k * by));
    const after = toData(px, py);
    view.x += before[0] - after[0];
    view.y += before[1] - after[1];
    move();
  }
  over.addEventListener('wheel', event => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0015), ...spot(event));
  }, {passive: false});
  function reset() { view = {x: bounds.left + bounds.size / 2, y: bounds.low + bounds.size / 2, k: fitted()}; later(); }
  over.addEventListener('dblclick', reset);
  over.addEventListener('keydown', event => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const step = 60 / view.k, moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step]};
    if (event.key in moves) { view.x += moves[event.key][0]; view.y += moves[event.key][1]; move(); }
    else if (event.key === '+' || event.key === '=') zoom(1.4, sizes[0] / 2, sizes[1] / 2);
    else if (event.key === '-') zoom(1 / 1.4, sizes[0] / 2, sizes[1] / 2);
    else if (event.key === '0') reset();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const watch = globalThis.ResizeObserver ? new ResizeObserver(resize) : null;
  if (watch) watch.observe(box);

  return {
    points(xs, ys) {
      [x, y] = [xs, ys];
      let left = Infinity, right = -Infinity, low = Infinity, high = -Infinity;
      for (let item = 0; item < x.length; item++) {
        if (x[item] !== x[item]) continue;
        left = Math.min(left, x[item]); right = Math.max(right, x[item]);
        low = Math.min(low, y[item]); high = Math.max(high, y[item]);
      }
      const wide = isFinite(left) ? Math.max(right - left, high - low, 1e-6) : 1;
      bounds = isFinite(left) ? {left: (left + right - wide) / 2, low: (low + high - wide) / 2, size: wide} : bounds;
      cells = cellsOf(x, y, bounds);
      count = 0;  // until their colours come
      hovered = -1;
      resize();
      reset();
    },
    // rgba: (N * 4); inside: (N), whether an item is selected; selected items are drawn last and larger.
    colours(rgba, inside, names) {
      colours = rgba;
      const placed = [[], []];
      for (let item = 0; item < x.length; item++) if (x[item] === x[item]) placed[inside[item] ? 1 : 0].push(item);
      outside = placed[0].length;
      order = Uint32Array.from(placed[0].concat(placed[1]));
      shuffle(order.subarray(0, outside));
      shuffle(order.subarray(outside));
      count = order.length;
      labels = names;
      if (gl) {
        // In the order in which they are drawn: with an index, software rendering reaches half the frames a second.
        const at = new Float32Array(2 * count), paints = new Uint32Array(count), given = new Uint32Array(rgba.buffer);
        order.forEach((item, place) => { at[2 * place] = x[item]; at[2 * place + 1] = y[item]; paints[place] = given[item]; });
        [at, paints].forEach((data, place) => {
          gl.bindBuffer(gl.ARRAY_BUFFER, buffers[place]);
          gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
        });
      }
      later();
    },
    mark(item) { marked = item ?? -1; later(false); },
    tell(item, lines) {
      if (item !== hovered || drag) return;
      const [px, py] = toPixel(x[item], y[item]);
      tip.replaceChildren(...lines.map((line, place) => made('div', place ? 'genrec-quiet' : 'genrec-title', line)));
      tip.hidden = false;
      const left = Math.min(Math.max(4, px + 12), Math.max(4, sizes[0] - tip.offsetWidth - 4));
      tip.style.left = `${left}px`;
      tip.style.top = `${py + 14 + tip.offsetHeight > sizes[1] ? Math.max(4, py - tip.offsetHeight - 12) : py + 14}px`;
    },
    lassoMode(on) { lassoMode = on; },
    reset,
    zoom: by => zoom(by, sizes[0] / 2, sizes[1] / 2),
    // For tests: the position of an item, in pixels of the page.
    where(item) { const inside = over.getBoundingClientRect(), [px, py] = toPixel(x[item], y[item]); return [inside.left + px, inside.top + py]; },
    end() { alive = false; clearTimeout(resting); if (watch) watch.disconnect(); if (gl) gl.getExtension('WEBGL_lose_context')?.loseContext(); },
  };
}
