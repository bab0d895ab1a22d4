"""What is checked before a kernel starts: a run file, its dataset and config, its notebooks, the machine.

All that is wrong is said at once, each in a sentence. What takes long to import comes last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec_lab import presets
from genrec_lab.lab.files import RunError
from genrec_lab.lab.folders import runs_root
from genrec_lab.lab.notebooks import check_kernel, check_notebook, choose_notebooks, notebooks_folder
from genrec_lab.lab.results import flat
from genrec_lab.lab.runfile import RunFile, RunFileError, base_of, place_of, read_content, seeds_of
from genrec_lab.registry import did_you_mean, relative_to

_VARIABLE = re.compile(r"\$\{([^}]*)\}")
# What later stages read of earlier ones. Codes are read where a row has codes or reads the vectors of texts.
_PREPARATION, _CODES = "01_data_preparation", "02_tokenizer_training"
_TRAINED, _ADAPTED = "05_recommender_training", "06_domain_adaptation"
# For the estimate of memory.
_BYTES_READ = {".gz": 12, "": 4}  # in memory, for a byte on disk: packed files, and tables of text
_BYTES_AN_ITEM = 500  # on disk, texts included, where nothing is known of the number of items
_BYTES_A_WEIGHT = 16  # in training: itself, its gradient, AdamW's two moments
_ACTIVATIONS = 12  # vectors of d_model that a layer keeps for the way back, for each token
_LOGITS = 12  # bytes of a score: itself, its softmax, its gradient


@dataclass(frozen=True)
class Checked:
    """A run file that can be run: its notebooks, the seeds of --seeds, the folder of the runs, warnings."""

    spec: RunFile
    notebooks: tuple[Path, ...]
    seeds: tuple[int, ...] | None
    root: Path
    warnings: tuple[str, ...]


class _Problems(list[str]):
    @contextmanager
    def noted(self) -> Iterator[None]:
        """Go on after an error of the block, and keep what it says."""
        try:
            yield
        except (RunError, ValueError) as error:
            self += getattr(error, "problems", None) or [str(error).rstrip(".")]


def check_run(
    source: Path | Mapping[str, Any],
    sets: Sequence[str] = (),
    seeds: str | Sequence[int] | None = None,
    *,
    only: Sequence[str] | None = None,
    from_: str | None = None,
    root: Path | None = None,
    notebooks: Path | None = None,
) -> Checked:
    """Return what a run file asks for, once all that can be known beforehand was checked.

    seeds: numbers, or a text such as "0,1,2". only, from_: which notebooks, as the command says. root,
    notebooks: folders, by default those around the working directory or the run file. Raises RunFileError
    with all problems, each in a sentence.
    """
    with relative_to(base_of(source)):
        root = root or runs_root()
        content, found = read_content(source, sets)
        problems = _Problems(found)
        dataset, overrides = content.get("dataset"), content.get("overrides", {})
        if isinstance(dataset, Mapping) and isinstance(dataset.get("name"), str):
            from genrec_lab.data.checking import dataset_problems

            problems += dataset_problems(dataset)
        problems += _unset_variables(overrides)
        chosen = _chosen(problems, content, notebooks, only, from_)
        numbers: Sequence[int] | None = None
        parts: list[RunFile] = []
        with problems.noted():
            numbers = seeds_of(seeds) if isinstance(seeds, str) else seeds
            if not found:
                spec = RunFile(**content, base=base_of(source))
                parts = [spec.with_seed(seed) for seed in numbers or ()] or [spec]
        config = None
        preset, known = content.get("preset"), presets.names()
        if isinstance(preset, str) and preset not in known:
            expected = f"expected one of {', '.join(known)}"
            problems.append(f"preset is {preset!r}{did_you_mean(preset, known)}; {expected}")
        elif isinstance(preset, str) and isinstance(overrides, Mapping) and (overrides or not problems):
            # last, because importing every method takes seconds
            from genrec_lab.lab import store
            from genrec_lab.lab.tokenise import pretrained_run

            with problems.noted():
                config = store.load_config(preset, overrides)
        if config is not None:
            with problems.noted():
                _check_targets(config, dataset)
            stages = [notebook.stem for notebook in chosen]
            for part in parts:
                with problems.noted():
                    run = store.unopened_run(**part.parameters(), root=root, base=part.base, change=True)
                    with problems.noted():
                        pretrained_run(run, run.config)
                    with problems.noted():
                        problems += _missing_results(run, stages)
                    if _CODES in stages:
                        _check_items_suffice(run)
        if problems or config is None:
            raise RunFileError(place_of(source), list(dict.fromkeys(problems)))
        from genrec_lab.lab.evaluate import SAMPLED_WARNING

        warnings = [*memory_warnings(config, spec.dataset)]
        warnings += [SAMPLED_WARNING] if config.evaluation.sampled is not None else []
        given = None if numbers is None else tuple(numbers)
        return Checked(spec, tuple(chosen), given, root, tuple(warnings))


def _chosen(
    problems: _Problems,
    content: Mapping[str, Any],
    folder: Path | None,
    only: Sequence[str] | None,
    from_: str | None,
) -> list[Path]:
    """Return the notebooks to run, each checked."""
    chosen: list[Path] = []
    with problems.noted():
        named = content.get("notebooks")
        texts = isinstance(named, list) and all(isinstance(name, str) for name in named)
        chosen = choose_notebooks(folder or notebooks_folder(), named if texts else None, only, from_)
    for notebook in chosen:
        with problems.noted():
            check_notebook(notebook)
    with problems.noted():
        check_kernel()
    return chosen


def _unset_variables(overrides: Any) -> Iterator[str]:
    """Give the environment variables that overrides name and that are not set."""
    for key, value in flat({"overrides": overrides}):
        for name in _VARIABLE.findall(str(value)):
            if name not in os.environ:
                yield (
                    f"{key} is {value!r}, and the environment variable {name} is not set; "
                    f"export {name}=... or write the path itself"
                )


def _missing_results(run: Any, chosen: Sequence[str]) -> Iterator[str]:
    """Give the stages that chosen ones read from and that are neither chosen nor done."""
    from genrec_lab.lab import chain

    lacking: dict[str, str] = {}
    for stage in chosen:
        tasks = chain.tasks_of(run, stage)
        if tasks is None:  # what there is to do depends on data that are not prepared
            for read in (one for one in (_PREPARATION, _CODES, _TRAINED, _ADAPTED) if one < stage):
                made = (run.folder / read).is_dir() and any((run.folder / read).iterdir())
                if read not in chosen and not made and _is_read(run.config, read):
                    lacking.setdefault(read, f"{stage} reads {read}, which has not been run yet")
            continue
        for task in (task for asked in tasks for task in asked.flat_inputs().values()):
            if task.stage not in chosen and task.of is None and task.stage not in lacking:
                state = run.state(task, verify=False)
                if state.action == "run":
                    lacking[task.stage] = f"{stage} reads {task.place}: {state.reason.rstrip('.')}"
    for read, why in lacking.items():
        yield f"notebooks leaves out {read}, but {why}; add {read}"


def _check_items_suffice(run: Any) -> None:
    """Raise ValueError if a row has more codes a level than items, where their number is known already."""
    from genrec_lab.lab import rows, tokenise

    config = run.config
    if (facts := rows.known_facts(run)) is not None:
        for row, method in facts.generative.items():
            tokenise.check_items_suffice(method, facts, row)
    elif run.dataset["name"] == "bazaar" and presets.methods(config):
        from genrec_lab.bazaar import BazaarConfig

        items = run.dataset.get("items", BazaarConfig().items)
        if (size := config.tokenizer_class.least_items(config.tokenizer)) > items:
            raise ValueError(
                f"overrides.tokenizer.codebook_size is {size}, but the dataset has only {items} items; give "
                f"{items} or less"
            )


def _is_read(config: Any, stage: str) -> bool:
    """Whether the rows of a config need what a stage makes."""
    if stage not in (_CODES, _ADAPTED):
        return True
    from genrec_lab.models.recommenders.base import ITEM_MODELS

    if stage == _ADAPTED:
        return any(
            method.adaptation.kind != "none" or method.transfer.targets
            for method in presets.methods(config).values()
        )
    models = (ITEM_MODELS.find(row.model.kind) for row in presets.item_rows(config).values())
    return bool(presets.methods(config)) or any("text" in (*model.needs, *model.takes) for model in models)


def _check_targets(config: Any, dataset: Any) -> None:
    """Raise ValueError if a transfer names a domain that the dataset has not, where those can be known."""
    from genrec_lab.bazaar import BazaarConfig
    from genrec_lab.lab.rows import served

    options = dataset if isinstance(dataset, Mapping) else {}
    made = BazaarConfig().domains if options.get("name") == "bazaar" else None
    domains = options.get("domains", made)
    if isinstance(domains, Mapping | list | tuple):
        served(config, tuple(domains))


def memory_warnings(config: Any, dataset: Mapping[str, Any]) -> Iterator[str]:
    """Give a sentence where the data or a training may need more memory than is free: a rough estimate."""
    import torch

    from genrec_lab.data.checking import dataset_files

    files = dataset_files(dataset)
    data = sum(file.stat().st_size * _BYTES_READ[".gz" if file.suffix == ".gz" else ""] for file in files)
    items = dataset.get("items", 900) if dataset["name"] == "bazaar" else data // 4 // _BYTES_AN_ITEM
    rows = {name: _generative(method) for name, method in presets.methods(config).items()}
    for name, row in presets.item_rows(config).items():
        weights = items * getattr(row.model, "width", 64) * _BYTES_A_WEIGHT
        rows[name] = weights + row.training.batch_size * items * _LOGITS
    largest, bytes_of_row = max(rows.items(), key=lambda row: row[1], default=("", 0))
    needs = [("the data", data, free_memory(), "of this machine")]
    if torch.cuda.is_available():
        needs.append((f"the row {largest}", bytes_of_row, torch.cuda.mem_get_info()[0], "of the GPU"))
    elif rows:
        needs = [(f"the data and the row {largest}", data + bytes_of_row, free_memory(), "of this machine")]
    for what, needed, free, where in needs:
        if needed > free:
            yield (
                f"{what} may need about {needed / 2**30:,.1f} GB, but only {free / 2**30:,.1f} GB {where} "
                "are free; use less data, a smaller training.batch_size, or a machine with more"
            )


def free_memory() -> int:
    """Return the bytes of memory that a process can still have, within the limits of a container."""
    found = [2**60]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        available = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="ascii"))
        found += [int(available[1]) * 1024] if available else []
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.is_file() and used.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdigit():
        found.append(int(text) - int(used.read_text(encoding="ascii")))
    return min(found)


def _generative(method: Any) -> int:
    """Bytes to train a generative row; 0 for what a foreign model does not say."""
    sizes, tokens = method.recommender, method.pairs.max_history * getattr(method.tokenizer, "levels", 4)
    width, wide = getattr(sizes, "d_model", 0), getattr(sizes, "d_ff", 0)
    heads = getattr(sizes, "heads", 0) * getattr(sizes, "d_kv", 0)
    layers = sum(getattr(sizes, name, 0) for name in ("encoder_layers", "decoder_layers", "layers"))
    weights = layers * (6 * width * heads + 2 * width * wide)
    kept = method.training.batch_size * tokens * layers * width * _ACTIVATIONS * 4
    encoder = 0
    if method.tokenizer.kind == "tree" and method.content.kind == "qwen":
        billions = re.search(r"(\d+(?:\.\d+)?)B", method.content.model)
        encoder = int(float(billions[1] if billions else 2) * 1e9) * (2 if "b" in method.content.dtype else 4)
    return max(weights * _BYTES_A_WEIGHT + kept, encoder)
