"""Seconds until held-out loss is what the best-tuned GPT-2 has after one pass over the same text.

GPT-2 is trained with AdamW at rates that are doubled or halved for as long as that helps, then with longer warm-ups and
rates beyond, on the first seed. What it has with the best of them, seed by seed, is what ours must reach: the modern
recipe as it is configured, in whole runs of ever more updates, each with its own schedule. Seconds are updates times
the median seconds of one, measured in turn, both sides compiled or neither; compiling itself is not counted. The peer
is tuned on the held-out text that decides, ours is not.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import hashlib
import inspect
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.drawing import saved_canvas
from benchmarks.marks import kind_of, kind_of_result
from benchmarks.materials import VOCAB_ROWS, Bench
from benchmarks.measure import Work, best_precision, hottest, interleaved, ratios, repeated
from benchmarks.ours import Pretraining
from benchmarks.peers import gpt2
from benchmarks.report import Comparison, Figure, RowResult, number, precision_notes
from benchmarks.rows.pretrain import LENGTH, on
from emergence.data.stream import SequenceOrder, TokenStream
from emergence.files import write_json_atomic
from emergence.spec.config import ModelConfig, PretrainConfig, load_config
from emergence.spec.model_size import training_flops_per_token
from emergence.training.execution import step_loss
from emergence.training.schedule import context_window, learning_rate_factor

MARK = 4.0
SEEDS = (0, 1, 2)
#: Sequences of an update, on both sides, and updates of the peer's pass: about a million tokens.
BATCH, PASS = 8, 256
#: Peak rates of the peer that are tried first, with the first of its warm-ups (shares of the updates).
PEER_RATES, PEER_WARM_UPS = (1e-3, 2e-3, 4e-3), (0.02, 0.1, 0.3)
#: Parts of the pass that ours is given, until one is enough and the one before is not.
PARTS = tuple(n / 24 for n in (*range(2, 13), 14, 16, 18, 20, 22, 24))
#: Where the search in them begins: a third of the pass.
START = PARTS.index(8 / 24)
#: Held-out sequences that are scored, and how often in a run.
HELD_OUT, POINTS = 64, 8

#: Peak rate and warm-up of the peer.
Setting = tuple[float, float]
#: Held-out loss in nats per token by the updates made, the last at the end of the run.
Curve = list[tuple[int, float]]


@dataclass(frozen=True)
class Text:
    """Packed text: the sequences of one pass, and held-out ones (N, T+1)."""

    train: TokenStream
    held_out: Tensor
    n_sequences: int
    length: int

    @property
    def updates(self) -> int:
        """Of one pass."""
        return self.n_sequences // BATCH

    def batches(self, seed: int) -> Iterator[Tensor]:
        """Batches (B, T+1) in the order of a seed, without end."""
        order, position = SequenceOrder(self.n_sequences, seed), 0
        while True:
            ids = self.train.get(order.take(position, BATCH), self.length)
            yield torch.from_numpy(ids).to(self.held_out.device)
            position += BATCH

    def curve(
        self, step: Callable[[Tensor], None], loss_of: Callable[[Tensor], Tensor], updates: int, seed: int
    ) -> Curve:
        """Train for so many updates, scoring on the way."""
        marks = {max(1, round(updates * n / POINTS)) for n in range(1, POINTS + 1)}
        found = []
        for made, ids in zip(range(1, updates + 1), self.batches(seed), strict=False):
            step(ids)
            if made in marks:
                with torch.no_grad():
                    losses = [float(loss_of(part)) for part in self.held_out.split(BATCH)]
                found.append((made, statistics.fmean(losses)))
        return found


@dataclass(frozen=True)
class Parties:
    """Both sides at one size."""

    text: Text
    model: ModelConfig
    settings: PretrainConfig
    vocab: int
    precision: str
    compiled: bool = False
    kept: Path | None = None  # folder of the peer's curves, most of an hour's work that does not depend on ours

    @property
    def sizes(self) -> list[int]:
        """Updates that ours is given, the fewest first."""
        return sorted({max(1, round(part * self.text.updates)) for part in PARTS})

    def peer(self, setting: Setting, updates: int, seed: int) -> Curve:
        """GPT-2 with a rate and a warm-up, in a run of its own, or as an earlier command found it."""
        shape = (self.model.n_layers, self.model.hidden_size, self.model.n_heads)
        if self.kept is None:
            return self._train_peer(shape, setting, updates, seed)
        held_out = self.text.held_out
        tokens = hashlib.sha256(held_out.cpu().numpy().tobytes()).hexdigest()
        about = [self.text.train.fingerprint, self.text.n_sequences, tokens, *held_out.shape, BATCH, POINTS,
                 self.compiled, *shape, self.vocab, self.precision, *setting, updates, seed,
                 torch.__version__, kind_of(held_out.device), *map(inspect.getsource, (gpt2, Text))]  # fmt: skip
        file = self.kept / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()}.json"
        if not file.is_file():
            self.kept.mkdir(parents=True, exist_ok=True)
            write_json_atomic(file, self._train_peer(shape, setting, updates, seed))
        return [(made, loss) for made, loss in json.loads(file.read_text(encoding="utf-8"))]

    def _train_peer(self, shape: tuple[int, int, int], setting: Setting, updates: int, seed: int) -> Curve:
        rate, warm_up = setting
        torch.manual_seed(seed)
        torch.compiler.reset()  # compiles only so many nets otherwise
        net = gpt2.PlainGPT2(self.vocab, *shape, self.text.length)
        schedule = gpt2.cosine(updates, warm_up)
        device = self.text.held_out.device
        compiled = self.compiled and device.type == "cpu"  # a GPU is through before it would be compiled
        step = gpt2.tuned_step(net, self.precision, compiled, device, rate, schedule)
        return self.text.curve(step, lambda ids: gpt2.tuned_loss(net, ids, self.precision), updates, seed)

    def ours(self, updates: int, seed: int) -> Curve:
        """The recipe as it is configured, in a run of its own."""
        device, settings = self.text.held_out.device, self.settings
        made = Pretraining(self.model, self.vocab, self.precision, device, settings=settings, seed=seed)
        done = 0

        def step(ids: Tensor) -> None:
            nonlocal done
            made.optimizers.set_factor(learning_rate_factor(done, settings, updates))
            made.step(ids, context_window(done, settings, updates))
            done += 1

        def loss_of(ids: Tensor) -> Tensor:
            return step_loss(made.trunk, made.trunk, ids, settings.loss_chunk_rows, self.precision)

        return self.text.curve(step, loss_of, updates, seed)

    def best_peer(self) -> tuple[Setting, dict[Setting, Curve]]:
        """The rate and, with it, the warm-up that are best after one pass, and the curves of all that were tried."""
        tried: dict[Setting, Curve] = {}

        def loss(setting: Setting) -> float:
            tried[setting] = tried.get(setting) or self.peer(setting, self.text.updates, SEEDS[0])
            return tried[setting][-1][1]

        def beyond(best: Setting) -> Setting:
            """Double or halve the rate for as long as that helps."""
            for factor in (2.0, 0.5):
                while loss(further := (best[0] * factor, best[1])) < loss(best):
                    best = further
            return best

        best = beyond(min(((rate, PEER_WARM_UPS[0]) for rate in PEER_RATES), key=loss))
        return beyond(min(((best[0], warm_up) for warm_up in PEER_WARM_UPS), key=loss)), tried

    def fewest(self, loss: float, seed: int, start: int) -> tuple[int | None, dict[int, Curve]]:
        """The fewest updates whose run ends at that loss, taking it that more updates end at a lower one.

        They are sought upwards, then downwards, from part ``start``, and then between two parts, to the update. Without
        that, all runs would be longer than need be, by half of what lies between two parts. Fewer than the first part
        are not tried.
        """
        sizes, tried = self.sizes, dict[int, Curve]()

        def reaches(size: int) -> bool:
            tried[size] = tried.get(size) or self.ours(size, seed)
            return tried[size][-1][1] <= loss

        at = min(start, len(sizes) - 1)
        while not reaches(sizes[at]):
            at += 1
            if at == len(sizes):
                return None, tried
        while at and reaches(sizes[at - 1]):
            at -= 1
        enough, too_few = sizes[at], sizes[at - 1] if at else sizes[0] - 1
        while enough - too_few > 1:
            between = (enough + too_few) // 2
            enough, too_few = (between, too_few) if reaches(between) else (enough, between)
        return enough, tried


def run(bench: Bench, size: str) -> RowResult:
    """Time to the peer's loss at one size."""
    parties = parties_of(bench, size)
    text, model, precision, device = parties.text, parties.model, parties.precision, bench.device
    best, swept = parties.best_peer()
    peers = {seed: swept[best] if seed == SEEDS[0] else parties.peer(best, text.updates, seed) for seed in SEEDS}
    needed: dict[int, int] = {}
    curves: dict[int, dict[int, Curve]] = {}
    start = START
    for seed in SEEDS:
        found, curves[seed] = parties.fewest(peers[seed][-1][1], seed, start)
        if found is not None:
            needed[seed], start = found, bisect.bisect_left(parties.sizes, found)
    seconds, profile = _seconds(bench, parties)
    flops = training_flops_per_token(model, parties.vocab)
    tokens = BATCH * text.length
    per_update = {name: tokens * statistics.median(seconds[name]) for name in ("ours", "peer")}
    shares = [needed[seed] / text.updates if seed in needed else math.inf for seed in SEEDS]
    by_seed = [per_update["peer"] / (per_update["ours"] * share) for share in shares]  # 0 where it is never reached
    share = statistics.median(shares)
    compute = [flops * g / s for g, s in zip(seconds["GEMM"], seconds["ours"], strict=True)]
    alone = [p / (flops * g) for g, p in zip(seconds["GEMM"], seconds["peer"], strict=True)]
    limit = statistics.median(alone) / share
    costs = ratios(seconds["ours"], seconds["peer"])
    uncompiled = ratios(seconds["ours, not compiled"], seconds["peer, not compiled"])
    unit = "CPU s" if device.type == "cpu" else "s"
    figures = [
        Figure.of("best-tuned GPT-2, one pass", unit, [text.updates * tokens * s for s in seconds["peer"]]),
        Figure.of("loss to be reached", "nats/token", [peers[seed][-1][1] for seed in SEEDS]),
        Figure.of("an update of ours, that of GPT-2 = 1", "", costs),
        Figure.of("the same, neither compiled", "", uncompiled),
        Figure.of("ours, share of the peak of matrix products", "", compute),
    ]
    if needed:
        reached = list(needed.values())
        of = "" if len(needed) == len(SEEDS) else f" ({len(needed)} of {len(SEEDS)} seeds)"
        figures += [
            Figure.of(f"ours to the same loss{of}", unit, [n * per_update["ours"] for n in reached]),
            Figure.of(f"ours, updates, the pass = 1{of}", "", [n / text.updates for n in reached]),
        ]
    return RowResult(
        row=f"time-to-loss-{size}",
        title=f"time to the loss of GPT-2 after one pass, {size}",
        figures=figures,
        comparisons=[
            Comparison.of("against best-tuned GPT-2", [1 / (cost * share) for cost in costs], MARK, limit=limit),
            Comparison.of("the same, neither compiled", [1 / (cost * share) for cost in uncompiled], MARK, limit=limit),
        ],
        data=bench.text_name,
        notes=[
            *precision_notes(precision, device, tuned_peer=True),
            f"one pass is {text.updates} updates of {tokens:,} tokens, vocabulary {parties.vocab:,}; "
            f"{len(SEEDS)} seeds: {', '.join(map(_times, by_seed))}; rounds are those of the seconds",
            "compiling, most of a minute on each side, is not counted; `auto` does not compile so short a run on a CPU",
            f"GPT-2 with rate {best[0]:g} and a warm-up of {best[1]:.0%}, the best of {len(swept)} tried "
            f"({', '.join(f'{rate:g} and {warm_up:.0%}' for rate, warm_up in sorted(swept))}); ours as configured",
        ],
        profile=profile,
        facts={
            "per_update": per_update,
            "peer": {str(seed): curve for seed, curve in peers.items()},
            "swept": [{"rate": rate, "warm_up": warm_up, "curve": c} for (rate, warm_up), c in swept.items()],
            "ours": {str(seed): {str(n): c for n, c in tried.items()} for seed, tried in curves.items()},
            "needed": {str(seed): n for seed, n in needed.items()},
        },
    )


def parties_of(bench: Bench, size: str) -> Parties:
    """Both sides of a named size, on the bench's text."""
    config = load_config(size)
    model, vocab, length, updates = config.model, VOCAB_ROWS, LENGTH, PASS
    if bench.toy:
        model, vocab, length, updates = dataclasses.replace(model, n_layers=1, hidden_size=16, n_heads=2), 448, 32, 8
    model = dataclasses.replace(model, sequence_length=length)
    data = bench.pretraining
    order = SequenceOrder(data.validation.n_sequences(length), seed=0)
    held_out = torch.from_numpy(data.validation.get(order.take(0, min(HELD_OUT, order.n_sequences)), length))
    n = min(data.train.n_sequences(length), updates * BATCH)
    text = Text(data.train, held_out.to(bench.device), n, length)
    settings = dataclasses.replace(config.pretrain, batch_size=BATCH)
    kept = None if bench.toy else bench.cache / "peer-curves"
    return Parties(text, model, settings, vocab, best_precision(bench.device), compiled=not bench.toy, kept=kept)


def _seconds(bench: Bench, parties: Parties) -> tuple[Mapping[str, list[float]], list[dict[str, Any]]]:
    """Seconds per token of both, compiled, in turn, and per operation of a matrix product; where ours spends them."""
    model, device, precision = parties.model, bench.device, parties.precision
    settings, compiled = parties.settings, parties.compiled
    ours = Pretraining(model, parties.vocab, precision, device, compiled=compiled, settings=settings)
    net = gpt2.PlainGPT2(parties.vocab, model.n_layers, model.hidden_size, model.n_heads, parties.text.length)
    peer = gpt2.tuned_step(net, precision, compiled, device)
    batches = parties.text.batches(0)
    flops = BATCH * parties.text.length * training_flops_per_token(model, parties.vocab)
    plain = Pretraining(model, parties.vocab, precision, device, settings=settings)
    plain_peer = gpt2.tuned_step(copy.deepcopy(net), precision, False, device)
    work: dict[str, Work] = {
        "ours": repeated(on(batches, ours.step), device, flops),
        "peer": repeated(on(batches, peer), device, flops),
        "ours, not compiled": repeated(on(batches, plain.step), device, flops),
        "peer, not compiled": repeated(on(batches, plain_peer), device, flops),
        "GEMM": bench.gemm(),
    }
    return interleaved(work, bench.repeats, device), hottest(work["ours"], device)


def draw(results: Sequence[Mapping[str, Any]], file: Path) -> str:
    """Held-out loss against seconds, ours and the peer, one panel a size; returns a line a panel."""
    with saved_canvas(file, max(4.8, 3.6 * len(results)), 3.0) as canvas:
        panels = canvas.subplots(1, len(results), squeeze=False).flat
        lines = [_draw_one(panel, result) for panel, result in zip(panels, results, strict=True)]
        canvas.axes[0].set_ylabel("held-out loss, nats per token")
        handles, labels = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, fontsize=7, loc="outside lower center", ncols=3, frameon=False)
    return "\n".join(lines)


def _draw_one(panel: Any, result: Mapping[str, Any]) -> str:
    facts, peer, mine = result["facts"], "#b0413e", "#1f5f8b"
    each = facts["per_update"]
    for seed, curve in facts["peer"].items():
        names = ("best-tuned GPT-2", "its loss after one pass") if seed == min(facts["peer"]) else ("", "")
        steps, losses = zip(*curve, strict=True)
        panel.plot([each["peer"] * n for n in steps], losses, color=peer, lw=1, label=names[0])
        panel.axhline(losses[-1], color=peer, lw=0.5, ls=":", label=names[1])
        if seed not in facts["needed"]:
            continue
        steps, losses = zip(*facts["ours"][seed][str(facts["needed"][seed])], strict=True)
        panel.plot(
            [each["ours"] * n for n in steps],
            losses,
            color=mine,
            lw=1,
            label="ours" if seed == min(facts["needed"]) else "",
        )
        panel.plot(each["ours"] * steps[-1], losses[-1], "o", color=mine, markersize=3)
    unit = "CPU seconds, one thread" if result["device"] == "cpu" else "seconds"
    title = result["row"].removeprefix("time-to-loss-")
    panel.set(title=f"{title}, {kind_of_result(result)}", xlabel=unit, xscale="log")
    low, high = panel.get_xlim()
    ticks = [n * 10.0**power for power in range(-3, 6) for n in (1, 3) if low <= n * 10.0**power <= high]
    panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panel.set_xticks([], minor=True)
    found = result["comparisons"][0]
    return f"{title}: {_times(found['value'])}"


def _times(ratio: float) -> str:
    return f"{number(ratio)} times as fast" if ratio > 0 else "never reached"
