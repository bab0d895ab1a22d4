// Item cards: a heading, lines of text, and a button an item. Titles are written as text, never as HTML, and
// Python learns whether the page around is dark.
function isDark() {
  const body = document.body;
  if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === 'false';
  return body.classList.contains('vscode-dark') || body.classList.contains('vscode-high-contrast');
}

function made(tag, name, text) {
  const element = document.createElement(tag);
  element.className = name;
  if (text) element.textContent = text;
  return element;
}

function picture(name, source, alt) {
  const image = made('img', name);
  image.src = source;
  image.alt = alt;
  image.loading = 'lazy';
  return image;
}

function card(model, item) {
  const button = made('button', 'genrec-card' + (item.chosen ? ' genrec-chosen' : ''));
  button.type = 'button';
  button.title = item.title;
  if (item.picture) button.append(picture('genrec-picture', item.picture, ''));
  else if (model.get('pictured')) button.append(made('span', 'genrec-picture genrec-none', 'no picture'));
  const words = made('span', 'genrec-words');
  words.append(made('span', 'genrec-title', item.title || 'without a title'));
  words.append(made('span', 'genrec-quiet', item.domain), made('span', 'genrec-codes', item.codes));
  words.append(made('span', 'genrec-quiet', item.note));
  button.append(words);
  button.addEventListener('click', () => model.send({item: item.item}));
  return button;
}

// Cards of one part stand in one grid below its name.
function grids(model) {
  const shown = [];
  let part = null, grid = null;
  for (const item of model.get('cards')) {
    if (grid === null || (item.part || '') !== part) {
      part = item.part || '';
      grid = made('div', 'genrec-grid');
      if (part) shown.push(made('h5', '', part));
      shown.push(grid);
    }
    grid.append(card(model, item));
  }
  return shown;
}

function head(model) {
  const box = made('div', 'genrec-head');
  box.append(made('h4', '', model.get('heading')), ...model.get('lines').map(line => made('p', '', line)));
  const told = model.get('told');
  if (told.words) {
    const decoded = made('div', 'genrec-told');
    if (told.picture) decoded.append(picture('genrec-drawn', told.picture, 'picture drawn from these codes'));
    decoded.append(made('p', '', told.words));
    box.append(decoded);
  }
  return box;
}

function render({model, el}) {
  el.classList.add('genrec-side');
  const draw = () => el.replaceChildren(head(model), ...grids(model));
  const tell = () => { model.set('page_is_dark', isDark()); model.save_changes(); };
  model.on('change:heading change:lines change:cards change:told', draw);
  draw();
  tell();
  const watch = new MutationObserver(tell);
  watch.observe(document.body, {attributes: true, attributeFilter: ['data-jp-theme-light', 'class']});
  let alive = true;
  const guard = () => {
    // JupyterLab takes the arrows and Enter for its own shortcuts, unless what has the focus says no itself.
    const root = el.closest('.genrec-explorer');
    const mine = event => { event.target.dataset.lmSuppressShortcuts = 'true'; };
    if (root) root.addEventListener('focusin', mine);
    else if (alive) requestAnimationFrame(guard);
  };
  guard();
  return () => { alive = false; watch.disconnect(); };
}

export default {render};
