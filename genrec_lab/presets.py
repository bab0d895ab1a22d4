"""Every method as a function that returns a typed, validated config, and says where its values come from.

`load("gmc")` gives the paper's sizes, for a GPU; `gmc_cpu` real data on two cores; `gmc_small` the embedded data in minutes.
GMC's five variants (Table 4) and the rows it is compared with are changes to a config (`ROWS`), so that in a comparison
everything else is equal.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from genrec_lab.codes import IdentifierConfig
from genrec_lab.data.batches import PairsConfig
from genrec_lab.encoders.text import TextConfig
from genrec_lab.models.adapters import LoRAConfig
from genrec_lab.models.residual_kmeans import ResidualKMeansConfig
from genrec_lab.models.rqvae import TIGER_HIDDEN, RQVAEConfig
from genrec_lab.models.sequential.sasrec import SASRecConfig
from genrec_lab.models.t5 import T5Config
from genrec_lab.training import TrainingConfig

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
# YAML and JSON know lists only.
_Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]


class PresetError(ValueError):
    """A preset or an override that does not exist or is impossible."""


class AdaptationConfig(BaseModel):
    """What is trained for each domain after the unified recommender (GMC 3.5)."""

    model_config = _STRICT

    kind: Literal["none", "lora", "full"] = "lora"  # full: all weights, GMC Table 4 row (5)
    lora: LoRAConfig = LoRAConfig()
    training: TrainingConfig = TrainingConfig()


class DecodingConfig(BaseModel):
    """How wide the beams are; wider finds more of the true best items and costs as much more."""

    model_config = _STRICT

    validation_beams: int = Field(10, ge=10)
    test_beams: int = Field(20, ge=10)  # GMC 5.1.4
    precision: Literal["auto", "fp32", "bf16"] = "fp32"  # scores are always normalised in fp32


class SASRecRow(BaseModel):
    """The row that every table carries: SASRec with cross-entropy over the whole catalogue."""

    model_config = _STRICT

    model: SASRecConfig = SASRecConfig()
    training: TrainingConfig = TrainingConfig()


class MethodConfig(BaseModel):
    """One method from text to ranked items, whole."""

    model_config = _STRICT

    name: str
    provenance: str  # where the values come from
    text: TextConfig = TextConfig()
    tokenizer: Annotated[RQVAEConfig | ResidualKMeansConfig, Field(discriminator="kind")] = RQVAEConfig()
    identifiers: IdentifierConfig = IdentifierConfig()
    codebooks: Literal["shared", "separate"] = "shared"  # separate: one tokenizer a domain
    recommender: T5Config = T5Config()
    recommenders: Literal["unified", "separate"] = "unified"  # separate: one recommender a domain
    pairs: PairsConfig = PairsConfig()
    training: TrainingConfig = TrainingConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
    decoding: DecodingConfig = DecodingConfig()
    compare: _Names = ()  # further rows of the table, from ROWS, trained in the same run
    sasrec: SASRecRow = SASRecRow()

    @model_validator(mode="after")
    def _fits_together(self) -> MethodConfig:
        if self.recommenders == "separate" and self.adaptation.kind != "none":
            raise ValueError(
                f"adaptation.kind is {self.adaptation.kind!r} with recommenders 'separate', which know one domain already; "
                "set adaptation.kind to 'none'"
            )
        if self.codebooks == "separate" and self.recommenders == "unified":
            raise ValueError(
                "codebooks are 'separate' with a 'unified' recommender: equal codes would mean different things"
            )
        for row in self.compare:
            if row not in ROWS:
                raise ValueError(
                    f"compare names {row!r}{_nearest(row, ROWS)}; expected some of {sorted(ROWS)}"
                )
        return self


# --- rows: a change to a config, or a model of its own kind

Change = Callable[[MethodConfig], MethodConfig]


def changed(config: MethodConfig, **fields: Any) -> MethodConfig:
    """Return the config with whole fields replaced, validated anew."""
    return MethodConfig.model_validate({**dict(config), **fields})


def _without_adaptation(config: MethodConfig) -> AdaptationConfig:
    return config.adaptation.model_copy(update={"kind": "none"})


def tiger_row(config: MethodConfig) -> MethodConfig:
    """TIGER in a run of another method: a tokenizer and a recommender a domain, 3 levels and the extra code, no L_dcl.

    Text vectors, code sizes, T5, pairs and training budget stay those of the method it is compared with.
    """
    kept: RQVAEConfig | ResidualKMeansConfig = config.tokenizer
    tokenizer: dict[str, Any] = {"levels": min(3, kept.levels)}
    if isinstance(kept, RQVAEConfig):
        tokenizer["contrastive_weight"] = 0.0
    return changed(
        config,
        name="tiger",
        provenance=f"TIGER (Rajput et al. 2023) with the sizes and the budget of {config.name}, so that only the method differs.",
        tokenizer=kept.model_copy(update=tokenizer),
        identifiers=IdentifierConfig(policy="extra_level"),
        codebooks="separate",
        recommenders="separate",
        adaptation=_without_adaptation(config),
        compare=(),
    )


def separate_codebooks(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (1), w/o sharable codebook: identifiers and recommenders a domain, so nothing is transferred."""
    return changed(
        config, name="gmc_separate_codebooks", codebooks="separate", recommenders="separate",
        adaptation=_without_adaptation(config), compare=(),
    )  # fmt: skip


def separate_recommenders(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (2), w/o unified recommender: shared identifiers, a recommender a domain."""
    return changed(
        config,
        name="gmc_separate_recommenders",
        recommenders="separate",
        adaptation=_without_adaptation(config),
        compare=(),
    )


def without_dcl(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (3), w/o L_dcl: the tokenizer is not told the domains."""
    if not isinstance(config.tokenizer, RQVAEConfig):
        raise PresetError(
            f"gmc_without_dcl needs tokenizer.kind 'rqvae'; {config.name} has {config.tokenizer.kind!r}"
        )
    tokenizer = config.tokenizer.model_copy(update={"contrastive_weight": 0.0})
    return changed(config, name="gmc_without_dcl", tokenizer=tokenizer, compare=())


def without_lora(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (4), w/o lora finetuning: the unified recommender as it is."""
    return changed(config, name="gmc_without_lora", adaptation=_without_adaptation(config), compare=())


def full_finetuning(config: MethodConfig) -> MethodConfig:
    """GMC Table 4 (5), finetune all parameters of the unified recommender for each domain."""
    adaptation = config.adaptation.model_copy(update={"kind": "full"})
    return changed(config, name="gmc_full_finetuning", adaptation=adaptation, compare=())


# A row of None is not generative: it has a model of its own and needs no tokenizer.
ROWS: dict[str, Change | None] = {
    "popularity": None,
    "sasrec": None,
    "tiger": tiger_row,
    "gmc_separate_codebooks": separate_codebooks,
    "gmc_separate_recommenders": separate_recommenders,
    "gmc_without_dcl": without_dcl,
    "gmc_without_lora": without_lora,
    "gmc_full_finetuning": full_finetuning,
}


def methods(config: MethodConfig) -> dict[str, MethodConfig]:
    """Return the generative methods of a run by name: its own, then those it compares with, all on its sizes."""
    rows = {config.name: config}
    for row in config.compare:
        if (change := ROWS[row]) is not None:
            rows[row] = change(config)
    return rows


# --- presets


def gmc() -> MethodConfig:
    """GMC with the paper's values (5.1.4), for GPUs; what the paper leaves out is said in `provenance`."""
    return MethodConfig(
        name="gmc",
        provenance=(
            "GMC 5.1.4: LLaMA-3.1-8B-Instruct vectors, L 4, N 256, d 32, beta 0.25, AdamW 1e-3, batch 1,024, 10k epochs; T5 200 epochs, "
            "2e-3, batch 1,024; fine-tuning 5e-4, batch 512, early stopping; beam 20. Not in the paper: RQ-VAE widths (LC-Rec's), "
            "conflicts (Sinkhorn, LC-Rec's), T5 192/64x6/1,536 with 2+2 layers and LoRA r 16 on q, k, v, the body whose 4.3 M and 0.17 M "
            "parameters match 5.3; weight decay, schedule, patience and LoRA's alpha are ours."
        ),
        text=TextConfig(
            kind="mean_pooled", model="meta-llama/Llama-3.1-8B-Instruct", precision="bfloat16", max_tokens=512
        ),
        tokenizer=RQVAEConfig(),
        identifiers=IdentifierConfig(policy="sinkhorn"),
        recommender=T5Config(d_model=192, d_kv=64, heads=6, d_ff=1536, encoder_layers=2, decoder_layers=2),
        training=TrainingConfig(
            epochs=200,
            batch_size=1024,
            learning_rate=2e-3,
            weight_decay=0.01,
            schedule="cosine",
            validate_every=5,
            patience=6,
        ),
        adaptation=AdaptationConfig(
            kind="lora",
            lora=LoRAConfig(rank=16, alpha=32.0, targets=("q", "k", "v")),
            training=TrainingConfig(
                epochs=50,
                batch_size=512,
                learning_rate=5e-4,
                schedule="constant",
                warmup=0.0,
                validate_from=0,
                patience=5,
            ),
        ),
        decoding=DecodingConfig(validation_beams=20, test_beams=20),
        compare=("popularity", "sasrec", "tiger"),
        sasrec=_sasrec(epochs=200),
    )


def gmc_cpu() -> MethodConfig:
    """GMC on real data with two cores: MiniLM vectors, a smaller RQ-VAE and fewer epochs; see docs/results.md."""
    return changed(
        gmc(),
        name="gmc_cpu",
        provenance=(
            "GMC's L 4, N 256, d 32, beta, L_dcl and LoRA. For two cores: MiniLM vectors, RQ-VAE 512-256-128 over 1,000 epochs, T5 batch 256, "
            "AdamW 2e-3 cosine over 40 epochs, at most 8 pairs of a user an epoch, drawn anew each time."
        ),
        text=TextConfig(),
        tokenizer=RQVAEConfig(hidden=TIGER_HIDDEN, epochs=1000),
        pairs=PairsConfig(max_history=20, per_user=8),
        training=TrainingConfig(
            epochs=40, batch_size=256, learning_rate=2e-3, weight_decay=0.01, schedule="cosine", validate_every=5, validate_from=10,
            validation_users=3000,
        ),
        adaptation=AdaptationConfig(
            kind="lora",
            lora=LoRAConfig(rank=16, alpha=32.0, targets=("q", "k", "v")),
            training=TrainingConfig(
                epochs=10, batch_size=256, learning_rate=5e-4, schedule="constant", warmup=0.0, validate_from=0, patience=2, validation_users=3000
            ),
        ),
        decoding=DecodingConfig(validation_beams=10, test_beams=20),
    )  # fmt: skip


def gmc_small() -> MethodConfig:
    """GMC in minutes on two cores, for the embedded data and for a first look; the notebooks' default."""
    return changed(
        gmc_cpu(),
        name="gmc_small",
        provenance="GMC's method on Bazaar's default size; every size is ours and chosen so that the whole chain takes minutes.",
        tokenizer=RQVAEConfig(hidden=(256, 128), levels=3, codebook_size=32, epochs=150, batch_size=512),
        recommender=T5Config(d_model=96, d_kv=24, heads=4, d_ff=256, encoder_layers=2, decoder_layers=2),
        pairs=PairsConfig(max_history=20, per_user=4),
        training=TrainingConfig(
            epochs=12, batch_size=256, learning_rate=3e-3, schedule="cosine", validate_every=3, validation_users=600
        ),
        adaptation=AdaptationConfig(
            kind="lora",
            lora=LoRAConfig(rank=8, alpha=16.0),
            training=TrainingConfig(
                epochs=3, batch_size=256, learning_rate=1e-3, schedule="constant", warmup=0.0, validate_from=0, patience=2, validation_users=300
            ),
        ),
        sasrec=_sasrec(epochs=40, patience=4),
    )  # fmt: skip


def gmc_tiny() -> MethodConfig:
    """GMC at a size that only shows that everything runs; the smoke run's."""
    return changed(
        gmc_small(),
        name="gmc_tiny",
        provenance="No result is meant by it: the smallest sizes at which every step still does its work.",
        text=TextConfig(kind="tfidf", dimensions=64),
        tokenizer=RQVAEConfig(
            hidden=(64,), dimension=16, levels=3, codebook_size=16, epochs=20, batch_size=256
        ),
        recommender=T5Config(d_model=32, d_kv=8, heads=4, d_ff=64, encoder_layers=1, decoder_layers=1),
        training=TrainingConfig(epochs=3, batch_size=256, learning_rate=3e-3, validation_users=100),
        adaptation=AdaptationConfig(
            lora=LoRAConfig(rank=4, alpha=8.0),
            training=TrainingConfig(
                epochs=1,
                batch_size=256,
                learning_rate=1e-3,
                schedule="constant",
                warmup=0.0,
                validate_from=0,
                validation_users=60,
            ),
        ),
        sasrec=_sasrec(epochs=2),
    )


def tiger() -> MethodConfig:
    """TIGER with its paper's values: a tokenizer and a recommender a domain."""
    return MethodConfig(
        name="tiger",
        provenance=(
            "TIGER (Rajput et al. 2023) 4: RQ-VAE 512-256-128-32, 3 levels of 256, beta 0.25, k-means start, a 4th code for collisions; T5 "
            "128/64x6/1,024 with 4+4 layers, batch 256, 0.01 for 10k steps and then inverse square root, 200k steps; beam 20. Ours: MiniLM "
            "instead of Sentence-T5 vectors; steps are counted in epochs."
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
        sasrec=_sasrec(epochs=200),
    )


def rkmeans() -> MethodConfig:
    """GMC's recommender on residual k-means codes, which need no training of a tokenizer."""
    return changed(
        gmc_cpu(),
        name="rkmeans",
        provenance="Residual k-means, 4 levels of 256, on the text vectors themselves; everything else as gmc_cpu.",
        tokenizer=ResidualKMeansConfig(levels=4, codebook_size=256),
        identifiers=IdentifierConfig(policy="nearest_free"),
    )


def _sasrec(epochs: int, patience: int = 10) -> SASRecRow:
    """SASRec's row; width, dropout and patience were chosen on the validation part of Scientific (docs/results.md)."""
    training = TrainingConfig(
        epochs=epochs, batch_size=256, learning_rate=1e-3, weight_decay=0.01, schedule="constant", warmup=0.0,
        precision="fp32", validate_every=2, patience=patience,
    )  # fmt: skip
    return SASRecRow(training=training)


_PRESETS: dict[str, Callable[[], MethodConfig]] = {
    "gmc": gmc,
    "gmc_cpu": gmc_cpu,
    "gmc_small": gmc_small,
    "gmc_tiny": gmc_tiny,
    "tiger": tiger,
    "rkmeans": rkmeans,
    **{
        name: (lambda change=change: change(gmc()))
        for name, change in ROWS.items()
        if change and name.startswith("gmc_")
    },
}


def names() -> tuple[str, ...]:
    """Return the names that `load` knows."""
    return tuple(_PRESETS)


def load(name: str, overrides: Mapping[str, Any] | None = None) -> MethodConfig:
    """Return a preset, with overrides by dotted names, as `{"tokenizer.levels": 3}`.

    Raises PresetError for an unknown preset or key, naming the nearest, and for a value that is impossible, saying what is allowed.
    """
    if name not in _PRESETS:
        raise PresetError(f"preset is {name!r}{_nearest(name, _PRESETS)}; expected one of {list(_PRESETS)}")
    config = _PRESETS[name]()
    if not overrides:
        return config
    content = config.model_dump()
    for key, value in overrides.items():
        _set(content, key, value)
    try:
        return MethodConfig.model_validate(_as_config(content))
    except ValidationError as error:
        lines = [
            f"  {'.'.join(map(str, e['loc']))} = {e['input']!r}: {e['msg']}" if e["loc"] else f"  {e['msg']}"
            for e in error.errors()
        ]
        raise PresetError(
            f"preset {name!r} with overrides {dict(overrides)} is impossible:\n" + "\n".join(lines)
        ) from None


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key of a config written as nested dicts."""
    place, parts = content, key.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        if not isinstance(place, dict):
            raise PresetError(f"overrides: {where} is a value and has no keys below it; got {key!r}")
        if part not in place:
            raise PresetError(
                f"overrides: {key!r} is unknown{_nearest(part, place)}; {where or 'the config'} has {sorted(place)}"
            )
        if depth < len(parts) - 1:
            place = place[part]
    if key == "tokenizer.kind":
        _switch_tokenizer(place, value)
    else:
        place[parts[-1]] = value


def _switch_tokenizer(place: dict[str, Any], kind: Any) -> None:
    """Take the defaults of another kind of tokenizer, keeping the values that both have, as levels and codebook_size."""
    kinds: dict[str, type[BaseModel]] = {"rqvae": RQVAEConfig, "rkmeans": ResidualKMeansConfig}
    if kind not in kinds:
        raise PresetError(
            f"overrides: tokenizer.kind is {kind!r}{_nearest(str(kind), kinds)}; expected one of {list(kinds)}"
        )
    shared = {
        name: value for name, value in place.items() if name in kinds[kind].model_fields and name != "kind"
    }
    place.clear()
    place.update(kinds[kind](**shared).model_dump())


def _as_config(content: dict[str, Any]) -> dict[str, Any]:
    """Let JSON and YAML lists stand for tuples."""
    return {key: _tuples(value) for key, value in content.items()}


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(part) for key, part in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
