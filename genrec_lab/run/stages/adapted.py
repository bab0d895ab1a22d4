"""What stage 06 made, read for its notebook: curves, sizes on disk, and what is trained for each domain."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from genrec_lab.presets import MethodConfig, methods
from genrec_lab.run.stages.adapting import ADAPTING, adapter_bytes
from genrec_lab.run.stages.recommending import RECOMMENDING
from genrec_lab.run.store import Run
from genrec_lab.viz.layout import counted


def adapted_methods(run: Run) -> list[str]:
    """Return the methods of a run that are adapted to domains; empty where none is."""
    return [name for name, config in methods(run.config).items() if config.adaptation.kind != "none"]


def describe_adaptation(run: Run) -> str:
    """Say what is trained for each domain, or why nothing is: a line for each generative method of a run."""
    return "\n".join(f"{name}: {_described(config)}" for name, config in methods(run.config).items())


def load_adaptation_history(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read the epoch records of every adaptation by method and domain; epoch 0 is before any training."""
    folder, found = run.read_stage(ADAPTING), {}
    for name in adapted_methods(run):
        files = sorted((folder / name).glob("*/history.json"), key=lambda file: file.parent.name)
        found[name] = {file.parent.name: json.loads(file.read_text())["epochs"] for file in files}
    return found


def adaptation_sizes(run: Run) -> pl.DataFrame:
    """Return `method, domain, adapter_kb, whole_kb, share`: the weights of a domain's adaptation on disk.

    whole_kb: those of the whole recommender. Kilobytes have 1,000 bytes. Empty where nothing is adapted.
    """
    adapted, trained, rows = run.read_stage(ADAPTING), run.read_stage(RECOMMENDING), []
    owners = json.loads((trained / "owners.json").read_text())
    for name in adapted_methods(run):
        whole = adapter_bytes(trained / owners[name] / "all")
        for folder in sorted(file.parent for file in (adapted / name).glob("*/history.json")):
            own = adapter_bytes(folder)
            rows.append((name, folder.name, own / 1000, whole / 1000, own / whole))
    schema = {"method": pl.String, "domain": pl.String, "adapter_kb": pl.Float64, "whole_kb": pl.Float64}
    return pl.DataFrame(rows, schema=schema | {"share": pl.Float64}, orient="row")


def _described(config: MethodConfig) -> str:
    adaptation = config.adaptation
    epochs = counted(adaptation.training.epochs, "epoch")
    if adaptation.kind == "lora":
        lora = adaptation.lora
        where = ", ".join(lora.targets)
        return f"LoRA of rank {lora.rank} on {where} for each domain, at most {epochs}"
    if adaptation.kind == "full":
        return f"a copy of all weights for each domain, trained for at most {epochs}"
    if config.recommenders == "separate":
        return "nothing to adapt, for each domain has a recommender of its own already"
    return "nothing is adapted (adaptation.kind is 'none'): the unified recommender serves every domain"
