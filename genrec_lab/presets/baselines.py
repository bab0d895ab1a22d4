"""The presets of what GMC is compared with."""

from __future__ import annotations

from genrec_lab.codes import IdentifierConfig
from genrec_lab.models.rqvae import TIGER_HIDDEN, RQVAEConfig
from genrec_lab.models.sequential.kinds import MODELS
from genrec_lab.models.t5 import T5Config
from genrec_lab.presets.method_config import AdaptationConfig, ItemRow, MethodConfig
from genrec_lab.training import TrainingConfig


def tiger() -> MethodConfig:
    """TIGER with its paper's values: a tokenizer and a recommender a domain."""
    return MethodConfig(
        name="tiger",
        provenance=(
            "TIGER (Rajput et al. 2023) 4: RQ-VAE 512-256-128-32, 3 levels of 256, beta 0.25, k-means start, "
            "a 4th code for collisions; T5 128/64x6/1,024 with 4+4 layers, batch 256, 0.01 for 10k steps and "
            "then inverse square root, 200k steps; beam 20. Ours: MiniLM instead of Sentence-T5 vectors; "
            "steps are counted in epochs."
        ),
        tokenizer=RQVAEConfig(hidden=TIGER_HIDDEN, levels=3, contrastive_weight=0.0, epochs=20_000),
        identifiers=IdentifierConfig(policy="extra_level"),
        codebooks="separate",
        recommenders="separate",
        recommender=T5Config(),
        training=TrainingConfig(
            epochs=1500,
            batch_size=256,
            learning_rate=0.01,
            schedule="inverse_sqrt",
            warmup=0.05,
            validate_every=10,
            patience=10,
        ),
        adaptation=AdaptationConfig(kind="none"),
        compare=("popularity", "sasrec"),
        rows=rows_over_items(epochs=200),
    )


def rows_over_items(epochs: int, patience: int = 10) -> dict[str, ItemRow]:
    """Every row with a model over items, at the sizes of its config and with one budget for all.

    AdamW with 1e-3, batches of 256 sequences, until validation NDCG stops rising.
    """
    training = TrainingConfig(
        epochs=epochs,
        batch_size=256,
        learning_rate=1e-3,
        weight_decay=0.01,
        schedule="constant",
        warmup=0.0,
        precision="fp32",
        validate_every=2,
        patience=patience,
    )
    return {
        name: ItemRow(model=model.Config(), training=training, pretraining=training)
        for name, model in MODELS.items()
    }
