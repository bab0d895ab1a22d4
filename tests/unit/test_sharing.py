"""A control with a known answer: codes that two domains share are worth the users of both.

One shop's users are two domains of the same items (`halves`). A T5 that learns both halves has twice the
sequences of one that learns the first alone, at the same number of steps, so it must rank better there. Where
the second half's codes mean other items nothing can be shared, and it must not.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from genrec_lab.codes import ItemCodes
from genrec_lab.data import leave_one_out, load_dataset
from genrec_lab.encoders import TextConfig, encode_texts
from genrec_lab.evaluation import ndcg_per_user, paired_bootstrap
from genrec_lab.models import Recommender, T5Config, TrainingData
from genrec_lab.models.recommenders.base import recommend_to
from genrec_lab.models.tokenizers import ResidualKMeans
from genrec_lab.training import TrainingConfig

SHOP = {"name": "bazaar", "domains": ["Garden"], "items": 300}
BODY = T5Config(
    d_model=48, d_kv=12, heads=4, d_ff=96, encoder_layers=1, decoder_layers=1, dropout=0, reads="past"
)
STEPS = TrainingConfig(
    epochs=1, least_steps=200, batch_size=256, optimizer="muon", learning_rate=5e-3,
    validate_every=1000, validation_users=1, monitor=None,
)  # fmt: skip


@pytest.fixture(scope="module")
def halves():
    return load_dataset("halves", of={**SHOP, "users": 1600})


@pytest.fixture(scope="module")
def codes(halves):
    texts = halves.items["text"].to_list()[: halves.n_items // 2]  # those of the second half are the same
    vectors = encode_texts(texts, TextConfig(kind="tfidf", dimensions=64))
    tokenizer = ResidualKMeans(ResidualKMeans.Config(levels=2, codebook_size=32)).fit(vectors)
    both = np.tile(tokenizer.encode(vectors), (2, 1))
    raw = ItemCodes(both, tokenizer.sizes, halves.items["domain"].to_list())
    return raw.resolve("extra_level")


@pytest.fixture(scope="module")
def learnt(halves):
    """NDCG@10 of each test user of the first half, by a T5 that learnt some domains with some codes."""
    split = leave_one_out(halves)
    users = split.test.filter(domain="Garden A")

    def by(codes, *domains):
        torch.manual_seed(0)
        data = TrainingData.of(halves, split).of_domains(domains)
        model = Recommender(codes, BODY).fit(data, training=STEPS)
        ranked = recommend_to(model, users, 10, halves.domain_items("Garden A"), beams=10)
        return ndcg_per_user(ranked.items, users["target"].to_numpy(), 10)

    return by


@pytest.fixture(scope="module")
def alone(learnt, codes):
    return learnt(codes, "Garden A")


@pytest.mark.slow
def test_a_recommender_of_both_halves_is_above_one_of_a_half_alone(learnt, codes, alone):
    both = learnt(codes, "Garden A", "Garden B")
    gain = paired_bootstrap(both, alone)
    assert gain.low > 0, f"{both.mean():.4f} against {alone.mean():.4f}: {gain}"


@pytest.mark.slow
def test_it_is_not_where_the_codes_of_one_half_mean_other_items(halves, learnt, codes, alone):
    second, wrong = halves.domain_items("Garden B"), codes.codes.copy()
    wrong[second] = wrong[np.random.default_rng(0).permutation(second)]
    shuffled = ItemCodes(wrong, codes.sizes, halves.items["domain"].to_list())
    gain = paired_bootstrap(learnt(shuffled, "Garden A", "Garden B"), alone)
    assert gain.low < 0, f"codes that mean nothing in the other half still help: {gain}"
