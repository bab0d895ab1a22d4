"""Presets of the methods that GMC is compared with, and of runs with all rows but no own method."""

from __future__ import annotations

from typing import Any

from genrec_lab.codes import IdentifierConfig
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.tokenizers.autoencoder import TIGER_HIDDEN
from genrec_lab.models.tokenizers.co_occurrence import CoOccurrenceConfig
from genrec_lab.models.tokenizers.letter import LetterConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.models.tokenizers.textual_ids import TextualIdsConfig
from genrec_lab.presets.config import AdaptationConfig, MethodConfig, changed
from genrec_lab.presets.gmc import gmc_cpu, gmc_tiny
from genrec_lab.presets.rows import ABLATIONS, ROWS
from genrec_lab.presets.sequential_rows import rows_over_items
from genrec_lab.training import TrainingConfig

TIGER_RQVAE = RQVAEConfig(hidden=TIGER_HIDDEN, levels=3, contrastive_weight=0.0, epochs=20_000)


def tiger() -> MethodConfig:
    """TIGER with its paper's values: one tokenizer and one recommender per domain."""
    return MethodConfig(
        name="tiger",
        provenance=(
            "TIGER (Rajput et al. 2023) 4: RQ-VAE 512-256-128-32, 3 levels of 256, beta 0.25, k-means start, "
            "a 4th code for collisions; T5 128/64x6/1,024 with 4+4 layers, batch 256, 0.01 for 10k steps and "
            "then inverse square root, 200k steps; beam 20. Ours: MiniLM instead of Sentence-T5 vectors; "
            "steps are counted in epochs."
        ),
        tokenizer=TIGER_RQVAE,
        identifiers=IdentifierConfig(policy="extra_level"),
        codebooks="separate",
        recommenders="separate",
        recommender=T5Config(),
        training=_full_length(epochs=1500, learning_rate=0.01, schedule="inverse_sqrt", warmup=0.05),
        adaptation=AdaptationConfig(kind="none"),
        compare=("popularity", "sasrec"),
        rows=rows_over_items(epochs=200),
    )


def tiger_multimodal() -> MethodConfig:
    """TIGER_M with TIGER's values, on concatenated text and picture vectors."""
    return changed(
        tiger(),
        name="tiger_multimodal",
        provenance=(
            "TIGER_M of UTGRec's Table 2: unit vectors of text and picture concatenated, then TIGER with its "
            "paper's values. UTGRec uses vectors of CLIP or Qwen2-VL-2B, whichever is better; here MiniLM "
            "for texts and pooled features of EfficientNet-lite0 for pictures, zeros for an item without a "
            "picture."
        ),
        pictures="efficientnet-lite0",
    )


def letter() -> MethodConfig:
    """LETTER on TIGER with its paper's values: one tokenizer and one recommender per domain."""
    return changed(
        tiger(),
        name="letter",
        provenance=(
            "LETTER (Wang et al. 2024) 4.1: 4 levels of 256, d 32, collaborative weight .02, diversity "
            "weight 1e-4 over 10 constrained clusters per level, AdamW 1e-3, batch 1,024, 20k epochs; T5 as "
            "in TIGER, AdamW 5e-4, cosine, batch 256, 200 epochs; beam 20. Temperature .7, which it tunes. "
            "From its code: widths, conflicts by Sinkhorn. Ours: MiniLM instead of LLaMA vectors; a SASRec "
            "of 32 dimensions over 50 epochs of the training part; codewords clustered again every 10 "
            "epochs, not every epoch; a start from k-means, not balanced; restarts of dead codes; the last "
            "level is not assigned by Sinkhorn during training."
        ),
        tokenizer=LetterConfig(epochs=20_000),
        identifiers=IdentifierConfig(policy="sinkhorn"),
        loss_temperature=0.7,
        training=_full_length(epochs=200, learning_rate=5e-4, schedule="cosine"),
    )


def p5_cid() -> MethodConfig:
    """P5-CID with the clusters of its code, on TIGER's recommender: no content at all."""
    return changed(
        tiger(),
        name="p5_cid",
        provenance=(
            "P5-CID (Hua et al. 2023), clusters as in its code: 20 each, until none has more than 500 items, "
            "by spectral clustering with pivoted QR of the co-occurrence graph of the training part; then a "
            "number within the cluster. Each level has its own vocabulary. Ours: TIGER's T5 and its training "
            "instead of t5-small and P5's prompts."
        ),
        tokenizer=CoOccurrenceConfig(),
        identifiers=IdentifierConfig(policy="none"),
    )


def idgenrec() -> MethodConfig:
    """IDGenRec with the values of its code, on t5-small: two of them a domain, for a GPU."""
    small = T5Config(d_model=512, d_kv=64, heads=8, d_ff=2048, encoder_layers=6, decoder_layers=6)
    training = TrainingConfig(epochs=30, batch_size=64, learning_rate=1e-3, weight_decay=0.01, patience=10)
    return changed(
        tiger(),
        name="idgenrec",
        provenance=(
            "IDGenRec (Tan et al. 2024), values of its code: ids of at most 10 pieces by diverse beam search "
            "of 10 groups, 3 rounds of 1 epoch of the generator at 1e-8 and 10 of the recommender at 1e-3, "
            "batches of 12 and 64, histories of 20 items, texts of 256 tokens; t5-small, for the generator "
            "one that was trained on tags of articles. Ours: no prompt around the history and no user id; "
            "only letters and digits are generated, where its code removes punctuation afterwards; AdamW "
            "restarts in each round, cosine instead of linear; then the recommender continues until "
            "validation NDCG stops rising."
        ),
        tokenizer=TextualIdsConfig(
            generator="nandakishormpai/t5-small-machine-articles-tag-generation",
            recommender="t5-small",
            body=small,
        ),
        identifiers=IdentifierConfig(policy="none"),
        recommender=small,
        training=training,
    )


def baselines() -> MethodConfig:
    """All rows with one budget, for two cores; rows without the data they need are skipped, with a reason."""
    return changed(
        gmc_cpu(),
        name="baselines",
        own_row=False,
        provenance=(
            "No method of its own. Rows over items: width 64 and the sizes in each model's file; a softmax "
            "over all items for all of them, AdamW 1e-3, batch 256, at most 200 epochs, stopped when "
            "validation NDCG has not risen for 20. Generative rows: the sizes and epochs of gmc_cpu, MiniLM "
            "vectors."
        ),
        compare=every_row(),
        rows=rows_over_items(epochs=200, patience=10, size="cpu"),
    )


def baselines_tiny() -> MethodConfig:
    """All rows at the smallest sizes, for the smoke run."""
    rows = rows_over_items(epochs=2, size="tiny")
    for name, row in rows.items():
        if "width" in type(row.model).model_fields:
            rows[name] = row.model_copy(update={"model": row.model.model_copy(update={"width": 16})})
    return changed(
        gmc_tiny(),
        name="baselines_tiny",
        own_row=False,
        provenance="Every row at the smallest sizes, for the smoke run; its results mean nothing.",
        compare=every_row(),
        rows=rows,
    )


def every_row() -> tuple[str, ...]:
    """Return the names of all rows except variants of one method."""
    over_items = rows_over_items(epochs=1)
    return (*over_items, *(name for name in ROWS if name not in ABLATIONS))


def _full_length(**training: Any) -> TrainingConfig:
    """Return the papers' batch size, validated every ten epochs, with a patience of ten validations."""
    return TrainingConfig(batch_size=256, validate_every=10, patience=10, **training)
