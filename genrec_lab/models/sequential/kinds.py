"""Every kind of recommender over items: its config by `kind`, and the model that the config makes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from genrec_lab.models.sequential.bert4rec import BERT4Rec, BERT4RecConfig
from genrec_lab.models.sequential.fdsa import FDSA, FDSAConfig
from genrec_lab.models.sequential.fmlp_rec import FMLPRec, FMLPRecConfig
from genrec_lab.models.sequential.gru4rec import GRU4Rec, GRU4RecConfig
from genrec_lab.models.sequential.hgn import HGN, HGNConfig
from genrec_lab.models.sequential.item_model import ItemModel
from genrec_lab.models.sequential.missrec import MISSRec, MISSRecConfig
from genrec_lab.models.sequential.recformer import RecFormer, RecFormerConfig
from genrec_lab.models.sequential.s3rec import S3Rec, S3RecConfig
from genrec_lab.models.sequential.sasrec import SASRec, SASRecConfig
from genrec_lab.models.sequential.unisrec import UniSRec, UniSRecConfig
from genrec_lab.models.sequential.vqrec import VQRec, VQRecConfig

# A new kind has one line here and one below.
_OverIds = GRU4RecConfig | SASRecConfig | BERT4RecConfig | HGNConfig | FMLPRecConfig
_WithContent = FDSAConfig | S3RecConfig | UniSRecConfig | VQRecConfig | MISSRecConfig | RecFormerConfig
AnyItemModelConfig = Annotated[_OverIds | _WithContent, Field(discriminator="kind")]
MODELS: dict[str, type[ItemModel]] = {
    "gru4rec": GRU4Rec,
    "sasrec": SASRec,
    "bert4rec": BERT4Rec,
    "hgn": HGN,
    "fmlp_rec": FMLPRec,
    "fdsa": FDSA,
    "s3rec": S3Rec,
    "unisrec": UniSRec,
    "vqrec": VQRec,
    "missrec": MISSRec,
    "recformer": RecFormer,
}
