"""The models over items written anew in numpy, float64, one history at a time: (T,) places -> (N,) scores."""

from __future__ import annotations

import numpy as np
from scipy.special import erf

from genrec_lab.models.sequential.base import ItemModel

Weights = dict[str, np.ndarray]


def weights_of(model: ItemModel) -> Weights:
    return {name: weight.double().numpy() for name, weight in model.state_dict().items()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    return w[f"{name}.weight"] @ x + w.get(f"{name}.bias", 0.0)


def norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    standard = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    return standard * w[f"{name}.weight"] + w[f"{name}.bias"]


def feed_forward(w: Weights, block: str, x: np.ndarray) -> np.ndarray:
    inner = linear(w, f"{block}.down", gelu(linear(w, f"{block}.up", x)))
    return norm(w, f"{block}.feed_forward_norm", x + inner)


def attention_block(w: Weights, block: str, rows: list[np.ndarray], heads: int, causal: bool) -> list:
    width = len(rows[0]) // heads
    parts = [linear(w, f"{block}.qkv", x).reshape(3, heads, width) for x in rows]
    out = []
    for place, x in enumerate(rows):
        read = parts[: place + 1] if causal else parts
        mixed = []
        for head in range(heads):
            fit = softmax(np.array([parts[place][0, head] @ other[1, head] / width**0.5 for other in read]))
            mixed.append(sum(share * other[2, head] for share, other in zip(fit, read, strict=True)))
        y = norm(w, f"{block}.attention_norm", x + linear(w, f"{block}.out", np.concatenate(mixed)))
        out.append(feed_forward(w, block, y))
    return out


def transformer(model: ItemModel, places: list[int], causal: bool) -> np.ndarray:
    w, c = weights_of(model), model.config
    rows = [
        norm(w, "norm", w["embedding.weight"][item] + w["places.weight"][place])
        for place, item in enumerate(places)
    ]
    for number in range(c.layers):
        rows = attention_block(w, f"blocks.{number}", rows, c.heads, causal)
    return rows[-1]


def sasrec(model: ItemModel, places: list[int], user: int) -> np.ndarray:
    return weights_of(model)["embedding.weight"] @ transformer(model, places, causal=True)


def bert4rec(model: ItemModel, places: list[int], user: int) -> np.ndarray:
    w, n = weights_of(model), len(model.items)
    state = norm(w, "out_norm", gelu(linear(w, "out", transformer(model, [*places, n], causal=False))))
    return w["embedding.weight"][:n] @ state + w["bias"]


def gru4rec(model: ItemModel, places: list[int], user: int) -> np.ndarray:
    w = weights_of(model)
    h = np.zeros(model.config.hidden)
    for item in places:
        x = w["embedding.weight"][item]
        i = (w["gru.weight_ih_l0"] @ x + w["gru.bias_ih_l0"]).reshape(3, -1)
        s = (w["gru.weight_hh_l0"] @ h + w["gru.bias_hh_l0"]).reshape(3, -1)
        reset, update = sigmoid(i[0] + s[0]), sigmoid(i[1] + s[1])
        h = (1 - update) * np.tanh(i[2] + reset * s[2]) + update * h
    return w["embedding.weight"] @ linear(w, "out", h)


def hgn(model: ItemModel, places: list[int], user: int) -> np.ndarray:
    w = weights_of(model)
    u = np.zeros(model.config.width) if user < 0 else w["user.weight"][user]
    read = w["embedding.weight"][places]
    by_place = linear(w, "instance_of_user", u)
    passed, gates = [], []
    for place, x in enumerate(read):
        passed.append(x * sigmoid(linear(w, "feature_of_item", x) + linear(w, "feature_of_user", u)))
        gates.append(sigmoid(linear(w, "instance_of_item", passed[-1])[0] + by_place[place]))
    mean = sum(g * x for g, x in zip(gates, passed, strict=True)) / sum(gates)
    return w["target.weight"] @ (u + mean + read.sum(0))


def fmlp_rec(model: ItemModel, places: list[int], user: int) -> np.ndarray:
    """The filters in time: to multiply spectra is to convolve with the filter's inverse transform."""
    w, c = weights_of(model), model.config
    size = c.max_history
    rows = []
    for place in range(size):
        back = place - (size - len(places))
        item = w["embedding.weight"][places[back]] if back >= 0 else 0.0
        rows.append(norm(w, "norm", item + w["places.weight"][place]))
    for number in range(c.layers):
        block = f"blocks.{number}"
        half = w[f"{block}.filter"][..., 0] + 1j * w[f"{block}.filter"][..., 1]
        # The spectrum of a real sequence mirrors itself; what has no mirror image counts by its real part.
        response = np.zeros((size, c.width))
        for time in range(size):
            for frequency in range(size):
                mirrored = frequency > size // 2
                h = half[size - frequency].conj() if mirrored else half[frequency]
                if frequency == 0 or 2 * frequency == size:
                    h = h.real
                response[time] += (h * np.exp(2j * np.pi * frequency * time / size)).real / size
        filtered = [
            sum(response[(place - other) % size] * rows[other] for other in range(size))
            for place in range(size)
        ]
        rows = [
            feed_forward(w, block, norm(w, f"{block}.filter_norm", x + y))
            for x, y in zip(rows, filtered, strict=True)
        ]
    return w["embedding.weight"] @ rows[-1]
