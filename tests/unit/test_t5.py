"""The T5 against transformers': logits, loss, weights both ways; cached steps; padding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import T5Config as TheirConfig
from transformers import T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

from genrec_lab.codes import PAD, ItemCodes
from genrec_lab.models import T5, Recommender, T5Config
from genrec_lab.models.recommenders.recommender import transformers_names
from genrec_lab.models.recommenders.t5 import RelativeBias

VOCABULARY = 26  # of CODES: pad, end, 3 levels of 8
CODES = ItemCodes([[0, 0, 0], [7, 7, 7]], (8, 8, 8))
FORMS = [("relu", True), ("relu", False), ("gated-gelu", True), ("gated-gelu", False)]
forms = pytest.mark.parametrize(
    "feed_forward, scale_output", FORMS, ids=lambda v: v if isinstance(v, str) else f"scale={v}"
)


def config_of(feed_forward: str = "relu", scale_output: bool = True) -> T5Config:
    # Short distances, so that histories of 45 tokens reach far into the shared last bucket.
    return T5Config(
        d_model=16,
        d_kv=6,
        heads=3,
        d_ff=20,
        encoder_layers=2,
        decoder_layers=3,
        relative_buckets=8,
        relative_max_distance=12,
        feed_forward=feed_forward,
        scale_output=scale_output,
    )


def batch(lengths: list[int], decoder: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random tokens, their mask (padding at the right), random decoder inputs."""
    generator = torch.Generator().manual_seed(seed)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    tokens = torch.randint(2, VOCABULARY, mask.shape, generator=generator) * mask
    return tokens, mask, torch.randint(2, VOCABULARY, (len(lengths), decoder), generator=generator)


def their_logits(model: Recommender, tokens: torch.Tensor, mask: torch.Tensor, written: torch.Tensor):
    with torch.no_grad():
        theirs = model.to_transformers()
        return theirs(input_ids=tokens, attention_mask=mask, decoder_input_ids=written).logits


@forms
def test_logits_equal_transformers(feed_forward: str, scale_output: bool) -> None:
    torch.manual_seed(0)
    model = Recommender(CODES, config_of(feed_forward, scale_output)).eval()
    tokens, mask, written = batch([45, 1, 7, 30], decoder=20)
    with torch.no_grad():
        ours = model.t5(tokens, mask, written)
    assert ours.shape == (4, 20, VOCABULARY)
    assert ours.std() > 0.1  # logits that are all alike would agree by themselves
    torch.testing.assert_close(ours, their_logits(model, tokens, mask, written), atol=1e-4, rtol=0)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    decoder=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_logits_equal_transformers_at_any_lengths(lengths: list[int], decoder: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = Recommender(CODES, config_of()).eval()
    tokens, mask, written = batch(lengths, decoder, seed)
    with torch.no_grad():
        ours = model.t5(tokens, mask, written)
    torch.testing.assert_close(ours, their_logits(model, tokens, mask, written), atol=1e-4, rtol=0)


@pytest.mark.parametrize("both_ways", [True, False], ids=["encoder", "decoder"])
@pytest.mark.parametrize("buckets, max_distance", [(32, 128), (8, 12), (4, 8), (7, 20)])
def test_every_distance_has_transformers_bucket(both_ways: bool, buckets: int, max_distance: int) -> None:
    bias = RelativeBias(
        T5Config(relative_buckets=buckets, relative_max_distance=max_distance), both_ways=both_ways
    )
    distance = torch.arange(-3 * max_distance, 3 * max_distance + 1)
    theirs = T5Attention._relative_position_bucket(
        distance, bidirectional=both_ways, num_buckets=buckets, max_distance=max_distance
    )
    assert bias._bucket(distance).tolist() == theirs.tolist()


def test_a_distance_limit_within_the_exact_buckets_is_refused() -> None:
    with pytest.raises(ValidationError, match="relative_max_distance is 16 with 32"):
        T5Config(relative_buckets=32, relative_max_distance=16)


@forms
def test_weights_come_back_from_transformers_unchanged(feed_forward: str, scale_output: bool) -> None:
    torch.manual_seed(1)
    model = Recommender(CODES, config_of(feed_forward, scale_output))
    again = Recommender.from_transformers(model.to_transformers(), CODES)
    assert again.config == model.config
    before, after = model.t5.state_dict(), again.t5.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@forms
def test_a_t5_of_transformers_gives_the_same_logits_here(feed_forward: str, scale_output: bool) -> None:
    torch.manual_seed(2)
    theirs = T5ForConditionalGeneration(
        TheirConfig(
            vocab_size=VOCABULARY,
            d_model=20,
            d_kv=5,
            d_ff=30,
            num_layers=1,
            num_decoder_layers=2,
            num_heads=2,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=24,
            feed_forward_proj=feed_forward,
            scale_decoder_outputs=scale_output,
            pad_token_id=PAD,
            decoder_start_token_id=PAD,
        )
    ).eval()
    ours = Recommender.from_transformers(theirs, CODES)
    tokens, mask, written = batch([40, 3], decoder=9)
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=mask, decoder_input_ids=written).logits
        torch.testing.assert_close(ours.t5(tokens, mask, written), expected, atol=1e-4, rtol=0)


def test_exchange_copies_the_weights() -> None:
    model = Recommender(CODES, config_of())
    theirs = model.to_transformers()
    before = model.t5.embedding.weight.clone()
    with torch.no_grad():
        theirs.shared.weight.add_(1.0)
    assert torch.equal(model.t5.embedding.weight, before)


@pytest.mark.parametrize("gated", [True, False])
def test_every_weight_has_one_name_on_each_side(gated: bool) -> None:
    model = T5(VOCABULARY, config_of("gated-gelu" if gated else "relu"))
    names = transformers_names(model.config)
    assert set(names) == set(model.state_dict())
    assert len(set(names.values())) == len(names)


def test_a_foreign_weight_is_refused() -> None:
    theirs = Recommender(CODES, config_of()).to_transformers()
    theirs.register_buffer("pooler", torch.zeros(1))
    with pytest.raises(KeyError, match=r"pooler.*not the name of a T5 weight"):
        Recommender.from_transformers(theirs, CODES)


def test_the_default_body_has_the_parameters_of_tiger() -> None:
    # papers/README.md: d_model 128, d_kv 64, 6 heads, d_ff 1,024, 4 + 4 layers = 4.59M with 4 x 256 codes.
    assert sum(p.numel() for p in T5(1026).parameters()) == 4_590_976


# --- loss


@forms
def test_loss_equals_transformers(feed_forward: str, scale_output: bool) -> None:
    torch.manual_seed(3)
    codes = ItemCodes(np.random.default_rng(0).permuted(np.tile(np.arange(8), (3, 1)), axis=1).T, (8, 8, 8))
    model = Recommender(codes, config_of(feed_forward, scale_output)).eval()
    histories, targets = [[0, 1, 2, 3, 4, 5, 6], [7], [2, 2]], [7, 0, 3]
    padded = torch.tensor([history + [-1] * (7 - len(history)) for history in histories])
    read = model.inputs(histories)
    with torch.no_grad():
        ours = model.pair_loss(padded, torch.tensor(targets))
        theirs = model.to_transformers()(**read, labels=torch.from_numpy(codes.tokens()[targets])).loss
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)


# --- cached steps


@settings(max_examples=20)
@given(steps=st.integers(1, 8), beams=st.integers(1, 4), users=st.integers(1, 3), seed=st.integers(0, 1000))
def test_cached_steps_equal_whole_prefixes(steps: int, beams: int, users: int, seed: int) -> None:
    """Beams are reordered, repeated and lost at every step; each must end as its own prefix decoded whole."""
    torch.manual_seed(seed)
    model = T5(VOCABULARY, config_of()).eval()
    generator = torch.Generator().manual_seed(seed)
    tokens, mask, _ = batch([3 + 5 * user for user in range(users)], 1, seed)
    with torch.no_grad():
        memory = model.remember(model.encode(tokens, mask), mask)
        prefixes = torch.full((users, 1, 1), PAD)
        logits, cache = model.step(prefixes[:, :, 0], memory)
        for _ in range(steps):
            parents = torch.randint(prefixes.shape[1], (users, beams), generator=generator)
            new = torch.randint(2, VOCABULARY, (users, beams), generator=generator)
            rows = torch.arange(users)[:, None]
            prefixes = torch.cat([prefixes[rows, parents], new[:, :, None]], dim=-1)
            logits, cache = model.step(new, memory, cache.of_parents(parents))
        whole = torch.stack([model(tokens, mask, prefixes[:, beam])[:, -1] for beam in range(beams)], dim=1)
    torch.testing.assert_close(logits, whole, atol=1e-4, rtol=0)


def test_memory_of_users_is_that_of_the_users_alone() -> None:
    torch.manual_seed(0)
    model = T5(VOCABULARY, config_of()).eval()
    tokens, mask, written = batch([9, 4, 6], decoder=3)
    with torch.no_grad():
        memory = model.remember(model.encode(tokens, mask), mask)
        chosen = torch.tensor([2, 0, 2])
        logits = model.decode(written[chosen][:, None], memory.of_users(chosen))
        expected = model(tokens, mask, written)[chosen]
    torch.testing.assert_close(logits[:, 0], expected, atol=1e-5, rtol=0)


# --- what must not matter


@settings(max_examples=20)
@given(
    length=st.integers(1, 20),
    padding=st.integers(1, 25),
    junk=st.integers(0, VOCABULARY - 1),
    seed=st.integers(0, 99),
)
def test_padding_never_changes_a_logit(length: int, padding: int, junk: int, seed: int) -> None:
    torch.manual_seed(seed)
    model = T5(VOCABULARY, config_of()).eval()
    tokens, mask, written = batch([length], decoder=4, seed=seed)
    padded = torch.cat([tokens, torch.full((1, padding), junk)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(1, padding, dtype=torch.long)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(
            model(padded, padded_mask, written), model(tokens, mask, written), atol=1e-5, rtol=0
        )


def test_a_later_decoder_token_changes_no_earlier_logit() -> None:
    torch.manual_seed(0)
    model = T5(VOCABULARY, config_of()).eval()
    tokens, mask, written = batch([5], decoder=6)
    other = written.clone()
    other[0, 4] = (written[0, 4] - 2 + 1) % (VOCABULARY - 2) + 2
    with torch.no_grad():
        a, b = model(tokens, mask, written), model(tokens, mask, other)
    torch.testing.assert_close(a[:, :4], b[:, :4], atol=0, rtol=0)
    assert not torch.allclose(a[:, 4:], b[:, 4:], atol=1e-3)


def test_an_encoder_of_padding_alone_gives_numbers() -> None:
    torch.manual_seed(0)
    model = T5(VOCABULARY, config_of()).eval()
    logits = model(
        torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.long)
    )
    assert torch.isfinite(logits).all()


def test_initial_weights_have_t5s_scale() -> None:
    torch.manual_seed(0)
    config = T5Config(d_model=256, d_kv=32, heads=8, d_ff=512, encoder_layers=1, decoder_layers=1)
    model = T5(512, config)
    # Mesh TensorFlow's T5: q (d_model d_kv)^-1/2, k and v d_model^-1/2, o (heads d_kv)^-1/2, wo d_ff^-1/2.
    attention, feed_forward = model.encoder[0].attention, model.encoder[0].feed_forward
    for weight, expected in [
        (attention.q.weight, (256 * 32) ** -0.5),
        (attention.k.weight, 256**-0.5),
        (attention.v.weight, 256**-0.5),
        (attention.o.weight, 256**-0.5),
        (feed_forward.wi.weight, 256**-0.5),
        (feed_forward.wo.weight, 512**-0.5),
        (model.embedding.weight, 1.0),
    ]:
        assert weight.std().item() == pytest.approx(expected, rel=0.02)
