// Functions for all parts of the screen. The files of this folder are joined into one module, in the order
// given in html_file.py.

function made(tag, name = '', text = '', settings = {}) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  // Titles are data: they are written as text, never as HTML.
  if (text !== '') element.textContent = text;
  return Object.assign(element, settings);
}

function button(text, act, name = '', title = '') {
  const element = made('button', name, text, {type: 'button', title});
  element.addEventListener('click', act);
  return element;
}

function picture(name, source, alt) {
  return made('img', name, '', {src: source, alt, loading: 'lazy'});
}

// Write a share as a percentage; a positive share is never rounded to 0, nor a share below 1 to 100.
function share(value) {
  const percent = 100 * value;
  if (percent === 0 || percent === 100) return `${percent} %`;
  if (percent < 0.1) return '< 0.1 %';
  if (percent > 99.9) return '> 99.9 %';
  return `${percent.toFixed(percent < 10 || percent >= 99 ? 1 : 0)} %`;
}

function shown(value, kind) {
  if (value === null || value === undefined) return '–';
  if (kind === 'share') return share(value);
  if (typeof value === 'boolean') return value ? 'yes' : 'no';
  if (typeof value !== 'number') return String(value);
  if (Number.isInteger(value)) return value.toLocaleString('en');
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(Math.abs(value) < 10 ? 2 : 1);
}

function debounced(act, milliseconds) {
  let waiting;
  return (...given) => { clearTimeout(waiting); waiting = setTimeout(() => act(...given), milliseconds); };
}

// Show a message in place of a part that cannot be drawn, for example because WebGL is missing.
function complain(place, what, error) {
  place.classList.add('genrec-broken');
  place.textContent = `${what} cannot be drawn here: ${error.message || error}`;
}
