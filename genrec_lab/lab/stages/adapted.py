"""What stage 06 made, read for its notebook: curves, sizes on disk, and what is trained for each domain."""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from genrec_lab.codes import ItemCodes
from genrec_lab.lab.stages.adapting import ADAPTING, adapter_bytes
from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.stages.recommending import RECOMMENDING, starting_recommender
from genrec_lab.lab.stages.rows import ALL, generative_rows, is_universal, lead_row, served
from genrec_lab.lab.stages.tokenizing import load_identified
from genrec_lab.lab.stages.training import HISTORY_FILE
from genrec_lab.lab.store import Run
from genrec_lab.models.recommenders.adapters import Parameters, add_lora, count_parameters
from genrec_lab.presets import MethodConfig
from genrec_lab.viz.text import counted


def adapted_methods(run: Run) -> list[str]:
    """Return the methods of a run that are adapted to domains; empty where none is."""
    return [name for name, config in generative_rows(run).items() if config.adaptation.kind != "none"]


def describe_adaptation(run: Run) -> str:
    """Say what is trained for each domain, or why nothing is: a line for each generative method of a run."""
    described = (f"{name}: {_described(config)}" for name, config in generative_rows(run).items())
    return "\n".join(described) or "No row of this run is generative, so nothing is adapted."


def load_adaptation_history(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Read the epoch records of every adaptation by method and domain; epoch 0 is before any training."""
    folder, found = run.read_stage(ADAPTING), {}
    for name in adapted_methods(run):
        files = sorted((folder / name).glob(f"*/{HISTORY_FILE}"), key=lambda file: file.parent.name)
        found[name] = {file.parent.name: json.loads(file.read_text())["epochs"] for file in files}
    return found


def adaptation_sizes(run: Run) -> pl.DataFrame:
    """Return `method, domain, adapter_kb, whole_kb, share`: the weights of a domain's adaptation on disk.

    whole_kb: those of the whole recommender. Kilobytes have 1,000 bytes. Empty where nothing is adapted.
    """
    adapted, trained, rows = run.read_stage(ADAPTING), run.read_stage(RECOMMENDING), []
    owners = json.loads((trained / "owners.json").read_text())
    for name in adapted_methods(run):
        unified = trained / owners[name] / ALL
        for folder in sorted(file.parent for file in (adapted / name).glob(f"*/{HISTORY_FILE}")):
            own = adapter_bytes(folder)
            # A row that is trained on its target alone has nothing but that.
            whole = adapter_bytes(unified) if unified.is_dir() else own
            rows.append((name, folder.name, own / 1000, whole / 1000, own / whole))
    schema = {"method": pl.String, "domain": pl.String, "adapter_kb": pl.Float64, "whole_kb": pl.Float64}
    return pl.DataFrame(rows, schema=schema | {"share": pl.Float64}, orient="row")


def load_tokenizer_transfers(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Read the epoch records of the tokenizers that were fine-tuned on a target, by "row domain"."""
    files = sorted(run.read_stage(ADAPTING).glob("*/*/tokenizer/epochs.json"))
    return {" ".join(file.parts[-4:-2]): json.loads(file.read_text()) for file in files}


def renamed_items(run: Run) -> pl.DataFrame:
    """What fine-tuning a tokenizer on a target changed of the codes of its items, before conflicts.

    Frame `method, domain, items, changed, first_changed, collisions_before, collisions_after`: changed: the
    share of items with any other code, first_changed: of those with another first one. Empty where no
    tokenizer was fine-tuned.
    """
    rows = []
    for file in sorted(run.read_stage(ADAPTING).glob("*/*/tokenizer/raw_codes.parquet")):
        name, domain = file.parts[-4:-2]
        before, after = load_identified(run, name).raw, ItemCodes.read(file)
        items = before.domain_items(domain)
        other = before.codes[items] != after.codes[items]
        rates = [ItemCodes(codes.codes[items], codes.sizes).collision_rate() for codes in (before, after)]
        rows.append((name, domain, len(items), float(other.any(1).mean()), float(other[:, 0].mean()), *rates))
    shares = ("changed", "first_changed", "collisions_before", "collisions_after")
    schema = {"method": pl.String, "domain": pl.String, "items": pl.Int64}
    return pl.DataFrame(rows, schema=schema | dict.fromkeys(shares, pl.Float64), orient="row")


def lora_parameters(run: Run) -> Parameters:
    """How many parameters LoRA trains of the run's own recommender, whatever the run itself trains."""
    domain = served(run.config, load_prepared(run).dataset.domains)[0]
    base = starting_recommender(run, lead_row(run), domain)
    return count_parameters(add_lora(base, run.config.adaptation.lora, domain))


def _described(config: MethodConfig) -> str:
    transfer = config.transfer
    if not is_universal(config) or not transfer.targets:
        return _adapted(config)
    trained = {
        "projections": "the tokenizer's projections W and all but its matrices E",
        "full": "the whole tokenizer",
        "none": "nothing of the tokenizer",
    }
    epochs = "" if transfer.tokenizer == "none" else f", {counted(transfer.training.epochs, 'epoch')}"
    return f"{trained[transfer.tokenizer]}{epochs}; then {_adapted(config)}"


def _adapted(config: MethodConfig) -> str:
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
