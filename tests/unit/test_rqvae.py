"""RQ-VAE training: what it learns, that a kill changes nothing, and what it refuses."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from genrec_lab.codes import ItemCodes, use_of_codes
from genrec_lab.models.tokenizers import ItemContent
from genrec_lab.models.tokenizers.rqvae import RQVAE, RQVAEConfig, RQVAENetwork
from genrec_lab.training import TrainingMemoryError

Record = Mapping[str, Any]

SMALL = {
    "hidden": (24, 16),
    "dimension": 6,
    "levels": 3,
    "codebook_size": 8,
    "batch_size": 64,
    "epochs": 12,
    "report_every": 5,
}


def catalogue(
    items: int = 150, dimensions: int = 12, domains: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors: a direction of the domain, one of a category that all domains share, and noise."""
    generator = np.random.default_rng(seed)
    domain = np.arange(items) % domains
    category = generator.integers(5, size=items)
    x = (
        generator.normal(size=(domains, dimensions))[domain]
        + generator.normal(size=(5, dimensions))[category]
    )
    x += 0.3 * generator.normal(size=x.shape)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32), domain


def trained(
    x: np.ndarray,
    domain: np.ndarray,
    config: RQVAEConfig,
    seed: int,
    on_epoch: Callable[[Record], None] | None = None,
    checkpoint: Path | None = None,
    checkpoint_every: int = 50,
) -> RQVAE:
    return RQVAE(config).fit(
        ItemContent.of(x, domain),
        seed=seed,
        on_epoch=on_epoch,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )


def weights(model: RQVAE) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def assert_same_weights(one: RQVAE, other: RQVAE) -> None:
    there = weights(other)
    for name, tensor in weights(one).items():
        assert torch.equal(tensor, there[name]), name


def level_one_purity(model: RQVAE, x: np.ndarray, domain: np.ndarray, level: int = 0) -> float:
    """Share of items whose code at this level belongs, by majority, to their own domain."""
    codes = model.tokenize(x).codes[:, level]
    table = np.zeros((codes.max() + 1, domain.max() + 1))
    np.add.at(table, (codes, domain), 1)
    return float(table.max(axis=1).sum() / len(codes))


class TestTraining:
    def test_learns_to_reconstruct_and_to_tell_domains_apart_at_level_one(self) -> None:
        x, domain = catalogue(400)
        epochs: list[Record] = []
        config = RQVAEConfig(
            **SMALL | {"epochs": 60, "report_every": 20, "learning_rate": 1e-2, "batch_size": 200}
        )
        model = trained(x, domain, config, seed=0, on_epoch=epochs.append)
        assert [report["epoch"] for report in epochs] == [1, 20, 40, 60]
        assert epochs[-1]["reconstruction"] < 0.5 * epochs[0]["reconstruction"]
        assert epochs[-1]["contrastive"] < 0.2 * epochs[0]["contrastive"]
        assert level_one_purity(model, x, domain, level=0) > 0.97
        assert level_one_purity(model, x, domain, level=2) < 0.8

    def test_reports_are_those_of_the_whole_catalogue(self) -> None:
        x, domain = catalogue()
        epochs: list[Record] = []
        config = RQVAEConfig(**SMALL)
        codes = trained(x, domain, config, seed=1, on_epoch=epochs.append).tokenize(x).codes
        last = epochs[-1]
        for level in range(3):
            counts = np.bincount(codes[:, level], minlength=8)
            share = counts[counts > 0] / len(x)
            assert last["utilisation"][level] == pytest.approx((counts > 0).mean())
            assert last["perplexity"][level] == pytest.approx(np.prod(share**-share))
        assert last["collision_rate"] == ItemCodes(codes, (8, 8, 8), domain).collision_rate()
        total = (
            last["reconstruction"] + last["quantization"] + config.contrastive_weight * last["contrastive"]
        )
        assert last["loss"] == pytest.approx(total, rel=1e-5)

    def test_the_seed_decides_everything_and_the_global_generator_nothing(self) -> None:
        x, domain = catalogue()
        config = RQVAEConfig(**SMALL | {"dropout": 0.2})
        torch.manual_seed(1)
        first = trained(x, domain, config, seed=4)
        torch.manual_seed(2)
        before = torch.random.get_rng_state()
        again = trained(x, domain, config, seed=4)
        assert_same_weights(first, again)
        assert torch.equal(before, torch.random.get_rng_state())
        assert not np.array_equal(first.codebooks, trained(x, domain, config, seed=5).codebooks)

    def test_one_domain_trains_as_without_contrast(self) -> None:
        x, _ = catalogue()
        alone = np.zeros(len(x), dtype=np.int64)
        with_contrast = trained(x, alone, RQVAEConfig(**SMALL), seed=0)
        without = trained(x, alone, RQVAEConfig(**SMALL | {"contrastive_weight": 0.0}), seed=0)
        np.testing.assert_allclose(with_contrast.codebooks, without.codebooks, atol=1e-6)

    def test_one_item(self) -> None:
        x = np.array([[0.6, 0.8]], dtype=np.float32)
        epochs: list[Record] = []
        config = RQVAEConfig(**SMALL | {"codebook_size": 1, "epochs": 3})
        model = trained(x, np.array([0]), config, seed=0, on_epoch=epochs.append)
        assert model.tokenize(x).codes.tolist() == [[0, 0, 0]]
        assert epochs[-1]["utilisation"] == [1, 1, 1] and epochs[-1]["collision_rate"] == 0

    def test_scaling_makes_the_length_of_the_vectors_irrelevant(self) -> None:
        x, domain = catalogue()
        model = trained(x, domain, RQVAEConfig(**SMALL), seed=0)
        longer = trained(16 * x, domain, RQVAEConfig(**SMALL), seed=0)
        np.testing.assert_array_equal(model.tokenize(x).codes, longer.tokenize(16 * x).codes)
        unscaled = trained(x, domain, RQVAEConfig(**SMALL | {"input_scaling": "none"}), seed=0)
        assert float(unscaled.model.scale) == 1
        assert float(model.model.scale) == pytest.approx(np.mean(x**2) ** -0.5)

    def test_restarting_dead_codes_revives_a_codebook_that_nothing_is_near(self) -> None:
        x, domain = catalogue(300)
        far = SMALL | {"kmeans_init": False, "learning_rate": 1e-6, "epochs": 6, "report_every": 6}
        used = {}
        for restart in (False, True):
            epochs: list[Record] = []
            trained(
                x, domain, RQVAEConfig(**far | {"restart_dead_codes": restart}), 0, on_epoch=epochs.append
            )
            used[restart] = epochs[-1]["utilisation"]
        assert min(used[True]) > 0.7 > min(used[False])

    def test_lowest_collision_gives_the_weights_of_that_epoch(self) -> None:
        x, domain = catalogue()
        config = RQVAEConfig(**SMALL | {"select": "lowest_collision", "epochs": 40, "report_every": 1})
        epochs: list[Record] = []
        model = trained(x, domain, config, seed=0, on_epoch=epochs.append)
        lowest = min(report["collision_rate"] for report in epochs)
        assert lowest < epochs[-1]["collision_rate"]
        assert ItemCodes(model.tokenize(x).codes, (8, 8, 8), domain).collision_rate() == lowest


class Killed(Exception):
    pass


class TestCheckpoint:
    @pytest.mark.parametrize("options", [{"dropout": 0.2}, {"select": "lowest_collision", "report_every": 1}])
    def test_a_killed_training_gives_the_numbers_of_the_unbroken_one(
        self, tmp_path: Path, options: dict
    ) -> None:
        x, domain = catalogue()
        config = RQVAEConfig(**SMALL | options)
        unbroken: list[Record] = []
        expected = trained(x, domain, config, seed=0, on_epoch=unbroken.append)

        def kill(report: Record) -> None:
            if report["epoch"] == 10:
                raise Killed

        with pytest.raises(Killed):
            trained(x, domain, config, 0, on_epoch=kill, checkpoint=tmp_path, checkpoint_every=4)
        resumed: list[Record] = []
        model = trained(x, domain, config, seed=0, on_epoch=resumed.append, checkpoint=tmp_path)
        assert_same_weights(model, expected)
        untimed = [
            [{**report, "seconds": 0.0, "items_per_second": None, "mfu": None} for report in run]
            for run in (resumed, unbroken)
        ]
        assert untimed[0] == untimed[1]

    def test_the_change_of_codes_is_that_between_the_codes_of_two_records(self) -> None:
        x, domain = catalogue()
        # a training of e epochs has at its end the codes that a longer one reports for epoch e
        options = SMALL | {"report_every": 4, "restart_dead_codes": False}
        epochs: list[Record] = []
        trained(x, domain, RQVAEConfig(**options), seed=0, on_epoch=epochs.append)
        codes = [
            trained(x, domain, RQVAEConfig(**options | {"epochs": report["epoch"]}), seed=0).tokenize(x).codes
            for report in epochs
        ]
        assert [report["epoch"] for report in epochs] == [1, 4, 8, 12] and epochs[0]["churn"] is None
        for report, now in zip(epochs, codes, strict=True):
            sizes = (RQVAEConfig(**options).codebook_size,) * 3
            measured = use_of_codes(now, sizes, domain.tolist())
            for name, value in measured.items():
                assert report[name] == pytest.approx(value), name
        for report, before, after in zip(epochs[1:], codes, codes[1:], strict=False):
            pairs = list(zip(before.tolist(), after.tolist(), strict=True))
            expected = [
                sum(one[level] != two[level] for one, two in pairs) / len(pairs) for level in range(3)
            ]
            assert report["churn"] == pytest.approx(expected) and max(expected) > 0

    def test_a_finished_training_is_not_run_again_and_more_epochs_go_on(self, tmp_path: Path) -> None:
        x, domain = catalogue()
        # a checkpoint at the end of 6 epochs lacks the restart of dead codes that a 7th would have begun with
        short = RQVAEConfig(**SMALL | {"epochs": 6, "restart_dead_codes": False})
        first = trained(x, domain, short, seed=0, checkpoint=tmp_path)
        stamp = (tmp_path / "epoch-6" / "state.safetensors").stat().st_mtime_ns
        assert_same_weights(trained(x, domain, short, seed=0, checkpoint=tmp_path), first)
        assert (tmp_path / "epoch-6" / "state.safetensors").stat().st_mtime_ns == stamp
        longer = RQVAEConfig(**SMALL | {"epochs": 9, "restart_dead_codes": False})
        model = trained(x, domain, longer, seed=0, checkpoint=tmp_path)
        assert_same_weights(model, trained(x, domain, longer, seed=0))

    def test_a_checkpoint_of_other_settings_or_data_is_refused(self, tmp_path: Path) -> None:
        x, domain = catalogue()
        trained(x, domain, RQVAEConfig(**SMALL), seed=0, checkpoint=tmp_path)
        with pytest.raises(ValueError, match=r"beta = 0.25, this one has 0.5; delete it"):
            trained(x, domain, RQVAEConfig(**SMALL | {"beta": 0.5}), seed=0, checkpoint=tmp_path)
        with pytest.raises(ValueError, match="seed = 0, this one has 1"):
            trained(x, domain, RQVAEConfig(**SMALL), seed=1, checkpoint=tmp_path)
        with pytest.raises(ValueError, match="vectors = "):
            trained(2 * x, domain, RQVAEConfig(**SMALL), seed=0, checkpoint=tmp_path)
        with pytest.raises(ValueError, match=r"more than tokenizer.epochs = 3"):
            trained(x, domain, RQVAEConfig(**SMALL | {"epochs": 3}), seed=0, checkpoint=tmp_path)

    @pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
    def test_of_a_damaged_checkpoint_one_hears_and_it_is_trained_anew(
        self, tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        x, domain = catalogue()
        config = RQVAEConfig(**SMALL)
        whole = trained(x, domain, config, seed=0, checkpoint=tmp_path)
        file = tmp_path / "epoch-12" / "state.safetensors"
        content = file.read_bytes()
        flipped = content[:-1] + bytes([content[-1] ^ 1])  # a tensor's last byte, which safetensors accepts
        file.write_bytes({"cut": content[:-9], "flipped": flipped, "empty": b""}[damage])
        assert_same_weights(trained(x, domain, config, seed=0, checkpoint=tmp_path), whole)
        assert "epoch-12 is damaged " in capsys.readouterr().out

    def test_memory_that_runs_out_says_what_to_lower(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def greedy(*_: object) -> None:
            raise torch.OutOfMemoryError("Tried to allocate 20 GiB")

        monkeypatch.setattr(RQVAENetwork, "forward", greedy)
        x, domain = catalogue()
        with pytest.raises(TrainingMemoryError, match=r"epoch 1; lower tokenizer.batch_size .*20 GiB"):
            trained(x, domain, RQVAEConfig(**SMALL), seed=0)


class TestTokenize:
    def test_chunks_autocast_and_files_do_not_change_the_codes(self, tmp_path: Path) -> None:
        x, domain = catalogue()
        model = trained(x, domain, RQVAEConfig(**SMALL), seed=0)
        tokens = model.tokenize(x)
        np.testing.assert_array_equal(model.model.tokenize(torch.from_numpy(x), 7).codes, tokens.codes)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(model.tokenize(x).codes, tokens.codes)
        model.save(tmp_path / "model")
        again = RQVAE.load(tmp_path / "model")
        assert again.config == model.config
        np.testing.assert_array_equal(again.tokenize(x).residuals, tokens.residuals)

    def test_residuals_and_quantised_vectors_follow_from_codes_and_codebooks(self) -> None:
        x, domain = catalogue()
        model = trained(x, domain, RQVAEConfig(**SMALL), seed=0)
        tokens = model.tokenize(x)
        assert tokens.residuals.shape == (150, 3, 6) and tokens.codes.dtype == np.int64
        with torch.no_grad():
            np.testing.assert_allclose(
                tokens.residuals[:, 0], model.model.encode(torch.from_numpy(x)), atol=1e-5
            )
        left, gaps = tokens.residuals[:, 0], []
        for level in range(3):
            np.testing.assert_allclose(tokens.residuals[:, level], left, atol=1e-5)
            left = left - model.codebooks[level][tokens.codes[:, level]]
            gaps.append(np.square(left).sum(axis=1))
        np.testing.assert_allclose(tokens.vectors, tokens.residuals[:, 0] - left, atol=1e-5)
        assert tokens.loss == pytest.approx(1.25 * np.sum(gaps, axis=0).mean(), rel=1e-4)

    def test_leaves_the_model_in_its_mode_and_without_dropout(self) -> None:
        x = torch.from_numpy(catalogue()[0])
        model = RQVAENetwork(12, RQVAEConfig(**SMALL | {"dropout": 0.5})).train()
        np.testing.assert_array_equal(model.tokenize(x).residuals, model.tokenize(x).residuals)
        assert model.training

    def test_refuses_vectors_of_another_width(self) -> None:
        x, domain = catalogue()
        model = trained(x, domain, RQVAEConfig(**SMALL | {"epochs": 1}), seed=0)
        with pytest.raises(ValueError, match="have 11 dimensions, but this tokenizer was fitted on 12"):
            model.encode(np.ones((2, 11), dtype=np.float32))


class TestBadInput:
    def test_codebook_larger_than_the_catalogue(self) -> None:
        x, domain = catalogue(5)
        with pytest.raises(ValueError, match=r"tokenizer.codebook_size = 8 is larger .* at most 5 codes"):
            trained(x, domain, RQVAEConfig(**SMALL), seed=0)

    def test_a_vector_that_is_not_finite(self) -> None:
        x, domain = catalogue()
        x[17, 2] = np.nan
        with pytest.raises(ValueError, match="first for item 17"):
            trained(x, domain, RQVAEConfig(**SMALL), seed=0)

    def test_domains_of_another_length(self) -> None:
        x, domain = catalogue()
        with pytest.raises(ValueError, match=r"domains have shape \(149,\); expected \(150,\)"):
            trained(x, domain[1:], RQVAEConfig(**SMALL), seed=0)

    def test_a_loss_that_leaves_the_numbers(self) -> None:
        x, domain = catalogue()
        with pytest.raises(
            FloatingPointError, match=r"not finite in epoch \d+ .* lower tokenizer.learning_rate"
        ):
            trained(x, domain, RQVAEConfig(**SMALL | {"learning_rate": 1e18}), seed=0)

    @pytest.mark.parametrize(
        "wrong", [{"levels": 0}, {"codebook_size": "256"}, {"dropout": 1.0}, {"hidden": [0]}, {"depth": 3}]
    )
    def test_impossible_settings_name_their_key(self, wrong: dict) -> None:
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            RQVAEConfig(**wrong)

    def test_lists_from_yaml_become_widths(self) -> None:
        assert RQVAEConfig(hidden=[8, 4]).hidden == (8, 4)
        assert RQVAEConfig.model_validate_json(RQVAEConfig().model_dump_json()) == RQVAEConfig()
