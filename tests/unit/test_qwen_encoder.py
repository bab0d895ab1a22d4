"""The Qwen2-VL encoder against transformers' own forward pass, its cache, its freezing, its errors."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.random_qwen import tiny_qwen
from genrec_lab.encoders import content as frozen_module
from genrec_lab.encoders.content import Content
from genrec_lab.encoders.pictures import PictureTarget, read_picture
from genrec_lab.encoders.qwen import QwenConfig, QwenEncoder
from genrec_lab.encoders.qwen_models import QwenMemoryError, load_qwen

TEXTS = (
    "a red garden kettle",
    "steel pipe with a steel fitting",
    "wooden chair " * 20,
    "copper <|image_pad|> kettle <|im_end|>",
    "",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen(tmp_path_factory.mktemp("qwen"), TEXTS * 5, hidden=64, layers=2, vocabulary=400)


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    """Five items; the second has no picture, the last no text, the third a picture of another shape."""
    pictures, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    files: list[Path | None] = []
    for item, size in enumerate([(60, 90), None, (150, 60), (80, 80), (60, 90)]):
        files.append(None if size is None else pictures / f"{item}.png")
        if size is not None:
            pixels = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(pictures / f"{item}.png")
    return Content(TEXTS, tuple(files), tuple(f"B{i}" for i in range(5)))


def config(folder: Path, **changes: object) -> QwenConfig:
    sizes = {"min_visual_tokens": 4, "max_visual_tokens": 12, "max_text_tokens": 16}
    target = PictureTarget(size=8, patch=4)
    return QwenConfig(**({"model": str(folder), "dtype": "float32", "picture": target} | sizes | changes))


def encoder(folder: Path, seed: int = 0, **changes: object) -> QwenEncoder:
    torch.manual_seed(seed)
    return QwenEncoder(config(folder, **changes)).eval()


@pytest.fixture(scope="module")
def reader(folder: Path) -> QwenEncoder:
    return encoder(folder)


def adapted(reader: QwenEncoder, seed: int = 1) -> QwenEncoder:
    """The encoder with LoRA moved away from zero, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in reader.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return reader


class TestAgainstTransformers:
    @torch.no_grad()
    def test_hidden_states_at_the_code_tokens_item_by_item(
        self, folder: Path, content: Content, reader: QwenEncoder
    ) -> None:
        # The twin puts the code tokens into the vocabulary, gives the pixels to transformers' own forward and
        # takes the last hidden states; one item at a time, without padding and without any cache.
        from transformers import Qwen2VLForConditionalGeneration

        _, tokenizer, images = load_qwen(str(folder), "float32", 4, 12)
        twin = Qwen2VLForConditionalGeneration.from_pretrained(folder).eval()
        rows = twin.get_input_embeddings().weight.shape[0]
        twin.resize_token_embeddings(rows + 3, mean_resizing=False)
        twin.get_input_embeddings().weight[rows:] = reader.code_tokens
        hidden = reader(reader.prepare(content, progress=False).batch([4, 0, 2, 1]))
        for found, item in zip(hidden, [4, 0, 2, 1], strict=True):
            text = tokenizer.decode(tokenizer(content.texts[item])["input_ids"][:16])
            inputs: dict[str, torch.Tensor] = {}
            shown = ""
            begin = "The image of this item is missing. The item's information includes: "
            end = ". Compress the text information into 3 tokens, "
            if content.pictures[item] is not None:
                inputs = images(images=[read_picture(content.pictures[item])], return_tensors="pt")
                count = int(inputs["image_grid_thw"].prod()) // 4
                shown = f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>"
                begin = "This is an image of an item. The item's information also includes: "
                end = ". Compress the image and text information into 3 tokens, "
            question = f'{shown}{begin}"{text}"{end}representing content from coarse to fine granularity.'
            prompt = (
                "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
                f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
            )
            # The encoder cuts the prompt into tokens around the text, so a quote never joins a word.
            ids = [
                token for part in prompt.partition(f'"{text}"') for token in _in_parts(tokenizer, part, text)
            ]
            ids = torch.tensor([[*ids, rows, rows + 1, rows + 2]])
            kinds = (ids == twin.config.image_token_id).int()
            last = twin(
                input_ids=ids, mm_token_type_ids=kinds, output_hidden_states=True, **inputs
            ).hidden_states[-1]
            torch.testing.assert_close(found, last[0, -3:], atol=2e-5, rtol=1e-4)

    def test_an_item_is_read_alike_in_any_company(self, content: Content, reader: QwenEncoder) -> None:
        prepared = reader.prepare(content, progress=False)
        with torch.no_grad():
            together = reader(prepared.batch(range(5)))
            for item in range(5):
                alone = reader(prepared.batch([item]))[0]
                torch.testing.assert_close(alone, together[item], atol=1e-5, rtol=1e-4)


def _in_parts(tokenizer: object, part: str, text: str) -> Iterator[int]:
    """Token numbers of a prompt's part; the quoted text apart from its quotes."""
    if part != f'"{text}"' or not text:
        yield from tokenizer(part)["input_ids"]  # type: ignore[operator]
        return
    for piece in ('"', text, '"'):
        yield from tokenizer(piece)["input_ids"]  # type: ignore[operator]


class TestBatches:
    def test_hold_what_the_decoders_are_promised(self, content: Content, reader: QwenEncoder) -> None:
        prepared = reader.prepare(content, progress=False)
        batch = prepared.batch([1, 0])
        assert {len(tensor) for tensor in batch.values()} == {2}
        assert batch["patches"].shape == (2, 4, 48) and batch["patches"].dtype == torch.float32
        assert batch["has_picture"].tolist() == [False, True] and not batch["patches"][0].any()
        for item, ids, mask in zip([1, 0], batch["text_ids"], batch["text_mask"], strict=True):
            words = reader.words()
            assert "".join(words[token] for token in ids[mask]) == content.texts[item]
            assert not ids[~mask].any()
        assert batch["text_ids"].max() < len(reader.word_table()) == len(reader.words())

    def test_words_like_special_tokens_stay_words(self, content: Content, reader: QwenEncoder) -> None:
        prepared = reader.prepare(content, progress=False)
        batch = prepared.batch([3])
        pictures = int((batch["encoder_ids"] == reader.backbone.config.image_token_id).sum())
        assert pictures == int(batch["encoder_picture_mask"].sum()) > 0
        shown = "".join(reader.words()[token] for token in batch["text_ids"][0][batch["text_mask"][0]])
        assert content.texts[3].startswith(shown) and "<|image_pad" in shown

    def test_long_texts_are_cut_and_counted(self, content: Content, reader: QwenEncoder) -> None:
        prepared = reader.prepare(content, progress=False)
        assert prepared.repairs["texts_truncated"] >= 1
        assert prepared.repairs["items_without_picture"] == 1
        assert prepared.batch([2])["text_ids"].shape == (1, 16)

    def test_pictures_stay_within_their_budget(self, content: Content, reader: QwenEncoder) -> None:
        counts = reader.prepare(content, progress=False).batch(range(5))["encoder_picture_mask"].sum(1)
        assert counts[1] == 0 and all(4 <= count <= 12 for count in counts[[0, 2, 3, 4]])

    def test_a_ribbon_of_a_picture_is_widened(self, tmp_path: Path, reader: QwenEncoder) -> None:
        Image.new("RGB", (1, 700), "red").save(tmp_path / "a.png")
        prepared = reader.prepare(Content(("a",), (tmp_path / "a.png",), ("B0",)), progress=False)
        assert prepared.repairs["pictures_widened"] == 1
        assert reader(prepared.batch([0])).isfinite().all()


class TestCache:
    def test_cached_and_uncached_are_equal(
        self, content: Content, reader: QwenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frozen_module, "SHARD_ITEMS", 2)
        plain, written = (reader.prepare(content, where, progress=False) for where in (None, tmp_path))
        assert len(list(tmp_path.iterdir())) == 3
        monkeypatch.setattr(QwenEncoder, "_read_pictures", None)  # the tower does not run again
        read = reader.prepare(content, tmp_path, progress=False)
        order = [3, 0, 1, 1, 4, 2]
        for prepared in (written, read):
            assert prepared.repairs == plain.repairs
            for key, tensor in plain.batch(order).items():
                assert torch.equal(prepared.batch(order)[key], tensor), key

    def test_bfloat16_features_are_kept_without_loss(
        self, folder: Path, content: Content, tmp_path: Path
    ) -> None:
        half = encoder(folder, dtype="bfloat16")
        prepared = half.prepare(content, tmp_path, progress=False)
        (file,) = tmp_path.iterdir()
        assert load_file(file)["tokens"].dtype == torch.bfloat16
        hidden = half(prepared.batch(range(5)))
        assert hidden.dtype == torch.float32 and hidden.isfinite().all()
        exact = encoder(folder)(encoder(folder).prepare(content, progress=False).batch(range(5)))
        assert torch.nn.functional.cosine_similarity(hidden, exact, dim=-1).min() > 0.99

    def test_other_bounds_are_computed_anew(self, folder: Path, content: Content, tmp_path: Path) -> None:
        encoder(folder).prepare(content, tmp_path, progress=False)
        encoder(folder, max_visual_tokens=9).prepare(content, tmp_path, progress=False)
        encoder(folder, max_text_tokens=5, lora_rank=2).prepare(content, tmp_path, progress=False)
        assert len(list(tmp_path.iterdir())) == 2


class TestTraining:
    @pytest.mark.parametrize("embeddings", [True, False])
    def test_a_step_moves_what_is_trained_and_nothing_else(
        self, folder: Path, content: Content, embeddings: bool
    ) -> None:
        reader = encoder(folder, train_embeddings=embeddings).train()
        before = {name: p.detach().clone() for name, p in reader.named_parameters()}
        batch = reader.prepare(content, progress=False).batch(range(5))
        optimizer = torch.optim.SGD((p for p in reader.parameters() if p.requires_grad), lr=0.5)
        for _ in range(2):  # LoRA's first matrix does not move in the first step: its second one is zero
            optimizer.zero_grad()
            reader(batch).square().mean().backward()
            optimizer.step()
        moved = {name for name, p in reader.named_parameters() if not torch.equal(p, before[name])}
        wanted = {name for name in before if "lora_" in name} | {"code_tokens"}
        if embeddings:
            wanted.add("backbone.language_model.embed_tokens.weight")
        assert moved == wanted == {name for name, p in reader.named_parameters() if p.requires_grad}
        assert not any("visual" in name for name in moved)

    def test_lora_is_on_every_linear_of_the_language_model(self, reader: QwenEncoder) -> None:
        trained = [name for name, p in reader.named_parameters() if p.requires_grad]
        adapted_parts = {name.split(".lora_")[0] for name in trained if ".lora_A" in name}
        parts = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        assert len(adapted_parts) == 2 * len(parts)
        assert {name.rsplit(".", 1)[1] for name in adapted_parts} == set(parts)
        sizes = {p.shape[0] for name, p in reader.named_parameters() if ".lora_A" in name}
        assert sizes == {8}

    def test_trained_parts_are_float32_over_frozen_bfloat16(self, folder: Path, content: Content) -> None:
        reader = encoder(folder, dtype="bfloat16")
        assert {p.dtype for p in reader.parameters() if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in reader.parameters() if not p.requires_grad} == {torch.bfloat16}
        reader(reader.prepare(content, progress=False).batch([0, 1])).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in reader.parameters())

    def test_gradient_checkpointing_gives_the_same_gradients(self, folder: Path, content: Content) -> None:
        grads = []
        for on in (False, True):
            reader = adapted(encoder(folder, gradient_checkpointing=on, lora_dropout=0.0)).train()
            reader(reader.prepare(content, progress=False).batch([0, 1])).square().mean().backward()
            grads.append({name: p.grad for name, p in reader.named_parameters() if p.grad is not None})
        assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 20
        for name, gradient in grads[0].items():
            torch.testing.assert_close(grads[1][name], gradient, msg=name)

    def test_a_batch_without_any_picture_trains(self, content: Content, reader: QwenEncoder) -> None:
        batch = reader.prepare(content, progress=False).batch([1, 1])
        hidden = reader(batch)
        assert hidden.shape == (2, reader.levels, reader.dimension) == (2, 3, 64)
        gradient = torch.autograd.grad(hidden.sum(), reader.code_tokens)[0]
        assert gradient.isfinite().all() and gradient.any()

    def test_the_word_table_is_the_trained_embedding(self, folder: Path) -> None:
        reader = encoder(folder)
        assert reader.word_table() is reader.backbone.language_model.embed_tokens.weight
        assert reader.word_table().requires_grad
        assert not encoder(folder, train_embeddings=False).word_table().requires_grad

    def test_an_untied_head_is_the_word_table(self, folder: Path, tmp_path: Path) -> None:
        from transformers import AutoTokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        settings = Qwen2VLConfig.from_pretrained(folder)
        settings.tie_word_embeddings = False
        Qwen2VLForConditionalGeneration(settings).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
        Qwen2VLImageProcessorPil().save_pretrained(tmp_path)
        reader = encoder(tmp_path)
        head = load_file(tmp_path / "model.safetensors")["lm_head.weight"]
        assert torch.equal(reader.word_table(), head)
        assert not torch.equal(head, reader.backbone.language_model.embed_tokens.weight)
        assert reader.head.weight.requires_grad


class TestMemory:
    @pytest.mark.parametrize(
        "error",
        [
            MemoryError(),
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        ],
    )
    def test_memory_that_runs_out_says_what_to_lower(
        self, content: Content, reader: QwenEncoder, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def exhausted(*_: object, **__: object) -> None:
            raise error

        batch = reader.prepare(content, progress=False).batch([0])
        monkeypatch.setattr(reader.backbone.language_model, "forward", exhausted)
        with pytest.raises(
            QwenMemoryError, match=r"while reading a batch; lower the batch size, max_text_tokens"
        ):
            reader(batch)


def test_defaults_are_the_published_values() -> None:
    default = QwenConfig()
    assert (default.lora_rank, default.lora_alpha, default.lora_dropout) == (8, 32, 0.1)
    assert (default.max_text_tokens, default.min_visual_tokens, default.max_visual_tokens) == (
        1024,
        128,
        1024,
    )
