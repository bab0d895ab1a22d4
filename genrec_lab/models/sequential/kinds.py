"""Every kind of recommender over items: its config by `kind`, and the model that the config makes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from genrec_lab.models.sequential.fdsa import FDSA, FDSAConfig
from genrec_lab.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from genrec_lab.models.sequential.item_model import ItemModel
from genrec_lab.models.sequential.recformer import RecFormer, RecFormerConfig
from genrec_lab.models.sequential.s3rec import S3Rec, S3RecConfig
from genrec_lab.models.sequential.sasrec import SASRec, SASRecConfig
from genrec_lab.models.sequential.unisrec import UniSRec, UniSRecConfig
from genrec_lab.models.sequential.vqrec import VQRec, VQRecConfig

# A new kind has one line here and one below.
AnyItemModelConfig = Annotated[
    FDSAConfig | GRU4RecConfig | RecFormerConfig | S3RecConfig | SASRecConfig | UniSRecConfig | VQRecConfig,
    Field(discriminator="kind"),
]
MODELS: dict[str, type[ItemModel]] = {
    "fdsa": FDSA,
    "gru4rec": GRU4Rec,
    "recformer": RecFormer,
    "s3rec": S3Rec,
    "sasrec": SASRec,
    "unisrec": UniSRec,
    "vqrec": VQRec,
}
