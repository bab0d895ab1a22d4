"""The house rules of every notebook in notebooks/, and that each rule notices a notebook that breaks it."""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.validator import NotebookValidationError

from docs.contents import read_page
from genrec_lab.lab.files import RunError
from genrec_lab.lab.notebooks import check_notebook

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FILES = sorted(NOTEBOOKS.glob("*.ipynb"))
NUMBERED = re.compile(r"\d\d_[a-z]+(_[a-z]+)*")

# None: as the run has it, or as the demo has it for a new run.
PARAMETERS = {"run": "demo", "dataset": None, "preset": None, "overrides": None, "seed": None}
MOST_CODE_LINES = 140
MOST_LINES = {ast.FunctionDef: 25, ast.AsyncFunctionDef: 25, ast.ClassDef: 40}
MOST_CODE_CELLS_IN_A_ROW = 2
SLUG = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
ABSOLUTE = re.compile(
    r"(?<![\w.}>/:])/(?:home|root|Users|tmp|work|mnt|data|opt|var|srv|usr)\b|(?<![\w.])~/|\b[A-Za-z]:\\\\?\w"
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
# They load OpenMP, whose threads spin unless genrec_lab was imported before.
WITH_THREADS = {"torch", "transformers", "sklearn", "umap", "scipy"}


def problems(file):
    """Every house rule that a notebook breaks, a sentence each."""
    notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    found = [*_format(notebook), *_first_cells(file, notebook), *_order(notebook)]
    codes = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    for code in codes:
        found += _code(code)
    found += _thread_policy(codes)
    lessons = [cell.source for cell in notebook.cells if cell.cell_type == "code" and not _is_exercise(cell)]
    lines = sum(
        1 for code in lessons for line in code.splitlines() if line.strip() and line.strip()[0] != "#"
    )
    if lines > MOST_CODE_LINES:
        found.append(f"{lines} lines of code")
    return found + _texts(file, notebook)


def _format(notebook):
    try:
        nbformat.validate(notebook)
    except NotebookValidationError as error:
        yield f"not valid: {error.message}"
    if (notebook.nbformat, notebook.nbformat_minor) != (4, 5):
        yield f"format {notebook.nbformat}.{notebook.nbformat_minor} instead of 4.5"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "the kernel is not python3"
    for cell in notebook.cells:
        if not SLUG.fullmatch(cell.get("id", "")):
            yield f"the cell id {cell.get('id')!r} is no readable slug"
        if cell.cell_type == "code" and (cell.outputs or cell.execution_count is not None):
            yield f"the cell {cell.id!r} holds outputs or an execution count"


def _is_exercise(cell):
    return "exercise" in cell.metadata.get("tags", ())


def _first_cells(file, notebook):
    head, parameters, derive = (notebook.cells[place] for place in range(3))
    try:
        page = read_page(file)
    except RunError as error:
        yield str(error)
    else:
        if page.title != file.stem.replace("_", " ").replace(file.stem[3], file.stem[3].upper(), 1):
            yield f"the title {page.title!r} is not the file's name"
        if not re.search(r"second|minute|hour", page.time):
            yield f"the time {page.time!r} names no seconds, minutes or hours"
        if not page.question.endswith("?"):
            yield f"the question {page.question!r} is none"
    if head.cell_type != "markdown":
        yield "the first cell is not Markdown"
    if "parameters" not in parameters.metadata.get("tags", ()):
        yield "the second cell is not tagged 'parameters'"
    else:
        yield from _parameters(file, parameters.source)
    if derive.cell_type != "code" or not _calls(derive.source, {"open_run", "existing_run"}):
        yield "the third cell does not open the run"


def _parameters(file, source):
    try:
        check_notebook(file)
    except RunError as error:
        yield str(error)
        return
    values = {
        statement.targets[0].id: ast.literal_eval(statement.value)
        for statement in ast.parse(source).body
        if isinstance(statement, ast.Assign)
    }
    if list(values.items()) != list(PARAMETERS.items()):
        yield f"the parameters are {values}, in every notebook they are {PARAMETERS}"


def _order(notebook):
    in_a_row = 0
    for cell in notebook.cells[3:]:
        in_a_row = in_a_row + 1 if cell.cell_type == "code" else 0
        if in_a_row > MOST_CODE_CELLS_IN_A_ROW:
            yield f"the cell {cell.id!r} is the third code cell in a row without prose"
    headings = [
        line
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for line in cell.source.splitlines()
        if line.startswith("## ")
    ]
    if headings[-2:] != ["## What was written", "## Exercises"]:
        yield f"the last headings are {headings[-2:]}, not 'What was written' and 'Exercises'"
    numbers = [int(heading.split()[1]) for heading in headings if re.match(r"## \d+ ", heading)]
    if numbers != list(range(1, len(numbers) + 1)):
        yield f"the sections are numbered {numbers}"
    asked = [cell.source for cell in notebook.cells if cell.source.startswith("## Exercises")]
    numbered = len(re.findall(r"^\d\. ", asked[0], re.MULTILINE)) if asked else 2
    if max(numbered, sum(map(_is_exercise, notebook.cells))) < 2:
        yield "there are fewer than two exercises"
    if not LINK.match(notebook.cells[-1].source.splitlines()[-1]):
        yield "the last line of the last cell holds no links"


def _code(source):
    if re.search(r"^\s*[!%]", source, re.MULTILINE):
        yield f"shell or magic in {source!r}"
        return
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_LINES[type(node)]:
                yield f"{node.name} has {lines} lines, so it belongs into the package"
        if isinstance(node, ast.If) and "TEST" in ast.unparse(node.test).upper().split():
            yield "a branch for tests"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/"):
            yield f"the absolute path {node.value!r}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            if "tqdm.notebook" in names:
                yield f"the import {ast.unparse(node)!r}"
    if "sys.path" in ast.unparse(tree):
        yield "sys.path is changed"


def _thread_policy(codes):
    for code in codes:
        if re.search(r"^\s*[!%]", code, re.MULTILINE):
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                tops = {name.split(".")[0] for name in names if name}
                if "genrec_lab" in tops:
                    return
                for name in sorted(tops & WITH_THREADS):
                    yield f"{name} is imported before genrec_lab, which sets how its threads wait"


def _texts(file, notebook):
    found = []
    for cell in notebook.cells:
        if match := ABSOLUTE.search(cell.source):
            found.append(f"the absolute path {match[0]!r} in the cell {cell.id!r}")
        if cell.cell_type == "markdown":
            for target in LINK.findall(cell.source):
                path = target.partition("#")[0]
                if path and not target.startswith("https://") and not (file.parent / path).exists():
                    found.append(f"the link to {target!r} leads nowhere")
    return found


def _calls(source, names):
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names
        for node in ast.walk(ast.parse(source))
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_notebook_keeps_the_house_rules(file):
    assert NUMBERED.fullmatch(file.stem)
    assert problems(file) == []


def test_the_first_release_has_its_notebooks():
    assert [file.stem[:2] for file in FILES][:5] == ["00", "01", "02", "03", "04"]


# --- each rule notices what breaks it

HEAD = (
    "# 01 Good one\n\n**Question.** Is it good?\n\n**Inputs.** None.\n\n"
    "**Outputs.** `01_good_one/a.json`.\n\n**Time.** A second.\n\n[◀ 00 First](00_first.ipynb)"
)
LITERALS = "\n".join(f"{name} = {value!r}" for name, value in PARAMETERS.items())
OPEN = "from genrec_lab.lab import open_run\n\nlab = open_run(run, dataset=dataset, preset=preset)"
ENDING = "## Exercises\n\n1. One?"


def cells():
    md, code = nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell
    made = {
        "title": md(HEAD),
        "parameters": code(LITERALS, metadata={"tags": ["parameters"]}),
        "derive": code(OPEN),
        "idea": md("## 1 The idea\n\nWhat it is."),
        "work": code("class Two:\n    def twice(self, x):\n        return 2 * x\n\n\nTwo().twice(3)"),
        "see": md("What to see."),
        "written": md("## What was written\n\n- `01_good_one/a.json`"),
        "exercises": md(ENDING),
        "answer-1": code("one = ...\n\n\n# assert one", metadata={"tags": ["exercise"]}),
        "solution-1": md("2. Two?"),
        "answer-2": code("two = ...\n\n\n# assert two", metadata={"tags": ["exercise"]}),
        "end": md("[◀ 00 First](00_first.ipynb)"),
    }
    for slug, cell in made.items():
        cell["id"] = slug
    return made


def write(folder, made, **metadata):
    notebook = nbformat.v4.new_notebook(
        cells=list(made.values()), metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    )
    notebook.metadata.update(metadata)
    (folder / "00_first.ipynb").touch()
    file = folder / "01_good_one.ipynb"
    nbformat.write(notebook, file)
    return file


def test_a_good_notebook_has_no_problems(tmp_path):
    assert problems(write(tmp_path, cells())) == []


@pytest.mark.parametrize(
    ("cell", "source", "message"),
    [
        (
            "title",
            HEAD.replace("**Time.** A second.\n\n", ""),
            "that begins with '**Time.**'",
        ),
        ("title", HEAD.replace("A second", "TIME01"), "names no seconds"),
        ("title", HEAD.replace("# 01 Good one", "# 01 Another"), "is not the file's name"),
        ("title", HEAD.replace("# 01 Good one", "# 02 Good one"), "lacks the title"),
        ("title", HEAD.replace("Is it good?", "It is good."), "is none"),
        ("parameters", LITERALS + "\nlevels = 3", "'levels' is unknown"),
        ("parameters", LITERALS.replace("seed = None", "seed = int('0')"), "expected name = literal"),
        ("parameters", LITERALS.replace("preset = None", "preset = 'gmc'"), "in every notebook they are"),
        ("parameters", LITERALS.replace("seed = None", ""), "does not set 'seed'"),
        ("derive", "lab = None", "does not open the run"),
        ("work", "def long(x):\n" + "    x += 1\n" * 24 + "    return x", "long has 26 lines"),
        ("work", "class Model:\n" + "    a = 1\n" * 40, "Model has 41 lines"),
        ("work", "x = 0\n" * 140, "147 lines of code"),
        ("derive", "import torch\nfrom genrec_lab.lab import open_run\nopen_run()", "before genrec_lab"),
        ("work", "!pip install torch", "shell or magic"),
        ("work", "%matplotlib inline", "shell or magic"),
        ("work", "import sys\n\nsys.path.append('..')", "sys.path is changed"),
        ("work", "from tqdm.notebook import tqdm", "the import"),
        ("work", "if TEST:\n    users = 3", "a branch for tests"),
        ("work", "open('/etc/passwd')", "absolute path '/etc/passwd'"),
        ("see", "It is in /home/somebody/data.", "absolute path '/home'"),
        ("see", "It is in C:\\data.", "absolute path"),
        ("see", "See [there](nowhere.ipynb).", "leads nowhere"),
        ("idea", "## 2 The idea", "the sections are numbered [2]"),
        ("written", "Nothing.", "the last headings"),
        ("end", "The end.", "holds no links"),
    ],
)
def test_a_rule_notices_what_breaks_it(tmp_path, cell, source, message):
    made = cells()
    made[cell].source = source
    found = problems(write(tmp_path, made))
    assert any(message in problem for problem in found), found


def test_outputs_counts_tags_ids_and_kernels_are_noticed(tmp_path):
    made = cells()
    made["work"].outputs = [nbformat.v4.new_output("stream", text="6")]
    made["derive"].execution_count = 1
    made["see"]["id"] = "8f3a-Q"
    found = problems(write(tmp_path, made, kernelspec={"name": "conda-env", "display_name": "x"}))
    assert len(found) == 4
    made = cells()
    del made["parameters"].metadata["tags"], made["answer-2"].metadata["tags"]
    found = problems(write(tmp_path, made))
    assert {"the second cell is not tagged 'parameters'", "there are fewer than two exercises"} <= set(found)
    made = cells()
    made["work"].metadata["tags"] = ["parameters"]
    assert any("2 cells tagged 'parameters'" in problem for problem in problems(write(tmp_path, made)))


def test_code_without_prose_is_noticed(tmp_path):
    made = cells()
    more = {slug: nbformat.v4.new_code_cell("1 + 1", id=slug) for slug in ("more", "most")}
    places = list(made.items())
    at = list(made).index("see")
    found = problems(write(tmp_path, dict([*places[:at], *more.items(), *places[at:]])))
    assert found == ["the cell 'most' is the third code cell in a row without prose"]
