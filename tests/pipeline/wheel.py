"""The wheel alone: built from this checkout and installed into an environment without it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.pipeline.truth_chain import REPOSITORY

# Neither the checkout nor the tests' folder of runs is to be found.
OUTSIDE = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "GENREC_RUNS")}


def installed_wheel(folder: Path) -> Path:
    """The command `genrec` of the wheel, installed into an environment of its own below a folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, REPOSITORY]
    subprocess.run(built, check=True, timeout=300)
    (wheel,) = folder.glob("genrec_lab-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "genrec_lab/notebooks/07_evaluation.ipynb" in names
    assert "genrec_lab/notebooks/10_your_own_method.ipynb" in names
    assert "genrec_lab/papermill_runs/demo.yaml" in names
    assert "genrec_lab/lab/templates/report.html" in names
    outside = ("tests", "docs", "notebooks/", "papermill_runs/")
    assert not [name for name in names if "papermill_runs/out" in name or name.startswith(outside)]
    venv = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=300)
    install = [*pip, "--python", venv / "bin" / "python", "install", "--no-deps", wheel]
    subprocess.run(install, check=True, timeout=300)
    # what it depends on comes from this environment; its own copy of genrec_lab, if it is editable, does not
    (packages,) = venv.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "dependencies.pth").write_text("\n".join(here) + "\n")
    return venv / "bin" / "genrec"
