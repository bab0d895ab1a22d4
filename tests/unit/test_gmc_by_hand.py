"""The example of a method by hand: it runs with core alone, and its table has every row and domain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "gmc_by_hand.py"
# At sizes that only show that it runs; what it loads beside the core is printed at the end.
SMALL = """
import runpy, sys
import polars as pl
from genrec_lab.data import load_dataset
from genrec_lab.encoders import TextConfig
from genrec_lab.models import RQVAE, SASRec, T5Config
from genrec_lab.training import TrainingConfig

few = TrainingConfig(epochs=1, batch_size=128, validate_from=0, validation_users=40)
table = runpy.run_path(sys.argv[1])["gmc_by_hand"](
    load_dataset("bazaar", items=300, users=200, domains=("Garden", "Kitchen")),
    text=TextConfig(kind="tfidf", dimensions=16),
    tokenizer=RQVAE.Config(hidden=(16,), dimension=8, levels=3, codebook_size=16, epochs=5, batch_size=256),
    body=T5Config(d_model=16, d_kv=4, heads=2, d_ff=16, encoder_layers=1, decoder_layers=1),
    training=few, adaptation=few, sequential=few, sasrec=SASRec.Config(width=16, layers=1),
)
table.write_parquet(sys.argv[2])
loaded = {name.split(".")[1] for name in sys.modules if name.startswith("genrec_lab.")}
foreign = {"plotly", "IPython", "papermill", "ipywidgets"} & set(sys.modules)
print(sorted(loaded & {"lab", "run", "viz", "presets", "scale"}), sorted(foreign))
"""


@pytest.mark.slow
def test_every_row_is_ranked_in_every_domain_by_core_alone(tmp_path: Path) -> None:
    import polars as pl

    file = tmp_path / "table.parquet"
    command = [sys.executable, "-c", SMALL, str(EXAMPLE), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLE.parents[1], timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[] []"
    table = pl.read_parquet(file)
    rows = ["gmc", "gmc without LoRA", "sasrec", "popularity"]
    assert table["row"].unique(maintain_order=True).to_list() == rows
    assert table["domain"].unique(maintain_order=True).to_list() == ["Garden", "Kitchen", "average"]
    assert table.columns == ["domain", "row", "recall@5", "recall@10", "ndcg@5", "ndcg@10"]
    values = table.select("recall@5", "recall@10", "ndcg@5", "ndcg@10")
    assert table.height == 12 and ((values.to_numpy() >= 0) & (values.to_numpy() <= 1)).all()
    assert (table["recall@10"] >= table["recall@5"]).all() and (table["recall@10"] > 0).all()


def test_it_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 120
