// Draws each figure when it comes into view, in the colours of the page: `templates` holds plotly's light and dark one.
(function () {
  // A page that has a switch, as the site's, says by `data-theme` what was chosen; others follow the system.
  var dark = window.matchMedia('(prefers-color-scheme: dark)'), root = document.documentElement;
  var templates = JSON.parse(document.getElementById('templates').textContent);
  function themed(layout) {
    var copy = Object.assign({}, layout);
    var mode = root.dataset.theme || (dark.matches ? 'dark' : 'light');
    copy.template = templates[mode];
    copy.autosize = true;
    delete copy.width;
    var colours = copy.template.layout;
    if (copy.sliders) {
      copy.sliders = copy.sliders.map(function (slider) {
        var line = colours.xaxis.linecolor;
        return Object.assign({bgcolor: line, bordercolor: line, tickcolor: line}, slider);
      });
    }
    return copy;
  }
  function draw(holder) {
    var stored = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
    var options = {responsive: true, displaylogo: false, plotlyServerURL: '', showSendToCloud: false};
    if (stored.layout && stored.layout.height) { holder.style.minHeight = stored.layout.height + 'px'; }
    Plotly.react(holder, stored.data, themed(stored.layout), options).then(function () {
      if (stored.frames && stored.frames.length) { Plotly.addFrames(holder, stored.frames); }
      holder.dataset.drawn = 'yes';
    });
  }
  var holders = Array.prototype.slice.call(document.querySelectorAll('.drawing'));
  var seen = new IntersectionObserver(function (entries) {
    entries.forEach(function (entry) {
      if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target); }
    });
  }, {rootMargin: '600px'});
  holders.forEach(function (holder) { seen.observe(holder); });
  window.addEventListener('beforeprint', function () {
    holders.forEach(function (holder) {
      if (!holder.dataset.drawn) { seen.unobserve(holder); draw(holder); }
    });
  });
  function redraw() {
    holders.forEach(function (holder) { if (holder.dataset.drawn) { draw(holder); } });
  }
  dark.addEventListener('change', redraw);
  new MutationObserver(redraw).observe(root, {attributeFilter: ['data-theme']});
})();
