"""`import genrec_lab`: every public name has an example that runs; nothing is loaded before it is used."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

import genrec_lab
from genrec_lab import registry

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that examples open are thrown away, and what they register is forgotten."""
    monkeypatch.setenv("GENREC_RUNS", str(tmp_path))
    monkeypatch.setattr(registry, "_base", tmp_path)
    kept: dict[Any, dict[str, Any]] = {}
    register = registry.Registry.register

    def noting(self: Any, name: str) -> Any:
        if self not in kept:
            kept[self] = self._components
            monkeypatch.setattr(self, "_components", dict(self._components))
        return register(self, name)

    monkeypatch.setattr(registry.Registry, "register", noting)


@pytest.mark.parametrize("name", ["genrec_lab", *genrec_lab.__all__])
def test_a_public_name_is_explained_with_an_example_that_runs(name: str) -> None:
    found = genrec_lab if name == "genrec_lab" else getattr(genrec_lab, name)
    module = found if isinstance(found, ModuleType) else importlib.import_module(found.__module__)
    text = inspect.getdoc(found) or ""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    example = doctest.DocTestParser().get_doctest(text, dict(vars(module)), name, None, None)
    assert example.examples, f"{name} has no example"
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=options).run(example, out=said.append)
    assert result.failed == 0, "".join(said)


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh Python has loaded after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('loaded', *sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.rpartition("loaded ")[2].split())


def ours(modules: set[str]) -> list[str]:
    return sorted(name for name in modules if name.startswith("genrec_lab"))


@pytest.mark.parametrize("tokenizer", ["RQVAE", "ResidualKMeans"])
def test_a_tokenizer_by_hand_loads_few_modules_and_core_alone(tokenizer: str) -> None:
    sizes = "hidden=(8,), dimension=4, epochs=1, " if tokenizer == "RQVAE" else ""
    loaded = loaded_by(
        "import numpy as np, genrec_lab\n"
        f"kind = genrec_lab.{tokenizer}\n"
        f"made = kind(kind.Config({sizes}levels=2, codebook_size=4))\n"
        "x = np.random.default_rng(0).normal(size=(40, 6))\n"
        "assert made.fit(x).encode(x).shape == (40, 2)"
    )
    assert len(ours(loaded)) < 40, ours(loaded)
    assert not {"plotly", "IPython", "papermill", "jupyter_client"} & loaded


def test_core_loads_neither_plotly_nor_jupyter_nor_the_lab() -> None:
    core = ["bazaar", "codes", "data", "decoding", "encoders", "evaluation", "losses", "models", "training"]
    parts = [f"genrec_lab.{name}" for name in core]
    everything = (
        "import importlib, pkgutil\n"
        f"for name in {parts}:\n"
        "    package = importlib.import_module(name)\n"
        "    for one in pkgutil.walk_packages(getattr(package, '__path__', []), f'{name}.'):\n"
        "        importlib.import_module(one.name)"
    )
    loaded = loaded_by(everything)
    assert set(parts) <= loaded
    outside = {"plotly", "IPython", "papermill", "jupyter_client", "ipywidgets", "anywidget"}
    outside |= {f"genrec_lab.{name}" for name in ("viz", "lab", "presets", "scale", "cli")}
    assert not outside & loaded


def test_models_are_also_found_in_the_packages_of_their_families() -> None:
    from genrec_lab import models
    from genrec_lab.models.sequential import SASRec
    from genrec_lab.models.tokenizers import RQVAE

    assert (SASRec, RQVAE) == (models.SASRec, models.RQVAE)
    assert not hasattr(models.sequential, "RQVAE")


def test_notebook_02_loads_under_120_modules() -> None:
    cells = nbformat.read(REPOSITORY / "notebooks" / "02_tokenizer_training.ipynb", as_version=4).cells
    trees = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    imports = [node for tree in trees for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    loaded = ours(loaded_by("\n".join(map(ast.unparse, imports))))
    assert 40 < len(loaded) < 120, loaded


def test_names_are_declared_where_the_page_on_extending_says() -> None:
    page = (REPOSITORY / "docs" / "extending.md").read_text().partition("## In the package itself")[2]
    places = re.findall(r"\| `(_?[A-Z_]+)` in `([a-z_/.]+)` \|", page)
    assert len(places) == 5
    for name, file in places:
        assert re.search(rf"^{name}\b", (REPOSITORY / "genrec_lab" / file).read_text(), re.MULTILINE)
