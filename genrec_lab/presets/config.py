"""The config of a whole method, from text to ranked items."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SerializeAsAny,
    model_validator,
)

from genrec_lab.codes import IdentifierConfig
from genrec_lab.data.batches import PairsConfig
from genrec_lab.encoders import AnyEncoderConfig, AnyTextConfig
from genrec_lab.encoders.compact import CompactConfig
from genrec_lab.encoders.picture_features import Pictures
from genrec_lab.encoders.text import TextConfig
from genrec_lab.evaluation import METRICS
from genrec_lab.models.recommenders.adapters import LoRAConfig
from genrec_lab.models.recommenders.base import ITEM_MODELS, RECOMMENDERS
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.tokenizers import AnyTokenizerConfig, Tokenizer, find_tokenizer
from genrec_lab.models.tokenizers.letter import CollaborativeConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.models.tokenizers.textual_ids import NamingConfig
from genrec_lab.registry import ComponentConfig, component_config
from genrec_lab.training import TrainingConfig

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
# YAML and JSON have only lists.
_LISTED = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)
_Numbers = Annotated[tuple[int, ...], _LISTED]
_Names = Annotated[tuple[str, ...], _LISTED]
_MOST_RANKED = 1_000
_Component = SerializeAsAny[ComponentConfig]
_Recommender = Annotated[_Component, PlainValidator(partial(component_config, RECOMMENDERS))]
_ItemModel = Annotated[_Component, PlainValidator(partial(component_config, ITEM_MODELS))]


class TuningConfig(BaseModel):
    """The hyper-parameter search of a row, on validation users only; by default there was none."""

    model_config = _STRICT

    trials: int = Field(1, ge=1)  # settings that were trained and compared by the monitor metric
    space: str = ""  # the tried settings, such as "training.learning_rate: 1e-3, 3e-3"

    @model_validator(mode="after")
    def _says_what_was_tried(self) -> Self:
        if (self.trials > 1) != bool(self.space.strip()):
            raise ValueError(
                f"tuning.trials is {self.trials} with the space {self.space!r}; give a space for more than "
                "one trial, and none for a single trial"
            )
        return self


class EvaluationConfig(BaseModel):
    """The ranking of items for test users, and the metrics; it does not affect training."""

    model_config = _STRICT

    ks: _Numbers = Field((5, 10), min_length=1)
    # Names in `evaluation.METRICS`, or functions such as `my_metrics.py:hit_at_one`.
    metrics: _Names = Field(("recall", "ndcg"), min_length=1)
    exclude_seen: bool = False  # leave out the items that a user already has
    # In addition to the full ranking, rank the target among this many other items of its domain, drawn by the
    # seed. Such metrics are much higher and may order methods differently (Krichene and Rendle, 2020).
    sampled: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if wrong := [k for k in self.ks if not 1 <= k <= _MOST_RANKED]:
            raise ValueError(f"ks has {wrong[0]}; expected whole numbers from 1 to {_MOST_RANKED:,}")
        for name in self.metrics:
            METRICS.find(name)
        return self

    @property
    def measured(self) -> dict[str, tuple[Any, ...]]:
        """The ks and metrics of all tables: those asked for, and NDCG@10, which titles and figures show."""
        return {"ks": tuple(sorted({*self.ks, 10})), "metrics": tuple(dict.fromkeys((*self.metrics, "ndcg")))}

    @property
    def top_k(self) -> int:
        """The number of ranked items per user: the largest k, at least 10."""
        return max(10, *self.ks)


class AdaptationConfig(BaseModel):
    """The training for each domain after the unified recommender (GMC 3.5)."""

    model_config = _STRICT

    kind: Literal["none", "lora", "full"] = "lora"  # full: all weights, GMC Table 4 row (5)
    lora: LoRAConfig = LoRAConfig()
    training: TrainingConfig = TrainingConfig()


class TransferConfig(BaseModel):
    """Pre-training on some domains and transfer to the others (UTGRec 2.4)."""

    model_config = _STRICT

    # The domains in which items are recommended. Rows with pre-training use the others for it.
    # Empty: all domains are both.
    targets: _Names = ()
    # Another run, by name or folder, that pre-trained UTGRec's tokenizer and recommender (its stages 02 and
    # 05): both are taken from there, and the data need no domains to pre-train on.
    start: str | None = None
    # True: rows that pre-train do so on the targets as well, as in GMC's comparison (5.1.2).
    pretrain_on_targets: bool = False
    pretrain_tokenizer: bool = True  # False: UTGRec Table 3, variant 7
    pretrain_recommender: bool = True  # False: variants 6 and 7
    # The fine-tuned part of the tokenizer: all but E (2.4.2), all (variant 5), nothing (variant 4).
    tokenizer: Literal["projections", "full", "none"] = "projections"
    training: TrainingConfig = TrainingConfig()  # for fine-tuning the tokenizer


class DecodingConfig(BaseModel):
    """Beam widths; wider beams find more of the exact top items at proportional cost."""

    model_config = _STRICT

    validation_beams: int = Field(10, ge=10)
    test_beams: int = Field(20, ge=10)  # GMC 5.1.4
    precision: Literal["auto", "fp32", "bf16"] = "fp32"  # scores are always normalised in fp32


class ItemRow(BaseModel):
    """A row with a model over items (`genrec_lab.models.sequential`), and how long it is trained."""

    model_config = _STRICT

    model: _ItemModel
    training: TrainingConfig = TrainingConfig()
    pretraining: TrainingConfig = TrainingConfig()  # of models that have such a phase
    tuning: TuningConfig = TuningConfig()


# What the validation of every row measures.
MONITORS = ("recall@10", "ndcg@10")


class MethodConfig(BaseModel):
    """One method from text to ranked items, whole."""

    model_config = _STRICT

    name: str
    provenance: str  # where the values come from
    tuning: TuningConfig = TuningConfig()  # the search that led to these values
    own_row: bool = True  # False: the preset is not a row; a run has only those in `compare`
    text: AnyTextConfig = TextConfig()
    # Concatenated to text vectors, for tokenizers that read vectors: pooled picture features, from a
    # model or from a file.
    pictures: Pictures = "none"
    tokenizer: AnyTokenizerConfig = RQVAEConfig()
    # For tokenizers of kind "tree": the encoder of texts and pictures, and the training of both.
    content: AnyEncoderConfig = CompactConfig()
    tokenizer_training: TrainingConfig = TrainingConfig()
    # With a tree: the tokenizer of other rows that quantise vectors, such as TIGER.
    rqvae: RQVAEConfig = RQVAEConfig()
    collaborative: CollaborativeConfig = CollaborativeConfig()  # for tokenizers of kind "letter"
    naming: NamingConfig = NamingConfig()  # for tokenizers of kind "idgen"
    transfer: TransferConfig = TransferConfig()
    identifiers: IdentifierConfig = IdentifierConfig()
    codebooks: Literal["shared", "separate"] = "shared"  # separate: one tokenizer per domain
    recommender: _Recommender = T5Config()
    recommenders: Literal["unified", "separate"] = "unified"  # separate: one recommender per domain
    pairs: PairsConfig = PairsConfig()
    # Before `training`: epochs that train every position of a sequence in one pass, with an encoder whose
    # items do not attend to later ones. The batch size counts target items. None: no such epochs, as in the
    # papers.
    one_pass: TrainingConfig | None = None
    training: TrainingConfig = TrainingConfig()
    # Divides the logits in the recommender's loss; LETTER works better with less than 1.
    loss_temperature: float = Field(1.0, gt=0)
    adaptation: AdaptationConfig = AdaptationConfig()
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    # Folder of identifiers of these items from other tokenizers, `*.index.json`, to compare with in
    # notebook 04; may contain ${VAR}. It does not affect results.
    reference_codes: str = ""
    compare: _Names = ()  # other rows of the table, from ROWS or `rows`, trained in the same run
    rows: dict[str, ItemRow] = {}  # rows with a model over items, by name

    @model_validator(mode="after")
    def _fits_together(self) -> MethodConfig:
        if problems := list(self._misfits()):
            raise ValueError("\n".join(problems))
        return self

    def _misfits(self) -> Iterator[str]:
        """Yield a sentence for each two settings that exclude one another."""
        if self.recommenders == "separate" and self.adaptation.kind != "none":
            yield (
                f"adaptation.kind is {self.adaptation.kind!r} with recommenders 'separate', each of which "
                "already serves one domain; set adaptation.kind to 'none'"
            )
        if self.adaptation.kind != "none" and not hasattr(RECOMMENDERS.find(self.recommender.kind), "adapt"):
            yield (
                f"adaptation.kind is {self.adaptation.kind!r}, and the recommender "
                f"{self.recommender.kind!r} has no `adapt`; set adaptation.kind to 'none'"
            )
        if self.codebooks == "separate" and self.recommenders == "unified":
            yield (
                "codebooks are 'separate' with a 'unified' recommender: equal codes would mean different "
                "things; set recommenders to 'separate' and adaptation.kind to 'none'"
            )
        if self.one_pass is not None and getattr(self.recommender, "learns_in_one_pass", False):
            yield (
                "one_pass is given, and the recommender learns in one pass anyway; leave one_pass out, or "
                "set recommender.reads to 'whole'"
            )
        if self.transfer.start is not None and not self.transfer.targets:
            yield (
                f"transfer.start is {self.transfer.start!r} without transfer.targets; name the domains to "
                "serve"
            )
        if self.tokenizer_class.transfers and self.codebooks == "separate":
            yield (
                f"codebooks are 'separate' with a tokenizer of kind {self.tokenizer.kind!r}, which is "
                "trained on all domains; to train it on the target alone, set transfer.pretrain_tokenizer to "
                "false"
            )
        try:
            self.tokenizer_class.check_method(self.tokenizer, dict(self))
        except ValueError as error:
            yield str(error)
        trainings = {"training": self.training, "adaptation.training": self.adaptation.training}
        trainings |= {f"rows.{name}.training": row.training for name, row in self.rows.items()}
        if self.one_pass is not None:
            trainings = {"one_pass": self.one_pass, **trainings}
        for name, training in trainings.items():
            if training.monitor not in MONITORS:
                yield f"{name}.monitor is {training.monitor!r}; expected one of {list(MONITORS)}"
        if self.own_row and self.name in self.compare:
            yield f"compare names {self.name!r}, which is the run's own row; leave it out"

    @property
    def tokenizer_class(self) -> type[Tokenizer]:
        """The class of the method's tokenizer."""
        return find_tokenizer(self.tokenizer.kind)

    def load_tokenizer(self, folder: Path) -> Tokenizer:
        """Read a tokenizer of the method's that was saved in a folder, with the settings that it takes."""
        settings = {name: getattr(self, name) for name in self.tokenizer_class.settings}
        return self.tokenizer_class.load(folder, **settings)


def changed(config: MethodConfig, **fields: Any) -> MethodConfig:
    """Return the config with whole fields replaced, validated again."""
    return MethodConfig.model_validate({**dict(config), **fields})
