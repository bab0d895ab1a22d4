// Draws each figure when it comes into view, in the colours of the page: `templates` holds plotly's light and dark one.
(function () {
  var dark = window.matchMedia('(prefers-color-scheme: dark)');
  var templates = JSON.parse(document.getElementById('templates').textContent);
  function themed(layout) {
    var copy = Object.assign({}, layout);
    copy.template = dark.matches ? templates.dark : templates.light;
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
  dark.addEventListener('change', function () {
    holders.forEach(function (holder) { if (holder.dataset.drawn) { draw(holder); } });
  });
})();
