"""The project's own files agree with each other, and the package keeps its shape."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from jupyter_client.manager import KernelManager
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import genrec_lab
from tests import mutations

REPOSITORY = Path(__file__).resolve().parents[2]
PYPROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = PYPROJECT["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# What conda-forge calls a package of another name on PyPI.
PYPI_NAMES = {"pytorch": "torch"}

# The names that scripts outside this repository call, by module.
PUBLIC_NAMES = {
    "genrec_lab.codes": ["ItemCodes"],
    "genrec_lab.data": ["Dataset", "Split", "k_core", "leave_one_out", "load_dataset"],
    "genrec_lab.decoding": ["CodeTrie", "Ranked", "beam_search", "exact_top_k"],
    "genrec_lab.evaluation": ["CodeHealth", "code_health", "ndcg_at_k", "recall_at_k"],
    "genrec_lab.losses": [
        "domain_contrastive_loss",
        "info_nce",
        "residual_quantization_loss",
        "tree_code_loss",
    ],
    "genrec_lab.models": ["Recommender"],
    "genrec_lab.presets": ["load", "names"],
}


def _requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    parsed = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement.specifier for requirement in parsed}


def _pins() -> dict[str, str]:
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    malformed = [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)]
    assert not malformed, f"constraints.txt: not of the form name==version without a local label: {malformed}"
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in pins)}


def test_version_has_one_source() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "genrec_lab/__init__.py"
    assert citation["version"] == genrec_lab.__version__


def test_environment_agrees_with_pyproject() -> None:
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
    conda = _requirements([entry for entry in environment["dependencies"] if isinstance(entry, str)])
    conda = {PYPI_NAMES.get(name, name): specifier for name, specifier in conda.items()}
    assert conda.pop("python") == SpecifierSet(PROJECT["requires-python"])
    assert conda.pop("pip") == SpecifierSet()
    named = {name: conda.pop(name) for name in ("jupyterlab", "nbval", "pytest")}
    extras = _requirements([*EXTRAS["explore"], *EXTRAS["dev"]])
    assert named == {name: extras[name] for name in named}
    assert conda == _requirements(PROJECT["dependencies"])


def test_environment_installs_the_package_with_known_extras() -> None:
    environment = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
    (by_pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    (package,) = [re.fullmatch(r"-e \.\[(.+)\]", line) for line in by_pip]
    assert package is not None
    assert set(package[1].split(",")) <= set(EXTRAS)
    assert f"$(STAMP): EXTRAS := {package[1]}\n" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")


def test_the_demo_installs_neither_browser_nor_benchmarks_nor_linters(tmp_path: Path) -> None:
    def commands(target: str) -> str:
        make = ["make", "-n", target, f"VENV={tmp_path / 'venv'}"]
        return subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout

    (demo,) = re.findall(r"-e '\.\[(.+)\]'", commands("demo"))
    (test,) = re.findall(r"-e '\.\[(.+)\]'", commands("setup"))
    assert demo.split(",") == ["offline"]
    assert set(test.split(",")) == set(EXTRAS)


def test_the_megabytes_of_a_log_of_pip_are_added_up(tmp_path: Path) -> None:
    lines = ["Downloading a-1.whl (1.5 MB)", "  Downloading b-1.whl (500 kB)", "Using cached c-1.whl (7 MB)"]
    (tmp_path / "venv").mkdir()
    log = tmp_path / "venv" / "pip.log"
    log.write_text("".join(f"2026-01-01T00:00:00,000 {line}\n" for line in lines), encoding="utf-8")
    make = ["make", "-n", "demo", f"VENV={tmp_path / 'venv'}"]
    planned = subprocess.run(make, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    (awk,) = re.findall(r"^awk '.+pip\.log$", planned, re.MULTILINE | re.DOTALL)
    answer = subprocess.run(["sh", "-c", awk], capture_output=True, text=True, check=True)
    assert answer.stdout == "Downloaded 2 MB.\n"


@pytest.mark.parametrize("part", ["dependencies", *EXTRAS])
def test_constraints_pin_every_direct_dependency_in_its_range(part: str) -> None:
    pins = _pins()
    wanted = _requirements(PROJECT["dependencies"] if part == "dependencies" else EXTRAS[part])
    assert set(wanted) <= set(pins)
    outside = {name: pins[name] for name, range_ in wanted.items() if not range_.contains(pins[name])}
    assert not outside, f"constraints.txt pins outside the range of pyproject.toml: {outside}"


def test_lint_and_types_check_the_oldest_supported_python() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert PYPROJECT["tool"]["mypy"]["python_version"] == oldest
    assert PYPROJECT["tool"]["ruff"]["target-version"] == "py" + oldest.replace(".", "")


def _imported(file: Path) -> set[str]:
    """Top-level names of the modules that a file imports anywhere, relative imports left out."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_package_imports_only_declared_dependencies() -> None:
    # An optional package that the code asks for inside a try is declared as an extra.
    declared = set(_requirements([*PROJECT["dependencies"], *chain.from_iterable(EXTRAS.values())]))
    distributions = importlib.metadata.packages_distributions()
    undeclared = []
    for file in sorted((REPOSITORY / "genrec_lab").rglob("*.py")):
        for module in sorted(_imported(file) - set(sys.stdlib_module_names) - {"genrec_lab"}):
            providers = {canonicalize_name(name) for name in distributions.get(module, [module])}
            if not providers & declared:
                undeclared.append(f"{file.relative_to(REPOSITORY)}: {module}")
    assert not undeclared, f"imported but not in pyproject.toml: {undeclared}"


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    # The folder's own package, not the installed one; a set PYTHONPATH would come before it.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_imports_point_one_way() -> None:
    answer = _lint_imports(REPOSITORY)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("file", "line", "complaint"),
    [
        (
            "data/__init__.py",
            "import genrec_lab.lab\n",
            "data is not allowed to import genrec_lab.lab",
        ),
        (
            "encoders/__init__.py",
            "import genrec_lab.decoding\n",
            "encoders is not allowed to import genrec_lab.decoding",
        ),
        ("without_a_layer.py", "", "without_a_layer"),
    ],
)
def test_an_import_that_points_up_is_found(tmp_path: Path, file: str, line: str, complaint: str) -> None:
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "genrec_lab", tmp_path / "genrec_lab", ignore=ignore)
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    with (tmp_path / "genrec_lab" / file).open("a", encoding="utf-8") as module:
        module.write("\n" + line)
    answer = _lint_imports(tmp_path)
    assert answer.returncode != 0
    assert complaint in " ".join(answer.stdout.split())


@pytest.mark.parametrize(("module", "names"), PUBLIC_NAMES.items())
def test_public_names_stand(module: str, names: list[str]) -> None:
    found = importlib.import_module(module)
    assert [name for name in names if not callable(getattr(found, name, None))] == []


def test_every_mutation_fits_the_code() -> None:
    assert list(mutations.refused()) == []


def test_kernel_python3_is_this_interpreter() -> None:
    # A kernel of the same name elsewhere on the machine would run the notebooks in another environment.
    command = KernelManager(kernel_name="python3").format_kernel_cmd()
    assert Path(command[0]) == Path(sys.executable)
