"""The linear probe of one layer against running the frozen trunk again in each of 15 epochs."""

from __future__ import annotations

import statistics
from itertools import cycle

import torch

from benchmarks.marks import against_float32
from benchmarks.materials import VOCAB_ROWS, Bench
from benchmarks.measure import best_precision, hottest, interleaved, ratio, ratios
from benchmarks.ours import SHAPES, model_config
from benchmarks.peers.padded import PaddedTrainer
from benchmarks.report import Comparison, Figure, RowResult, precision_notes
from emergence.answering.evaluate import gold_spans
from emergence.answering.features import cache_features
from emergence.answering.probe_data import ProbeData, standardise_
from emergence.answering.probe_fitting import fit_linear_probe
from emergence.data.qa_encoding import EncodedQA, encode_qa
from emergence.model import Trunk, build_trunk
from emergence.spec.config import ModelConfig, load_config
from emergence.training.context import Context

#: Of bf16 tiles.
MARK = 600.0
#: Ridges that a run chooses among.
RIDGES = load_config("tiny").probe.ridges
CHOSEN = f"ridge chosen among {len(RIDGES)}"
EXAMPLES, EPOCHS, THEIR_BATCH = 2_000, 15, 8


def run(bench: Bench) -> RowResult:
    """Seconds of the whole probe, from encoded questions to fitted weights."""
    shape, vocab = ((1, 16, 2), 448) if bench.toy else (SHAPES["2x128"], VOCAB_ROWS)
    n = 20 if bench.toy else EXAMPLES
    tokenizer = bench.pretraining.tokenizer
    examples = [example for example, _ in zip(cycle(bench.qa["train"]), range(n), strict=False)]
    train, _ = encode_qa(examples, tokenizer, "question-first", 512, "text")
    few, _ = encode_qa(bench.qa["validation"][: n // 10], tokenizer, "question-first", 512, "text")
    trunk = build_trunk(model_config(shape), vocab, seed=0, init="normal").eval().to(bench.device)
    precision = best_precision(bench.device)
    trainer = PaddedTrainer(tokenizer, vocab, *shape, bench.device)
    samples = cycle(examples)

    def cached(ridges: tuple[float, ...]) -> float:
        fit(trunk, train, few, precision, bench.device, ridges)
        return 1.0

    def rerun() -> float:
        trainer.probe_step([next(samples) for _ in range(THEIR_BATCH)])
        return THEIR_BATCH / (EPOCHS * n)  # of one whole probe

    seconds = interleaved(
        {
            "ours": lambda: cached((1e-2,)),
            "rerun": rerun,
            CHOSEN: lambda: cached(RIDGES),
            "GEMM": bench.gemm(),
        },
        bench.repeats,
        bench.device,
    )
    mark = against_float32(MARK, bench.device)
    tokens = int(train.lengths.sum() + few.lengths.sum())
    flops = tokens * least_operations_per_token(model_config(shape))
    limit = ratio(seconds["rerun"], [g * flops for g in seconds["GEMM"]])
    return RowResult(
        row="probe",
        title=f"linear probe of one layer, {n:,} examples, against {EPOCHS} epochs with the trunk run again, 2x128",
        figures=[
            Figure.of("ours, to the optimum at one ridge", "s", seconds["ours"]),
            Figure.of(f"ours, {CHOSEN}", "s", seconds[CHOSEN]),
            Figure.of("trunk run again, padded", "s", seconds["rerun"]),
        ],
        comparisons=[
            Comparison.of(what, ratios(seconds["rerun"], seconds[name]), mark, limit=limit)
            for what, name in (
                ("against running the trunk again", "ours"),
                (f"the same, {CHOSEN}", CHOSEN),
            )
        ],
        data=bench.questions_name,
        notes=[
            *precision_notes(precision, bench.device),
            f"the peer's time is that of batches of {THEIR_BATCH}, times their number in {EPOCHS} epochs",
            f"questions have {statistics.mean(train.lengths.tolist()):.0f} tokens on average, padded to 512 there",
            "the limit is the trunk's products with its weights that every token needs, once over all questions",
        ],
        profile=hottest(lambda: cached(RIDGES), bench.device),
    )


def least_operations_per_token(config: ModelConfig) -> float:
    """Floating-point operations of the trunk's weights on a token whose own state nobody reads.

    In the last block it is asked for its key and value alone. Attention and the fit count as none.
    """
    block = (4 + 2 * config.mlp_ratio) * config.hidden_size**2
    return 2.0 * ((config.n_layers - 1) * block + 2 * config.hidden_size**2)


def fit(
    trunk: Trunk,
    train: EncodedQA,
    validation: EncodedQA,
    precision: str,
    device: torch.device,
    ridges: tuple[float, ...],
) -> None:
    """Cache the last layer's states and fit the linear probe on them, with the best of ``ridges``."""
    config = load_config("tiny", [f"probe.ridges={list(ridges)}"]).probe
    layer = trunk.n_layers
    parts = [
        ProbeData(
            cache_features(trunk, data, [layer], Context(device, precision)).layer(layer),
            gold_spans(data),
        )
        for data in (train, validation)
    ]
    statistics_ = standardise_(parts[0].features, parts[1].features)
    fit_linear_probe(parts[0], parts[1], statistics_, config, layer=layer, max_answer_words=20)
