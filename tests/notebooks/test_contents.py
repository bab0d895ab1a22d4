"""Links, tables and promises that are read from the notebooks."""

from pathlib import Path

import nbformat
import pytest

from docs.contents import BEGIN, END, links, main, missing_outputs, promised, read_page, updated
from genrec_lab.lab.files import RunError

REPOSITORY = Path(__file__).parents[2]


def write(folder, name, outputs="Nothing.", written="", last=""):
    head = (
        f"# {name.replace('_', ' ')}\n\n**Question.** Why\n{name}?\n\n**Inputs.** a | b\n\n"
        f"**Outputs.** {outputs}\n\n**Time.** A second."
    )
    sources = [head, "1 + 1", f"## What was written\n\n{written}", last]
    kinds = ("markdown", "code", "markdown", "markdown")
    made = [
        getattr(nbformat.v4, f"new_{kind}_cell")(source) for kind, source in zip(kinds, sources, strict=True)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=made), folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "genrec_lab"\n')
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in ("00_first", "02_second", "05_third"):
        write(folder, name, last="[◀ 01 Gone](01_gone.ipynb)")
    (folder / "README.md").write_text(f"Before.\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    return tmp_path


def test_links_lead_to_the_notebooks_before_and_after(checkout, monkeypatch, capsys):
    monkeypatch.chdir(checkout)
    assert main(["--check"]) == 1
    assert "notebooks/02_second.ipynb: out of date" in capsys.readouterr().out
    assert main([]) == 0
    assert updated(checkout) == {}
    assert main(["--check"]) == 0

    cells = nbformat.read(checkout / "notebooks" / "02_second.ipynb", as_version=4).cells
    wanted = "[◀ 00 first](00_first.ipynb) · [05 third ▶](05_third.ipynb)"
    assert cells[0].source.endswith(f"**Time.** A second.\n\n{wanted}")
    assert cells[-1].source == wanted  # in place of the link to a notebook that is gone
    first = nbformat.read(checkout / "notebooks" / "00_first.ipynb", as_version=4).cells
    assert first[-1].source == "[02 second ▶](02_second.ipynb)"


def test_the_table_replaces_only_what_is_between_the_comments(checkout, monkeypatch):
    (checkout / "README.md").write_text("No table here.")
    monkeypatch.chdir(checkout)
    main([])
    text = (checkout / "notebooks" / "README.md").read_text()
    assert text.startswith("Before.\n\n")
    assert text.endswith("\n\nAfter.\n")
    rows = [line for line in text.splitlines() if line.startswith("| [")]
    assert rows[1] == "| [02 second](02_second.ipynb) | Why 02_second? | a \\| b | Nothing. | A second. |"
    assert (checkout / "README.md").read_text() == "No table here."


def test_promises_are_found_in_the_run_or_anywhere_in_the_own_stage(tmp_path):
    file = write(
        tmp_path,
        "05_third",
        outputs="`05_third/`: `<row>/<scope>/` with `model.safetensors`; `metrics.json`; `training.epochs`",
        written="- `05_third/<row>/history.json`\n- the figure `curves`",
    )
    names = promised(read_page(file))
    assert names == ["05_third", "*/*", "model.safetensors", "metrics.json", "05_third/*/history.json"]
    run = tmp_path / "run"
    (run / "05_third" / "gmc" / "all").mkdir(parents=True)
    (run / "05_third" / "gmc" / "all" / "model.safetensors").touch()
    (run / "metrics.json").touch()
    assert missing_outputs(file, run) == ["05_third/*/history.json"]
    (run / "05_third" / "gmc" / "history.json").touch()
    assert missing_outputs(file, run) == []


def test_a_notebook_that_does_not_introduce_itself_is_named(tmp_path):
    file = write(tmp_path, "05_third")
    notebook = nbformat.read(file, as_version=4)
    notebook.cells[0].source = notebook.cells[0].source.replace("**Inputs.**", "Inputs:")
    nbformat.write(notebook, file)
    with pytest.raises(RunError, match=r"05_third\.ipynb: its first cell lacks .*Inputs"):
        read_page(file)


def test_a_single_notebook_has_no_links(tmp_path):
    assert links([read_page(write(tmp_path, "05_third"))], 0) == ""


def test_links_and_tables_of_this_repository_are_current():
    changes = updated(REPOSITORY)
    assert not changes, f"run `python -m docs.contents`: {sorted(map(str, changes))}"
