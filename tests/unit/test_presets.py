"""Presets: the papers' values, what each variant changes, overrides, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from genrec_lab import presets
from genrec_lab.codes import ItemCodes
from genrec_lab.models import Recommender
from genrec_lab.models.recommenders.adapters import add_lora, count_parameters
from genrec_lab.models.tokenizers.residual_kmeans import ResidualKMeansConfig
from genrec_lab.models.tokenizers.rqvae import RQVAEConfig
from genrec_lab.presets import ROWS, MethodConfig, PresetError, changed, methods

# What each variant of GMC's Table 4 changes, by the paper's section 5.3.
SEPARATE = {"recommenders": "separate", "adaptation.kind": "none"}
TABLE_3 = {
    "utgrec_without_tree",
    "utgrec_without_alignment",
    "utgrec_without_cooccurrence_reconstruction",
    "utgrec_without_tokenizer_finetuning",
    "utgrec_full_finetuning",
    "utgrec_without_recommender_pretraining",
    "utgrec_without_pretraining",
}
TABLE_4: dict[str, dict[str, Any]] = {
    "gmc_separate_codebooks": {"codebooks": "separate", **SEPARATE},
    "gmc_separate_recommenders": SEPARATE,
    "gmc_without_dcl": {"tokenizer.contrastive_weight": 0.0},
    "gmc_without_lora": {"adaptation.kind": "none"},
    "gmc_full_finetuning": {"adaptation.kind": "full"},
}


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def changes(one: MethodConfig, other: MethodConfig) -> dict[str, Any]:
    """What the other config has that differs, besides its name and the rows that it is compared with."""
    before, after = flat(one.model_dump()), flat(other.model_dump())
    assert before.keys() == after.keys()
    unsaid = ("name", "provenance", "compare")
    return {key: value for key, value in after.items() if value != before[key] and key not in unsaid}


# --- what there is


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_loads_and_says_where_its_values_come_from(name: str) -> None:
    config = presets.load(name)
    assert config.name == name
    assert len(config.provenance) > 40
    assert config == presets.load(name) == presets.load(name, {})
    assert MethodConfig.model_validate_json(config.model_dump_json()) == config


def test_the_presets_of_the_issue_are_there() -> None:
    gmc = {"gmc", "gmc_cpu", "gmc_small", "gmc_demo", "gmc_tiny", "tiger", "rkmeans", "causal", *TABLE_4}
    utgrec = {"utgrec", "utgrec_code", "utgrec_small", "utgrec_tiny", *TABLE_3}
    compared = {"tiger_multimodal", "letter", "p5_cid", "idgenrec", "baselines", "baselines_tiny"}
    assert gmc | utgrec | compared == set(presets.names())


def test_gmc_has_the_papers_values() -> None:
    config = flat(presets.load("gmc").model_dump())  # GMC 5.1.4 unless said otherwise
    assert {
        "text.model": "meta-llama/Llama-3.1-8B-Instruct",
        "tokenizer.levels": 4,
        "tokenizer.codebook_size": 256,
        "tokenizer.dimension": 32,
        "tokenizer.beta": 0.25,
        "tokenizer.contrastive_weight": 1.0,  # Eq. 7
        "tokenizer.epochs": 10_000,
        "tokenizer.learning_rate": 1e-3,
        "tokenizer.batch_size": 1024,
        "training.epochs": 200,
        "training.learning_rate": 2e-3,
        "training.batch_size": 1024,
        "adaptation.kind": "lora",
        "adaptation.training.learning_rate": 5e-4,
        "adaptation.training.batch_size": 512,
        "decoding.test_beams": 20,
        "pairs.max_history": 20,  # 5.1.1
        "pairs.per_user": None,
        "codebooks": "shared",
        "recommenders": "unified",
    }.items() <= config.items()
    assert config["adaptation.training.patience"] is not None  # "the early-stop strategy"


def test_gmc_has_the_papers_parameters() -> None:
    config = presets.load("gmc")
    codes = ItemCodes([[0] * 4], (256,) * 4)
    counted = count_parameters(add_lora(Recommender(codes, config.recommender), config.adaptation.lora, "a"))
    assert round(counted.trained / 1e6, 2) == 0.17  # GMC 5.3
    assert round((counted.all - counted.trained) / 1e6, 1) == 4.3
    assert round(counted.share, 3) == 0.037


def test_tiger_has_the_papers_values() -> None:
    config = flat(presets.load("tiger").model_dump())  # Rajput et al. 2023, 4 and its appendix
    assert {
        "tokenizer.hidden": (512, 256, 128),
        "tokenizer.dimension": 32,
        "tokenizer.levels": 3,
        "tokenizer.codebook_size": 256,
        "tokenizer.beta": 0.25,
        "tokenizer.contrastive_weight": 0.0,
        "tokenizer.kmeans_init": True,
        "identifiers.policy": "extra_level",
        "recommender.d_model": 128,
        "recommender.d_kv": 64,
        "recommender.heads": 6,
        "recommender.d_ff": 1024,
        "recommender.encoder_layers": 4,
        "recommender.decoder_layers": 4,
        "recommender.dropout": 0.1,
        "training.batch_size": 256,
        "training.learning_rate": 0.01,
        "training.schedule": "inverse_sqrt",
        "codebooks": "separate",
        "recommenders": "separate",
        "adaptation.kind": "none",
    }.items() <= config.items()


def test_rkmeans_differs_from_gmc_on_a_cpu_in_its_tokenizer_only() -> None:
    ours, rkmeans = presets.load("gmc_cpu"), presets.load("rkmeans")
    assert rkmeans.tokenizer == ResidualKMeansConfig(levels=3, codebook_size=256)
    same = changed(rkmeans, tokenizer=ours.tokenizer)
    assert changes(ours, same) == {}


# --- the variants of Table 4


@pytest.mark.parametrize("name", TABLE_4)
def test_a_variant_differs_from_gmc_in_what_the_paper_says_and_nothing_else(name: str) -> None:
    assert changes(presets.load("gmc"), presets.load(name)) == TABLE_4[name]


@pytest.mark.parametrize("name", TABLE_4)
@pytest.mark.parametrize("base", ["gmc_cpu", "gmc_small", "gmc_tiny"])
def test_as_a_row_a_variant_keeps_the_sizes_of_the_run(base: str, name: str) -> None:
    config = presets.load(base, {"compare": [name]})
    assert changes(config, methods(config)[name]) == TABLE_4[name]


def test_as_a_row_tiger_keeps_the_sizes_of_the_run() -> None:
    config = presets.load("gmc_cpu", {"tokenizer.levels": 4, "identifiers.policy": "nearest_free"})
    assert changes(config, methods(config)["tiger"]) == {
        "tokenizer.levels": 3,
        "tokenizer.contrastive_weight": 0.0,
        "identifiers.policy": "extra_level",
        "codebooks": "separate",
        "recommenders": "separate",
        "adaptation.kind": "none",
    }
    two_levels = presets.load("gmc_cpu", {"tokenizer.levels": 2})
    assert methods(two_levels)["tiger"].tokenizer.levels == 2


def test_the_methods_of_a_run_are_its_own_and_the_generative_rows() -> None:
    config = presets.load("gmc_small", {"compare": ["sasrec", "gmc_without_lora", "popularity", "tiger"]})
    rows = methods(config)
    assert list(rows) == ["gmc_small", "gmc_without_lora", "tiger"]
    assert rows["gmc_small"] is config
    assert all(row.compare == () for name, row in rows.items() if name != "gmc_small")


def test_every_row_can_be_compared_with() -> None:
    of_gmc = [row for row in ROWS if not row.startswith("utgrec_")]
    config = presets.load("gmc_tiny", {"compare": of_gmc})
    baselines = {"tiger", "tiger_multimodal", "letter", "p5_cid", "idgenrec", "gmc"}
    assert set(methods(config)) == {"gmc_tiny", *baselines, *TABLE_4}
    of_utgrec = [row for row in ROWS if not row.startswith("gmc_")]
    config = presets.load("utgrec_tiny", {"compare": of_utgrec})
    assert set(methods(config)) == {"utgrec_tiny", *baselines, *TABLE_3}


def test_gmc_as_a_row_is_the_preset_that_has_it_of_its_own() -> None:
    own, row = presets.load("gmc_cpu"), methods(presets.load("baselines"))["gmc"]
    assert row == changed(own, name="gmc", compare=(), provenance=row.provenance, rows=row.rows)
    beside_utgrec = methods(presets.load("utgrec_tiny", {"compare": ["gmc", "tiger"]}))
    gmc, tiger = beside_utgrec["gmc"], beside_utgrec["tiger"]
    assert gmc.tokenizer.contrastive_weight == RQVAEConfig().contrastive_weight > 0
    assert gmc.tokenizer.hidden == tiger.tokenizer.hidden
    assert (gmc.codebooks, gmc.recommenders, gmc.adaptation.kind) == ("shared", "unified", "lora")


def test_a_run_does_not_compare_with_itself() -> None:
    with pytest.raises(PresetError, match="compare names 'gmc', which is the run's own row"):
        presets.load("gmc", {"compare": ["gmc"]})


@pytest.mark.parametrize(
    "row, changes",
    [
        ("utgrec_without_tree", {"tokenizer.quantizer.structure": "levels"}),
        ("utgrec_without_alignment", {"tokenizer.mu": 0.0}),
        ("utgrec_without_cooccurrence_reconstruction", {"tokenizer.eta": 0.0}),
        ("utgrec_without_tokenizer_finetuning", {"transfer.tokenizer": "none"}),
        ("utgrec_full_finetuning", {"transfer.tokenizer": "full"}),
        ("utgrec_without_recommender_pretraining", {"transfer.pretrain_recommender": False}),
        (
            "utgrec_without_pretraining",
            {
                "transfer.pretrain_recommender": False,
                "transfer.pretrain_tokenizer": False,
                "transfer.tokenizer": "none",
            },
        ),
    ],
)
def test_a_variant_of_table_3_changes_what_it_says_and_nothing_else(row: str, changes: dict) -> None:
    config = presets.load("utgrec_tiny", {"compare": [row], "transfer.targets": ["Wardrobe"]})
    expected = presets.load("utgrec_tiny", {"transfer.targets": ["Wardrobe"], **changes})
    assert methods(config)[row] == changed(expected, name=row, compare=())


def test_utgrec_has_the_papers_values() -> None:
    config = presets.load("utgrec")
    tree = config.tokenizer
    assert (tree.quantizer.levels, tree.quantizer.root_size, tree.quantizer.leaf_size) == (3, 256, 512)
    assert (tree.lambda_code, tree.mu, tree.eta) == (200.0, 0.01, 0.03)
    assert (config.tokenizer_training.epochs, config.tokenizer_training.learning_rate) == (3, 3e-4)
    assert config.tokenizer_training.batch_size == 16 * 16
    assert (config.transfer.training.epochs, config.transfer.training.learning_rate) == (20, 1e-4)
    assert (config.training.epochs, config.training.learning_rate, config.training.batch_size) == (
        50,
        5e-3,
        4 * 256,
    )
    assert config.adaptation.training.learning_rate == 3e-3
    assert config.decoding.test_beams == 50
    assert presets.load("utgrec_code").tokenizer.alpha == 5.0
    assert config.recommender == presets.load("tiger").recommender  # 3.1.4: "the settings in TIGER"


def test_a_tokenizer_without_pretraining_learns_as_long_as_others_are_fine_tuned() -> None:
    for preset, epochs in {"utgrec": 20, "utgrec_code": 40, "utgrec_small": 16}.items():
        config = presets.load(preset, {"compare": ["utgrec_without_pretraining"]})
        rows = methods(config)
        assert rows["utgrec_without_pretraining"].tokenizer_training.epochs == epochs
        assert rows[preset].tokenizer_training == config.tokenizer_training


def test_the_tiger_of_a_utgrec_run_quantises_vectors() -> None:
    config = presets.load("utgrec_tiny", {"compare": ["tiger"], "transfer.targets": ["Wardrobe"]})
    row = methods(config)["tiger"]
    assert row.tokenizer == config.rqvae.model_copy(update={"contrastive_weight": 0.0})
    assert row.transfer.targets == ("Wardrobe",)


def test_letter_keeps_the_sizes_of_the_run_and_has_its_own_losses() -> None:
    for preset in ("gmc_small", "utgrec_small"):
        config = presets.load(preset, {"compare": ["letter"]})
        row, kept = methods(config)["letter"], config.rqvae
        if preset == "gmc_small":
            kept = config.tokenizer
        assert (row.tokenizer.kind, row.loss_temperature, row.identifiers.policy) == (
            "letter",
            0.7,
            "sinkhorn",
        )
        assert (row.tokenizer.collaborative_weight, row.tokenizer.diversity_weight) == (0.02, 1e-4)
        for name in ("hidden", "levels", "codebook_size", "dimension", "epochs", "batch_size", "beta"):
            assert getattr(row.tokenizer, name) == getattr(kept, name)
        assert row.collaborative.model.width == row.tokenizer.dimension
        # GMC learns a domain with the others, UTGRec in its fine-tuning.
        budget = config.training if preset == "gmc_small" else config.adaptation.training
        assert (row.recommender, row.training, row.pairs) == (config.recommender, budget, config.pairs)
        assert (row.codebooks, row.recommenders, row.adaptation.kind) == ("separate", "separate", "none")


def test_the_multimodal_tiger_differs_from_tiger_in_its_vectors_alone() -> None:
    rows = methods(presets.load("gmc_small", {"compare": ["tiger", "tiger_multimodal"]}))
    tiger, multimodal = (rows[name].model_dump() for name in ("tiger", "tiger_multimodal"))
    different = {key for key in tiger if tiger[key] != multimodal[key]}
    assert different == {"name", "provenance", "pictures"}
    assert multimodal["pictures"] == "efficientnet-lite0"


def test_the_rows_of_an_explored_tokenizer_keep_the_rqvae_that_it_replaced() -> None:
    base = presets.load("gmc_small", {"compare": ["tiger"]})
    config = presets.load("gmc_small", {"compare": ["tiger", "letter"], "tokenizer": {"kind": "opq"}})
    assert (config.tokenizer.kind, config.tokenizer.levels, config.tokenizer.codebook_size) == ("opq", 3, 64)
    assert methods(config)["tiger"].tokenizer == methods(base)["tiger"].tokenizer
    assert methods(config)["letter"].tokenizer.epochs == base.tokenizer.epochs


def test_without_dcl_needs_a_tokenizer_that_has_it() -> None:
    config = presets.load("rkmeans", {"compare": ["gmc_without_dcl"]})
    with pytest.raises(PresetError, match=r"gmc_without_dcl needs tokenizer.kind 'rqvae'; rkmeans has"):
        methods(config)


# --- overrides


def test_overrides_set_the_named_values_and_no_others() -> None:
    overrides = {
        "tokenizer.levels": 2,
        "adaptation.lora.rank": 5,
        "training.patience": None,
        "rows.sasrec.model.width": 8,
        "training.learning_rate": 1,  # YAML's 1 for 1.0
    }
    base = presets.load("gmc_cpu", {"training.patience": 4})
    assert changes(base, presets.load("gmc_cpu", overrides)) == overrides


def test_lists_stand_for_tuples() -> None:
    overrides = json.loads(
        '{"tokenizer.hidden": [64, 32], "adaptation.lora.targets": ["q", "o"], "compare": ["sasrec"]}'
    )
    config = presets.load("gmc_small", overrides)
    assert config.tokenizer.hidden == (64, 32)
    assert config.adaptation.lora.targets == ("q", "o")
    assert config.compare == ("sasrec",)


def test_nested_overrides_are_those_of_dotted_names() -> None:
    nested = {"recommender": {"d_model": 32}, "adaptation": {"lora": {"rank": 2}}, "tokenizer.levels": 2}
    named = {"recommender.d_model": 32, "adaptation.lora.rank": 2, "tokenizer.levels": 2}
    assert presets.load("gmc_small", nested) == presets.load("gmc_small", named)
    assert changes(presets.load("gmc_small"), presets.load("gmc_small", nested)) == named


def test_another_kind_of_tokenizer_keeps_what_both_have() -> None:
    config = presets.load("gmc_small", {"tokenizer.levels": 2, "tokenizer.kind": "rkmeans"})
    assert config.tokenizer == ResidualKMeansConfig(
        levels=2, codebook_size=presets.load("gmc_small").tokenizer.codebook_size
    )
    back = presets.load("rkmeans", {"tokenizer.kind": "rqvae", "tokenizer.epochs": 7})
    assert (back.tokenizer.kind, back.tokenizer.epochs, back.tokenizer.levels) == ("rqvae", 7, 3)


def test_overrides_leave_the_preset_as_it_is() -> None:
    before = presets.load("gmc_small")
    presets.load("gmc_small", {"tokenizer.levels": 1, "compare": []})
    assert presets.load("gmc_small") == before


def test_configs_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        presets.load("gmc").training.epochs = 3


# --- what is refused


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        ("gmc_smal", {}, r"preset is 'gmc_smal' \(did you mean 'gmc_small'\?\); expected one of \['gmc', "),
        ("xyz", {}, r"preset is 'xyz'; expected one of"),
        ("gmc", {"tokenizer.levls": 3}, r"'tokenizer.levls' is unknown \(did you mean 'levels'\?\); token"),
        ("gmc", {"tokeniser.levels": 3}, r"'tokeniser.levels' is unknown \(did you mean 'tokenizer'"),
        ("gmc", {"adaptation.lora.rnak": 3}, r"did you mean 'rank'\?\); adaptation.lora has"),
        ("gmc", {"recommender": {"dmodel": 64}}, r"'recommender.dmodel' is unknown \(did you mean 'd_model'"),
        ("gmc", {"training.epochs.x": 1}, r"training.epochs is a value and has no keys below it"),
        ("gmc", {"seed": 3}, r"'seed' is unknown.*the config has \['adaptation', "),
        ("rkmeans", {"tokenizer.epochs": 5}, r"'tokenizer.epochs' is unknown; tokenizer has \['code"),
        # In whatever order they stand, epochs are not dropped for a tokenizer that has none.
        ("gmc", {"tokenizer.epochs": 5, "tokenizer.kind": "rkmeans"}, r"'tokenizer.epochs' is unknown"),
        ("gmc", {"tokenizer.kind": "rqkmeans"}, r"kind is 'rqkmeans': .*\(did you mean 'rkmeans'\?\)"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused_with_the_nearest(name: str, overrides: dict, message: str) -> None:
    with pytest.raises(PresetError, match=message):
        presets.load(name, overrides)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"tokenizer.levels": 0}, r"tokenizer.levels = 0: Input should be greater than or equal to 1"),
        ({"tokenizer.levels": "3"}, r"tokenizer.levels = '3': Input should be a valid integer"),
        ({"training.epochs": 2.5}, r"training.epochs = 2.5: .*integer"),
        ({"training.schedule": "linear"}, r"training.schedule = 'linear': Input should be 'constant', "),
        ({"identifiers.policy": "random"}, r"identifiers.policy = 'random': there is no conflict policy"),
        ({"adaptation.lora.targets": ["x"]}, r"adaptation.lora.targets.0 = 'x': Input should be 'q', 'k', "),
        ({"decoding.test_beams": 5}, r"decoding.test_beams = 5: Input should be greater than or equal to 10"),
        ({"recommender": 3}, r"recommender = 3: "),
        ({"recommender.relative_max_distance": 16}, r"recommender: relative_max_distance is 16 with 32"),
        ({"rows.sasrec.training.monitor": "ndcg@5"}, r"rows.sasrec.training.monitor is .ndcg@5.; expected"),
        ({"compare": ["tigr"]}, r"compare names 'tigr' \(did you mean 'tiger'\?\); expected some of"),
        ({"pictures": "clip"}, r"pictures = 'clip'"),
        (
            {"tokenizer.kind": "letter", "collaborative.model.width": 16},
            r"collaborative.model.width is 16, tokenizer.dimension is 32",
        ),
        # Together impossible, each alone possible.
        ({"recommenders": "separate"}, r"adaptation.kind is 'lora' with recommenders 'separate'.*set"),
        ({"codebooks": "separate"}, r"codebooks are 'separate' with a 'unified' recommender.*set"),
    ],
)  # fmt: skip
def test_impossible_values_are_refused_with_what_is_allowed(overrides: dict, message: str) -> None:
    with pytest.raises(
        PresetError, match=rf"preset 'gmc_small' with overrides .* is impossible:\n  {message}"
    ):
        presets.load("gmc_small", overrides)


def test_all_impossible_values_are_named_at_once() -> None:
    with pytest.raises(PresetError) as error:
        presets.load("gmc", {"tokenizer.levels": 0, "training.batch_size": -1})
    assert [line.split(" = ")[0] for line in str(error.value).splitlines()[1:]] == [
        "  tokenizer.levels",
        "  training.batch_size",
    ]


def test_every_name_is_that_of_the_preset_at_its_place_and_every_variant_is_one() -> None:
    assert [presets.load(name).name for name in presets.names()] == list(presets.names())
    assert set(presets.ABLATIONS) <= set(presets.names())


def test_all_that_is_wrong_in_overrides_is_said_at_once() -> None:
    with pytest.raises(PresetError) as caught:
        presets.load("gmc_tiny", {"tokenizer.lvels": 3, "recomender.kind": "t5", "training.epochs": "two"})
    assert len(caught.value.problems) == 3
    for name in ("'tokenizer.lvels' is unknown", "'recomender.kind' is unknown", "training.epochs = 'two'"):
        assert name in str(caught.value)


def test_all_that_does_not_fit_together_is_said_at_once() -> None:
    overrides = {"codebooks": "separate", "training.monitor": "ndcg@5", "transfer.start": "other"}
    with pytest.raises(PresetError) as caught:
        presets.load("gmc_small", overrides)
    said = [problem.split(" ")[0] for problem in caught.value.problems]
    assert said == ["codebooks", "transfer.start", "training.monitor"]
