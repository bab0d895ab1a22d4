"""GMC Eqs 8, 9 and 10 against a T5 written in float64 numpy, layer by layer, and sums over levels by hand."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec_lab.codes import ItemCodes
from genrec_lab.models import Recommender, T5Config
from genrec_lab.models.recommenders.adapters import LoRAConfig, add_lora
from genrec_lab.training import TrainingConfig, fit

SIZES = (3, 4, 3)
DOMAINS = ["a", "b", "a", "b", "a", "a", "b", "b", "b"]
HISTORIES = [[0, 2, 4], [5], [1, 3, 6, 7, 8, 1, 3], []]


@pytest.fixture(scope="module", params=["relu", "gated-gelu"])
def model(request) -> Recommender:
    rows = np.array(list(product(*map(range, SIZES))))
    chosen = np.random.default_rng(0).choice(len(rows), size=len(DOMAINS), replace=False)
    config = T5Config(
        d_model=12,
        d_kv=5,
        heads=2,
        d_ff=14,
        encoder_layers=2,
        decoder_layers=2,
        relative_buckets=8,
        relative_max_distance=10,
        feed_forward=request.param,
    )
    torch.manual_seed(0)
    model = Recommender(ItemCodes(rows[chosen], SIZES, domains=DOMAINS), config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


# --- the twin: one sequence at a time, places and buckets in plain Python


class Twin:
    """T5 (Raffel et al. 2020, 2.1) on one history and one prefix, in float64."""

    def __init__(self, model: Recommender) -> None:
        self.w = {name: tensor.double().numpy() for name, tensor in model.t5.state_dict().items()}
        self.config, self.codes = model.config, model.codes
        first_tokens = np.cumsum([2, *SIZES])[:-1]  # after padding 0 and end 1
        self.tokens = model.codes.codes + first_tokens
        self.first_tokens = first_tokens.tolist()

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * self.w[f"{name}.weight"]

    def bucket(self, distance: int, both_ways: bool) -> int:
        """distance: the place that is read minus the place that reads."""
        buckets, first = self.config.relative_buckets, 0
        if both_ways:
            buckets //= 2
            first = buckets if distance > 0 else 0
            distance = abs(distance)
        else:
            distance = max(-distance, 0)
        exact = buckets // 2
        if distance < exact:
            return first + distance
        share = math.log(distance / exact) / math.log(self.config.relative_max_distance / exact)
        return first + min(exact + int(share * (buckets - exact)), buckets - 1)

    def bias(self, length: int, side: str) -> np.ndarray:
        """(H, T, T)."""
        table = self.w[f"{side}_bias.weight"]
        places = [[self.bucket(s - t, side == "encoder") for s in range(length)] for t in range(length)]
        return table[np.array(places)].transpose(2, 0, 1)

    def attend(self, x: np.ndarray, read: np.ndarray, name: str, bias: np.ndarray | float) -> np.ndarray:
        width = self.config.d_kv
        heads = []
        for head in range(self.config.heads):
            rows = slice(head * width, (head + 1) * width)
            q = x @ self.w[f"{name}.q.weight"][rows].T
            k = read @ self.w[f"{name}.k.weight"][rows].T
            v = read @ self.w[f"{name}.v.weight"][rows].T
            scores = q @ k.T + (bias[head] if isinstance(bias, np.ndarray) else bias)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v)
        return np.concatenate(heads, -1) @ self.w[f"{name}.o.weight"].T

    def feed_forward(self, x: np.ndarray, name: str) -> np.ndarray:
        x = self.norm(x, f"{name}_norm")
        hidden = x @ self.w[f"{name}.wi.weight"].T
        if self.config.feed_forward == "relu":
            hidden = np.maximum(hidden, 0)
        else:
            gelu = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
            hidden = gelu * (x @ self.w[f"{name}.gate.weight"].T)
        return hidden @ self.w[f"{name}.wo.weight"].T

    def log_probs(self, history: list[int], prefix: list[int]) -> np.ndarray:
        """(V,): log P(token given history, prefix)."""
        tokens = [int(token) for item in history for token in self.tokens[item]] + [1]
        x = self.w["embedding.weight"][tokens]
        bias = self.bias(len(tokens), "encoder")
        for i in range(self.config.encoder_layers):
            h = self.norm(x, f"encoder.{i}.attention_norm")
            x = x + self.attend(h, h, f"encoder.{i}.attention", bias)
            x = x + self.feed_forward(x, f"encoder.{i}.feed_forward")
        memory = self.norm(x, "encoder_norm")
        y = self.w["embedding.weight"][[0, *prefix]]
        length = len(prefix) + 1
        causal = self.bias(length, "decoder") + np.triu(np.full((length, length), -np.inf), 1)
        for i in range(self.config.decoder_layers):
            h = self.norm(y, f"decoder.{i}.attention_norm")
            y = y + self.attend(h, h, f"decoder.{i}.attention", causal)
            y = y + self.attend(self.norm(y, f"decoder.{i}.cross_norm"), memory, f"decoder.{i}.cross", 0.0)
            y = y + self.feed_forward(y, f"decoder.{i}.feed_forward")
        states = self.norm(y, "decoder_norm")[-1] * self.config.d_model**-0.5
        logits = self.w["embedding.weight"] @ states
        return logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))

    def item_score(self, history: list[int], item: int) -> float:
        """Sum over levels of log P(y_l given h, y_<l)."""
        written = [int(token) for token in self.tokens[item]]
        return sum(self.log_probs(history, written[:level])[token] for level, token in enumerate(written))


@pytest.fixture(scope="module")
def twin(model) -> Twin:
    return Twin(model)


def padded(histories: list[list[int]]) -> torch.Tensor:
    width = max(map(len, histories))
    rows = [history + [-1] * (width - len(history)) for history in histories]
    return torch.tensor(rows, dtype=torch.long)


# --- Eq. 8


def test_eq_8_is_the_sum_over_levels_of_all_domains_pairs(model, twin) -> None:
    """The loss is minus the sum over pairs and levels, as a mean over both, which has the same maximum."""
    targets = [7, 1, 0, 3]
    expected = sum(twin.item_score(h, y) for h, y in zip(HISTORIES, targets, strict=True))
    with torch.no_grad():
        loss = model.pair_loss(padded(HISTORIES), torch.tensor(targets)).item()
    assert loss == pytest.approx(-expected / (len(targets) * len(SIZES)), abs=1e-5)


@settings(max_examples=10)
@given(
    history=st.lists(st.integers(0, len(DOMAINS) - 1), max_size=20), target=st.integers(0, len(DOMAINS) - 1)
)
def test_eq_8_of_any_pair(history: list[int], target: int, model, twin) -> None:
    with torch.no_grad():
        loss = model.pair_loss(padded([history]), torch.tensor([target])).item()
    assert loss * len(SIZES) == pytest.approx(-twin.item_score(history, target), abs=1e-4)


def test_eq_8_has_the_gradient_of_the_sum(model, twin) -> None:
    """Central differences of the twin's loss in some weights of each kind against autograd."""
    model.zero_grad()
    model.pair_loss(padded([[0, 2, 4]]), torch.tensor([7])).backward()
    rng = np.random.default_rng(0)
    for name in [
        "embedding.weight",
        "encoder_bias.weight",
        "decoder_bias.weight",
        "encoder.0.attention.q.weight",
        "encoder.1.feed_forward.wi.weight",
        "decoder.0.cross.v.weight",
        "decoder.1.attention.o.weight",
        "decoder_norm.weight",
    ]:
        weights = twin.w[name]
        gradient = model.t5.get_parameter(name).grad
        assert gradient is not None
        for index in rng.integers(0, weights.size, 4):
            place = np.unravel_index(index, weights.shape)
            start, sums = weights[place], []
            for step in (1e-5, -1e-5):
                weights[place] = start + step
                sums.append(twin.item_score([0, 2, 4], 7))
            weights[place] = start
            numeric = -(sums[0] - sums[1]) / 2e-5 / len(SIZES)
            assert gradient[place].item() == pytest.approx(numeric, abs=2e-5)


# --- Eq. 10


@pytest.mark.parametrize("domain", ["a", "b"])
def test_eq_10_ranks_the_domains_items_by_their_probability(model, twin, domain: str) -> None:
    items = model.codes.domain_items(domain).tolist()
    ranked = model.recommend(HISTORIES, len(items), domain)
    for row, history in enumerate(HISTORIES):
        scores = {item: twin.item_score(history, item) for item in items}
        assert ranked.items[row].tolist() == sorted(items, key=lambda item: -scores[item])
        np.testing.assert_allclose(
            ranked.scores[row], sorted(scores.values(), reverse=True), atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("domain", ["a", "b"])
def test_eq_10_level_by_level_is_a_beam_of_one(model, twin, domain: str) -> None:
    """At each level the most probable code that the prefix tree of domain t's items allows."""
    items = model.codes.domain_items(domain).tolist()
    ranked = model.recommend(HISTORIES, 1, domain, beams=1)
    for row, history in enumerate(HISTORIES):
        prefix: list[int] = []
        for level in range(len(SIZES)):
            allowed = {int(twin.tokens[i][level]) for i in items if twin.tokens[i][:level].tolist() == prefix}
            log_probs = twin.log_probs(history, prefix)
            prefix.append(max(allowed, key=lambda token: log_probs[token]))
        (best,) = [item for item in items if twin.tokens[item].tolist() == prefix]
        assert ranked.items[row].tolist() == [best]


def test_eq_10_takes_probabilities_over_the_whole_vocabulary(model, twin) -> None:
    """Codes that no item has keep their probability: those of the items do not add up to one."""
    ranked = model.recommend([HISTORIES[0]], 5, "b")
    assert 0 < np.exp(ranked.scores[0]).sum() < 0.9
    assert np.exp(twin.log_probs(HISTORIES[0], [])).sum() == pytest.approx(1.0)


# --- Eq. 9


def pairs_of_domain(epoch: int, seed: int):
    yield {"histories": padded([[0, 2, 4], [5, 4]]), "targets": torch.tensor([5, 0])}


class DomainPairs:
    """Domain a's pairs, one batch an epoch."""

    def __len__(self) -> int:
        return 1

    def __call__(self, epoch: int, seed: int):
        return pairs_of_domain(epoch, seed)


def test_eq_9_gives_gradients_to_theta_t_only(model) -> None:
    adapted = add_lora(model, LoRAConfig(rank=2), "a").train()
    adapted(**next(pairs_of_domain(0, 0))).backward()
    with_gradient = {name for name, p in adapted.named_parameters() if p.grad is not None}
    assert with_gradient == {name for name, p in adapted.named_parameters() if ".lora_" in name}
    assert len(with_gradient) == 2 * 3 * (2 + 2 * 2)  # two matrices at q, k, v of 2 + 4 attentions


def test_eq_9_maximises_over_theta_t_and_leaves_phi(model) -> None:
    phi = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    adapted = add_lora(model, LoRAConfig(rank=2), "a")
    config = TrainingConfig(epochs=30, learning_rate=0.01, schedule="constant", warmup=0.0, precision="fp32")
    batch = next(pairs_of_domain(0, 0))
    with torch.no_grad():
        before = adapted.eval()(**batch).item()
    fit(adapted, DomainPairs(), config)
    with torch.no_grad():
        assert adapted(**batch).item() < before - 0.05
    after = {name.replace(".base_layer", ""): tensor for name, tensor in adapted.state_dict().items()}
    assert phi.keys() < after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in phi.items())


def test_eq_10_after_eq_9_adds_the_update_to_phi(model) -> None:
    """P_{Phi + Theta_t}: the twin with the update added to q, k and v scores as the adapted model does."""
    config = LoRAConfig(rank=2, alpha=3.0)
    adapted = add_lora(model, config, "a")
    training = TrainingConfig(epochs=20, learning_rate=0.02, schedule="constant", precision="fp32")
    fit(adapted, DomainPairs(), training)
    merged = Twin(model)
    for name, module in adapted.t5.named_modules():
        if hasattr(module, "lora_A"):
            (down,), (up,) = module.lora_A.values(), module.lora_B.values()
            merged.w[f"{name}.weight"] = merged.w[f"{name}.weight"] + 3.0 / 2 * (
                up.weight.detach().double().numpy() @ down.weight.detach().double().numpy()
            )
    items = model.codes.domain_items("a").tolist()
    ranked = adapted.recommend(HISTORIES, len(items), "a")
    for row, history in enumerate(HISTORIES):
        scores = {item: merged.item_score(history, item) for item in items}
        assert ranked.items[row].tolist() == sorted(items, key=lambda item: -scores[item])
        np.testing.assert_allclose(
            ranked.scores[row], sorted(scores.values(), reverse=True), atol=1e-4, rtol=0
        )
