"""The recommenders over identifiers by the kind that a config names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from genrec_lab.codes import ItemCodes
from genrec_lab.models.recommenders.causal import CausalConfig, CausalRecommender
from genrec_lab.models.recommenders.code_recommender import CodeRecommender
from genrec_lab.models.recommenders.recommender import Recommender
from genrec_lab.models.recommenders.t5 import T5Config

RecommenderConfig = Annotated[T5Config | CausalConfig, Field(discriminator="kind")]

KINDS: dict[str, type[BaseModel]] = {"t5": T5Config, "causal": CausalConfig}
_MODELS: dict[str, type[Recommender] | type[CausalRecommender]] = {
    "t5": Recommender,
    "causal": CausalRecommender,
}


def new_recommender(codes: ItemCodes, config: T5Config | CausalConfig) -> CodeRecommender:
    """Return an untrained recommender of the config's kind; its weights come from torch's generator."""
    if isinstance(config, CausalConfig):
        return CausalRecommender(codes, config)
    return Recommender(codes, config)


def read_recommender(folder: str | Path) -> CodeRecommender:
    """Read what `save` or `save_pretrained` of any kind wrote; FileNotFoundError where a file is missing.

    Raises SharingError for a shared folder that was altered.
    """
    config = Path(folder) / "config.json"
    kind = json.loads(config.read_text()).get("kind", "t5") if config.is_file() else "t5"
    return _MODELS[kind].read(folder)


def learns_in_one_pass(config: T5Config | CausalConfig) -> bool:
    """Whether a recommender of this config learns every place of a sequence in one pass over it."""
    return isinstance(config, CausalConfig) or config.reads == "past"
