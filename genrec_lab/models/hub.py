"""Trained models given to others: a folder of safetensors, config and card, and the hub's copy of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field

import genrec_lab
from genrec_lab.data.whole_files import sha256_of

# All that a shared folder holds: no code, nothing pickled. Only these are uploaded and fetched.
FILES = ("model.safetensors", "config.json", "codes.parquet", "items.parquet", "shared.json", "README.md")
ITEM_COLUMNS = ("domain", "key", "title")
_FORMAT = 1
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INSIDE_A_LINE = re.compile(r"[\s|`<>\[\]]+")


class SharingError(ValueError):
    """A shared folder or repository that cannot be used; the message names it and what to do."""


class CardFacts(BaseModel):
    """What a model card says beside the config: the data, the figures, and how they were come by."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    dataset: str = Field(description="name of the data it was trained on, with its edition")
    fingerprint: str = Field("", description="fingerprint of that dataset")
    metrics: dict[str, float] = Field(default_factory=dict, description="figures by name, as test Recall@10")
    license: str = Field("", description="identifier of the licence that you give it, as apache-2.0")
    notes: str = Field("", description="limits of use, seeds, the run file")


class Shareable:
    """What a model with `save(folder)` and `load(folder)` needs to be shared.

    `shared_items` is the catalogue that came with a recommender, frame `domain, key, title` in the order of
    its item indices, None where there came none.
    """

    shared_items: pl.DataFrame | None = None

    def save_pretrained(
        self, folder: str | Path, facts: CardFacts, items: pl.DataFrame | None = None
    ) -> Path:
        """Write the model, its card, and hashes of all its files into a folder, and return it.

        `items`: the catalogue's `domain, key, title`, an item a row, so that indices have names. Raises
        SharingError for items that do not fit the model.
        """
        target = Path(folder)
        self.save(target)  # type: ignore[attr-defined]
        if items is not None:
            self._require_fitting(items)
            items.select(ITEM_COLUMNS).write_parquet(target / "items.parquet")
        (target / "README.md").write_text(self._card(facts, target), encoding="utf-8")
        held = [name for name in FILES if name != "shared.json" and (target / name).is_file()]
        described = {
            "format": _FORMAT,
            "class": type(self).__name__,
            "genrec_lab": genrec_lab.__version__,
            "sha256": {name: sha256_of(target / name) for name in held},
        }
        (target / "shared.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        return target

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Read what `save` or `save_pretrained` wrote, whichever it was; SharingError for an altered file."""
        shared = (Path(folder) / "shared.json").is_file()
        return cls.from_pretrained(folder) if shared else cls.load(folder)  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **given: Any) -> Self:
        """Read a model from a folder that `save_pretrained` wrote, or from a hub repository owner/name.

        `revision` is a commit of the repository, which alone stays what it is; `given` goes to `load`, as the
        content of a TreeTokenizer. No code is fetched or run. Raises SharingError for a place that is none,
        a file that was altered, and another kind of model.
        """
        folder = _local_folder(source, revision)
        described = _description(folder)
        if described["class"] != cls.__name__:
            raise SharingError(
                f"{source} holds a {described['class']}, not a {cls.__name__}; load it as what it is"
            )
        for name, hashed in described["sha256"].items():
            if name not in FILES or not (folder / name).is_file() or sha256_of(folder / name) != hashed:
                raise SharingError(
                    f"{source}: {name} is missing or not what was written; fetch the folder again"
                )
        model: Self = cls.load(folder, **given)  # type: ignore[attr-defined]
        if (folder / "items.parquet").is_file():
            model.shared_items = pl.read_parquet(folder / "items.parquet")
        return model

    def push_to_hub(
        self,
        repository: str,
        facts: CardFacts,
        items: pl.DataFrame | None = None,
        *,
        private: bool = True,
        token: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to a hub repository "owner/name", and return its address.

        The repository is made where it is not there, by default private. `token` is by default the
        one of `hf auth login`, and is written nowhere. Raises SharingError for a name of another form.
        """
        from huggingface_hub import HfApi

        _require_repository(repository)
        api = HfApi(token=token)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, facts, items)
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                allow_patterns=list(FILES),
                commit_message=f"{type(self).__name__} of genrec_lab {genrec_lab.__version__}",
            )
        return str(address)

    def _require_fitting(self, items: pl.DataFrame) -> None:
        absent = [name for name in ITEM_COLUMNS if name not in items.columns]
        if absent:
            raise SharingError(f"items: no column {absent[0]!r}; expected {', '.join(ITEM_COLUMNS)}")
        codes = getattr(self, "codes", None)
        if codes is not None and len(codes.codes) != items.height:
            raise SharingError(
                f"items: {items.height} rows, the model knows {len(codes.codes)} items; give the catalogue "
                "it "
                "was trained with"
            )

    def _card(self, facts: CardFacts, folder: Path) -> str:
        kind = type(self).__name__
        head: dict[str, Any] = {
            "library_name": "genrec_lab",
            "tags": ["recommendation", "generative-retrieval", "semantic-ids"],
        }
        if facts.license:
            head["license"] = facts.license
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        lines = [
            f"# {kind}, trained on {_line(facts.dataset)}",
            "",
            f"A {kind} of genrec_lab {genrec_lab.__version__}, weights as safetensors, without any code.",
            "",
            "```python",
            f"from {type(self).__module__} import {kind}",
            f'model = {kind}.from_pretrained("owner/name", revision="commit")',
            "```",
            "",
            f"- data: {_line(facts.dataset)}",
        ]
        if facts.fingerprint:
            lines.append(f"- fingerprint of the data: {_line(facts.fingerprint)}")
        lines += [f"- {_line(name)}: {value:.4f}" for name, value in facts.metrics.items()]
        if facts.notes:
            lines += ["", _line(facts.notes)]
        lines += ["", "| setting | value |", "|---|---|"]
        lines += [f"| {_line(name)} | {_line(json.dumps(value))} |" for name, value in settings.items()]
        return f"---\n{yaml.safe_dump(head, sort_keys=True)}---\n" + "\n".join(lines) + "\n"


def _line(text: str) -> str:
    """Text for one line of a card: what could end the line, a table's cell or begin HTML becomes a blank."""
    return _INSIDE_A_LINE.sub(" ", text).strip()


def _local_folder(source: str | Path, revision: str | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    _require_repository(str(source))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SharingError(
            f"{source}: neither a folder here nor fetched from the hub ({str(error).splitlines()[0]}); "
            "check the "
            "name, your network, and `hf auth login` for a private one"
        ) from error


def _require_repository(repository: str) -> None:
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise SharingError(
            f"{repository!r} is no folder that is there and no hub repository; write the latter as owner/name"
        )


def _description(folder: Path) -> dict[str, Any]:
    file = folder / "shared.json"
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SharingError(
            f"{folder}: no readable shared.json ({error}); give a folder that save_pretrained wrote"
        ) from error
    sound = (
        isinstance(described, dict)
        and described.get("format") == _FORMAT
        and isinstance(described.get("class"), str)
        and isinstance(described.get("sha256"), dict)
    )
    if not sound:
        raise SharingError(f"{file}: not of format {_FORMAT}, which this version reads; write it again")
    return dict(described)
