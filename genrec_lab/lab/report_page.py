"""The frame of report.html: its style sheet, and the script that draws a figure when it comes into view."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1d2430; --faint: #5d6776; --line: #dfe3ea; --accent: #2457c5;
  --good: #1b7f4b; --bad: #b3261e; --warn: #8a5a00; --stripe: #f3f5f8; --mark: #eef3fd;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1014; --card: #14181d; --text: #e4e8ef; --faint: #9aa5b5; --line: #303947; --accent: #8ab0ff;
    --good: #63d199; --bad: #ff8a80; --warn: #f0c060; --stripe: #1f2631; --mark: #22304a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main, header { max-width: 1080px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 40px; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 6px; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 12px; display: flex; flex-wrap: wrap; gap: 4px 12px;
  align-items: baseline; }
h3 { font-size: 1rem; margin: 24px 0 8px; }
a { color: var(--accent); text-underline-offset: 2px; }
.lead, .note { color: var(--faint); margin: 0 0 12px; }
.note { font-size: .9rem; }
nav { margin: 20px 0 8px; padding: 12px 16px; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; }
nav ol { margin: 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 4px 20px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 22px 24px;
  margin: 16px 0; scroll-margin-top: 12px; }
.badge { font-size: .78rem; font-weight: 600; border: 1px solid currentColor; border-radius: 999px;
  padding: 1px 10px; color: var(--faint); }
.badge.finished { color: var(--good); } .badge.unfinished, .badge.damaged { color: var(--bad); }
.badge.stale, .badge.missing { color: var(--warn); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 12px; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--faint); font-size: .82rem; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.best td { background: var(--mark); font-weight: 600; }
th:first-child, td:first-child { padding-left: 8px; }
td.name { white-space: nowrap; width: 1%; color: var(--faint); }
code, pre, td.value { font-size: .86rem;
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td.value, code { overflow-wrap: anywhere; }
pre { background: var(--stripe); border-radius: 8px; padding: 12px 14px; overflow: auto; max-height: 420px;
  white-space: pre-wrap; }
details { margin: 14px 0 0; } summary { cursor: pointer; color: var(--accent); }
details > *:not(summary) { margin-top: 10px; }
figure { margin: 22px 0 0; overflow-x: auto; } .drawing { min-height: 440px; min-width: 640px; }
figcaption { color: var(--faint); font-size: .92rem; margin-top: 6px; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 0 36px; }
footer { max-width: 1080px; margin: 0 auto; padding: 8px 24px 48px; color: var(--faint); font-size: .88rem; }
@media (max-width: 640px) { main, header, footer { padding-left: 12px; padding-right: 12px; }
  section { padding: 16px 14px; } .columns { grid-template-columns: 1fr; } }
@media print { body { background: #fff; } section { break-inside: avoid-page; } nav { display: none; } }
"""

# `templates` holds plotly's light and dark template, so that the figures follow the page's colours.
SCRIPT = """
(function () {
  var dark = window.matchMedia('(prefers-color-scheme: dark)');
  var templates = JSON.parse(document.getElementById('templates').textContent);
  function themed(layout) {
    var copy = Object.assign({}, layout);
    copy.template = dark.matches ? templates.dark : templates.light;
    copy.autosize = true;
    delete copy.width;
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
"""
