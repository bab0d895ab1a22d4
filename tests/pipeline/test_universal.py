"""UTGRec in a run: pre-training on some domains, transfer to another, at the smallest size."""

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from genrec_lab.codes import ItemCodes
from genrec_lab.lab import (
    RunError,
    adapt_to_domains,
    load_adapted,
    load_identified,
    load_prepared,
    load_rankings,
    open_run,
    prepare_data,
    rank_test_users,
    starting_recommender,
    train_recommenders,
    train_tokenizers,
    watched_beam,
    weigh_parts,
)
from genrec_lab.lab.adapt import renaming_tasks
from genrec_lab.lab.recommend import recommender_tasks
from genrec_lab.lab.rows import facts_of, pretrained_on, served
from genrec_lab.lab.tokenise import codes_task, load_row_tokenizer, tokenizer_tasks
from genrec_lab.models.tokenizers import ItemContent
from genrec_lab.models.tokenizers.tree import TreeTokenizer
from genrec_lab.presets import PresetError

VARIANTS = ["utgrec_without_tokenizer_finetuning", "utgrec_full_finetuning", "utgrec_without_pretraining"]


def opened(
    root, name="transfer", targets=("Wardrobe",), domains=("Garden", "Kitchen", "Wardrobe"), **overrides
):
    return open_run(
        name,
        dataset={
            "name": "bazaar",
            "domains": list(domains),
            "items": 300,
            "users": 450,
            "images": str(root / "pictures"),
        },
        preset="utgrec_tiny",
        overrides={
            "transfer.targets": list(targets),
            "tokenizer_training.epochs": 2,
            "training.epochs": 1,
            "adaptation.training.epochs": 1,
            **overrides,
        },
        root=root,
        change=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The whole chain with three of Table 3's variants beside it."""
    lab = opened(tmp_path_factory.mktemp("runs"), compare=["popularity", *VARIANTS])
    prepare_data(lab)
    train_tokenizers(lab)
    train_recommenders(lab)
    adapt_to_domains(lab)
    rank_test_users(lab)
    return lab


def tokenizer_folder(run, row, scope):
    return run.read(tokenizer_tasks(facts_of(run), row)[scope]) / "tokenizer"


def renamed(run, row):
    """Where stage 06 keeps what fine-tuning a tokenizer on the target made."""
    return run.read(renaming_tasks(facts_of(run), row)["Wardrobe"])


def content_of(dataset, items=None):
    return ItemContent.from_dataset(dataset, None, items)


def codes_key(run):
    return run.state(codes_task(facts_of(run), "utgrec_tiny")).record.key


def matrices(folder):
    found = load_file(folder / "model.safetensors")
    return {name: tensor for name, tensor in found.items() if name.endswith((".matrix", ".projection"))}


def test_identifiers_are_unique_and_levels_after_the_first_share_their_tokens(run):
    identified = load_identified(run)
    assert identified.codes.unique
    assert identified.codes.sizes == (16, 32, 32)
    assert identified.codes.offsets[1] == identified.codes.offsets[2]
    assert [len(book) for book in identified.codebooks["all"]] == [16, 32, 32]
    # what each level quantised is nearest to its codeword
    for level, book in enumerate(identified.codebooks["all"]):
        distances = np.linalg.norm(identified.residuals[:, level, None] - book, axis=2)
        chosen = distances[np.arange(len(distances)), identified.raw.codes[:, level]]
        np.testing.assert_allclose(chosen, distances.min(axis=1), rtol=1e-4, atol=1e-5)


def test_only_the_target_is_recommended_in(run):
    metrics = run.metrics()
    assert set(metrics["domain"]) == {"Wardrobe", "average"}
    assert set(metrics["method"]) == {"utgrec_tiny", *VARIANTS, "popularity", "best possible"}
    users = load_prepared(run).split.test.filter(pl.col("domain") == "Wardrobe").height
    assert metrics.filter(pl.col("domain") == "average")["users"].unique().to_list() == [users]


def test_a_beam_is_watched_for_a_ranked_user(run):
    """Rows of rankings and of beams are the same users, also where some domains only pre-train."""
    users = load_rankings(run).users
    assert set(users["domain"]) == {"Wardrobe"}
    model = load_adapted(run, "utgrec_tiny", "Wardrobe")
    target = model.codes.codes[users["target"][3]].tolist()
    assert list(watched_beam(run, "utgrec_tiny", 3).target) == target
    with pytest.raises(ValueError, match=f"users 0..{users.height - 1}"):
        watched_beam(run, "utgrec_tiny", users.height)


def test_fine_tuning_fixes_the_matrices_and_trains_the_projections(run):
    before = matrices(tokenizer_folder(run, "utgrec_tiny", "all"))
    after = matrices(renamed(run, "utgrec_tiny") / "tokenizer")
    assert before.keys() == after.keys() and len(before) == 4
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == name.endswith(".matrix"), name
    full = renamed(run, "utgrec_full_finetuning") / "tokenizer"
    assert not any(torch.equal(tensor, before[name]) for name, tensor in matrices(full).items())


def test_fine_tuning_renames_the_targets_items_only(run):
    before = load_identified(run).raw.codes
    after = ItemCodes.read(renamed(run, "utgrec_tiny") / "raw_codes.parquet").codes
    target = load_prepared(run).dataset.items["domain"].to_numpy() == "Wardrobe"
    np.testing.assert_array_equal(after[~target], before[~target])
    kept = load_adapted(run, "utgrec_without_tokenizer_finetuning", "Wardrobe").codes.codes
    np.testing.assert_array_equal(kept, load_identified(run).codes.codes)


def test_without_pretraining_nothing_of_other_domains_is_seen(run):
    assert not recommender_tasks(facts_of(run), "utgrec_without_pretraining")
    assert list(load_identified(run, "utgrec_without_pretraining").epochs) == ["Wardrobe"]


def test_the_tokenizer_of_a_run_names_its_items_again(run):
    data = load_prepared(run).dataset
    loaded = load_row_tokenizer(run, run.config.name, "all")
    np.testing.assert_array_equal(loaded.encode(content_of(data)), load_identified(run).raw.codes)


def test_a_killed_tokenizer_training_ends_with_the_same_codes(run, tmp_path):
    config, data = run.config, load_prepared(run).dataset
    items = data.domain_items("Garden")

    class Killed(Exception):
        pass

    def train(folder, at=None):
        def watch(record):
            if record["epoch"] == at:
                raise Killed

        training = config.tokenizer_training.model_copy(update={"epochs": 3})
        made = TreeTokenizer(config.tokenizer, content=config.content, tokenizer_training=training)
        content = content_of(data, items)
        made.fit(content, seed=3, on_epoch=watch, checkpoint=folder)
        return made.encode(content), [{**one, "seconds": 0} for one in made.epochs]

    with pytest.raises(Killed):
        train(tmp_path / "a", at=2)
    resumed, unbroken = train(tmp_path / "a"), train(tmp_path / "b")
    # The last bits of float32 products depend on where in memory the weights lie, which a resumption changes.
    assert (resumed[0] == unbroken[0]).mean() > 0.98
    for one, other in zip(resumed[1], unbroken[1], strict=True):
        assert [one[part] for part in ("loss", "text", "picture", "code", "alignment")] == pytest.approx(
            [other[part] for part in ("loss", "text", "picture", "code", "alignment")], rel=1e-4
        )
    # Killed when its second epoch was recorded, not yet kept: trained again, compared with the first's codes.
    for records in (resumed[1], unbroken[1]):
        assert [one["epoch"] for one in records] == [1, 2, 3]
    changed, expected = ([one["churn"] for one in records] for records in (resumed[1], unbroken[1]))
    assert changed[0] is expected[0] is None
    np.testing.assert_allclose(changed[1:], expected[1:], atol=0.02)
    assert np.max(expected[1:]) > 0


def test_the_run_keeps_how_many_items_changed_their_codes(run):
    for records in load_identified(run).epochs.values():
        assert [one["churn"] is None for one in records] == [True] + [False] * (len(records) - 1)
        assert all(len(one["churn"]) == 3 for one in records[1:])


def test_targets_and_what_is_pretrained_on(run):
    assert served(run.config, ["Garden", "Kitchen", "Wardrobe"]) == ("Wardrobe",)
    assert pretrained_on(run.config, ["Garden", "Kitchen", "Wardrobe"]) == ("Garden", "Kitchen")
    with pytest.raises(ValueError, match=r"names 'Wardrobe'.*; the data have Garden"):
        served(run.config, ["Garden", "Kitchen"])
    with pytest.raises(ValueError, match="names every domain"):
        pretrained_on(run.config, ["Wardrobe"])


@pytest.fixture(scope="module")
def pretrained(run):
    """A run that pre-trains on the domains that `run` does, and knows nothing of its target."""
    lab = opened(run.folder.parent, "pretrained", targets=(), domains=("Garden", "Kitchen"), compare=[])
    prepare_data(lab)
    train_tokenizers(lab)
    train_recommenders(lab)
    return lab


def test_a_target_starts_from_what_another_run_pretrained(run, pretrained):
    lab = opened(
        run.folder.parent,
        "later",
        domains=("Wardrobe",),
        compare=["utgrec_without_pretraining"],
        **{"transfer.start": "pretrained"},
    )
    prepare_data(lab)
    identified = train_tokenizers(lab)["utgrec_tiny"]
    theirs = load_identified(pretrained)
    assert identified.epochs == theirs.epochs
    for level, book in enumerate(identified.codebooks["all"]):
        np.testing.assert_array_equal(book, theirs.codebooks["all"][level])
    tokenizer = load_row_tokenizer(pretrained, "utgrec_tiny", "all")
    content = content_of(load_prepared(lab).dataset)
    np.testing.assert_array_equal(identified.raw.codes, tokenizer.encode(content))
    histories = train_recommenders(lab)
    assert list(histories) == ["utgrec_tiny"]  # what learns from its target alone does so in stage 06
    body, same = (starting_recommender(one, "utgrec_tiny", "Wardrobe").body for one in (lab, pretrained))
    for name, tensor in same.state_dict().items():
        assert torch.equal(body.state_dict()[name], tensor), name
    adapt_to_domains(lab)
    rank_test_users(lab)
    assert set(lab.metrics()["domain"]) == {"Wardrobe", "average"}
    # Pre-training again gives another key, so the stages that used the old result run again.
    before = codes_key(lab)
    pretrained.forget("02_tokenizer_training")
    with pytest.raises(RunError, match=r"^02_tokenizer_training/\S* of run 'pretrained' cannot be used"):
        train_tokenizers(lab)
    again = opened(
        run.folder.parent, "pretrained", targets=(), domains=("Garden", "Kitchen"), compare=[],
        **{"tokenizer_training.epochs": 1},
    )  # fmt: skip
    train_tokenizers(again)
    train_tokenizers(lab)
    assert codes_key(lab) != before


def test_a_start_that_does_not_fit_is_refused(run, pretrained):
    def tokenizers_from(start, **overrides):
        lab = opened(
            run.folder.parent,
            "wrong",
            domains=("Wardrobe",),
            compare=[],
            **{"transfer.start": start, **overrides},
        )
        prepare_data(lab)
        train_tokenizers(lab)

    with pytest.raises(RunError, match=r"transfer\.start is 'nowhere', but there is no run"):
        tokenizers_from("nowhere")
    with pytest.raises(RunError, match="which is this run"):
        tokenizers_from("wrong")
    with pytest.raises(RunError, match=r"quantizer\.root_size: 16 before, 8 now.*same preset"):
        tokenizers_from("pretrained", **{"tokenizer.quantizer.root_size": 8})
    with pytest.raises(PresetError, match=r"without transfer\.targets"):
        opened(run.folder.parent, "wrong", targets=(), **{"transfer.start": "pretrained"})


def test_parts_are_weighed_by_the_codes_that_the_target_has_after_fine_tuning(run):
    """The variant without it has those of pre-training, which know nothing of the target."""
    ablation = weigh_parts(run)
    assert ablation.parts["variant"].to_list() == VARIANTS
    before = load_identified(run).raw
    items = before.domain_items("Wardrobe")
    after = ItemCodes.read(renamed(run, "utgrec_tiny") / "raw_codes.parquet")
    used = {
        name: [len(set(codes.codes[items, level].tolist())) for level in range(3)]
        for name, codes in {"utgrec_tiny": after, VARIANTS[0]: before}.items()
    }
    for name, counts in used.items():
        assert ablation.health.filter(tokenizer=name)["used"].to_list() == counts
    assert set(ablation.health["items"]) == {len(items)}
