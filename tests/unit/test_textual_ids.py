"""Textual ids: pieces, diverse beam search by hand, uniqueness, soft ids, legal decoding, released T5s."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import T5Config as TheirConfig
from transformers import T5ForConditionalGeneration

from genrec_lab.data import Dataset
from genrec_lab.decoding import exact_top_k
from genrec_lab.models.recommenders.recommender import Recommender
from genrec_lab.models.recommenders.t5 import T5Config
from genrec_lab.models.tokenizers.base import ItemContent
from genrec_lab.models.tokenizers.id_generator import (
    END,
    IdGenerator,
    IdLessons,
    TextualIdsConfig,
    TextualIdsError,
    codes_of,
    new_reader,
    new_t5,
    past_end,
    word_pieces,
)
from genrec_lab.models.tokenizers.textual_ids import NamingConfig, TextualIds
from genrec_lab.models.tokenizers.word_pieces import WordPieces, distinctive_words, pieces_of_words, words_of
from genrec_lab.training import TrainingConfig

BODY = T5Config(d_model=16, d_kv=8, heads=2, d_ff=32, encoder_layers=1, decoder_layers=1, dropout=0.0)
CONFIG = TextualIdsConfig(levels=3, candidates=4, text_tokens=12, vocabulary=120, body=BODY)
COLOURS, THINGS = ("red", "blue", "green", "yellow"), ("cotton shirt", "steel bowl", "wooden chair")
TEXTS = [f"A {colour} {thing}, size {size}!" for colour in COLOURS for thing in THINGS for size in (1, 2)]


@pytest.fixture(scope="module")
def pieces() -> WordPieces:
    return word_pieces(TEXTS, CONFIG)


def made(pieces: WordPieces, texts: list[str] = TEXTS, config: TextualIdsConfig = CONFIG) -> IdGenerator:
    torch.manual_seed(0)
    generator = IdGenerator(pieces, texts, config).eval()
    with torch.no_grad():  # ids of random weights would all be of one piece
        generator.t5.embedding.weight.mul_(3)
    return generator


def test_pieces_are_of_words_alone_and_numbered_as_t5_numbers_them(
    pieces: WordPieces, tmp_path: Path
) -> None:
    assert words_of("A RED shirt,  size-2!") == ["a", "red", "shirt", "size", "2"]
    tokens = pieces.tokens(["red", "shirt"], 20)
    assert pieces.text([*tokens, END]) == "red shirt"
    allowed = pieces.in_ids()
    assert allowed.shape == (120,) and not allowed[:3].any() and allowed[tokens].sum() >= 2
    pieces.write(tmp_path)
    again = WordPieces.read(tmp_path, 120)
    assert again.tokens(["green", "bowl"], 9) == pieces.tokens(["green", "bowl"], 9)
    np.testing.assert_array_equal(again.in_ids(), allowed)


def test_distinctive_words_are_those_that_few_but_not_single_texts_have() -> None:
    texts = ["the red shirt unique", "the red bowl", "the blue shirt", "the blue bowl", "alone"]
    assert distinctive_words(texts, 2) == [
        ["red", "shirt"],
        ["red", "bowl"],
        ["blue", "shirt"],
        ["blue", "bowl"],
        ["alone"],
    ]
    assert distinctive_words(["", "a b a"], 1) == [[], ["a"]]


def test_a_text_is_labelled_with_its_telling_pieces_up_to_the_end(pieces: WordPieces) -> None:
    generator = made(pieces, ["", *TEXTS])
    rows = generator.labels.tolist()
    assert all(END not in row or set(row[row.index(END) :]) == {END} for row in rows)
    assert generator.allowed[generator.labels].all()
    assert rows[0][0] != END  # an empty text still has an id of one piece
    assert past_end(torch.tensor([[5, END, END], [END, END, END], [5, 6, 7]])).tolist() == [
        [False, False, True],
        [False, True, True],
        [False, False, False],
    ]


def by_hand(generator: IdGenerator, item: int, penalty: float, groups: int, least: int) -> list[list[int]]:
    """Diverse beam search with whole prefixes instead of a cache, a group after the other."""
    written: list[list[int]] = [[] for _ in range(groups)]
    for place in range(generator.config.levels):
        used: dict[int, int] = {}
        for row in written:
            if END in row:
                chosen = END
            else:
                whole = torch.tensor([[*row, *[END] * (generator.config.levels - place)]])
                scores = generator.logits(torch.tensor([item]), whole)[0, place].log_softmax(-1)
                for token, count in used.items():
                    scores[token] -= penalty * count
                if place < least:
                    scores[END] = -1e9
                chosen = int(scores.argmax())
            if END not in row:  # what fills the rest of an id is not written
                used[chosen] = used.get(chosen, 0) + 1
            row.append(chosen)
    return written


@pytest.mark.parametrize(("penalty", "least"), [(0.0, 1), (0.7, 1), (5.0, 2), (0.3, 3)])
@torch.no_grad()
def test_diverse_beam_search_is_that_of_a_loop_by_hand(
    pieces: WordPieces, penalty: float, least: int
) -> None:
    generator = made(pieces)
    items = torch.tensor([0, 7, 23])
    found = generator.candidates(items, penalty, 4, least)
    assert found.tolist() == [by_hand(generator, int(item), penalty, 4, least) for item in items]
    if penalty == 5.0:  # as many different first pieces as groups
        assert all(len(set(rows[:, 0].tolist())) == 4 for rows in found)


def test_ids_are_unique_legal_and_the_same_again(pieces: WordPieces) -> None:
    generator = made(pieces, TEXTS + TEXTS[:5] * 12)  # copies of texts are written alike
    ids = generator.unique_ids()
    assert len({tuple(row) for row in ids.tolist()}) == len(TEXTS) + 60
    assert generator.allowed[ids].all() and (ids[:, 0] != END).all()
    assert (ids[past_end(ids)] == END).all()
    assert torch.equal(ids, generator.unique_ids())
    codes = codes_of(ids, pieces.size)
    assert codes.unique and codes.vocabulary_size == pieces.size
    np.testing.assert_array_equal(codes.tokens(), ids.numpy())  # a level's codes are T5's own tokens


def test_more_copies_than_ids_are_refused() -> None:
    config = CONFIG.model_copy(update={"levels": 2, "candidates": 1})
    generator = made(WordPieces.learnt(["red"], 40), ["red"] * 70, config)
    with pytest.raises(
        ValueError, match=r"no free id left after \d+ others: too many items have the same text"
    ):
        generator.unique_ids()


def test_labels_are_learnt(pieces: WordPieces) -> None:
    generator = made(pieces)
    optimizer = torch.optim.AdamW(generator.parameters(), lr=1e-2)
    items = torch.arange(len(TEXTS))
    first = float(generator(items).detach())
    for _ in range(60):
        optimizer.zero_grad()
        loss = generator(items)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < first / 4


def test_certain_ids_read_as_their_pieces_and_uncertain_ones_teach_the_generator_alone(
    pieces: WordPieces,
) -> None:
    generator = made(pieces)
    with torch.no_grad():
        generator.t5.embedding.weight.mul_(100)  # every probability is now 0 or 1
    ids = generator.candidates(torch.arange(len(TEXTS)), 0.0, 1)[:, 0]
    torch.manual_seed(1)
    for reads in ("whole", "past"):
        body = BODY.model_copy(update={"reads": reads})
        reader = new_reader(pieces, CONFIG.model_copy(update={"body": body}))(ids).eval()
        histories, targets = torch.tensor([[3, 5, 1], [2, -1, -1]]), torch.tensor([4, 9])
        soft = IdLessons(generator, reader).eval()(histories, targets)
        if reads == "whole":
            expected = reader.pair_loss(histories, targets)
        else:
            sequences = torch.tensor([[3, 5, 1, 4], [2, 9, -1, -1]])
            places = {"rows": torch.tensor([0, 1]), "places": torch.tensor([3, 1])}
            expected = reader.stretch_loss(sequences=sequences, **places)
        torch.testing.assert_close(soft, expected, rtol=1e-4, atol=1e-4)
    lessons = IdLessons(made(pieces), reader)
    lessons(histories, targets).backward()
    assert all(p.grad is None for p in lessons.recommender.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in lessons.generator.t5.parameters())


@torch.no_grad()
def test_beams_over_ids_find_what_scoring_every_id_finds(pieces: WordPieces) -> None:
    ids = made(pieces).unique_ids()
    torch.manual_seed(2)
    reader = new_reader(pieces, CONFIG)(ids).eval()
    histories = [[1, 2, 3], [10], [20, 4]]
    memory, codes = reader.remember(histories), torch.tensor(reader.codes.codes)
    for user, history in enumerate(histories):
        own = memory.of_users(torch.full((len(ids),), user))
        scores = torch.zeros(len(ids))
        for level in range(3):
            found = reader.continuations(own, codes[:, :level])
            scores += found.gather(1, codes[:, level : level + 1])[:, 0]
        best = scores.sort(descending=True)
        ranked = reader.recommend([history], 5, beams=len(ids))
        assert ranked.items[0].tolist() == best.indices[:5].tolist()
        np.testing.assert_allclose(ranked.scores[0], best.values[:5], atol=1e-4)
        exact = exact_top_k(reader, [history], reader.trie(reader.codes.domain_names[0]), 5)
        assert exact.items[0].tolist() == best.indices[:5].tolist()


def test_files_and_other_catalogues(pieces: WordPieces, tmp_path: Path) -> None:
    generator = made(pieces)
    ids = generator.unique_ids()
    reader = new_reader(pieces, CONFIG)(ids)
    written = TextualIds(CONFIG)
    written.weights = {"generator": generator.t5.state_dict(), "recommender": reader.t5.state_dict()}
    written._named(np.arange(len(TEXTS)), ids.numpy(), pieces)
    written.save(tmp_path)
    again = TextualIds.load(tmp_path)
    assert again.words() == written.words() and again.config == CONFIG
    np.testing.assert_array_equal(again.encode(np.zeros((len(TEXTS), 1))), ids.numpy() - 2)
    assert (again.sizes, again.alike, len(again.codebooks)) == ((118,) * 3, (0, 1, 2), 0)
    learnt = TextualIds.read_recommender(tmp_path)
    assert learnt is not None and torch.equal(
        learnt["embedding.weight"], reader.t5.state_dict()["embedding.weight"]
    )
    assert TextualIds.read_recommender(tmp_path / "pieces") is None
    with pytest.raises(ValueError, match="TextualIds was fitted on 24 items, without item 24 and 2 more"):
        written.encode(np.zeros((27, 1)))


def test_a_released_t5_is_read_from_a_folder_and_another_is_refused(
    pieces: WordPieces, tmp_path: Path
) -> None:
    torch.manual_seed(3)
    theirs = T5ForConditionalGeneration(
        TheirConfig(
            vocab_size=130,
            d_model=16,
            d_kv=8,
            num_heads=2,
            d_ff=32,
            num_layers=1,
            num_decoder_layers=1,
            decoder_start_token_id=0,
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    pieces.write(tmp_path)
    config = CONFIG.model_copy(update={"generator": str(tmp_path), "recommender": str(tmp_path)})
    read = word_pieces([], config)
    assert read.size == 130 and read.tokens(["red"], 5) == pieces.tokens(["red"], 5)
    generator = IdGenerator(read, TEXTS, config).eval()
    tokens = torch.tensor([[5, 6, 1]])
    mask, start = torch.ones_like(tokens), torch.tensor([[0, 9]])
    expected = theirs(input_ids=tokens, attention_mask=mask, decoder_input_ids=start).logits
    torch.testing.assert_close(generator.t5(tokens, mask, start), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(new_reader(read, config)(generator.unique_ids()), Recommender)

    with pytest.raises(TextualIdsError, match="has 130 tokens and the sizes"):
        new_t5(read, config.model_copy(update={"body": T5Config()}), str(tmp_path))
    with pytest.raises(TextualIdsError, match="cannot be read as a T5"):
        new_t5(read, config, str(tmp_path / "nothing"))


def test_pieces_are_the_same_in_another_process_and_cover_whole_words_first() -> None:
    words = Counter({"shirt": 9, "shirts": 2, "bowl": 5, "bowls": 1, "x": 3})
    found = pieces_of_words(words, 24)
    assert len(found) <= 24 and found["\u2581shirt"] == 9 and found["\u2581bowl"] == 5
    assert list(found) == list(pieces_of_words(Counter(dict(reversed(words.items()))), 24))
    assert pieces_of_words(words, 8) == dict(list(pieces_of_words(words, 8).items())[:8])
    tokens = WordPieces.learnt(["shirt shirt bowl bowl"], 40).tokens(["shirt", "bowl"], 9)
    assert len(tokens) == 2  # a piece each, not their letters


def test_checkpoints_of_another_training_are_refused(tmp_path: Path) -> None:
    items = pl.DataFrame({"item": range(24), "domain": "Shop", "title": TEXTS, "text": TEXTS})
    histories = [[(user + step) % 24 for step in range(6)] for user in range(20)]
    sequences = pl.DataFrame({"user": range(20), "domain": "Shop", "items": histories})
    dataset = Dataset("mine", items, sequences)
    once = TrainingConfig(epochs=1, batch_size=16)
    naming = NamingConfig(rounds=1, labels=once, generator=once, recommender=once)

    def fitted(data: Dataset = dataset, seed: int = 0, config: TextualIdsConfig = CONFIG) -> TextualIds:
        content = ItemContent.from_dataset(data)
        return TextualIds(config, naming=naming).fit(content, seed=seed, checkpoint=tmp_path)

    assert fitted().words() == fitted().words()
    with pytest.raises(ValueError, match="a training with seed = 0, this one has 1"):
        fitted(seed=1)
    with pytest.raises(ValueError, match="a training with candidates = 4, this one has 5"):
        fitted(config=CONFIG.model_copy(update={"candidates": 5}))
    other = Dataset(dataset.name, dataset.items, dataset.sequences.head(15))
    with pytest.raises(ValueError, match="a training with sequences = "):
        fitted(other)
