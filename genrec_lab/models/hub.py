"""Sharing of trained models: a folder with safetensors, config and model card, or its copy on the hub.

A shared model knows its items, so that they can be looked up by title or by the source's key.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import polars as pl
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

import genrec_lab
from genrec_lab.data.whole_files import sha256_of

if TYPE_CHECKING:
    from genrec_lab.decoding import Ranked

ITEM_COLUMNS = ("domain", "key", "title")

# All files of a shared folder: no code, nothing pickled. Only these are uploaded and fetched.
FILES = ("model.safetensors", "config.json", "codes.parquet", "items.parquet", "shared.json", "README.md")
FILES_OF_ITEM_MODELS = ("domain.safetensors", "words.parquet")  # additional files of models over items
_NEEDED = ("model.safetensors", "config.json")
_FORMAT = 1
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_INSIDE_A_LINE = re.compile(r"[\s|`<>\[\]]+")


class SharingError(ValueError):
    """Raised for a shared folder or repository that cannot be used; the message names it and the fix."""


class CardFacts(BaseModel):
    """The contents of a model card besides the config: the data, the metrics, and how they were measured."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    dataset: str = Field(description="name and edition of the training data")
    fingerprint: str = Field("", description="fingerprint of that dataset")
    metrics: dict[str, float] = Field(default_factory=dict, description="metrics by name: test Recall@10")
    license: str = Field("", description="identifier of the licence, such as apache-2.0")
    notes: str = Field("", description="limits of use, seeds, the run file")
    max_history: int | None = Field(None, ge=1, description="longest history in the training, in items")


class Catalogue:
    """The items of a frame `domain, key, title`, in the order of their indices."""

    def __init__(self, items: pl.DataFrame) -> None:
        self.items = items.select(ITEM_COLUMNS)

    @cached_property
    def _keys(self) -> dict[tuple[str, str], int]:
        pairs = zip(self.items["domain"].to_list(), self.items["key"].to_list(), strict=True)
        return {pair: item for item, pair in enumerate(pairs)}

    def places(self, keys: Sequence[str], domain: str) -> np.ndarray:
        """Return the indices of the items with these keys in a domain, -1 for unknown keys."""
        return np.array([self._keys.get((domain, key), -1) for key in keys], dtype=np.int64)

    def named(self, names: Sequence[str], domain: str | None = None) -> list[int]:
        """Return the items with these keys or titles; if several share a title, the first.

        Raises ValueError for an unknown name, listing the nearest ones.
        """
        rows = self.items.with_row_index("item")
        rows = rows if domain is None else rows.filter(pl.col("domain") == domain)
        known: dict[str, int] = {}
        for column in ("key", "title"):
            for name, item in zip(rows[column].to_list(), rows["item"].to_list(), strict=True):
                known.setdefault(name, item)
        for name in names:
            if name not in known:
                near = ", ".join(map(repr, get_close_matches(str(name), known, n=3))) or "none"
                where = f" of {domain}" if domain else ""
                raise ValueError(f"{name!r} is not the title or key of an item{where}; near: {near}")
        return [known[name] for name in names]

    def described(self, ranked: Ranked, user: int = 0) -> pl.DataFrame:
        """Return one user's recommendations: frame `rank, key, title, score`, rank from 1."""
        found = ranked.items[user] >= 0
        chosen, scores = self.items[ranked.items[user][found]], pl.Series(ranked.scores[user][found])
        return chosen.select("key", "title", score=scores).with_row_index("rank", offset=1)


class NamesItems:
    """A recommender that can look up items by title.

    `shared_items` is its catalogue, a frame `domain, key, title` in the order of item indices, or None.
    `max_history` is the longest history in its training, None if unknown.
    """

    shared_items: pl.DataFrame | None = None
    max_history: int | None = None

    def recommend_titles(
        self, titles: Sequence[str], top_k: int = 10, domain: str | None = None, **options: Any
    ) -> pl.DataFrame:
        """Recommend after the items with these titles or keys, oldest first: `rank, key, title, score`.

        domain: look up titles only there. options: those of `recommend`, such as `allow` (item indices) and
        `exclude_seen`. Raises ValueError for an unknown title, listing the nearest ones.
        """
        if self.shared_items is None:
            raise ValueError(
                f"this {type(self).__name__} has no titles; use run.recommender(domain), or set "
                "shared_items to a frame of domain, key and title"
            )
        catalogue = Catalogue(self.shared_items)
        ranked = self.recommend([catalogue.named(titles, domain)], top_k, **options)  # type: ignore[attr-defined]
        return catalogue.described(ranked)


class Shareable(NamesItems):
    """Adds sharing to a model with `save(folder)` and `load(folder)`."""

    shared_files: ClassVar[tuple[str, ...]] = FILES
    needed_files: ClassVar[tuple[str, ...]] = _NEEDED  # required to load it

    def save_pretrained(
        self, folder: str | Path, facts: CardFacts, items: pl.DataFrame | None = None
    ) -> Path:
        """Write the model, its card and hashes of all files into a folder, and return the folder.

        `items`: the catalogue's `domain, key, title`, one item per row, by default `shared_items`. All files
        are read back before they replace the folder's. Raises SharingError if the items do not fit the model
        or the files cannot be read back.
        """
        target = Path(folder)
        items = self.shared_items if items is None else items
        if items is not None:
            self._require_fitting(items)
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent) as place:
            made = Path(place) / "shared"
            self.save(made)  # type: ignore[attr-defined]
            weights = {name: sha256_of(made / name) for name in self.needed_files}
            if items is not None:
                items.select(ITEM_COLUMNS).write_parquet(made / "items.parquet")
            (made / "README.md").write_text(self._card(facts, made), encoding="utf-8")
            held = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
            if foreign := [name for name in held if name not in self.shared_files]:
                raise SharingError(
                    f"{type(self).__name__}.save writes {foreign[0]}, which a shared folder cannot hold; "
                    "share it with save, whose files are not verified"
                )
            described = {
                "format": _FORMAT,
                "class": type(self).__name__,
                "genrec_lab": genrec_lab.__version__,
                "max_history": facts.max_history or self.max_history,
                "sha256": {name: sha256_of(made / name) for name in held},
            }
            (made / "shared.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
            self._require_read_back(made, Path(place) / "again", weights)
            target.mkdir(exist_ok=True)
            (target / "shared.json").unlink(missing_ok=True)  # until the other files are in place
            for name in self.shared_files:
                (target / name).unlink(missing_ok=True)
            for name in (*held, "shared.json"):
                os.replace(made / name, target / name)
        return target

    def _require_read_back(self, made: Path, again: Path, weights: Mapping[str, str]) -> None:
        """Raise SharingError if a folder cannot be read back as the same model."""
        given = {name: getattr(self, name) for name in getattr(self, "settings", ())}
        try:
            type(self).from_pretrained(made, **given).save(again)  # type: ignore[attr-defined]
        except (ValueError, RuntimeError, OSError) as error:
            raise SharingError(
                f"the files of {type(self).__name__}.save cannot be read back ({error}); nothing was shared"
            ) from error
        if unlike := [name for name, hashed in weights.items() if sha256_of(again / name) != hashed]:
            raise SharingError(
                f"{unlike[0]} of this {type(self).__name__} changes when read back; nothing was shared"
            )

    @classmethod
    def read(cls, folder: str | Path) -> Self:
        """Load what `save` or `save_pretrained` wrote; raises SharingError for an altered file."""
        shared = (Path(folder) / "shared.json").is_file()
        return cls.from_pretrained(folder) if shared else cls.load(folder)  # type: ignore[attr-defined]

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None, **given: Any) -> Self:
        """Load a model from a folder that `save_pretrained` wrote, or from a hub repository owner/name.

        `revision` should be a commit of the repository, because branches change. `given` is passed to `load`,
        for example the content of a TreeTokenizer. No code is fetched or run. Raises SharingError if the
        source does not exist, a file was altered, or it holds another kind of model.
        """
        folder = _local_folder(source, revision)
        described = _description(folder)
        if described["class"] != cls.__name__:
            raise SharingError(
                f"{source} holds a {described['class']}, not a {cls.__name__}; load it with the former"
            )
        hashes = described["sha256"]
        unhashed = [name for name in cls.shared_files if name != "shared.json" and name not in hashes]
        if unlisted := [name for name in unhashed if name in cls.needed_files or (folder / name).is_file()]:
            raise SharingError(
                f"{source}: shared.json has no hash of {unlisted[0]}, so the file cannot be verified; "
                "fetch the folder again"
            )
        for name, hashed in hashes.items():
            known = name in cls.shared_files and (folder / name).is_file()
            if not known or sha256_of(folder / name) != hashed:
                raise SharingError(f"{source}: {name} is missing or was altered; fetch the folder again")
        try:
            model: Self = cls.load(folder, **given)  # type: ignore[attr-defined]
        except ValidationError as error:
            found = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise SharingError(
                f"{source}: config.json does not fit the {cls.__name__} of genrec_lab "
                f"{genrec_lab.__version__} (genrec_lab {described.get('genrec_lab')} wrote it): {found}"
            ) from error
        if isinstance(most := described.get("max_history"), int) and most > 0:
            model.max_history = most
        if (folder / "items.parquet").is_file():
            try:
                items = pl.read_parquet(folder / "items.parquet")
            except pl.exceptions.PolarsError as error:
                raise SharingError(f"{source}: items.parquet is damaged ({error}); fetch it again") from error
            model._require_fitting(items)
            model.shared_items = items
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
        """Upload the files of `save_pretrained` to a hub repository "owner/name", and return its address.

        A new repository is created if needed, private by default. `token` defaults to that of
        `hf auth login`, and is not stored. Raises SharingError for a malformed name.
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
                allow_patterns=list(self.shared_files),
                commit_message=f"{type(self).__name__} of genrec_lab {genrec_lab.__version__}",
            )
        return str(address)

    def _require_fitting(self, items: pl.DataFrame) -> None:
        absent = [name for name in ITEM_COLUMNS if name not in items.columns]
        if absent:
            raise SharingError(f"items: no column {absent[0]!r}; expected {', '.join(ITEM_COLUMNS)}")
        codes, own = getattr(self, "codes", None), getattr(self, "items", None)
        if codes is not None:
            if len(codes.codes) != items.height:
                raise SharingError(
                    f"items: {items.height} rows, but the model has {len(codes.codes)} items; pass the "
                    "catalogue it was trained with"
                )
            names = np.array(codes.domain_names)[codes.domain_index]
            unlike = np.flatnonzero(names != items["domain"].to_numpy())
            if codes.domains is not None and len(unlike):
                row = int(unlike[0])
                raise SharingError(
                    f"items: row {row} is of domain {items['domain'][row]!r}, the model's item {row} of "
                    f"{str(names[row])!r}; pass the catalogue it was trained with, in its order"
                )
        elif isinstance(own, np.ndarray) and len(own) and int(own.max()) >= items.height:
            raise SharingError(
                f"items: {items.height} rows, the model ranks item {int(own.max())}; pass all items of the "
                "data set, in their order"
            )

    def _card(self, facts: CardFacts, folder: Path) -> str:
        kind, settings = type(self).__name__, json.loads((folder / "config.json").read_text(encoding="utf-8"))
        head: dict[str, Any] = {"tags": ["recommendation", "generative-retrieval", "semantic-ids"]}
        head |= {"library_name": "genrec_lab"} | ({"license": facts.license} if facts.license else {})
        known = {"data": _line(facts.dataset), "fingerprint of the data": _line(facts.fingerprint)}
        known |= {_line(name): f"{value:.4f}" for name, value in facts.metrics.items()}
        facts_of_data = "\n".join(f"- {name}: {value}" for name, value in known.items() if value)
        notes = f"\n\n{_line(facts.notes)}" if facts.notes else ""
        rows = [f"| {_line(name)} | {_line(json.dumps(value))} |\n" for name, value in settings.items()]
        return f"""---
{yaml.safe_dump(head, sort_keys=True)}---
# {kind}, trained on {_line(facts.dataset)}

A {kind} of genrec_lab {genrec_lab.__version__}, weights as safetensors, without any code.

```python
from {type(self).__module__} import {kind}
model = {kind}.from_pretrained("owner/name", revision="commit")
```

{facts_of_data}{notes}

| setting | value |
|---|---|
{"".join(rows)}"""


def _line(text: str) -> str:
    """Return text for one line of a card, with blanks for line breaks, table separators and HTML."""
    return _INSIDE_A_LINE.sub(" ", text).strip()


def _local_folder(source: str | Path, revision: str | None) -> Path:
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    _require_repository(str(source))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    files = [*FILES, *FILES_OF_ITEM_MODELS]
    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=files))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise SharingError(
            f"{source}: neither a local folder nor fetched from the hub ({str(error).splitlines()[0]}); "
            "check the name, your network, and `hf auth login` for a private one"
        ) from error


def _require_repository(repository: str) -> None:
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise SharingError(
            f"{repository!r} is neither an existing folder nor a hub repository, written as owner/name"
        )


def _description(folder: Path) -> dict[str, Any]:
    file = folder / "shared.json"
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SharingError(
            f"{folder}: no readable shared.json ({error}); pass a folder that save_pretrained wrote"
        ) from error
    found: dict[str, Any] = described if isinstance(described, dict) else {}
    sound = isinstance(found.get("class"), str) and isinstance(found.get("sha256"), dict)
    if found.get("format") != _FORMAT or not sound:
        raise SharingError(
            f"{file}: format {found.get('format')!r}, written by genrec_lab {found.get('genrec_lab')}; "
            f"genrec_lab {genrec_lab.__version__} reads format {_FORMAT} with a class and hashes. Write it "
            "again"
        )
    return found
