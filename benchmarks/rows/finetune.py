"""Finetuning examples per second against a trainer that pads and tokenises in every epoch."""

from __future__ import annotations

from itertools import chain, count, cycle

from benchmarks.marks import of_finetuning
from benchmarks.materials import VOCAB_ROWS, Bench
from benchmarks.measure import Work, best_precision, hottest, interleaved, ratio, ratios
from benchmarks.ours import SHAPES, Finetuning, model_config
from benchmarks.peers.padded import PaddedTrainer
from benchmarks.report import Comparison, Figure, RowResult, precision_notes
from emergence.answering.finetune import training_batches
from emergence.data.qa_encoding import encode_qa
from emergence.spec.model_size import training_flops_per_token

#: Updates of ours in one piece of work (they are short), and examples in one of the predecessor's.
OUR_UPDATES, THEIR_BATCH = 10, 8


def run(bench: Bench) -> RowResult:
    """Examples per second at both shapes, all weights trained."""
    shapes = {"1x16": (1, 16, 2)} if bench.toy else SHAPES
    precision = best_precision(bench.device)
    work: dict[str, Work] = {"GEMM": bench.gemm()}
    flops: dict[str, float] = {}
    for name, shape in shapes.items():
        ours, padded, tokens = pair(bench, shape)
        work |= {f"ours, {name}": ours, f"padded predecessor, {name}": padded}
        # No head over the vocabulary; attention is that of a question's length, nearly.
        flops[name] = tokens * training_flops_per_token(model_config(shape, round(tokens)), vocab_rows=0)
    seconds = interleaved(work, bench.repeats, bench.device)
    gemms = seconds.pop("GEMM")
    return RowResult(
        row="finetune",
        title="finetuning, all weights",
        figures=[Figure.rate(name, "examples/s", found) for name, found in seconds.items()],
        comparisons=[
            Comparison.of(
                f"{name} against padded predecessor",
                ratios(seconds[f"padded predecessor, {name}"], seconds[f"ours, {name}"]),
                of_finetuning(bench.device),
                limit=ratio(seconds[f"padded predecessor, {name}"], [g * flops[name] for g in gemms]),
            )
            for name in shapes
        ],
        data=bench.questions_name,
        notes=[*precision_notes(precision, bench.device), f"the profile is of {next(iter(shapes))}"],
        profile=hottest(work[f"ours, {next(iter(shapes))}"], bench.device),
    )


def pair(bench: Bench, shape: tuple[int, int, int]) -> tuple[Work, Work, float]:
    """Ours and the predecessor's piece of work, whose unit is one training example, and an example's tokens."""
    tokenizer, examples = bench.pretraining.tokenizer, bench.qa["train"]
    vocab = 448 if bench.toy else VOCAB_ROWS
    data, _ = encode_qa(examples, tokenizer, "question-first", 512)
    ours = Finetuning(model_config(shape), vocab, best_precision(bench.device), bench.device)
    indices = chain.from_iterable(training_batches(data, ours.settings, seed=0, epoch=epoch) for epoch in count())
    trainer = PaddedTrainer(tokenizer, vocab, *shape, bench.device)
    samples = cycle(examples)

    def update() -> float:
        taken = [next(indices) for _ in range(1 if bench.toy else OUR_UPDATES)]
        for index in taken:
            ours.step(data, index)
        return float(sum(map(len, taken)))

    def their_update() -> float:
        return float(trainer.finetune_step([next(samples) for _ in range(THEIR_BATCH)]))

    return update, their_update, float(data.lengths.mean())
