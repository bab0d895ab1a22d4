"""UTGRec's presets: the values of the paper and of its code, for two cores, for minutes, for a smoke run."""

from __future__ import annotations

from typing import Any, Literal

from genrec_lab.codes import IdentifierConfig
from genrec_lab.data.batches import PairsConfig
from genrec_lab.encoders.compact import CompactConfig
from genrec_lab.encoders.pictures import PictureTarget
from genrec_lab.encoders.qwen import QwenConfig
from genrec_lab.encoders.text import TextConfig
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.tokenizers.content_decoders import DecoderConfig
from genrec_lab.models.tokenizers.diffusion import DiffusionConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.models.tokenizers.tree import for_fidelity
from genrec_lab.models.tokenizers.tree_network import TreeTokenizerConfig
from genrec_lab.models.tokenizers.tree_quantizer import TreeQuantizerConfig
from genrec_lab.presets.baselines import TIGER_RQVAE
from genrec_lab.presets.config import AdaptationConfig, DecodingConfig, MethodConfig, TransferConfig, changed
from genrec_lab.presets.gmc import SMALL_T5
from genrec_lab.presets.sequential_rows import rows_over_items
from genrec_lab.training import TrainingConfig


def utgrec(fidelity: Literal["paper", "code"] = "paper") -> MethodConfig:
    """UTGRec with Qwen2-VL-2B, for GPUs; `models.tokenizers.tree.for_fidelity` compares paper and code.

    Besides the tokenizer, they differ in the fine-tuning epochs (20 and 40), the schedule (cosine and linear;
    here cosine for both) and the picture's target: pixels of 256 px as in the paper. For the code's latents
    of a KL-16 autoencoder, set `content.picture.autoencoder` to its folder.
    """
    paper = fidelity == "paper"
    return MethodConfig(
        name="utgrec" if paper else "utgrec_code",
        provenance=(
            "UTGRec 3.1.4: Qwen2-VL-2B with LoRA, L 3, root 256, leaf 512, lambda 200, mu .01, eta .03, "
            "AdamW 3e-4 over 3 epochs, fine-tuning 1e-4 over 20, cosine, batch 16 on each of 16 GPUs; T5 "
            "AdamW 5e-3 over 50 epochs, then 3e-3 with early stopping, batch 256 on each of 4 GPUs; beam 50. "
            + ("alpha 3, the best of Figure 3. " if paper else "alpha 5 and 40 epochs as in its code. ")
            + "Not in the paper, from its code: LoRA r 8, alpha 32, d_c 128, adapter 768, tau .1, decoders "
            "and diffusion; weight decay .05 from its author's other work. The T5 has TIGER's sizes (3.1.4), "
            "128/64x6/1,024 with 4+4 layers, as in the TIGER row; patience is ours."
        ),
        content=QwenConfig(gradient_checkpointing=True, picture=PictureTarget(size=256, patch=16)),
        tokenizer=for_fidelity(fidelity),
        tokenizer_training=TrainingConfig(epochs=3, batch_size=256, learning_rate=3e-4),
        transfer=TransferConfig(
            training=TrainingConfig(epochs=20 if paper else 40, batch_size=256, learning_rate=1e-4)
        ),
        identifiers=IdentifierConfig(policy="nearest_free"),
        recommender=T5Config(),
        pairs=PairsConfig(max_history=20),
        training=TrainingConfig(
            epochs=50, batch_size=1024, learning_rate=5e-3, weight_decay=0.05, validate_every=5, patience=4
        ),
        adaptation=AdaptationConfig(
            kind="full",
            training=TrainingConfig(
                epochs=100,
                batch_size=1024,
                learning_rate=3e-3,
                weight_decay=0.05,
                validate_from=0,
                patience=10,
            ),
        ),
        decoding=DecodingConfig(validation_beams=20, test_beams=50),
        rqvae=TIGER_RQVAE,
        compare=("popularity", "sasrec", "tiger"),
        rows=rows_over_items(epochs=200),
    )


def utgrec_code() -> MethodConfig:
    """UTGRec with the values of its published code."""
    return utgrec("code")


def utgrec_small() -> MethodConfig:
    """UTGRec in minutes on two cores: compact encoder, pictures of 24 px, for Bazaar and first trials."""
    return changed(
        utgrec(),
        name="utgrec_small",
        provenance=(
            "UTGRec's method; every size is ours. MiniLM and EfficientNet-lite0, not Qwen2-VL; pictures of "
            "24 px in 16 patches, because with fewer positions the decoder starts to use the codes sooner; "
            "L_Code as a mean, as in its code. Against collapse on small catalogues: content standardised, "
            "no dropout, lambda .3, codewords placed by k-means after 10 batches and dead ones restarted "
            "(docs/results/utgrec_trials.md). T5 with Muon, as in gmc_cpu; it reads the past of a history, "
            "so it learns a sequence in one pass."
        ),
        text=TextConfig(),
        content=CompactConfig(
            dimension=128, layers=1, dropout=0.0, max_tokens=32, vocabulary=512,
            picture=PictureTarget(size=24, patch=6),
        ),
        tokenizer=TreeTokenizerConfig(
            quantizer=_quantizer(root_size=64, leaf_size=128, dimension=32, restart_every=10),
            decoder=DecoderConfig(heads=4, expansion=2, text_places=32, reduction="code"),
            diffusion=DiffusionConfig(width=192, depth=2, sampling_steps=50, repeats=2),
            adapter_hidden=128, adapter_dropout=0.0, standardise=True, lambda_code=0.3,
            alignment_on="adapted", alignment_reduction="code", warm_up_steps=10,
        ),
        tokenizer_training=TrainingConfig(epochs=16, batch_size=32),
        transfer=TransferConfig(training=TrainingConfig(epochs=10, batch_size=32, learning_rate=5e-4)),
        recommender=SMALL_T5,
        training=TrainingConfig(
            epochs=14, optimizer="muon", learning_rate=3e-3, validate_every=5, validation_users=600
        ),
        adaptation=AdaptationConfig(
            kind="full",
            training=TrainingConfig(
                epochs=30, optimizer="muon", learning_rate=2e-3, validate_from=0, validate_every=3,
                patience=3, validation_users=600,
            ),
        ),
        decoding=DecodingConfig(validation_beams=10, test_beams=20),
        rqvae=RQVAEConfig(
            hidden=(256, 128), levels=3, codebook_size=64, epochs=150, batch_size=512,
            contrastive_weight=0.0,
        ),
        rows=rows_over_items(epochs=30, patience=4, size="small"),
    )  # fmt: skip


def utgrec_tiny() -> MethodConfig:
    """UTGRec at the smallest size, without pre-trained weights, for the smoke run."""
    small = utgrec_small()
    return changed(
        small,
        name="utgrec_tiny",
        provenance="UTGRec's method at the smallest sizes, for the smoke run; its results mean nothing.",
        text=TextConfig(kind="tfidf", dimensions=64),
        content=CompactConfig(
            dimension=32, heads=2, layers=1, dropout=0.0, max_tokens=16, vocabulary=128, text_model="hash",
            picture_model="pixels", picture=PictureTarget(size=16, patch=4),
        ),
        tokenizer=small.tokenizer.model_copy(
            update={
                "quantizer": _quantizer(root_size=16, leaf_size=32, dimension=16, restart_every=5),
                "decoder": DecoderConfig(heads=2, expansion=1, text_places=16, reduction="code"),
                "diffusion": DiffusionConfig(width=48, depth=1, sampling_steps=10, repeats=1),
                "adapter_hidden": 32,
            }
        ),
        tokenizer_training=TrainingConfig(epochs=3, batch_size=64, learning_rate=2e-3),
        transfer=TransferConfig(training=TrainingConfig(epochs=2, batch_size=64)),
        recommender=T5Config(d_model=32, d_kv=8, heads=2, d_ff=64, encoder_layers=1, decoder_layers=1),
        training=TrainingConfig(epochs=3, learning_rate=3e-3, validation_users=100),
        adaptation=AdaptationConfig(
            kind="full",
            training=TrainingConfig(epochs=2, learning_rate=2e-3, validate_from=0, validation_users=100),
        ),
        decoding=DecodingConfig(validation_beams=10, test_beams=10),
        rqvae=RQVAEConfig(
            hidden=(64,), dimension=16, levels=3, codebook_size=16, epochs=20, batch_size=256,
            contrastive_weight=0.0,
        ),
        compare=("popularity", "sasrec"),
        rows=rows_over_items(epochs=2, size="tiny"),
    )  # fmt: skip


def _quantizer(**sizes: Any) -> TreeQuantizerConfig:
    """Return a quantiser that does not collapse on small catalogues."""
    return TreeQuantizerConfig(reduction="code", kmeans_start=True, restart_dead=True, **sizes)
