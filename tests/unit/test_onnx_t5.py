"""The T5 in onnxruntime recommends what the T5 in torch does."""

from __future__ import annotations

import numpy as np
import pytest

from genrec_lab.decoding import exact_top_k
from genrec_lab.models import T5Config
from genrec_lab.models.recommenders.adapters import LoRAConfig, add_lora
from genrec_lab.models.recommenders.onnx_t5 import OnnxRecommender, export_onnx
from tests.unit.conftest import tiny_recommender, unique_codes

pytest.importorskip("onnxruntime", reason="the extra `serve` is not installed")
pytest.importorskip("onnxscript", reason="the extra `serve` is not installed")

CODES = unique_codes({"a": 60, "b": 20}, (5, 4, 6))
SIZES = {"d_model": 16, "d_kv": 4, "heads": 3, "d_ff": 24, "encoder_layers": 2, "decoder_layers": 2}


# An export takes half a minute, so the second form is exported at night only.
GATED = pytest.param({"reads": "past", "feed_forward": "gated-gelu"}, marks=pytest.mark.nightly)


@pytest.mark.parametrize("form", [{}, GATED])
def test_top_k_are_equal_in_all_shapes(tmp_path, form) -> None:
    model = tiny_recommender(CODES, sharpness=3.0, config=T5Config(**SIZES, **form))
    if not form:
        model = add_lora(model, LoRAConfig(rank=2), "a").eval()
    theirs = OnnxRecommender.load(export_onnx(model, tmp_path))
    rng, of_a = np.random.default_rng(0), CODES.domain_items("a")
    for users in (1, 2, 9):
        histories = [rng.choice(of_a, size=rng.integers(1, 30)).tolist() for _ in range(users)]
        for options in ({"beams": 10}, {"beams": 37}, {"allow": of_a[::3], "exclude_seen": True}):
            found, wanted = (one.recommend(histories, 10, "a", **options) for one in (theirs, model))
            assert np.array_equal(found.items, wanted.items)
            np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
        exact = [exact_top_k(one, histories, model.trie("a"), 5).items for one in (theirs, model)]
        assert np.array_equal(*exact)


def test_a_folder_without_its_graphs_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"encoder\.onnx is missing"):
        OnnxRecommender.load(tmp_path)
