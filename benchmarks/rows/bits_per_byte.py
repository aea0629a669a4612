"""Bits per byte after equal compute: the modern recipe against GPT-2 style with AdamW, at the best of three rates.

Equal compute is equal CPU seconds: how long an update of each takes is measured first, in turn, and the
cheaper one gets more updates. A small budget, so the figure is that of early training.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.materials import Bench
from benchmarks.measure import best_precision, interleaved
from benchmarks.ours import SHAPES, Pretraining, model_config
from benchmarks.report import Comparison, Figure, RowResult, precision_notes
from benchmarks.rows.pretrain import on
from emergence.data.sources import prepare_pretraining_data
from emergence.data.stream import SequenceOrder
from emergence.model import build_trunk
from emergence.spec.config import RECIPES, ModelConfig, PretrainConfig, load_config
from emergence.training.checkpoint import Checkpointer
from emergence.training.context import Context
from emergence.training.language_model_eval import evaluate_language_model
from emergence.training.pretrain import pretrain

MARK = -0.20
VOCAB, LENGTH, BATCH, UPDATES = 4_096, 256, 8, 120
#: GPT-2 style is run with each of these; the best result stands.
PEER_RATES = (3e-4, 1e-3, 3e-3)


def run(bench: Bench) -> RowResult:
    """Train both recipes and score both on the same held-out text."""
    shape, updates = ((1, 16, 2), 4) if bench.toy else (SHAPES["2x128"], UPDATES)
    spec = dataclasses.replace(
        bench.spec,
        config=dataclasses.replace(
            bench.spec.config,
            model=dataclasses.replace(bench.spec.config.model, vocab_size=400 if bench.toy else VOCAB),
        ),
    )
    data = prepare_pretraining_data(spec, bench.cache)
    modern = dataclasses.replace(model_config(shape, LENGTH), vocab_size=data.tokenizer.vocab_size)
    gpt2 = dataclasses.replace(modern, **RECIPES["gpt2"]["model"])
    base = dataclasses.replace(
        load_config("tiny").pretrain, batch_size=BATCH, evaluations_per_epoch=1, step_snapshots=0,
        checkpoint_every_steps=10**9, validation_tokens=4_096, compile="off", max_passes=4.0,
    )  # fmt: skip
    precision, rows = best_precision(bench.device), data.tokenizer.vocab_rows
    context = Context(bench.device, precision)
    order = SequenceOrder(data.train.n_sequences(LENGTH), seed=0)

    def packed() -> torch.Tensor:
        return torch.from_numpy(data.train.get(order.take(0, BATCH), LENGTH)).to(bench.device)

    cost = interleaved(
        {
            name: on(iter(packed, None), Pretraining(config, rows, precision, bench.device, settings=settings).step)
            for name, config, settings in (("modern", modern, base), ("gpt2", gpt2, _peer(base, 1e-3)))
        },
        bench.repeats,
        bench.device,
    )
    shares = [m / g for m, g in zip(cost["modern"], cost["gpt2"], strict=True)]
    share = statistics.median(shares)
    more = max(1, round(updates * share))

    def train(config: ModelConfig, settings: PretrainConfig, n_updates: int) -> float:
        trunk = build_trunk(config, rows, seed=0)
        settings = dataclasses.replace(settings, samples_per_epoch=n_updates * BATCH)
        with tempfile.TemporaryDirectory() as folder:
            pretrain(
                trunk, data.train, data.validation, settings,
                dataclasses.replace(context, checkpointer=Checkpointer(Path(folder))),
                seed=0, save_snapshot=lambda *_: None,
            )  # fmt: skip
        found = evaluate_language_model(
            trunk, data.validation, LENGTH, context, settings.loss_chunk_rows, 32_768, strided=False
        )
        return found.bits_per_byte

    ours = train(modern, base, updates)
    peers = {rate: train(gpt2, _peer(base, rate), more) for rate in PEER_RATES}
    best = min(peers, key=lambda rate: peers[rate])
    return RowResult(
        row="bits-per-byte",
        title="bits per byte after equal compute, 2x128",
        figures=[
            Figure("modern recipe", ours, "bits/byte", [ours]),
            *(Figure(f"GPT-2 style, AdamW {rate:g}", found, "bits/byte", [found]) for rate, found in peers.items()),
            Figure.of("an update of the modern recipe, GPT-2 style = 1", "", shares),
        ],
        comparisons=[Comparison("difference to GPT-2 style", ours - peers[best], MARK, at_least=False, unit="")],
        data=bench.text_name,
        notes=[
            *precision_notes(precision, bench.device),
            f"{updates} updates of {BATCH * LENGTH:,} tokens against {more}: a small budget",
            f"vocabulary {data.tokenizer.vocab_size:,}, one seed",
        ],
        facts={"updates": updates, "peer_updates": more},
    )  # fmt: skip


def _peer(base: PretrainConfig, rate: float) -> PretrainConfig:
    return dataclasses.replace(base, **{**RECIPES["gpt2"]["pretrain"], "adamw_lr": rate})
