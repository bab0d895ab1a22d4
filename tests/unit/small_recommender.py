"""A recommender of seconds and what it learns from, for tests of the training loop."""

from __future__ import annotations

import polars as pl
import torch

from genrec_lab.codes import ItemCodes
from genrec_lab.models import Recommender, T5Config


def recommender(**sizes: object) -> Recommender:
    """A small T5 over 64 items."""
    torch.manual_seed(0)
    codes = torch.cartesian_prod(torch.arange(8), torch.arange(8)).numpy()
    body = {"d_model": 32, "d_kv": 8, "heads": 4, "d_ff": 64, "encoder_layers": 2, "decoder_layers": 2}
    return Recommender(ItemCodes(codes, (8, 8)), T5Config(**(body | sizes)))


def some_pairs() -> pl.DataFrame:
    """Forty users, each with one pair of a history of five items."""
    histories = torch.randint(64, (40, 5), generator=torch.Generator().manual_seed(1)).tolist()
    return pl.DataFrame({"user": range(40), "history": histories, "target": list(range(40))})
