"""Memory that an update of pretraining takes above the weights, against a trainer that pads."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from benchmarks.materials import VOCAB_ROWS, Bench
from benchmarks.measure import best_precision, in_child, peak_bytes_above
from benchmarks.ours import SHAPES, Pretraining, model_config
from benchmarks.peers.padded import LENGTH, PaddedTrainer
from benchmarks.report import Comparison, Figure, RowResult
from emergence.data.tokenizer import TextTokenizer

MARK = 1 / 8
BATCH = 8


def run(bench: Bench) -> RowResult:
    """Peak resident memory of one update, optimiser state and gradients included, each in a fresh process."""
    shape, vocab, batch = ((1, 16, 2), 448, 2) if bench.toy else (SHAPES["2x128"], VOCAB_ROWS, BATCH)
    repeats = 1 if bench.toy else 2  # memory does not vary as time does
    tokenizer = bench.pretraining.tokenizer.to_json()
    device = bench.device.type
    taken = [in_child(_ours, shape, vocab, batch, device) for _ in range(repeats)]
    ours = [one["peak"] / 1e6 for one in taken]
    padded = [in_child(_padded, tokenizer, shape, vocab, batch, device) / 1e6 for _ in range(repeats)]
    return RowResult(
        row="memory",
        title=f"memory above the weights, 2x128, one update of {batch} x {LENGTH} positions",
        figures=[Figure.of("ours", "MB", ours), Figure.of("padded predecessor", "MB", padded)],
        comparisons=[
            Comparison(
                "share of the predecessor's",
                statistics.median(ours) / statistics.median(padded),
                MARK,
                at_least=False,
                limit=(taken[0]["gradients"] + taken[0]["states of the optimisers"]) / 1e6 / statistics.median(padded),
            )
        ],
        data="arbitrary ids",
        notes=[
            "optimiser state, gradients and the library's own buffers included; weights excluded",
            "medians of two processes of each",
            "the limit is what gradients and states of the optimisers take alone; the profile is of bytes",
        ],
        profile=[
            {"what": part, "share": round(taken[0][part] / taken[0]["peak"], 3)} for part in taken[0] if part != "peak"
        ],
    )


def _ours(shape: tuple[int, int, int], vocab: int, batch: int, device_name: str) -> dict[str, int]:
    """Bytes at the peak, and what they hold."""
    torch.set_num_threads(1)
    device = torch.device(device_name)
    side = Pretraining(model_config(shape, LENGTH), vocab, best_precision(device), device)
    ids = torch.randint(0, vocab, (batch, LENGTH + 1), device=device)
    peak = _peak(lambda: side.step(ids), device)
    gradients = sum(weight.nbytes for weight in side.trunk.parameters())
    tensors = [x for one in side.optimizers.state_dict() for of in one["state"].values() for x in of.values()]
    states = sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))
    rest = peak - gradients - states
    return {"peak": peak, "gradients": gradients, "states of the optimisers": states, "what is computed with": rest}


def _padded(tokenizer: str, shape: tuple[int, int, int], vocab: int, batch: int, device_name: str) -> int:
    torch.set_num_threads(1)
    device = torch.device(device_name)
    trainer = PaddedTrainer(TextTokenizer.from_json(tokenizer), vocab, *shape, device)
    return _peak(lambda: trainer.pretrain_step(["A paragraph of the usual length."] * batch), device)


def _peak(work: Callable[[], object], device: torch.device) -> int:
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    return peak_bytes_above(work)
