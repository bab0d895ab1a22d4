"""UTGRec's tokenizer at its real size without its weights: whole training steps on the CPU, in under 20 GB.

Qwen2-VL-2B with the sizes of Qwen2-VL-2B-Instruct's config.json (huggingface.co/Qwen/Qwen2-VL-2B-Instruct;
`benchmarks.random_qwen` has them) and random bf16 weights, 4.4 GB, written to a folder and loaded as the
published ones would be. Preset `utgrec` with a batch of 2 items, each beside its neighbour: the paper's LoRA,
code tokens, decoders, gradient checkpointing. A process of its own trains it, under a limit on the memory
it may ask for, so that it ends rather than swaps. What a GPU would need at the paper's batch is arithmetic,
printed with it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Check, Comparison, Options, Timing, held, main

OURS = "genrec_lab"
BATCH, MOST_BYTES, FREE_BYTES = 2, 20e9, 16e9
# UTGRec 3.1.4: 16 items on each of 16 GPUs, 3 epochs; Table 1: so many items of pre-training.
PAPER_BATCH, PAPER_GPUS, PAPER_EPOCHS, PAPER_ITEMS = 256, 16, 3, 344_412
# An A100's 312 TFLOP/s in bf16, of which large matrices reach 40 %.
GPU_RATE = 125e12
# Weight, gradient and AdamW's two moments in float32.
TRAINED_BYTES = 16
# Logits of at most 2^26 numbers at a time: in bf16, in float32, their log-softmax, the gradients of both.
LOGITS_BYTES = 2**26 * 16
PROMPT = (
    "This is an image of an item. The image of this item is missing. The item's information also includes: "
    "Compress the image and text information into 3 tokens, representing content from coarse to fine "
    "granularity."
)


def write_model(folder: Path, texts: list[str], small: bool) -> None:
    """Write a random Qwen2-VL of the real size, or one of seconds, whose tokenizer knows the texts' words."""
    from benchmarks.random_qwen import QWEN2_VL_2B_TEXT, QWEN2_VL_2B_VISION, random_qwen, tiny_qwen

    corpus = [*texts, *[PROMPT] * 20]
    if small:
        tiny_qwen(folder, corpus, hidden=64, layers=2)
    else:
        random_qwen(folder, corpus, QWEN2_VL_2B_TEXT, QWEN2_VL_2B_VISION, dtype="bfloat16")


def item_texts(words: int) -> list[str]:
    """Texts of so many words for the batch's items."""
    return [" ".join(f"word{(7 * i + place) % 50:02d}" for i in range(words)) for place in range(BATCH)]


def train_here(folder: Path, steps: int, small: bool) -> dict[str, Any]:
    """Train so many steps in this process; return what was measured, and the sizes that estimates need."""
    import numpy as np
    import polars as pl
    import torch
    from PIL import Image

    from genrec_lab import presets
    from genrec_lab.data.batches import NeighbourBatches
    from genrec_lab.encoders.content import Content
    from genrec_lab.encoders.qwen import QwenConfig, QwenEncoder
    from genrec_lab.models.tokenizers.tree_network import TreeNetwork, TreeTokenizerConfig
    from genrec_lab.training import fit
    from genrec_lab.training.operations import OperationCounter

    overrides: dict[str, Any] = {"content.model": str(folder), "tokenizer_training.batch_size": BATCH}
    overrides |= {"tokenizer_training.epochs": steps, "tokenizer_training.schedule": "constant"}
    overrides |= {"tokenizer_training.warmup": 0.0}
    if small:
        overrides |= {"tokenizer.decoder.heads": 4, "tokenizer.diffusion.width": 32}
    config = presets.load("utgrec", overrides)
    if not isinstance(config.content, QwenConfig) or not isinstance(config.tokenizer, TreeTokenizerConfig):
        raise TypeError("preset utgrec has another encoder or tokenizer than this benchmark measures")
    rng, pictures = np.random.default_rng(0), []
    for place in range(BATCH):
        pictures.append(folder / f"{place}.png")
        Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(pictures[-1])
    texts = item_texts(20 if small else 150)
    content = Content(tuple(texts), tuple(pictures), tuple(str(i) for i in range(BATCH)))

    torch.manual_seed(0)
    encoder = QwenEncoder(config.content)
    prepared = encoder.prepare(content, progress=False)
    model = TreeNetwork(encoder, config.tokenizer, torch.Generator().manual_seed(0))
    neighbours = pl.DataFrame({"item": [0, 1], "neighbours": [[1], [0]]})
    batches = NeighbourBatches(np.arange(BATCH), neighbours, prepared.batch, BATCH)
    before = {name: _summary(parameter) for name, parameter in model.named_parameters()}
    # Not torch's FlopCounterMode: under it layers that are computed again are kept until the step ends.
    with OperationCounter() as counted:
        result = fit(model, batches, config.tokenizer_training)
    moved = {name for name, parameter in model.named_parameters() if _summary(parameter) != before[name]}
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    frozen = [p for p in model.parameters() if not p.requires_grad]
    language = encoder.backbone.language_model
    return {
        "seconds": [record.seconds for record in result.history],
        "losses": [record.loss for record in result.history],
        "processor_seconds": time.process_time(),
        "peak_bytes": held("VmHWM"),
        "trained": sum(trained.values()),
        "parts": _parts(trained),
        "moved_parts": sorted(_parts(dict.fromkeys(moved, 1))),
        "moved_frozen": sorted(moved - trained.keys()),
        "frozen": sum(p.numel() for p in frozen),
        "frozen_bytes": sum(p.numel() * p.element_size() for p in frozen),
        "tokens": int(prepared.batch(np.arange(BATCH))["encoder_mask"].sum()) / BATCH,
        "operations": counted.operations / steps,
        "width": encoder.dimension,
        "feed_forward": language.config.intermediate_size,
        "layers": language.config.num_hidden_layers,
    }


def _summary(parameter: Any) -> tuple[float, float]:
    """Two numbers that change where a weight does: the sum, and the squares of every so many-th weight."""
    flat = parameter.detach().flatten()
    some = flat[:: max(len(flat) // 997, 1)].float()
    return float(flat.float().sum()), float(some.square().sum())


def _parts(names: dict[str, int]) -> dict[str, int]:
    """Numbers by the part of the tokenizer that a parameter is of."""
    parts: dict[str, int] = {}
    for name, count in names.items():
        known = {"lora_": "LoRA", "embed_tokens": "word embeddings", "code_tokens": "code tokens"}
        part = next((label for piece, label in known.items() if piece in name), name.split(".")[0])
        parts[part] = parts.get(part, 0) + count
    return parts


def gpu_estimate(found: dict[str, Any], samples: int) -> dict[str, float]:
    """What a GPU needs for so many samples (an item and its neighbour) a step; names say the arithmetic.

    `found` is what `train_here` returned: sizes, tokens an item, operations of a step of BATCH samples.
    """
    width, hidden, tokens, layers = (found[name] for name in ("width", "feed_forward", "tokens", "layers"))
    trained, frozen = found["trained"], found["frozen_bytes"]
    weights = frozen + trained * TRAINED_BYTES
    kept = samples * 2 * tokens * width * layers * 2
    # LoRA keeps the input of each of a layer's linears twice in float32, and a mask; the rest is in bf16.
    again = samples * tokens * (78 * width + 17 * hidden)
    operations = found["operations"] / BATCH
    seconds = samples * operations / GPU_RATE
    steps = PAPER_ITEMS * PAPER_EPOCHS / PAPER_BATCH
    return {
        f"GB of weights: frozen {frozen / 1e9:.2f} + {trained / 1e6:.1f} M trained x {TRAINED_BYTES} bytes": (
            weights / 1e9
        ),
        f"GB kept of layers' inputs: {samples} x 2 x {tokens:.0f} tokens x {width} x {layers} x 2 bytes": (
            kept / 1e9
        ),
        f"GB of one layer again: {samples} x {tokens:.0f} tokens x (78 x {width} + 17 x {hidden}) bytes": (
            again / 1e9
        ),
        "GB of logits: 2^26 at a time x 16 bytes": LOGITS_BYTES / 1e9,
        f"GB on a GPU in all, {samples} samples": (weights + kept + again + LOGITS_BYTES) / 1e9,
        f"s a step: {samples} x {operations / 1e12:.2f} TFLOP by {GPU_RATE / 1e12:.0f} TFLOP/s": seconds,
        f"hours of pre-training, {PAPER_GPUS} GPUs: {PAPER_ITEMS:,} x {PAPER_EPOCHS} / {PAPER_BATCH} steps": (
            steps * seconds / 3600
        ),
    }


def free_bytes() -> float:
    """Bytes of main memory that a process may still take."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024.0
    raise OSError("/proc/meminfo has no MemAvailable")


def measure(options: Options) -> list[Comparison]:
    """One row: the steps, the checks, and what a GPU would need."""
    if not options.small and free_bytes() < FREE_BYTES:
        raise SystemExit(
            f"{free_bytes() / 1e9:.1f} GB of memory are free, {FREE_BYTES / 1e9:.0f} are wanted; close other "
            "programs, or pass --small"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, item_texts(20 if options.small else 150), options.small)
        found = _in_child(folder, options)
    expected = {
        "LoRA",
        "word embeddings",
        "code tokens",
        "adapter",
        "quantizer",
        "projection",
        "text",
        "vision",
    }
    checks = [
        Check(
            f"losses {', '.join(f'{loss:.1f}' for loss in found['losses'])} are finite",
            all(abs(loss) < float("inf") for loss in found["losses"]),
        ),
        Check(f"moved: {', '.join(found['moved_parts'])}", expected <= set(found["moved_parts"])),
        Check(f"frozen weights that moved: {len(found['moved_frozen'])}", not found["moved_frozen"]),
        Check(
            f"peak {found['peak_bytes'] / 1e9:.1f} GB, allowed {MOST_BYTES / 1e9:.0f}",
            found["peak_bytes"] < MOST_BYTES,
        ),
    ]
    notes = {f"trained parameters, {part}": float(count) for part, count in found["parts"].items()}
    notes |= {
        "trained parameters": float(found["trained"]),
        "frozen parameters": float(found["frozen"]),
        "tokens an item": found["tokens"],
        f"TFLOP a step of {BATCH} samples, counted": found["operations"] / 1e12,
        "peak GB of the process": found["peak_bytes"] / 1e9,
        **gpu_estimate(found, PAPER_BATCH // PAPER_GPUS),
    }
    timing = Timing(
        found["seconds"], [found["processor_seconds"] / len(found["seconds"])], found["peak_bytes"] / 1e6
    )
    size = "tiny Qwen2-VL" if options.small else "Qwen2-VL-2B, random weights"
    return [
        Comparison(
            f"UTGRec's tokenizer, {size}: steps of {BATCH} items and their neighbours",
            "steps",
            1,
            {OURS: timing},
            checks,
            notes=notes,
        )
    ]


def _in_child(folder: Path, options: Options) -> dict[str, Any]:
    import torch

    command = [sys.executable, "-m", "benchmarks.real_size", "--folder", str(folder)]
    command += ["--steps", str(options.repeats), "--threads", str(torch.get_num_threads())]
    answer = subprocess.run(
        [*command, *(["--small"] if options.small else [])],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    if answer.returncode:
        raise RuntimeError(f"the training step failed with status {answer.returncode}:\n{answer.stderr}")
    return json.loads(answer.stdout.splitlines()[-1])


def _child(arguments: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(arguments.threads)
    resource.setrlimit(resource.RLIMIT_DATA, (int(MOST_BYTES), int(MOST_BYTES)))
    print(json.dumps(train_here(arguments.folder, arguments.steps, arguments.small)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--small", action="store_true")
    given, _ = parser.parse_known_args()
    if given.folder:
        _child(given)
        sys.exit(0)
    sys.exit(main(measure))
