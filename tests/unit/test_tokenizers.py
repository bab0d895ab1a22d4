"""What all tokenizers share: their content, files and registry, and what is said of a class of one's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
from pydantic import BaseModel, ValidationError

from genrec_lab import models, presets
from genrec_lab.codes import ItemCodes
from genrec_lab.data import Dataset, load_dataset
from genrec_lab.models import tokenizers
from genrec_lab.models.tokenizers import (
    TOKENIZERS,
    ItemContent,
    Tokenizer,
    TokenizerConfig,
    TokenizerError,
    checked_codes,
    find_tokenizer,
    load_tokenizer,
)
from genrec_lab.models.tokenizers.given import GivenCodes
from genrec_lab.presets import MethodConfig, PresetError
from genrec_lab.registry import RegistryError, relative_to

STRANGER = '''
import numpy as np
from pydantic import Field
from genrec_lab.models.tokenizers import ItemContent, Tokenizer, TokenizerConfig

class Signs(Tokenizer):
    """The signs of the first numbers of a vector, beside their middles."""
    class Config(TokenizerConfig):
        levels: int = Field(2, ge=1)
        far: list[float] = [0.5]

    def fit(self, content, *, seed=0, on_epoch=None, checkpoint=None):
        x = ItemContent.of(content).vectors[:, : self.config.levels]
        self.middle, self.sizes = np.median(x, axis=0), (2,) * self.config.levels
        self.codebooks = [np.array([[-1.0], [1.0]], dtype=np.float32)] * self.config.levels
        return self

    def encode(self, content):
        x = ItemContent.of(content).vectors[:, : self.config.levels]
        return (x > self.middle).astype(np.int32)
'''


def vectors(items: int = 40, dimensions: int = 6) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(items, dimensions)).astype(np.float32)


@pytest.fixture
def dataset() -> Dataset:
    return load_dataset("bazaar", items=300, users=300, domains=["Garden", "Wardrobe"])


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(STRANGER)
    return tmp_path


# --- content


def test_places_are_counted_within_the_items_of_a_domain(dataset: Dataset) -> None:
    own = dataset.domain_items("Wardrobe")
    content = ItemContent.from_dataset(dataset, items=own)
    sequences = dataset.sequences.filter(pl.col("domain") == "Wardrobe")["items"].to_list()
    kept = [items[:-2] if len(items) > 2 else items for items in sequences]
    assert content.training_sequences(None) == kept
    assert [[own[place] for place in places] for places in content.training_places(None)] == kept
    assert content.texts(None)[3] == dataset.items["text"][int(own[3])]


def test_what_is_held_out_is_not_in_the_content(dataset: Dataset) -> None:
    """A class of one's own cannot see the targets of validation and test, whatever it looks at."""
    poisoned = [
        [*items[:-2], items[0], items[0]] if len(items) > 2 else items
        for items in dataset.sequences["items"].to_list()
    ]
    changed = dataset.sequences.with_columns(pl.Series("items", poisoned, dtype=pl.List(pl.Int64)))
    one, other = (ItemContent.from_dataset(each) for each in (dataset, replace(dataset, sequences=changed)))
    assert one.sequences is not None and one.sequences.equals(other.sequences)
    assert not any(isinstance(part, Dataset) for part in vars(one).values())


def test_plain_vectors_are_content_and_what_is_missing_is_named() -> None:
    content = ItemContent.of(vectors(5), [0, 0, 1, 1, 1])
    assert content.select(np.array([1, 4])).domains.tolist() == [0, 1]
    assert ItemContent.of(content) is content
    with pytest.raises(ValueError, match=r"domains have shape \(3,\); expected \(5,\)"):
        ItemContent.of(vectors(5), [0, 0, 1])
    with pytest.raises(ValueError, match="CoOccurrence needs items, but none were given; pass ItemContent"):
        tokenizers.CoOccurrence().fit(content)
    with pytest.raises(ValueError, match=r"RQVAE needs vectors.*pass an array \(items, dimensions\)"):
        tokenizers.RQVAE().fit(replace(content, vectors=None))


# --- by name, and in a method's config


def test_every_kind_is_found_and_has_its_kind_in_its_config() -> None:
    for kind in TOKENIZERS:
        found = find_tokenizer(kind)
        assert found.Config(kind=kind).kind == kind
        assert issubclass(found, Tokenizer) and (found.__doc__ or "").strip()


def test_a_class_in_a_file_is_a_kind_of_tokenizer(stranger: Path) -> None:
    with relative_to(stranger):
        config = presets.load("gmc_tiny", {"tokenizer": {"kind": "mine.py:Signs", "far": [1.5, 2]}})
        tokenizer = config.tokenizer_class(config.tokenizer).fit(vectors())
        tokenizer.save(stranger / "saved")
        again = load_tokenizer(stranger / "saved")
        # A preset's config, its values that both have, and its own ones: all of it is written and read back.
        assert config.tokenizer.model_dump() == {"kind": "mine.py:Signs", "levels": 3, "far": [1.5, 2.0]}
        assert MethodConfig.model_validate_json(config.model_dump_json()) == config
        assert again.config == config.tokenizer and again.sizes == (2, 2, 2)
    found = checked_codes(again, vectors())
    np.testing.assert_array_equal(found.codes, tokenizer.encode(vectors()))
    assert found.codes.dtype == np.int64 and found.residuals is None
    np.testing.assert_array_equal(again.codebooks[2], [[-1.0], [1.0]])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tokenizer.kind": "mine.py:Sings"}, r"mine.py has no Sings \(did you mean 'Signs'\?\)"),
        ({"tokenizer.kind": "nowhere.py:Signs"}, "there is no file nowhere.py"),
        ({"tokenizer.kind": "no_module:Signs"}, r"no_module cannot be imported \(ModuleNotFoundError"),
        ({"tokenizer.kind": "mine.py:np"}, "np.* lacks Config, fit, encode; a tokenizer has"),
        ({"tokenizer.kind": 3}, "3 is a int; expected text"),
        ({"tokenizer": {"kind": "mine.py:Signs", "levels": 0}}, r"tokenizer.levels = 0: .*of .*Signs\)"),
        ({"tokenizer": {"kind": "mine.py:Signs", "hidden": (3,)}}, "'tokenizer.hidden' is unknown"),
        ({"tokenizer": {"kind": "rqvae", "levels": "4"}}, "tokenizer.levels = '4': Input should be"),
    ],
)
def test_an_impossible_tokenizer_is_refused_with_its_key_and_class(
    stranger: Path, overrides: dict[str, Any], message: str
) -> None:
    with relative_to(stranger), pytest.raises(PresetError, match=message):
        presets.load("gmc_tiny", overrides)


def test_another_kind_takes_the_values_that_mean_the_same(stranger: Path) -> None:
    source = STRANGER.replace("levels: int = Field(2, ge=1)", "levels: int = 2\n        hidden: str = 'none'")
    (stranger / "mine.py").write_text(source)
    with relative_to(stranger):
        assert presets.load("gmc_tiny", {"tokenizer.kind": "mine.py:Signs"}).tokenizer.model_dump() == {
            "kind": "mine.py:Signs",
            "levels": 3,
            "hidden": "none",  # an RQ-VAE's are numbers
            "far": [0.5],
        }


def test_a_class_that_is_no_tokenizer_or_of_a_taken_name_is_refused(stranger: Path) -> None:
    (stranger / "other.py").write_text("class Other:\n    Config = fit = encode = None\n")
    with (
        relative_to(stranger),
        pytest.raises(RegistryError, match="Other is not a Tokenizer; derive it from"),
    ):
        find_tokenizer("other.py:Other")
    with pytest.raises(RegistryError, match="the tokenizer 'rqvae' exists twice"):
        tokenizers.register_tokenizer("rqvae")(Halves)
    with pytest.raises(TypeError, match=r"RQVAE takes no setting 'levels'; write RQVAE.RQVAE.Config.levels="):
        models.RQVAE(levels=2)
    with pytest.raises(AttributeError, match="call fit or load first"):
        models.RQVAE().encode(np.zeros((3, 4), dtype=np.float32))
    with pytest.raises(TypeError, match="Halves takes no setting 'colour'"):
        Halves(colour=3)
    with pytest.raises(TypeError, match="RQVAE takes a RQVAEConfig, but got a HalvesConfig"):
        tokenizers.RQVAE(Halves.Config())


# --- what a class of one's own gives


class HalvesConfig(BaseModel):
    """A config without a kind gets one."""

    shift: int = 0


class Halves(Tokenizer):
    """Which half of the items a number is in; a test replaces what it gives."""

    Config: ClassVar[type[BaseModel]] = HalvesConfig
    given: Any = None
    calls = 0

    def fit(self, content: Any, **_: Any) -> Halves:
        self.sizes = (2, 2)
        return self

    def encode(self, content: Any) -> Any:
        self.calls += 1
        items = len(ItemContent.of(content))
        return self.given(items, self.calls) if self.given else np.zeros((items, 2), dtype=np.int64)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda n, _: np.zeros((n, 3), dtype=int), r"shape \(40, 3\) for 40 items; expected \(40, 2\)"),
        (lambda n, _: np.zeros(n, dtype=int), r"shape \(40,\) for 40 items"),
        (lambda n, _: np.zeros((n, 2)), r"codes of type float64; expected integers"),
        (lambda n, _: np.full((n, 2), 2), r"item 0 the code 2 at level 1; expected 0 to 1"),
        (lambda n, _: np.full((n, 2), -1), "the code -1 at level 1"),
        (lambda n, _: None, r"Halves.encode gave codes of shape \(\)"),
        (lambda n, _: 1 / np.array(None), "Halves.encode fails: TypeError"),
        (lambda n, call: np.full((n, 2), call % 2), r"40 of 40 items different codes when called twice"),
    ],
)  # fmt: skip
def test_codes_that_are_none_are_said_of_the_class(given: Any, message: str) -> None:
    tokenizer = Halves().fit(vectors())
    tokenizer.given = given
    with pytest.raises(TokenizerError, match=message):
        checked_codes(tokenizer, vectors())


def test_sizes_and_residuals_that_do_not_fit_are_said_of_the_class() -> None:
    tokenizer = Halves().fit(vectors())
    tokenizer.residuals = lambda content: np.zeros((40, 3, 2))  # type: ignore[method-assign]
    with pytest.raises(TokenizerError, match=r"Halves.residuals has shape \(40, 3, 2\); expected \(40, 2\)"):
        checked_codes(tokenizer, vectors())
    tokenizer.sizes = ()
    with pytest.raises(TokenizerError, match=r"Halves.sizes is \(\) after fit; expected the number of codes"):
        checked_codes(tokenizer, vectors())


def test_a_class_that_keeps_more_than_arrays_needs_a_save_of_its_own(tmp_path: Path) -> None:
    tokenizer = Halves(HalvesConfig(shift=4)).fit(vectors())
    tokenizer.save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"kind": "", "shift": 4}
    again = Halves.load(tmp_path)
    assert (again.sizes, again.config.shift) == ((2, 2), 4)
    tokenizer.given = np.sin
    with pytest.raises(ValueError, match=r"Halves cannot be saved: .*define its save and load"):
        tokenizer.save(tmp_path)


# --- codes that are given


def given_file(folder: Path, name: str, dataset: Dataset) -> np.ndarray:
    """Write codes of all items in the form of the name's ending."""
    codes = np.random.default_rng(1).integers(0, 9, size=(dataset.n_items, 3))
    keys, domains = dataset.items["key"].to_list(), dataset.items["domain"].to_list()
    columns = {f"code_{level}": codes[:, level] for level in range(3)}
    if name.endswith(".npy"):
        np.save(folder / name, codes)
    elif "{domain}" in name:
        for domain in dataset.domains:
            tokens = {
                key: [f"<{letter}_{code}>" for letter, code in zip("abc", row, strict=True)]
                for key, row, own in zip(keys, codes.tolist(), domains, strict=True)
                if own == domain
            }
            (folder / name.replace("{domain}", domain)).write_text(json.dumps(tokens))
    elif name == "codes.parquet":
        ItemCodes(codes, codes.max(axis=0) + 1, domains).write(folder / name)
    else:
        table = pl.DataFrame({"key": keys, "domain": domains, **columns})
        table.sample(fraction=1, shuffle=True, seed=0).write_parquet(folder / name)
    return codes


@pytest.mark.parametrize("name", ["codes.npy", "{domain}.index.json", "codes.parquet", "by_key.parquet"])
def test_given_codes_are_those_of_the_file(tmp_path: Path, dataset: Dataset, name: str) -> None:
    codes = given_file(tmp_path, name, dataset)
    items = dataset.domain_items("Wardrobe")
    with relative_to(tmp_path):
        whole = GivenCodes(GivenCodes.Config(file=name)).fit(ItemContent.from_dataset(dataset))
        part = GivenCodes(GivenCodes.Config(file=name, sizes=[9, 9, 12])).fit(
            ItemContent.from_dataset(dataset, items=items)
        )
    found = checked_codes(whole, ItemContent.from_dataset(dataset))
    np.testing.assert_array_equal(found.codes, codes)
    assert whole.sizes == (9, 9, 9) and part.sizes == (9, 9, 12)
    np.testing.assert_array_equal(part.encode(ItemContent.from_dataset(dataset, items=items)), codes[items])


def test_given_codes_that_do_not_fit_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    content = ItemContent.from_dataset(dataset)

    def fit(file: str = "", **settings: Any) -> GivenCodes:
        with relative_to(tmp_path):
            return GivenCodes(GivenCodes.Config(file=file, **settings)).fit(content)

    np.save(tmp_path / "short.npy", np.zeros((5, 2), dtype=int))
    np.save(tmp_path / "half.npy", np.zeros((300, 2)))
    np.save(tmp_path / "flat.npy", np.zeros(300, dtype=int))
    table = pl.DataFrame({"item": range(300), "code_0": [7] * 300})
    table.head(299).write_parquet(tmp_path / "missing.parquet")
    pl.concat([table, table.head(1)]).write_parquet(tmp_path / "twice.parquet")
    table.rename({"item": "number"}).write_parquet(tmp_path / "unnamed.parquet")
    (tmp_path / "broken.parquet").write_text("no table")
    (tmp_path / "codes.txt").write_text("1")
    for file, message in {
        "": "tokenizer.file is empty",
        "nothing.npy": "tokenizer.file: .*nothing.npy is not there",
        "codes.txt": "expected a .npy, .json or .parquet file",
        "short.npy": "short.npy has 5 rows; expected one for each of 300 items",
        "half.npy": "half.npy gives codes of type float64; expected integers",
        "flat.npy": r"codes have shape \(300,\); expected \(items, levels\)",
        "missing.parquet": "missing.parquet has no codes for item 299 of the data",
        "twice.parquet": "item 0 is in twice.parquet more than once",
        "unnamed.parquet": "expected key or item, and code_0",
        "broken.parquet": "broken.parquet cannot be read",
    }.items():
        with pytest.raises((TokenizerError, ValueError), match=message):
            fit(file)
    np.save(tmp_path / "sevens.npy", np.full((300, 1), 7))
    with pytest.raises(
        TokenizerError, match=r"sevens.npy gives item 0 the code 7 at level 1; expected 0 to 4"
    ):
        fit("sevens.npy", sizes=(5,))
    with pytest.raises(TokenizerError, match=r"codes of shape \(300, 1\) for 300 items; expected \(300, 2\)"):
        fit("sevens.npy", sizes=(8, 8))
    with pytest.raises(PresetError, match=r"tokenizer\.file is empty"):
        presets.load("gmc_tiny", {"tokenizer.kind": "given"})


def test_a_config_of_no_tokenizer_has_a_sentence() -> None:
    base = presets.load("gmc_tiny")
    with pytest.raises(ValidationError, match="kind is missing; expected one of rqvae"):
        MethodConfig.model_validate({**dict(base), "tokenizer": TokenizerConfig()})
