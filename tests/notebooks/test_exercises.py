"""Each notebook writes what it promises; each exercise refuses an empty answer and accepts its solution."""

import re
from pathlib import Path

import nbformat
import pytest

from docs.contents import missing_outputs
from genrec_lab.lab import open_run
from genrec_lab.lab.folders import runs_root
from genrec_lab.viz import projection

# Those of 04 and 10 are open questions.
FILES = sorted((Path(__file__).parents[2] / "notebooks").glob("0[0-35-9]_*.ipynb"))
SOLUTION = re.compile(r"<details><summary>Solution</summary>\s*```python\n(.+?)```", re.DOTALL)
CHECK = re.compile(r"^# ?", re.MULTILINE)
# Written with the report; and of a transfer, which this run has none of.
ELSEWHERE = {"metrics.json", "*/tokenizers/*", "06_domain_adaptation/*/tokenizers/*"}


@pytest.fixture(scope="module", autouse=True)
def tiny_run(tmp_path_factory):
    """The run that the notebooks open, at the smallest sizes."""
    with pytest.MonkeyPatch.context() as patch:
        # No exercise reads UMAP's map, which takes half a minute to compile.
        patch.setattr(projection, "_umap", lambda vectors, seed: vectors[:, :2].astype(float))
        patch.setenv("GENREC_RUNS", str(tmp_path_factory.mktemp("runs")))
        data = {"name": "bazaar", "items": 300, "users": 300}
        changes = {"compare": ["popularity", "sasrec", "tiger", "gmc_without_lora"]}
        open_run("demo", dataset=data, preset="gmc_tiny", overrides=changes)
        yield


def exercises(cells):
    """Yield places of answer cells, with the check in each and the solution in the cell after it."""
    for place, cell in enumerate(cells):
        if "exercise" in cell.metadata.get("tags", ()):
            solution = SOLUTION.search(cells[place + 1].source)
            assert solution, f"the cell after {cell.id!r} has no solution"
            begin = cell.source.index("\n\n\n# ")
            yield place, cell.source[:begin], CHECK.sub("", cell.source[begin:]), solution[1]


# In the order of the files, as each reads what the ones before it made.
@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_exercises_refuse_an_empty_answer_and_accept_the_solution(file):
    cells = nbformat.read(file, as_version=4).cells
    names = {"__name__": "__main__"}
    found = list(exercises(cells))
    assert len(found) >= 2
    for cell in cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{file.stem}/{cell.id}", "exec"), names)  # noqa: S102 - our own notebook
    assert set(missing_outputs(file, runs_root() / "demo")) <= ELSEWHERE
    for place, empty, check, solution in found:
        exec(empty, names)  # noqa: S102
        refused = False
        try:
            exec(check, names)  # noqa: S102
        except Exception:  # noqa: BLE001 - whatever an empty answer leads to
            refused = True
        assert refused, f"{cells[place].id} accepts an empty answer"
        exec(solution, names)  # noqa: S102
        exec(compile(check, f"{file.stem}/{cells[place].id}", "exec"), names)  # noqa: S102


@pytest.mark.slow
def test_what_the_page_on_full_runs_reads_of_a_run_is_there():
    page = (Path(__file__).parents[2] / "docs" / "full_runs.md").read_text(encoding="utf-8")
    places = [place.replace("gmc_cpu", "gmc_tiny") for place in re.findall(r"\$RUN/(\S+)", page)]
    assert len(places) == 4
    assert [place for place in places if not (runs_root() / "demo" / place).exists()] == []
