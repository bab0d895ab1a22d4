"""What the codes of an item keep of it, as UTGRec's decoders in a run show; and runs of one target alone."""

import re

import numpy as np
import polars as pl
import pytest
import torch

from genrec_lab.lab import (
    adapt_to_domains,
    adaptation_sizes,
    explorer_state,
    has_decoders,
    learnt_from,
    load_adapted,
    load_identified,
    load_prepared,
    load_tokenizer_transfers,
    lora_parameters,
    open_run,
    prepare_data,
    rank_test_users,
    renamed_items,
    starting_recommender,
    told_items,
    train_recommenders,
    train_tokenizers,
    what_codes_keep,
)
from genrec_lab.lab.tokenise import load_row_tokenizer
from genrec_lab.viz.meaning import WORDS


def opened(root, name, preset="utgrec_tiny", **overrides):
    return open_run(
        name,
        dataset={
            "name": "bazaar",
            "domains": ["Garden", "Wardrobe"],
            "items": 300,
            "users": 300,
            "images": str(root / "pictures"),
        },
        preset=preset,
        overrides=overrides,
        root=root,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(root):
    """A transfer whose recommender is adapted by LoRA."""
    lab = opened(
        root,
        "transfer",
        **{
            "transfer.targets": ["Wardrobe"],
            "adaptation.kind": "lora",
            "training.epochs": 1,
            "adaptation.training.epochs": 1,
            "adaptation.training.learning_rate": 0.05,
            "compare": ["utgrec_without_recommender_pretraining"],
        },
    )
    prepare_data(lab)
    train_tokenizers(lab)
    train_recommenders(lab)
    adapt_to_domains(lab)
    return lab


@pytest.fixture(scope="module")
def alone(root):
    """A tokenizer and a recommender of the target alone."""
    lab = opened(
        root,
        "alone",
        **{
            "transfer.targets": ["Wardrobe"],
            "transfer.pretrain_tokenizer": False,
            "transfer.pretrain_recommender": False,
            "transfer.tokenizer": "none",
            "adaptation.training.epochs": 1,
            "compare": [],
        },
    )
    prepare_data(lab)
    train_tokenizers(lab)
    train_recommenders(lab)
    return lab


def test_the_words_are_those_that_the_prefix_makes_likelier_than_others_do(run):
    items = told_items(run, 5)
    kept = what_codes_keep(run, items, seed=3)
    own, dataset = load_identified(run).raw.codes, load_prepared(run).dataset
    np.testing.assert_array_equal(kept.codes, own[items])
    assert kept.items["item"].to_list() == items
    tokenizer = load_row_tokenizer(run, "utgrec_tiny", "all")
    names = [name.lower() for name in tokenizer.words()]
    in_texts = set(" ".join(re.sub(r"[\W_]+", " ", text.lower()) for text in dataset.items["text"]).split())
    garden = dataset.domain_items("Garden")  # fewer than what is drawn of larger ones
    assert len(garden) <= 256
    for level in range(own.shape[1]):

        def likely(rows, levels=level + 1):
            return tokenizer.decode_words(torch.from_numpy(own[rows][:, :levels])).exp().double().numpy()

        usual = likely(garden).mean(axis=0)
        for place, item in enumerate(items):
            p = likely([item])[0]
            weights = {}
            for name, weight in zip(names, p * np.log(p / usual), strict=True):
                if name in in_texts:
                    weights[name] = max(weight, weights.get(name, -np.inf))
            decoded = kept.words[place][level]
            assert len(set(decoded)) == WORDS
            best = sorted(weights.values(), reverse=True)[:WORDS]
            np.testing.assert_allclose([weights[word] for word in decoded], best, atol=1e-6)


@pytest.mark.parametrize("name", ["run", "alone"])
def test_the_explorer_tells_of_a_prefix_what_its_items_codes_keep(name, request):
    lab = request.getfixturevalue(name)
    items = told_items(lab, 2)
    kept = what_codes_keep(lab, items, seed=lab.seed)
    state = explorer_state(lab)
    assert state.decoded() is None
    for place, item in enumerate(items):
        codes = state.catalogue.codes.codes[item].tolist()
        for level in range(len(codes)):
            state.select(prefix=tuple(codes[: level + 1]))
            decoded = state.decoded()
            assert decoded.words == kept.words[place][level]
            np.testing.assert_allclose(decoded.picture, kept.pictures[place, level], atol=1e-4)


def test_equal_prefixes_have_equal_words_and_pictures_whatever_is_asked_beside_them(run):
    codes = load_identified(run).raw.codes
    garden = load_prepared(run).dataset.domain_items("Garden")
    first = codes[garden, 0]
    common = np.flatnonzero(first == np.bincount(first).argmax())
    twins = garden[common[[0, -1]]].tolist()
    other = int(garden[np.flatnonzero((codes[garden] != codes[twins[0]]).any(axis=1))[0]])
    kept = what_codes_keep(run, [*twins, other], seed=3)
    assert kept.words[0][0] == kept.words[1][0]
    assert kept.pictures.shape == (3, 3, 16, 16, 3)
    assert kept.means.shape == kept.pictures.shape
    assert kept.means.std() < kept.pictures.std()
    np.testing.assert_array_equal(kept.means[0, 0], kept.means[1, 0])
    assert kept.pictures.min() >= 0
    assert kept.pictures.max() <= 1
    np.testing.assert_array_equal(kept.pictures[0, 0], kept.pictures[1, 0])
    assert not np.array_equal(kept.pictures[0, 2], kept.pictures[2, 2])
    by_itself = what_codes_keep(run, [other], seed=3)
    np.testing.assert_allclose(by_itself.pictures[0], kept.pictures[2], atol=1e-5)
    assert not np.allclose(what_codes_keep(run, [other], seed=4).pictures, by_itself.pictures)


def test_told_items_are_of_domains_that_the_tokenizer_was_trained_on(run, alone):
    for lab, domain in ((run, "Garden"), (alone, "Wardrobe")):
        assert set(load_prepared(lab).dataset.items["domain"].gather(told_items(lab, 6))) == {domain}


def test_a_tokenizer_of_one_domain_says_which_items_it_can_tell_of(alone):
    dataset = load_prepared(alone).dataset
    assert len(what_codes_keep(alone, dataset.domain_items("Wardrobe")[:2].tolist(), 0).words) == 2
    with pytest.raises(ValueError, match=r"they belong to \['Garden'\].*for each of \['Wardrobe'\] alone"):
        what_codes_keep(alone, dataset.domain_items("Garden")[:2].tolist(), 0)


def test_a_tokenizer_without_decoders_says_so(root):
    lab = opened(root, "gmc", preset="gmc_tiny")
    assert not has_decoders(lab)
    with pytest.raises(ValueError, match="kind 'rqvae', which has no decoder of words"):
        what_codes_keep(lab, [0], 0)


def test_levels_of_unequal_books_are_told_with_their_nearest_codewords(run):
    own = load_identified(run)
    for item in (0, 200):
        levels = own.item_levels(item)
        gaps = np.linalg.norm(own.residuals[item] - own.chosen_codewords()[item], axis=1)
        np.testing.assert_allclose(levels["to_nearest"], gaps, atol=1e-3)
        assert levels["code"].to_list() == own.raw.codes[item].tolist()
        assert (levels["to_second"] >= levels["to_nearest"]).all()


def test_a_tokenizer_of_one_target_has_one_vocabulary(alone):
    own = load_identified(alone)
    assert own.tokenizers == 1
    assert own.comparable_codes() == own.raw


def test_lora_adapts_a_recommender_of_the_renamed_items(run):
    renamed = load_adapted(run, "utgrec_tiny", "Wardrobe")
    before = load_identified(run).codes.codes
    target = load_prepared(run).dataset.domain_items("Wardrobe")
    assert (renamed.codes.codes[target] != before[target]).any()
    assert renamed.codes.unique
    changes = renamed_items(run)
    assert changes["method"].to_list() == ["utgrec_tiny", "utgrec_without_recommender_pretraining"]
    assert changes["items"].to_list() == [len(target)] * 2
    assert (changes["first_changed"] <= changes["changed"]).all() and changes["changed"].min() > 0
    assert [len(records) for records in load_tokenizer_transfers(run).values()] == [2, 2]
    sizes = adaptation_sizes(run)
    shares = dict(sizes.select("method", "share").iter_rows())
    assert shares["utgrec_tiny"] < 1
    assert shares["utgrec_without_recommender_pretraining"] == 1
    ranked = rank_test_users(run)
    assert set(ranked.users["domain"]) == {"Wardrobe"}


def test_a_row_without_pretraining_starts_from_untrained_weights(run, alone):
    assert set(learnt_from(run, load_prepared(run).split.train)["domain"]) == {"Garden"}
    start = starting_recommender(alone, "utgrec_tiny", "Wardrobe")
    again = starting_recommender(alone, "utgrec_tiny", "Wardrobe")
    for one, two in zip(start.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert start.codes == load_identified(alone).codes
    counted = lora_parameters(alone)
    assert 0 < counted.trained < counted.all
    changes = adapt_to_domains(alone)
    assert changes["domain"].unique().to_list() == ["Wardrobe"]
    assert renamed_items(alone).is_empty()
    assert adaptation_sizes(alone)["share"].to_list() == [1.0]
    assert isinstance(changes, pl.DataFrame)
