"""GMC's presets: the paper's sizes, two cores, minutes, a smoke run; and its recommender on k-means codes."""

from __future__ import annotations

from typing import Any

from genrec_lab.codes import IdentifierConfig
from genrec_lab.data.batches import PairsConfig
from genrec_lab.encoders.text import TextConfig
from genrec_lab.models.recommenders.adapters import LoRAConfig
from genrec_lab.models.recommenders.causal import CausalConfig
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.tokenizers.autoencoder import TIGER_HIDDEN
from genrec_lab.models.tokenizers.residual_kmeans import ResidualKMeansConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.presets.config import AdaptationConfig, DecodingConfig, MethodConfig, TuningConfig, changed
from genrec_lab.presets.sequential_rows import rows_over_items
from genrec_lab.training import TrainingConfig

# r 16 on q, k and v comes to the 0.17 M parameters of 5.3.
_LORA = LoRAConfig(rank=16, alpha=32.0, targets=("q", "k", "v"))
_SMALL_LORA = LoRAConfig(rank=8, alpha=16.0)
# Of a recommender that learns Bazaar's default size in minutes.
SMALL_T5 = T5Config(d_model=96, d_kv=24, heads=4, d_ff=256, encoder_layers=2, decoder_layers=2, reads="past")


def gmc() -> MethodConfig:
    """GMC with the paper's values (5.1.4), for GPUs; what the paper leaves out is said in `provenance`."""
    return MethodConfig(
        name="gmc",
        provenance=(
            "GMC 5.1.4: LLaMA-3.1-8B-Instruct vectors, L 4, N 256, d 32, beta 0.25, AdamW 1e-3, batch 1,024, "
            "10k epochs; T5 200 epochs, 2e-3, batch 1,024; fine-tuning 5e-4, batch 512, early stopping; beam "
            "20. Unlike the paper: the RQ-VAE's squared norms are means over dimensions, vectors are scaled "
            "to a mean square of 1, dead codes restarted (level 1 collapses otherwise). Not in the paper: "
            "RQ-VAE widths (LC-Rec's), conflicts (Sinkhorn, LC-Rec's), T5 192/64x6/1,536 with 2+2 layers and "
            "LoRA r 16 on q, k, v, the body whose 4.3 M and 0.17 M parameters match 5.3; weight decay, "
            "schedule, patience and LoRA's alpha are ours."
        ),
        text=TextConfig(
            kind="mean_pooled", model="meta-llama/Llama-3.1-8B-Instruct", precision="bfloat16", max_tokens=512
        ),
        tokenizer=RQVAEConfig(),
        identifiers=IdentifierConfig(policy="sinkhorn"),
        recommender=T5Config(d_model=192, d_kv=64, heads=6, d_ff=1536, encoder_layers=2, decoder_layers=2),
        training=TrainingConfig(
            epochs=200, batch_size=1024, learning_rate=2e-3, validate_every=5, patience=6
        ),
        adaptation=_fine_tuning(_LORA, epochs=50, batch_size=512, learning_rate=5e-4, patience=5),
        decoding=DecodingConfig(validation_beams=20, test_beams=20),
        compare=("popularity", "sasrec", "tiger"),
        rows=rows_over_items(epochs=200),
    )


def gmc_cpu() -> MethodConfig:
    """GMC on real data with two cores: MiniLM vectors, a smaller RQ-VAE, fewer epochs (docs/results.md)."""
    base = gmc()
    return changed(
        base,
        name="gmc_cpu",
        provenance=(
            "GMC's N 256, d 32, beta, L_dcl and LoRA; its L 4 as 3 levels and TIGER's extra code, which "
            "separates items with equal codes: on Scientific alone 12 % better in validation NDCG@10 than 4 "
            "levels and nearest_free (docs/results/gmc_trials.md). For two cores: MiniLM vectors, RQ-VAE "
            "512-256-128 over 300 epochs, in bf16 if the CPU supports it; the T5 reads the past of a history "
            "and learns every position of a sequence in one pass, 20 epochs of one window of 21 items per "
            "user, batch 512 items, 1e-3 cosine; Muon instead of AdamW, which reaches the same validation "
            "NDCG in about a tenth of the epochs; LoRA at most 6 epochs."
        ),
        tuning=TuningConfig(
            trials=18,
            space=(
                "7 of TIGER on Scientific, 11 of GMC (docs/results/gmc_trials.md): training.batch_size 256 "
                "to 2048, training.learning_rate 1e-3 to 6e-3, training.weight_decay 0.01 and 1, "
                "recommender.dropout 0.1 and 0.2, recommender.d_ff 1536 and 3072, codebooks shared and "
                "separate, 4 levels with nearest_free and 3 with an extra code"
            ),
        ),
        text=TextConfig(),
        tokenizer=RQVAEConfig(hidden=TIGER_HIDDEN, levels=3, epochs=300, precision="auto"),
        identifiers=IdentifierConfig(policy="extra_level"),
        recommender=base.recommender.model_copy(update={"reads": "past"}),
        pairs=PairsConfig(max_history=20, per_user=8, stretches_per_user=1),
        rows=rows_over_items(epochs=200, patience=5, size="cpu"),
        training=TrainingConfig(
            epochs=20,
            batch_size=512,
            optimizer="muon",
            validate_every=5,
            validate_from=5,
            validation_users=3000,
        ),
        adaptation=_fine_tuning(_LORA, epochs=6, batch_size=512, patience=2, validation_users=3000),
        decoding=DecodingConfig(validation_beams=10, test_beams=20),
    )


def gmc_small() -> MethodConfig:
    """GMC in minutes on two cores, for the embedded data and first experiments."""
    return changed(
        gmc_cpu(),
        name="gmc_small",
        provenance=(
            "GMC's method on Bazaar's default size; every size is ours and chosen so that the whole chain "
            "takes minutes. The T5 reads the past of a history, so it learns a sequence in one pass."
        ),
        tuning=TuningConfig(),
        tokenizer=RQVAEConfig(hidden=(256, 128), levels=3, codebook_size=64, epochs=120, batch_size=512),
        identifiers=IdentifierConfig(policy="nearest_free"),
        recommender=SMALL_T5,
        pairs=PairsConfig(max_history=20),
        training=TrainingConfig(
            epochs=13, optimizer="muon", learning_rate=3e-3, validate_every=6, validation_users=600
        ),
        adaptation=_fine_tuning(_SMALL_LORA, epochs=3, patience=2, validation_users=300),
        # What LoRA is worth costs no training: notebook 08 always has a part to weigh.
        compare=(*gmc_cpu().compare, "gmc_without_lora"),
        rows=rows_over_items(epochs=24, patience=4, size="small"),
    )


def gmc_demo() -> MethodConfig:
    """GMC on the demo's world, whose items have three words each; the notebooks' default."""
    base = gmc_small()
    # So many steps at least: in the small shop the rows that know it alone go through their data more often.
    least = 120
    sasrec = base.rows["sasrec"]
    of_items = sasrec.training.model_copy(update={"epochs": 40, "least_steps": least, "validate_every": 10})
    return changed(
        base,
        name="gmc_demo",
        provenance=(
            "GMC's method on the demo's Bazaar of 1,050 items and 2,000 users. Every size is ours and was "
            "chosen on its world of seed 10, so that the chain takes minutes; its results say nothing about "
            "other data. The T5 reads the past of a history and has no dropout, because it trains for only "
            "ten epochs."
        ),
        text=TextConfig(kind="tfidf", dimensions=31),
        tokenizer=RQVAEConfig(
            hidden=(64,), dimension=64, levels=3, codebook_size=16, epochs=40, batch_size=256
        ),
        identifiers=IdentifierConfig(policy="extra_level"),
        recommender=T5Config(
            d_model=48,
            d_kv=12,
            heads=4,
            d_ff=128,
            encoder_layers=1,
            decoder_layers=1,
            dropout=0.0,
            reads="past",
        ),
        training=base.training.model_copy(
            update={"epochs": 10, "least_steps": least, "learning_rate": 5e-3, "validate_every": 5}
        ),
        adaptation=_fine_tuning(_SMALL_LORA, epochs=3, optimizer="muon", patience=2, validation_users=300),
        rows=base.rows | {"sasrec": sasrec.model_copy(update={"training": of_items})},
    )


def gmc_tiny() -> MethodConfig:
    """GMC at the smallest size, for the smoke run."""
    return changed(
        gmc_small(),
        name="gmc_tiny",
        provenance="Smallest sizes at which every step works, for the smoke run; its results mean nothing.",
        text=TextConfig(kind="tfidf", dimensions=64),
        tokenizer=RQVAEConfig(
            hidden=(64,), dimension=16, levels=3, codebook_size=16, epochs=20, batch_size=256
        ),
        recommender=T5Config(d_model=32, d_kv=8, heads=4, d_ff=64, encoder_layers=1, decoder_layers=1),
        one_pass=TrainingConfig(epochs=2, learning_rate=3e-3, validation_users=100),
        training=TrainingConfig(epochs=1, validation_users=100),
        adaptation=_fine_tuning(LoRAConfig(rank=4, alpha=8.0), epochs=1, validation_users=60),
        rows=rows_over_items(epochs=2, size="tiny"),
    )


def causal() -> MethodConfig:
    """A causal recommender with GMC's identifiers and budget; not from a paper."""
    base = gmc_cpu()
    return changed(
        base,
        name="causal",
        provenance=(
            "gmc_cpu with a stack of 3 causal layers of the T5's sizes instead of the T5, and without "
            "adaptation. It learns from every position of a sequence in one pass."
        ),
        recommender=CausalConfig(d_model=192, d_kv=64, heads=6, d_ff=1536, layers=3),
        adaptation=base.adaptation.model_copy(update={"kind": "none"}),
        compare=("popularity", "sasrec"),
    )


def rkmeans() -> MethodConfig:
    """GMC's recommender on residual k-means codes, which need no tokenizer training."""
    return changed(
        gmc_cpu(),
        name="rkmeans",
        provenance=(
            "Residual k-means, 3 levels of 256, on the text vectors themselves; everything else as in "
            "gmc_cpu."
        ),
        tokenizer=ResidualKMeansConfig(levels=3, codebook_size=256),
    )


def _fine_tuning(lora: LoRAConfig, **training: Any) -> AdaptationConfig:
    """Return LoRA with a constant rate, also validated before the first epoch so that no domain loses."""
    budget = TrainingConfig(schedule="constant", warmup=0.0, validate_from=0, **training)
    return AdaptationConfig(kind="lora", lora=lora, training=budget)
