"""More than one machine, by Ray: a catalogue encoded and tokenized, all users served, a sweep of runs.

Needs the extra `scale` (pip install -e '.[scale]'). On one machine nothing has to be started first; a cluster
needs only its address. Tables are parquet files or folders of them, on a disk that all machines see. Sweeps
are in `genrec_lab.scale.sweep`, because workers of tables need no notebooks.
From the shell: `python -m genrec_lab.scale --help`.
"""

from genrec_lab.scale.cluster import Cluster, ScaleError, connected
from genrec_lab.scale.pipelines import (
    Workers,
    encode_catalogue,
    read_table,
    recommend_to_users,
    tokenize_catalogue,
)

__all__ = [
    "Cluster", "ScaleError", "Workers", "connected", "encode_catalogue", "read_table",
    "recommend_to_users", "tokenize_catalogue",
]  # fmt: skip
