"""Every kind of recommender over items: its config by `kind`, and the model that the config makes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from genrec_lab.models.sequential.bert4rec import BERT4Rec, BERT4RecConfig
from genrec_lab.models.sequential.fmlp_rec import FMLPRec, FMLPRecConfig
from genrec_lab.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from genrec_lab.models.sequential.hgn import HGN, HGNConfig
from genrec_lab.models.sequential.item_model import ItemModel
from genrec_lab.models.sequential.sasrec import SASRec, SASRecConfig

# A new kind has one line here and one below.
AnyItemModelConfig = Annotated[
    GRU4RecConfig | SASRecConfig | BERT4RecConfig | HGNConfig | FMLPRecConfig,
    Field(discriminator="kind"),
]
MODELS: dict[str, type[ItemModel]] = {
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
    "bert4rec": BERT4Rec,
    "hgn": HGN,
    "fmlp_rec": FMLPRec,
}
