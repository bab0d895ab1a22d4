"""What the site adds to the pages of the repository, and what its pages promise."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import plotly.io as pio
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import genrec_lab
from docs import pages

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"


def equations() -> dict[str, list[list[str]]]:
    """The cells of each equation's line, by paper."""
    found: dict[str, list[list[str]]] = {}
    for line in (DOCS / "equations.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            found[line[3:]] = []
        elif line.startswith("| ") and not line.startswith("| Eq."):
            found[list(found)[-1]].append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def defined(file: Path) -> set[str]:
    """The functions of a module, and the methods of its classes as Class.method."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    methods = [
        f"{outer.name}.{inner.name}"
        for outer in tree.body
        if isinstance(outer, ast.ClassDef)
        for inner in outer.body
        if isinstance(inner, ast.FunctionDef)
    ]
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)} | set(methods)


def test_every_equation_has_a_function_and_a_test_that_exist() -> None:
    papers = equations()
    assert [row[0] for row in papers["GMC"]] == [str(number) for number in range(1, 11)]
    assert [row[0] for row in papers["UTGRec"]] == [str(number) for number in range(1, 15)]
    for row in [*papers["GMC"], *papers["UTGRec"]]:
        for cell, folder in ((row[3], "genrec_lab/"), (row[4], "tests/")):
            named = pages.CODE.findall(cell)
            assert named and len(named) == cell.count("]("), cell
            for stem, (name, file) in zip(re.findall(r"\[`(\w+)\.", cell), named, strict=True):
                assert file.startswith(folder) and Path(file).stem == stem
                assert name in defined(REPOSITORY / file), f"{file} has no {name}"
                assert folder != "tests/" or name.rpartition(".")[2].startswith("test_")


def test_the_page_on_the_package_has_every_public_name() -> None:
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\.\. auto(?:class|function|module):: genrec_lab\.(\w+)$", page, re.MULTILINE)
    assert sorted(shown) == genrec_lab.__all__


def test_extras_on_the_page_on_installing_are_those_of_the_project() -> None:
    page = (DOCS / "install.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    assert set(re.findall(r"`(\w+)`", "".join(rows))) == set(re.findall(r"^(\w+) = \[", extras, re.MULTILINE))


def notebook(*cells: tuple[str, list[object]]) -> str:
    return nbformat.writes(new_notebook(cells=[new_code_cell(code, outputs=said) for code, said in cells]))


def figure(data: dict[str, object]) -> object:
    return new_output("display_data", {pages.PLOTLY: data, "text/html": "from the web"})


def test_a_cell_has_the_output_of_the_same_code_and_no_other() -> None:
    said = new_output("stream", text="said")
    executed = notebook(("injected = 1", []), ("answer()", [said]), ("old()", [said]))
    made = nbformat.reads(pages.with_outputs(notebook(("answer()", []), ("new()", [])), executed), 4)
    assert [cell.outputs for cell in made.cells] == [[said], []]
    assert "said" not in pages.with_outputs(notebook(("answer()", [said])), None)


def test_a_figure_is_kept_whole_and_reaches_for_nothing_on_the_web() -> None:
    drawn = go.Figure(go.Bar(y=[1, 2])).to_plotly_json() | {"name": "</script><b>"}
    made = nbformat.reads(pages.with_outputs(notebook(("f()", [])), notebook(("f()", [figure(drawn)]))), 4)
    (page,) = [output.data["text/html"] for output in made.cells[0].outputs]
    assert "from the web" not in page and page.count("</script>") == 1
    assert json.loads(re.search(r"<script[^>]*>(.*)</script>", page)[1]) == json.loads(json.dumps(drawn))


def test_the_script_that_plotly_loads_from_the_web_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts: list[str] = []
    monkeypatch.setattr("IPython.display.display_html", lambda script, raw: scripts.append(script))
    pio.renderers["notebook_connected"].activate()
    (script,) = scripts
    assert "https://" in script
    loader = new_output("display_data", {"text/html": script})
    drawn = figure(go.Figure(go.Bar(y=[1, 2])).to_plotly_json())
    made = pages.with_outputs(notebook(("f()", [])), notebook(("f()", [loader, drawn])))
    assert "https://" not in made and len(nbformat.reads(made, 4).cells[0].outputs) == 1


@pytest.mark.parametrize("explorer", [True, False])
def test_a_widget_becomes_the_explorer_or_its_table(explorer: bool) -> None:
    widget = new_output("display_data", {pages.WIDGET: {}, "text/html": "<table>still</table>"})
    made = pages.with_outputs(notebook(("f()", [])), notebook(("f()", [widget])), explorer=explorer)
    assert ("explorer.html" in made, "still" in made) == (explorer, not explorer)


def test_each_function_stands_once_and_the_table_leads_to_it() -> None:
    table = "| [`losses.info_nce`](../genrec_lab/losses.py) | [`losses.info_nce`](../genrec_lab/losses.py) |"
    page = pages.with_code(table)
    assert page.count("](#losses-info-nce)") == 2 and page.count("\n(losses-info-nce)=\n") == 1
    assert page.count(":pyobject: info_nce") == 1


def test_tables_of_results_state_the_fingerprint_of_their_data() -> None:
    link = re.compile(r"\[[Rr]ecords of data\s`(\w+)`\]\(([\w/]+\.json)\)")
    pages_with_tables = [DOCS / "results.md", *sorted((DOCS / "results").glob("*.md"))]
    stated = [(page, *found) for page in pages_with_tables for found in link.findall(page.read_text())]
    assert len(stated) >= 9
    for page, data, file in stated:
        runs = json.loads((page.parent / file).read_text())["runs"]
        assert {run["dataset"] for run in runs} == {data}, f"{page.name}: {file}"


def test_links_to_folders_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    text = "[a](folder/) and [b](file.md) and ![c](folder)"
    assert pages.without_folders(text, tmp_path) == "a and [b](file.md) and ![c](folder)"
