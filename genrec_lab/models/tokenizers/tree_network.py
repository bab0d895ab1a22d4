"""The network of UTGRec's tokenizer: encoder, adapter, tree codebooks and two decoders (sections 2.2, 2.3).

Shapes: N items, B items of a batch, L levels, l of a prefix, d encoder dimensions, d_c code dimensions,
w decoder width, T text tokens, P picture tokens of c channels, V words of e dimensions, S pixels a side.

A batch of content is a mapping of tensors whose first dimension is B: `text_ids` (B, T) int64, `text_mask`
(B, T) bool, `patches` (B, P, c), `has_picture` (B,) bool, and the encoder's inputs, named `encoder_...`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Protocol, Self, cast

import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Generator, Tensor, nn
from torch.nn import functional

from genrec_lab.losses import Reduction, co_occurrence_alignment_loss, utgrec_objective
from genrec_lab.models.layers import drawn_linear
from genrec_lab.models.saved import write_weights
from genrec_lab.models.tokenizers.base import Tokenized, TokenizerConfig
from genrec_lab.models.tokenizers.content_decoders import DecoderConfig, TextDecoder, VisionDecoder
from genrec_lab.models.tokenizers.diffusion import DiffusionConfig
from genrec_lab.models.tokenizers.tree_quantizer import TreeQuantizer, TreeQuantizerConfig
from genrec_lab.training import moved
from genrec_lab.training.processes import gather_rows, places_of_rows

Batch = Mapping[str, Tensor]


class PictureTokens(Protocol):
    """The parts of a picture that are reconstructed."""

    tokens: int  # P
    channels: int  # c

    def to_images(self, tokens: Tensor) -> Tensor:
        """(B, P, c) -> (B, 3, S, S) in 0..1."""


class ContentEncoder(Protocol):
    """An nn.Module that returns L content representations of an item (Eq. 2)."""

    levels: int  # L
    dimension: int  # d
    picture: PictureTokens

    def word_table(self) -> Tensor:
        """Return the vectors (V, e) of the words in `text_ids`."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """A batch of content -> H (B, L, d)."""


# Items per code that k-means places the codewords on; more would hardly change them.
_POINTS_A_CODE = 16


class TreeTokenizerConfig(TokenizerConfig):
    """Settings of the tokenizer; the defaults are the paper's, or its code's if the paper states none."""

    kind: Literal["tree"] = "tree"
    quantizer: TreeQuantizerConfig = TreeQuantizerConfig()
    decoder: DecoderConfig = DecoderConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    adapter_hidden: int = Field(768, ge=1, description="hidden width of the adapter from d to d_c")
    adapter_dropout: float = Field(0.1, ge=0, lt=1)
    standardise: bool = Field(
        False,
        description="normalise each number of H' to mean 0 and variance 1 over the batch (Lancucki et al. "
        "2020), so that levels can share the leaf book and none collapses; not in the paper",
    )
    alpha: float = Field(3.0, ge=0, description="weight of pictures relative to texts, Eqs 10 and 12")
    lambda_code: float = Field(200.0, ge=0, description="lambda, weight of L_Code in Eq. 13")
    mu: float = Field(0.01, ge=0, description="weight of L_Ali in Eq. 13; 0 omits it, Table 3 variant 2")
    eta: float = Field(0.03, ge=0, description="weight of L_Re in Eq. 13; 0 omits it, Table 3 variant 3")
    temperature: float = Field(0.1, gt=0, description="tau of Eq. 11")
    alignment_on: Literal["content", "adapted"] = Field(
        "content", description="inputs of Eq. 11: H (paper) or the adapter's H' (code)"
    )
    alignment_reduction: Reduction = Field(
        "paper", description="of Eq. 11 over levels: sum (paper) or mean (code)"
    )
    warm_up_steps: int = Field(
        0, ge=0, description="first training batches, which decode continuous vectors, without L_Code"
    )


class TreeNetwork(nn.Module):
    """The whole tokenizer; its forward is the objective of Eq. 13.

    `parts` holds the terms of the last forward pass, detached and unweighted: text, picture, code, alignment,
    neighbour_text, neighbour_picture.
    """

    steps: Tensor  # () int64: training batches so far
    seen: Tensor  # (R, L, d_c) content of the warm-up's last items, for k-means
    is_placed: Tensor  # () bool: whether k-means has placed the codewords
    parts: dict[str, Tensor]

    def __init__(
        self, encoder: ContentEncoder, config: TreeTokenizerConfig, generator: Generator | None = None
    ) -> None:
        """Draw all weights but the encoder's; raise ValueError if the encoder has other levels."""
        super().__init__()
        levels, d_c = config.quantizer.levels, config.quantizer.dimension
        if encoder.levels != levels:
            raise ValueError(
                f"the encoder gives {encoder.levels} representations per item, tokenizer.quantizer.levels is "
                f"{levels}; set both to the same number"
            )
        self.config, self.encoder = config, encoder
        words, word_dimension = encoder.word_table().shape
        width = config.decoder.width or encoder.dimension
        self.adapter = nn.Sequential(
            nn.Dropout(config.adapter_dropout),
            drawn_linear(encoder.dimension, config.adapter_hidden, generator),
            nn.SiLU(),
            nn.Dropout(config.adapter_dropout),
            drawn_linear(config.adapter_hidden, d_c, generator),
        )
        self.standard = nn.BatchNorm1d(levels * d_c, affine=False) if config.standardise else None
        self.quantizer = TreeQuantizer(config.quantizer, generator)
        self.projection = drawn_linear(d_c, width, generator)  # from H-hat to both decoders
        self.text = TextDecoder(width, words, word_dimension, config.decoder, generator)
        picture = encoder.picture.tokens, encoder.picture.channels
        self.vision = VisionDecoder(width, *picture, config.decoder, config.diffusion, generator)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        places = config.quantizer.kmeans_start and config.warm_up_steps > 0
        kept_rows = _POINTS_A_CODE * max(self.quantizer.sizes) if places else 0
        self.register_buffer("seen", torch.full((kept_rows, levels, d_c), torch.nan))
        self.register_buffer("is_placed", torch.tensor(not places))
        self.parts = {}
        # Host copies of the buffers above: reading them from the device at each step would synchronise.
        self._is_warm = self._knows_places = False
        # A saved file holds the encoder's trained weights and buffers, but not its frozen network.
        module = cast(nn.Module, encoder)
        trained = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
        buffers = [name for name in module.state_dict() if name not in parameters]
        self._kept = [f"encoder.{name}" for name in (*trained, *buffers)]

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.projection.weight.device

    def forward(
        self, items: Batch, neighbours: Batch | None = None, generator: Generator | None = None
    ) -> Tensor:
        """Return the objective (Eq. 13) for B items and one co-occurring item each, a scalar.

        Noise and masking are drawn from the generator (by default torch's). Terms of weight 0 are not
        computed: with mu = 0 the neighbours are not encoded, with eta = 0 they are not decoded. Raises
        ValueError if neighbours are needed but missing.
        """
        config = self.config
        if neighbours is None and (config.mu or config.eta):
            raise ValueError(
                f"no neighbours were given, but tokenizer.mu = {config.mu} and tokenizer.eta = {config.eta} "
                "need them; pass a co-occurring item for each item, or set both to 0"
            )
        content, adapted = self._encode(items)
        if self.training:
            self._place_codewords(gather_rows(adapted.detach()))
        quantized = self.quantizer(adapted)
        vectors, code = quantized.vectors, quantized.loss
        if self._warms_up():
            # Zero, but with a gradient for the codebooks, which distributed training needs for every weight.
            vectors, code = adapted, 0.0 * code
        seen = self.projection(vectors)
        text, picture = self._rebuild(seen, items, generator)
        zero = content.new_zeros(())
        parts = {"text": text, "picture": picture, "code": code, "alignment": zero}
        parts |= {"neighbour_text": zero, "neighbour_picture": zero}
        if neighbours is not None and config.mu:
            content_2, adapted_2 = self._encode(neighbours)
            pair = (content, content_2) if config.alignment_on == "content" else (adapted, adapted_2)
            how = config.temperature, config.alignment_reduction
            parts["alignment"] = co_occurrence_alignment_loss(*pair, *how)
        if neighbours is not None and config.eta:
            parts["neighbour_text"], parts["neighbour_picture"] = self._rebuild(seen, neighbours, generator)
        self.parts = {name: part.detach() for name, part in parts.items()}
        if self.training:
            self.steps += 1
        weights = {name: getattr(config, name) for name in ("alpha", "lambda_code", "mu", "eta")}
        return utgrec_objective(**parts, **weights)

    @torch.no_grad()
    def tokenize(self, batches: Iterable[Batch]) -> Tokenized:
        """Tokenize a catalogue, given as batches of content in the order of its items.

        Runs in evaluation mode without autocast, so an item's codes do not depend on its batch. Raises
        ValueError if there is no batch, or, naming the item, if content is not finite.
        """
        parts: list[tuple[Tensor, ...]] = []
        total, items = 0.0, 0
        with _evaluating(self), torch.autocast(self.device.type, enabled=False):
            for batch in batches:
                adapted = self._encode(moved(batch, self.device))[1]
                wrong = torch.nonzero(~adapted.isfinite().flatten(1).all(dim=1)).flatten()
                if len(wrong):
                    raise ValueError(
                        f"the content vectors of item {items + int(wrong[0])} (and {len(wrong) - 1} more of "
                        f"its batch) are not finite; restore undamaged weights, or lower the learning rate"
                    )
                quantized = self.quantizer(adapted)
                total += float(quantized.loss) * len(adapted)
                items += len(adapted)
                kept = (quantized.codes, quantized.residuals, quantized.vectors)
                parts.append(tuple(tensor.cpu() for tensor in kept))
        if not items:
            raise ValueError("no batch of items was given; there is nothing to tokenize")
        codes, residuals, vectors = (torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))
        return Tokenized(codes, residuals, vectors, total / items)

    def freeze_for_transfer(self, full: bool = False) -> None:
        """Prepare fine-tuning on another domain (section 2.4.2): freeze E^r and E^f and skip the warm-up.

        With `full`, E^r and E^f are trained too: Table 3 variant 5.
        """
        if not full:
            self.quantizer.fix_codebook_matrices()
        self.steps.fill_(max(int(self.steps), self.config.warm_up_steps))
        self.is_placed.fill_(True)

    def take_vocabulary(self) -> None:
        """Adapt the text decoder to a new word table of the encoder (another catalogue)."""
        self.text.take_vocabulary(len(self.encoder.word_table()))

    @torch.no_grad()
    def decode_words(self, prefix: Tensor) -> Tensor:
        """Decode prefixes of codes to words: (B, l) int64 -> logarithms of mean probabilities (B, V)."""
        with _evaluating(self):
            seen = self.projection(self.quantizer.from_codes(prefix.to(self.device)))
            return self.text.word_scores(seen, self.encoder.word_table())

    @torch.no_grad()
    def decode_pictures(self, prefix: Tensor, generator: Generator | None = None) -> Tensor:
        """Draw a picture for each prefix of codes: (B, l) int64 -> (B, 3, S, S) in 0..1.

        Raises ValueError if the training had no pictures.
        """
        if not self.vision.diffusion.largest:
            raise ValueError(
                "this tokenizer was trained without pictures, so it cannot draw one; train it on items with "
                "pictures, or decode words only"
            )
        with _evaluating(self):
            seen = self.projection(self.quantizer.from_codes(prefix.to(self.device)))
            return self.encoder.picture.to_images(self.vision.sample(seen, generator)).clamp(0, 1)

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """Write `model.safetensors` and `config.json`, without the encoder's frozen parameters.

        `metadata` is stored in `model.safetensors`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        state = self.state_dict()
        kept = {name: state[name] for name in self._names()}
        write_weights(kept, folder / "model.safetensors", metadata)
        (folder / "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, encoder: ContentEncoder) -> Self:
        """Load what `save` wrote into a new tokenizer with an encoder of the same settings.

        The encoder's trained weights are overwritten. Raises ValueError if the encoder is a different one.
        """
        config = TreeTokenizerConfig.model_validate_json((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        model = cls(encoder, config)
        state = model.state_dict()
        held = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        own = {name: tuple(state[name].shape) for name in model._names()}
        for name in sorted(own.keys() | held.keys()):
            if held.get(name) != own.get(name):
                raise ValueError(
                    f"{folder / 'model.safetensors'} has {held.get(name, 'nothing')} for {name}, this "
                    f"encoder expects {own.get(name, 'nothing')}; create it with the settings of the training"
                )
        model.load_state_dict(weights, strict=False)
        return model.eval()

    def _names(self) -> list[str]:
        own = [name for name in self.state_dict() if not name.startswith("encoder.") and name != "seen"]
        return own + self._kept

    def _warms_up(self) -> bool:
        warm_up = self.config.warm_up_steps
        if not self.training or warm_up == 0 or self._is_warm:
            return False
        self._is_warm = int(self.steps) >= warm_up
        return not self._is_warm

    def _place_codewords(self, adapted: Tensor) -> None:
        """Collect the content of the warm-up's last items; at its end, place the codewords on it by k-means.

        Placed at the start, codewords would fit an untrained encoder, whose output soon changes.
        """
        if self._knows_places or bool(self.is_placed):
            self._knows_places = True
            return
        if self._warms_up():
            self.seen.copy_(torch.cat([adapted, self.seen])[: len(self.seen)])
            return
        known = self.seen[~self.seen[:, 0, 0].isnan()]
        self.quantizer.start_from(known if len(known) else adapted, int(self.steps))
        self.is_placed.fill_(True)

    def _encode(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """H (B, L, d) and H' (B, L, d_c)."""
        content = cast(nn.Module, self.encoder)(dict(batch)).float()
        # Quantise in float32: with bfloat16 the codes in training would differ from those of `tokenize`.
        with torch.autocast(content.device.type, enabled=False):
            return content, self._standardised(self.adapter(content))

    def _standardised(self, adapted: Tensor) -> Tensor:
        if self.standard is None:
            return adapted
        flat = adapted.flatten(1)
        if self.training:
            of_all = gather_rows(flat)
            if len(of_all) > 1:
                first, _ = places_of_rows(len(flat))
                return self.standard(of_all)[first : first + len(flat)].view_as(adapted)
        # One item has no variance, so running statistics are used, as in evaluation.
        mean, variance = self.standard.running_mean, self.standard.running_var
        return functional.batch_norm(flat, mean, variance, eps=self.standard.eps).view_as(adapted)

    def _rebuild(self, seen: Tensor, batch: Batch, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Return L^t and L^v of a batch, reconstructed from (B, L, w)."""
        table = self.encoder.word_table()
        text = self.text(seen, batch["text_ids"], batch["text_mask"], table, generator)
        return text, self.vision(seen, batch["patches"], batch["has_picture"], generator)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
