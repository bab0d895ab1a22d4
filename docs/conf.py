"""Sphinx's settings for the site. `make docs` builds it, or `python -m sphinx -c docs . build/site` here.

Nothing is executed: the notebooks get the outputs of a run that has gone through them, and the explorer is a
file that `genrec explore --html` wrote. Without either the pages are built all the same, with less on them.
"""

import json
import shutil
from pathlib import Path
from typing import get_args

from plotly.offline import get_plotlyjs
from sphinx.application import Sphinx

import genrec_lab
from docs import pages
from genrec_lab.lab.folders import runs_root
from genrec_lab.viz.theme import Mode, template

HERE = Path(__file__).parent
BELOW = {"README": "start.md", "docs/results": "results.md"}
"""What the site adds at the end of a page: its place in the contents."""

project, author, version = "genrec_lab", "The genrec_lab contributors", genrec_lab.__version__
copyright = author
# The repository is the source folder, so links between notebooks, README and docs hold there and on the site.
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "notebooks/*", "docs/*.md", "docs/results/*.md"]
exclude_patterns = [".*", "build", "dist", "papermill_runs", "genrec_lab", "tests", "benchmarks", "examples"]
exclude_patterns += ["docs/site"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax"]
extensions += ["sphinx-mathjax-offline"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # by default scripts from the web
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence", "attrs_block"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "misc.highlighting_failure"]

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}
add_module_names = False
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_context = {"default_mode": "auto"}
html_title = "genrec_lab"
html_static_path = ["site/site.css", "../genrec_lab/lab/templates/report.js"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_start.html"}
templates_path = ["site"]
html_show_sourcelink = False
html_sidebars = {"README": [], "docs/explorer": []}
html_theme_options = {
    "logo": {"text": "genrec_lab"},
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "show_prev_next": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "docs/explorer": []},
    "show_toc_level": 1,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def fill_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Give a page what the site adds to the file in the repository."""
    config = app.config
    if name.startswith("notebooks/") and name != "notebooks/README":
        executed = Path(config.genrec_notebooks, Path(name).name + ".ipynb")
        ran = executed.read_text(encoding="utf-8") if executed.is_file() else None
        explorer = bool(config.genrec_explorer) and "explorer" in name
        source[0] = pages.with_outputs(source[0], ran, explorer=explorer)
    elif name in BELOW:
        source[0] += (HERE / "site" / BELOW[name]).read_text(encoding="utf-8")
    elif name == "docs/equations":
        source[0] = pages.with_code(source[0])
    elif name == "docs/explorer" and config.genrec_explorer:
        source[0] = pages.with_explorer(source[0])
    if not name.startswith("notebooks/"):
        source[0] = pages.without_folders(source[0], Path(app.srcdir, name).parent)


def add_files(app: Sphinx) -> None:
    """Put plotly's script and the explorer beside the pages."""
    static = Path(app.outdir, "_static")
    static.mkdir(parents=True, exist_ok=True)
    (static / "plotly.js").write_text(get_plotlyjs(), encoding="utf-8")
    if app.config.genrec_explorer:
        shutil.copy(app.config.genrec_explorer, Path(app.outdir, "explorer.html"))


def draw_figures(app: Sphinx, name: str, _: str, context: dict, doctree: object) -> None:
    """Load plotly on a page with figures, and what draws them in the page's colours."""
    if doctree is not None and 'class="drawing"' in context.get("body", ""):
        templates = {mode: template(mode).to_plotly_json() for mode in get_args(Mode)}
        app.add_js_file(None, body=json.dumps(templates), type="application/json", id="templates")
        app.add_js_file("plotly.js", loading_method="defer")
        app.add_js_file("report.js", loading_method="defer")


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.add_config_value("genrec_notebooks", str(runs_root() / "demo" / "notebooks"), "env")
    app.add_config_value("genrec_explorer", "", "env")
    app.connect("source-read", fill_page)
    app.connect("builder-inited", add_files)
    app.connect("html-page-context", draw_figures)
