"""Rows of a table that differ from a run's method in tokenizer and identifiers, as LETTER or IDGenRec.

Each function returns the fields of the run's config that make the row out of it, so that sizes, pairs and
budget stay those of the method it is compared with; where that one is pre-trained elsewhere and fine-tuned
as a whole, the budget is its fine-tuning's, for that is all it learns from the target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genrec_lab.codes import IdentifierConfig
from genrec_lab.encoders.compact import CompactConfig
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.sequential.sasrec import SASRecConfig
from genrec_lab.models.tokenizers.co_occurrence import CoOccurrenceConfig
from genrec_lab.models.tokenizers.letter import LetterConfig
from genrec_lab.models.tokenizers.residual_kmeans import ResidualKMeansConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.models.tokenizers.textual_ids import TextualIdsConfig
from genrec_lab.training import TrainingConfig

if TYPE_CHECKING:
    from genrec_lab.presets.method_config import MethodConfig

_LETTER_TEMPERATURE = 0.7  # the paper tunes it; .7 to 1.0 are best on its data
_MOST_COLLABORATIVE_EPOCHS = 50  # nothing held out tells when to stop


def quantises_vectors(config: MethodConfig) -> RQVAEConfig | ResidualKMeansConfig:
    """Return the tokenizer of the run's rows that quantise vectors as TIGER does, from coarse to fine."""
    own = config.tokenizer
    return own if isinstance(own, RQVAEConfig | ResidualKMeansConfig) else config.rqvae


def tiger_fields(config: MethodConfig) -> dict[str, Any]:
    """TIGER: a tokenizer and a recommender a domain, an extra code, no L_dcl, 3 levels or fewer."""
    kept = quantises_vectors(config)
    tokenizer: dict[str, Any] = {"levels": min(3, kept.levels)}
    if isinstance(kept, RQVAEConfig):
        tokenizer["contrastive_weight"] = 0.0
    return {
        "name": "tiger",
        "provenance": (
            f"TIGER (Rajput et al. 2023) with the sizes and the budget of {config.name} (that of its "
            "fine-tuning, where it fine-tunes all weights), so that only the method differs."
        ),
        "tokenizer": kept.model_copy(update=tokenizer),
        "identifiers": IdentifierConfig(policy="extra_level"),
        **_a_domain_each(config),
    }


def tiger_multimodal_fields(config: MethodConfig) -> dict[str, Any]:
    """TIGER_M of UTGRec's Table 2: TIGER on text vectors with those of pictures beside them."""
    content = config.content
    model = content.picture_model if isinstance(content, CompactConfig) else "efficientnet-lite0"
    return tiger_fields(config) | {
        "name": "tiger_multimodal",
        "provenance": (
            "TIGER_M of UTGRec's Table 2: unit vectors of text and picture side by side, then TIGER, with "
            f"the sizes and the budget of {config.name}. The paper has vectors of CLIP or Qwen2-VL-2B, the "
            f"better of the two; here the pictures' are pooled features of {model}, zeros where an item has "
            "no picture."
        ),
        "pictures": model,
    }


def letter_fields(config: MethodConfig) -> dict[str, Any]:
    """LETTER: an RQ-VAE aligned with a SASRec, diverse codebooks, a temperature in the recommender's loss."""
    kept, budget = config.rqvae, config.collaborative.training
    if isinstance(config.tokenizer, RQVAEConfig):
        kept = config.tokenizer
    if "sasrec" in config.rows:
        budget = config.rows["sasrec"].training
    shared = {name: value for name, value in dict(kept).items() if name in LetterConfig.model_fields}
    # Ten clusters of a few codes each need 40 codes.
    clusters = max(1, min(10, kept.codebook_size // 4))
    tokenizer = LetterConfig(**(shared | {"kind": "letter", "clusters": clusters}))
    epochs = min(budget.epochs, _MOST_COLLABORATIVE_EPOCHS)
    return {
        "name": "letter",
        "provenance": (
            "LETTER (Wang et al. 2024): collaborative weight .02, diversity weight 1e-4 over "
            f"{clusters} constrained clusters a level, temperature {_LETTER_TEMPERATURE}, conflicts by "
            "Sinkhorn as in its code; our own SASRec, trained on the training part only, for as many epochs "
            f"as {config.name} gives its SASRec row, at most {_MOST_COLLABORATIVE_EPOCHS}. Codewords are "
            "clustered anew every 10 epochs, its code does so every epoch. Sizes and budget as "
            f"{config.name}."
        ),
        "tokenizer": tokenizer,
        "collaborative": {
            "model": SASRecConfig(width=tokenizer.dimension, feed_forward=4 * tokenizer.dimension),
            "training": budget.model_copy(update={"epochs": epochs}),
        },
        "loss_temperature": _LETTER_TEMPERATURE,
        "identifiers": IdentifierConfig(policy="sinkhorn"),
        **_a_domain_each(config),
    }


def p5_cid_fields(config: MethodConfig) -> dict[str, Any]:
    """P5-CID: identifiers from the co-occurrence of items alone."""
    size = quantises_vectors(config).codebook_size
    return {
        "name": "p5_cid",
        "provenance": (
            "P5-CID (Hua et al. 2023): recursive spectral clustering of the co-occurrence graph of the "
            f"training part, {min(20, size)} clusters each, until none has more than {size} items, then a "
            "number within the cluster. Its tokens are new ones and a cluster's numbers start at 0, as in "
            "its second way of indexing; each level has a vocabulary of its own. Ours: the T5 of "
            f"{config.name} from random weights instead of t5-small and prompts."
        ),
        "tokenizer": CoOccurrenceConfig(clusters=min(20, size), leaf_size=size),
        "identifiers": IdentifierConfig(policy="none"),
        **_a_domain_each(config),
    }


def idgenrec_fields(config: MethodConfig) -> dict[str, Any]:
    """IDGenRec: ids of word pieces that a T5 writes from the text, in turns with the T5 that reads them."""
    body = config.recommender if isinstance(config.recommender, T5Config) else T5Config()
    small = quantises_vectors(config).codebook_size < 128  # a run of minutes, on the embedded data
    levels, tokens, vocabulary = (4, 32, 600) if small else (6, 64, 4000)
    epochs = max(1, min(10, config.training.epochs))
    naming = {
        "rounds": 1 if small else 3,
        "labels": TrainingConfig(epochs=epochs, batch_size=64),
        "generator": TrainingConfig(epochs=1, batch_size=32, learning_rate=1e-6),
        "recommender": TrainingConfig(epochs=min(2, epochs), batch_size=256),
        "max_history": 5,
        "per_user": 1,
    }
    return {
        "name": "idgenrec",
        "provenance": (
            f"IDGenRec (Tan et al. 2024), facts from its code: {levels} pieces at most of an id (10 there), "
            "the first free one of 10 by diverse beam search, the generator first and then the recommender, "
            f"in {1 if small else 3} rounds (3 there). Ours: both are the T5 of {config.name} from random "
            f"weights with {vocabulary:,} word pieces learnt from the texts, where it has a T5 trained on "
            "tags of articles and t5-small (the preset 'idgenrec'); so ours first learns to write each "
            "text's telling words. Rate 1e-6 of the generator (1e-8 there), one pair a user with 5 items of "
            "history in these turns. No prompt around the history, no id of the user; what no penalty makes "
            "unique has its last piece changed. Then the recommender goes on with the budget of "
            f"{config.name}."
        ),
        "tokenizer": TextualIdsConfig(levels=levels, text_tokens=tokens, vocabulary=vocabulary, body=body),
        "recommender": body,
        "naming": naming,
        "identifiers": IdentifierConfig(policy="none"),
        **_a_domain_each(config),
    }


def gmc_fields(config: MethodConfig) -> dict[str, Any]:
    """GMC: one tokenizer that knows the domains and one recommender for all, adapted to each by LoRA."""
    kept = quantises_vectors(config)
    if isinstance(kept, RQVAEConfig) and not kept.contrastive_weight:
        kept = kept.model_copy(update={"contrastive_weight": RQVAEConfig().contrastive_weight})
    return {
        "name": "gmc",
        "provenance": (
            f"GMC with the sizes and the budget of {config.name}: one tokenizer with L_dcl and one "
            "recommender over all domains of pre-training, then LoRA for each that is served."
        ),
        "tokenizer": kept,
        "codebooks": "shared",
        "recommenders": "unified",
        "adaptation": config.adaptation.model_copy(update={"kind": "lora"}),
        "compare": (),
    }


def _a_domain_each(config: MethodConfig) -> dict[str, Any]:
    fields = {
        "codebooks": "separate",
        "recommenders": "separate",
        "adaptation": config.adaptation.model_copy(update={"kind": "none"}),
        "compare": (),
    }
    if config.adaptation.kind == "full":
        # The method learns a target in its fine-tuning: whoever knows nothing else gets no less of it.
        fields["training"] = config.adaptation.training
    return fields
