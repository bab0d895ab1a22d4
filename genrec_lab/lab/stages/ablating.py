"""Stage 08: what each part of the run's method is worth, told by the rows that go without it.

Letters: U test users, S seeds.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from genrec_lab.codes import ItemCodes
from genrec_lab.evaluation import health_table, ndcg_per_user, paired_bootstrap, recall_per_user
from genrec_lab.evaluation.papers import paper_ablations
from genrec_lab.evaluation.ranking import AVERAGE
from genrec_lab.lab.files import RunError, write_json
from genrec_lab.lab.keys import differences
from genrec_lab.lab.seeds import ABLATION, EVALUATION, runs_of, signatures
from genrec_lab.lab.stages.adapting import ADAPTING
from genrec_lab.lab.stages.evaluating import load_rankings
from genrec_lab.lab.stages.preparing import load_prepared
from genrec_lab.lab.stages.rows import generative_rows, served
from genrec_lab.lab.stages.tokenizing import load_identified
from genrec_lab.lab.store import Run
from genrec_lab.presets import ABLATIONS, MethodConfig, variants

_PER_USER = {"recall": recall_per_user, "ndcg": ndcg_per_user}
_DESCRIBES = ("name", "provenance", "compare", "tuning")  # fields that are no setting of the method


@dataclass(frozen=True)
class Ablation:
    """A method and its variants, each without one part, over the evaluated seeds of a run."""

    method: str
    parts: pl.DataFrame  # variant, what the paper calls it, changed: the settings that differ
    # variant, domain, metric, k, whole, without, difference (without - whole), change (in percent of whole),
    # sd (of the change over seeds, null for one), low, high (95 % over users, in percent), users, seeds
    worth: pl.DataFrame
    # paper, row, domain, metric, k, change: the papers' variants of this method, in percent
    papers: pl.DataFrame
    health: pl.DataFrame  # `health_table` of each row's codes before any policy, of the first seed
    runs: tuple[str, ...]
    left_out: dict[str, str]  # variant or run -> why it is not shown

    def overall(self, metric: str, k: int) -> pl.DataFrame:
        """The lines of `worth` over all domains: of the average, or of the only domain."""
        rows = self.worth.filter(metric=metric, k=k)
        return rows if rows["domain"].n_unique() == 1 else rows.filter(domain=AVERAGE)

    def __str__(self) -> str:
        parts = ", ".join(self.parts["variant"].to_list())
        lines = [f"{self.method} beside {parts}.", f"Runs: {', '.join(self.runs)}."]
        lines += [f"LEFT OUT: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join(lines)


def weigh_parts(run: Run) -> Ablation:
    """Compare the run's method with its variants, on all evaluated seeds of the run; write both files.

    `08_ablations/worth.parquet` and `ablation.json`, which holds everything. Raises RunError where no run has
    been evaluated, or the run's method has no variant among its rows.
    """
    parts = variants(run.config)
    if not parts:
        raise RunError(
            f"The run {run.name!r} compares its method {run.config.name} with no variant that goes without a "
            f"part. Name some in compare: {', '.join(ABLATIONS)}."
        )
    found = runs_of(run.name, run.folder.parent)
    if not found.runs:
        raise RunError(f"The run {run.name!r} has not been evaluated. Run {EVALUATION}.ipynb first.")
    also = {"runs": signatures(found.runs), "left_out": found.left_out}
    with run.stage(ABLATION, uses=("compare",), also=also) as stage:
        ablation = _weighed(run, parts, found.runs, found.left_out)
        if not stage.is_finished:
            ablation.worth.write_parquet(stage.folder / "worth.parquet")
            write_json(stage.folder / "ablation.json", _content(ablation))
    return ablation


def _weighed(
    run: Run, parts: dict[str, MethodConfig], runs: Sequence[Run], left_out: dict[str, str]
) -> Ablation:
    method = run.config.name
    rankings = [load_rankings(seed) for seed in runs]
    users = rankings[0].users
    lacking = {
        seed.name: "its test users are not those of the other seeds."
        for seed, ranked in zip(runs, rankings, strict=True)
        if not ranked.users.equals(users)
    }
    kept = [ranked for seed, ranked in zip(runs, rankings, strict=True) if seed.name not in lacking]
    shown = [name for name in parts if all(name in ranked.items for ranked in kept)]
    lacking |= {name: "it was not ranked in every run." for name in parts if name not in shown}
    targets, domains = users["target"].to_numpy(), users["domain"].to_numpy()
    worth = []
    for metric, per_user in _PER_USER.items():
        for k in (5, 10):
            whole = np.stack([per_user(ranked.items[method], targets, k) for ranked in kept])
            for name in shown:
                without = np.stack([per_user(ranked.items[name], targets, k) for ranked in kept])
                for domain in [*dict.fromkeys(domains.tolist()), AVERAGE]:
                    chosen = slice(None) if domain == AVERAGE else domains == domain
                    row = _row(whole[:, chosen], without[:, chosen], run.seed)
                    worth.append({"variant": name, "domain": domain, "metric": metric, "k": k, **row})
    of_paper = paper_ablations().filter(pl.col("row").is_in(list(parts)))
    return Ablation(
        method=method,
        parts=pl.DataFrame([_part(run.config, name, parts[name]) for name in shown]),
        worth=_of_one_domain(pl.DataFrame(worth)),
        papers=of_paper.select(
            pl.concat_str("paper", "table", separator=" ").alias("paper"),
            *("row", "domain", "metric", "k", "change"),
        ),
        health=health_table({name: _codes(runs[0], name) for name in (method, *shown)}),
        runs=tuple(seed.name for seed in runs if seed.name not in lacking),
        left_out={**lacking, **left_out},
    )


def _row(whole: npt.NDArray[np.float64], without: npt.NDArray[np.float64], seed: int) -> dict[str, Any]:
    """What (S, U) values of the method and of a variant say; users are drawn, each with the mean of seeds."""
    mean = float(whole.mean())
    found = paired_bootstrap(without.mean(0), whole.mean(0), seed=seed)
    changes = (without.mean(1) - whole.mean(1)) / whole.mean(1) if whole.mean(1).all() else None
    scale = 100 / mean if mean else np.nan
    return {
        "whole": mean,
        "without": float(without.mean()),
        "difference": found.difference,
        "change": scale * found.difference,
        "sd": 100 * float(changes.std(ddof=1)) if changes is not None and len(changes) > 1 else None,
        "low": scale * found.low,
        "high": scale * found.high,
        "users": found.users,
        "seeds": len(whole),
    }


def _of_one_domain(worth: pl.DataFrame) -> pl.DataFrame:
    """Leave out the average where there is one domain, whose own figures it would repeat."""
    worth = worth.with_columns(pl.col("sd").cast(pl.Float64))
    single = worth["domain"].n_unique() == 2
    return worth.filter(pl.col("domain") != AVERAGE) if single else worth


def _part(whole: MethodConfig, name: str, without: MethodConfig) -> dict[str, str]:
    settings = (config.model_dump(mode="json", exclude={*_DESCRIBES}) for config in (whole, without))
    told = (inspect.getdoc(ABLATIONS[name]) or name).split("\n")[0]
    changed = [line.replace(" before, ", " -> ").removesuffix(" now") for line in differences(*settings)]
    return {"variant": name, "what": told, "changed": "; ".join(changed)}


def _codes(run: Run, method: str) -> ItemCodes:
    """The codes of the items that are recommended, as quantised; after fine-tuning where there was one."""
    raw = load_identified(run, method).raw
    domains = served(run.config, load_prepared(run).dataset.domains)
    if generative_rows(run)[method].adaptation.kind != "none":
        for domain in domains:
            file = run.read_stage(ADAPTING) / method / domain / "tokenizer" / "raw_codes.parquet"
            if file.is_file():
                codes = raw.codes.copy()
                items = raw.domain_items(domain)
                codes[items] = ItemCodes.read(file).codes[items]
                raw = ItemCodes(codes, raw.sizes, raw.domains, raw.shared_levels)
    return raw.select(np.concatenate([raw.domain_items(domain) for domain in domains]))


def _content(ablation: Ablation) -> dict[str, Any]:
    frames = {name: getattr(ablation, name).to_dicts() for name in ("parts", "worth", "papers", "health")}
    return {
        "method": ablation.method,
        "runs": list(ablation.runs),
        "left_out": ablation.left_out,
        **frames,
    }
