"""More than one machine, by Ray: a catalogue encoded and tokenized, all users served, a sweep of runs.

Needs the extra `scale` (pip install -e '.[scale]'). On one machine nothing has to be started before; of a
cluster only the address is asked for. Tables are parquet files or folders of them, on a disk that all
machines see. From the shell: `python -m genrec_lab.scale --help`.
"""

from genrec_lab.scale.cluster import Cluster, ScaleError, connected
from genrec_lab.scale.pipelines import (
    Workers,
    encode_catalogue,
    read_table,
    recommend_to_users,
    tokenize_catalogue,
)
from genrec_lab.scale.sweep import RunResources, Runs, SweptRun, sweep

__all__ = [
    "Cluster",
    "RunResources",
    "Runs",
    "ScaleError",
    "SweptRun",
    "Workers",
    "connected",
    "encode_catalogue",
    "read_table",
    "recommend_to_users",
    "sweep",
    "tokenize_catalogue",
]
