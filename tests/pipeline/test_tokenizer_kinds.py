"""Every kind of tokenizer through a run: identifiers, atlas, explorer, recommender, ranking; skipped rows."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from genrec_lab.data import load_dataset
from genrec_lab.lab import (
    adapt_to_domains,
    coded_catalogue,
    compare_policies,
    load_identified,
    load_prepared,
    load_rankings,
    load_vectors,
    open_run,
    prepare_data,
    rank_test_users,
    survey_codes,
    train_recommenders,
    train_tokenizers,
)
from genrec_lab.lab.preflight import check_run
from genrec_lab.lab.runfile import RunFileError
from genrec_lab.models.sequential.sasrec import SASRecConfig
from genrec_lab.models.tokenizers import ItemContent
from genrec_lab.models.tokenizers.letter import collaborative_vectors
from genrec_lab.presets import CollaborativeConfig, PresetError
from genrec_lab.training import TrainingConfig
from genrec_lab.viz.explorer import policy_effects
from genrec_lab.viz.figures import mapped_things, what_levels_leave

FAST = {
    "text.kind": "tfidf",
    "recommenders": "separate",
    "adaptation.kind": "none",
    "training.epochs": 1,
    "one_pass": None,
}
KINDS = {
    "rkmeans": "residual",
    "pq": "parts",
    "opq": "parts",
    "fsq": "parts",
    "hkmeans": "prefix",
    "p5_cid": "none",
    "random": "none",
}


def geometry(own):
    """What the levels of a tokenizer quantise: what is left over, a part each, by prefix, or nothing."""
    if not own.quantises:
        return "none"
    if own.prefixed is not None:
        return "prefix"
    return "residual" if own.refines else "parts"


def opened(root, name, **overrides):
    return open_run(
        name,
        dataset={"name": "bazaar", "domains": ["Garden", "Wardrobe"], "items": 300, "users": 300},
        preset="gmc_tiny",
        overrides={"compare": [], **FAST, **overrides},
        root=root,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", params=KINDS)
def run(root, request):
    levels = {"tokenizer.levels": 4} if request.param in ("pq", "opq") else {}
    lab = opened(root, request.param, **{"tokenizer.kind": request.param, **levels})
    prepare_data(lab)
    train_tokenizers(lab)
    return lab


def test_identifiers_are_unique_and_every_level_can_be_looked_at(run) -> None:
    own, kind = load_identified(run), run.config.tokenizer.kind
    assert geometry(own) == KINDS[kind]
    assert own.codes.unique
    assert own.raw.n_items == 300
    table = own.item_levels(7)
    assert table["code"].to_list() == own.raw.codes[7].tolist()
    known = {"residual": 3, "parts": 3, "prefix": 2, "none": 0}[geometry(own)]
    assert sum(column.null_count() == 0 for column in table.iter_columns()) == 2 + known
    policies = compare_policies(run, own)
    assert policies.filter(policies["policy"] != "none")["collision_rate"].to_list() == [0, 0, 0, 0]


def test_the_atlas_shows_what_a_level_quantises_or_says_that_it_quantises_nothing(run) -> None:
    own, domains = load_identified(run), load_prepared(run).dataset.items["domain"].to_list()
    title = what_levels_leave(own, domains).layout.title.text
    if geometry(own) == "none":
        assert "quantise no vectors" in title and "quantise nothing" in mapped_things(own)
    else:
        assert "quantise no vectors" not in title
    if geometry(own) in ("residual", "prefix"):
        # What the codes add up to, and what they leave over, is the vector again.
        whole = own.codeword_sums() + own.remainder()
        np.testing.assert_allclose(whole, load_vectors(run), atol=1e-5)
        nearer = np.linalg.norm(own.remainder(), axis=1) <= np.linalg.norm(load_vectors(run), axis=1) + 1e-4
        assert nearer.mean() > 0.95


def test_the_explorer_opens_with_the_geometry_that_there_is(run) -> None:
    own, catalogue = load_identified(run), coded_catalogue(run)
    assert (catalogue.residuals is None) == (geometry(own) == "none")
    assert (catalogue.distances is not None) == (geometry(own) in ("residual", "parts"))
    used = survey_codes(run)
    assert used["items"].sum() == 300 * own.raw.levels
    if groups := own.raw.groups():
        effects = policy_effects(catalogue, groups[0])
        told = effects.filter(effects["policy"] == "nearest_free")["note"][0]
        assert told.startswith("not known") == (catalogue.distances is None)


@pytest.mark.parametrize("run", ["hkmeans", "fsq"], indirect=True)
def test_a_recommender_learns_and_ranks_with_such_identifiers(run) -> None:
    train_recommenders(run)
    adapt_to_domains(run)
    rank_test_users(run)
    ranked = load_rankings(run).items["gmc_tiny"]
    domains = np.array(load_prepared(run).dataset.domains)[load_prepared(run).dataset.item_domains()]
    assert len(ranked) == 300
    for row in ranked:
        items = row[row >= 0]
        assert len(set(items.tolist())) == len(items)
        assert len(set(domains[items])) == 1


def test_too_few_items_and_unknown_kinds_are_refused_before_anything_is_trained(root) -> None:
    lab = opened(root, "large", **{"tokenizer.kind": "hkmeans", "tokenizer.codebook_size": 301})
    prepare_data(lab)
    with pytest.raises(ValueError, match="codebook_size of 'gmc_tiny' is 301, but 'all' has only 300 items"):
        train_tokenizers(lab)
    asked = {"run": "large", "preset": "gmc_tiny", "dataset": lab.parameters["dataset"]}
    for name in ("large", "unprepared"):
        with pytest.raises(RunFileError, match=r"codebook_size.* is 301, but .* has only 300 items"):
            check_run(asked | {"run": name, "overrides": lab.parameters["overrides"]}, root=root)
    with pytest.raises(PresetError, match=r"tokenizer.kind is 'hkmean'.*did you mean 'hkmeans'"):
        opened(root, "typo", **{"tokenizer.kind": "hkmean"})


def test_a_row_that_needs_pictures_is_skipped_with_its_reason(root) -> None:
    rows = ["tiger_multimodal", "letter", "p5_cid"]
    lab = opened(root, "no_pictures", compare=rows, **{"rows.sasrec.training.epochs": 1})
    prepare_data(lab)
    found = train_tokenizers(lab)
    assert list(found) == ["gmc_tiny", "letter", "p5_cid"]
    train_recommenders(lab)
    adapt_to_domains(lab)
    rank_test_users(lab)
    assert lab.skipped() == {"tiger_multimodal": "it needs item pictures, and Garden has none"}
    assert set(lab.metrics()["method"]) == {"gmc_tiny", "letter", "p5_cid", "best possible"}
    letter, cid = found["letter"], found["p5_cid"]
    assert letter.tokenizers == cid.tokenizers == 2
    assert all(epochs[-1]["collaborative"] > 0 for epochs in letter.epochs.values())
    assert cid.codes.levels >= 2 and cid.codes == cid.raw

    alone = opened(root, "alone", pictures="pixels")
    prepare_data(alone)
    with pytest.raises(ValueError, match="gmc_tiny cannot be run with these data: it needs item pictures"):
        train_tokenizers(alone)


def test_collaborative_vectors_know_nothing_of_what_is_held_out(tmp_path) -> None:
    """Other last two items of every sequence: the same vectors. Another item before them: others."""
    dataset = load_dataset("bazaar", items=300, users=300, domains=["Garden"])
    config = CollaborativeConfig(
        model=SASRecConfig(width=8, feed_forward=8), training=TrainingConfig(epochs=1, batch_size=100)
    )

    def vectors(change) -> np.ndarray:
        lists = [change(items) for items in dataset.sequences["items"].to_list()]
        frame = dataset.sequences.with_columns(pl.Series("items", lists, dtype=pl.List(pl.Int64)))
        content = ItemContent.from_dataset(replace(dataset, sequences=frame))
        sequences = content.training_sequences(None)
        return collaborative_vectors(np.arange(300), sequences, config, 0, tmp_path / str(change.__name__))

    def unchanged(items):
        return items

    def other_end(items):
        return [*items[:-2], (items[-2] + 1) % 300, (items[-1] + 5) % 300]

    def other_start(items):
        return [(items[0] + 1) % 300, *items[1:]]

    first = vectors(unchanged)
    assert first.shape == (300, 8)
    np.testing.assert_array_equal(vectors(other_end), first)
    assert not np.array_equal(vectors(other_start), first)


def test_pictures_stand_beside_the_texts(root) -> None:
    dataset = {"name": "bazaar", "domains": ["Garden"], "items": 300, "users": 300, "images": str(root / "p")}
    overrides = {"compare": [], **FAST, "pictures": "pixels", "tokenizer.kind": "rkmeans"}
    lab = open_run("pictures", dataset=dataset, preset="gmc_tiny", overrides=overrides, root=root)
    prepare_data(lab)
    (own,) = train_tokenizers(lab).values()
    texts = load_vectors(lab)
    assert own.residuals.shape[2] == texts.shape[1] + 48
    np.testing.assert_array_equal(own.residuals[:, 0, : texts.shape[1]], texts)
    np.testing.assert_allclose(np.linalg.norm(own.residuals[:, 0, texts.shape[1] :], axis=1), 1, atol=1e-5)
