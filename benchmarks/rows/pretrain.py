"""Pretraining tokens per second against a trainer that pads, Hugging Face's GPT-2, and GPT-2 at its best."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from benchmarks.marks import against_float32, against_tuned
from benchmarks.materials import VOCAB_ROWS, Bench
from benchmarks.measure import Work, best_precision, hottest, interleaved, ratio, ratios, repeated
from benchmarks.ours import SHAPES, Pretraining, model_config
from benchmarks.peers.gpt2 import PlainGPT2, hugging_face_step, tuned_step
from benchmarks.peers.padded import PaddedTrainer
from benchmarks.report import Comparison, Figure, RowResult, precision_notes
from emergence.data.stream import SequenceOrder
from emergence.spec.model_size import training_flops_per_token

#: Marks of bf16 tiles by shape: against the padded predecessor and plain GPT-2, both in float32; the best-tuned one.
MARKS = {"2x128": (20.0, 4.0, 1.7), "4x256": (18.0, 4.0, 1.3)}
LENGTH = 512
#: Packed sequences per update: those of tiny, and half of those of small, where an update takes long. The padded
#: predecessor, an update of which takes many times as long, has half of them.
BATCH = {"2x128": 8, "4x256": 16}


def run(bench: Bench, shape_name: str) -> RowResult:
    """Tokens per second of one shape."""
    shape = (1, 16, 2) if bench.toy else SHAPES[shape_name]
    batch, vocab = (2, 448) if bench.toy else (BATCH[shape_name], VOCAB_ROWS)
    config, precision, device = model_config(shape, LENGTH), best_precision(bench.device), bench.device
    compiled = not bench.toy
    ours = Pretraining(config, vocab, precision, device)
    ours_compiled = Pretraining(config, vocab, precision, device, compiled=compiled)
    torch.manual_seed(0)
    packed = batches(bench, batch)
    padded_batch = batch // 2
    padded, padding = padded_work(bench, shape, vocab, padded_batch)
    work: dict[str, Work] = {
        "ours": on(packed, ours_compiled.step),
        "padded predecessor": padded,
        "Hugging Face GPT-2": on(packed, hugging_face_step(vocab, *shape, LENGTH, device)),
        "best-tuned GPT-2": on(packed, tuned_step(PlainGPT2(vocab, *shape, LENGTH), precision, compiled, device)),
        "ours, not compiled": on(packed, ours.step),
        "GEMM": bench.gemm(),
    }
    flops = training_flops_per_token(config, vocab)
    sequences = dict.fromkeys(work, batch) | {"padded predecessor": padded_batch}
    work |= {n: repeated(piece, device, flops * sequences[n] * LENGTH) for n, piece in work.items() if n != "GEMM"}
    seconds = interleaved(work, bench.repeats, device)
    gemms = seconds.pop("GEMM")
    shares = [g * flops / s for g, s in zip(gemms, seconds["ours"], strict=True)]
    peak = Figure.rate("matrix products alone", "GFLOP/s", [1e9 * s for s in gemms])
    padded_mark, plain_mark, tuned_mark = MARKS[shape_name]
    marks = {
        "padded predecessor": against_float32(padded_mark, device),
        "Hugging Face GPT-2": against_float32(plain_mark, device),
        "best-tuned GPT-2": against_tuned(tuned_mark, device),
    }
    limits = {name: ratio(seconds[name], [g * flops for g in gemms]) for name in marks}
    return RowResult(
        row=f"pretrain-{shape_name}",
        title=f"pretraining, {shape_name}, {VOCAB_ROWS:,} tokens of vocabulary",
        figures=[
            *(Figure.rate(name, "tokens/s", found) for name, found in seconds.items()),
            peak,
            Figure.of("ours, share of that", "", shares),
        ],
        comparisons=[
            Comparison.of(f"against {name}", ratios(seconds[name], seconds["ours"]), mark, limit=limits[name])
            for name, mark in marks.items()
        ],
        data=bench.text_name,
        notes=[
            *precision_notes(precision, bench.device, tuned_peer=True),
            f"padding is {padding:.0%} of the predecessor's tokens, as 500 paragraphs tell; "
            f"its updates are of {padded_batch} sequences, all others of {batch}",
        ],
        profile=hottest(work["ours"], device),
        facts={"flops_per_token": flops, "sequences_per_update": batch, "sequence_length": LENGTH},
    )


def batches(bench: Bench, batch: int) -> Iterator[Tensor]:
    """Packed sequences (B, T+1) in training order, without end."""
    stream = bench.pretraining.train
    order = SequenceOrder(stream.n_sequences(LENGTH), seed=0)
    position = 0
    while True:
        index = order.take(position, batch)
        position += batch
        yield torch.from_numpy(stream.get(index, LENGTH)).to(bench.device)


def on(packed: Iterator[Tensor], step: Callable[[Tensor], None]) -> Work:
    """An update on the next packed batch; its unit is one predicted token."""

    def update() -> float:
        ids = next(packed)
        step(ids)
        return float(ids[:, 1:].numel())

    return update


def padded_work(bench: Bench, shape: tuple[int, int, int], vocab: int, batch: int) -> tuple[Work, float]:
    """The predecessor's update on random paragraphs, per real token, and the share of its tokens that is padding.

    An update takes as long however short its paragraphs are, so it counts for as many tokens as one holds on average.
    """
    trainer = PaddedTrainer(bench.pretraining.tokenizer, vocab, *shape, bench.device)
    order = np.random.default_rng(0).permutation(len(bench.paragraphs))
    texts = cycle([bench.paragraphs[i] for i in order])
    sample = [min(LENGTH, len(trainer.tokenizer.encode(bench.paragraphs[i]).ids)) for i in order[:500]]
    real = batch * sum(sample) / len(sample)

    def update() -> float:
        trainer.pretrain_step([next(texts) for _ in range(batch)])
        return real

    return update, 1 - sum(sample) / (LENGTH * len(sample))
