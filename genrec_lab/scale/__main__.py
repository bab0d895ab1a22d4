"""`python -m genrec_lab.scale encode|tokenize|recommend|sweep`: pipelines over parquet and sweeps, by Ray."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from genrec_lab.encoders.text import TextConfig
from genrec_lab.lab.files import RunError
from genrec_lab.lab.runfile import seeds_of
from genrec_lab.scale.cluster import Cluster, ScaleError
from genrec_lab.scale.pipelines import Workers, encode_catalogue, recommend_to_users, tokenize_catalogue
from genrec_lab.scale.sweep import RunResources, Runs, sweep

FAILED, REFUSED = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked; returns 0, or 1 (a run of a sweep failed), 2 (refused, or Ray or a worker failed)."""
    options = _parser().parse_args(arguments)
    try:
        cluster = Cluster(address=options.address)
        if options.command == "sweep":
            return _sweep(options, cluster)
        workers = Workers(
            count=options.workers, processors=options.processors, gpus=options.gpus, rows=options.rows
        )
        where = options.source, options.target
        if options.command == "encode":
            encode_catalogue(*where, _text_config(options.text), workers, cluster)
        elif options.command == "tokenize":
            tokenize_catalogue(*where, options.tokenizer, workers, cluster)
        else:
            asked = {"beams": options.beams, "max_history": options.max_history}
            given = options.recommender, options.top_k
            recommend_to_users(*where, *given, workers=workers, cluster=cluster, **asked)
    except (RunError, ScaleError, ValueError) as error:  # pydantic's errors are ValueErrors too
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    print(f"{options.target} is finished")
    return 0


def _sweep(options: argparse.Namespace, cluster: Cluster) -> int:
    resources = RunResources(
        processors=options.processors, gpus=options.gpus, memory_gigabytes=options.memory
    )
    runs = [
        Runs(file=file, seeds=options.seeds, sets=tuple(options.set), resources=resources)
        for file in options.files
    ]
    swept = sweep(runs, cluster)
    for run in swept:
        print(f"{run.run}: {'finished' if run.failure is None else 'FAILED'}, {run.folder}")
        if run.failure is not None:
            print(run.failure, file=sys.stderr)
    return FAILED if any(run.failure for run in swept) else 0


def _text_config(settings: Sequence[str]) -> TextConfig:
    """The config of --text KEY=VALUE, its values read as YAML."""
    parts = [setting.partition("=") for setting in settings]
    if not all(equals for _, equals, _ in parts):
        raise ScaleError(f"--text {' '.join(settings)}: expected key=value, such as --text kind=mean_pooled")
    return TextConfig(**{name: yaml.safe_load(value) for name, _, value in parts})


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return seeds_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m genrec_lab.scale", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    every = argparse.ArgumentParser(add_help=False)
    every.add_argument(
        "--address", help='of a running cluster, such as "auto" or host:6379; this machine without'
    )
    every.add_argument("--processors", type=float, default=1.0, help="of each worker or run")
    every.add_argument("--gpus", type=float, default=0.0, help="of each worker or run")
    table = argparse.ArgumentParser(add_help=False)
    table.add_argument("source", type=Path, help="a parquet file, or a folder of them")
    table.add_argument("target", type=Path, help="the folder to write")
    table.add_argument("--workers", type=int, default=1, help="that work at the same time")
    table.add_argument("--rows", type=int, default=4096, help="that a worker is given at one time")
    encode = commands.add_parser("encode", parents=[table, every], help="item, text -> item, vector")
    encode.add_argument(
        "--text", action="append", default=[], metavar="KEY=VALUE", help="such as model=…; may be repeated"
    )
    tokenize = commands.add_parser("tokenize", parents=[table, every], help="item, vector -> item, codes")
    tokenize.add_argument("tokenizer", type=Path, help="its folder")
    recommend = commands.add_parser(
        "recommend", parents=[table, every], help="user, domain, history -> user, domain, items, scores"
    )
    recommend.add_argument("recommender", type=Path, help="its folder")
    recommend.add_argument("--top-k", type=int, default=10)
    recommend.add_argument("--beams", type=int)
    recommend.add_argument(
        "--max-history", type=int, help="most recent items to read, by default the model's"
    )
    swept = commands.add_parser("sweep", parents=[every], help="run files, a run for each seed")
    swept.add_argument("files", type=Path, nargs="+", metavar="FILE.yaml")
    swept.add_argument("--seeds", type=_seeds, default=(), metavar="1,2,3")
    swept.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    swept.add_argument("--memory", type=float, metavar="GB", help="that must be free for each run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
