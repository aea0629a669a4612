"""Estimates of information emergence: states of a model and of its controls, layer by layer (docs/methods.md).

For block l, IE(l) is the information between the states before and after the block at the last of T tokens, minus the
mean over t of the same for token t fed alone. A cell of the study is one layer under one condition and seed. The states
of a condition lie on disk while its layers are estimated, so one layer at a time is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import entr

from emergence.answering.features import TOKENS_PER_BATCH
from emergence.data.token_texts import Ids, TokenTexts, resampled_tokens, shuffled_tokens
from emergence.errors import DataError, UsageError
from emergence.files import content_digest
from emergence.measures.bootstrap import Estimate
from emergence.measures.information import (
    BITS,
    KSG_DIMENSIONS,
    NOISE,
    OTHER_NOISE,
    PAIRS_PER_DIMENSION,
    REFUSED,
    FloatArray,
    Information,
    block_se,
    ceiling_of,
    fit_pooling,
    gaussian,
    infonce,
    ksg,
    with_noise,
)
from emergence.model import Encoder
from emergence.plain import plain
from emergence.studies.activations import keep_states, on_device
from emergence.studies.information.result import CONDITIONS, FILES, MODEL, InformationResult, LayerUsable, result_of
from emergence.studies.study import Cell, SealedStudy
from emergence.training.recording import Progress

#: Change it when a stored cell means something else.
CELL_VERSION = 1
#: Fewer dimensions leave a quarter of the pairs too few to be estimated from.
FEWEST_DIMENSIONS = 4
Row = dict[str, Any]


@dataclass(frozen=True)
class ModelToMeasure:
    """A model and its random twins.

    Attributes:
        weights: Digest of its weights.
        tokenizer: Fingerprint of its tokenizer.
        n_layers, hidden_size: L and D.
        max_tokens: Longest sequence that it takes.
        build: A function that makes it. twin: A function of a seed that makes a random twin.
        twins: Identity of what twins are drawn from, where several models share theirs; empty for ``weights``.
    """

    weights: str
    tokenizer: str
    n_layers: int
    hidden_size: int
    max_tokens: int
    build: Callable[[], Encoder]
    twin: Callable[[int], Encoder]
    twins: str = ""


@dataclass(frozen=True)
class Options:
    """What is asked.

    Attributes:
        n: Texts; half of them fit the pooling, the other half is estimated from.
        seeds: How many: each draws texts, controls, noise and a random twin.
        dimensions: To which states are pooled at most.
        layers: Blocks; None for all.
        with_ksg: Whether nearest neighbours check the first principal directions (needs the ``mi`` extra).
    """

    n: int = 20_000
    seeds: int = 3
    dimensions: int = 64
    layers: tuple[int, ...] | None = None
    with_ksg: bool = False


class InformationStudy(SealedStudy[Row, InformationResult]):
    """A cell is one layer under one condition and seed."""

    files = FILES
    noun = "layer"
    steps = "layers"

    def __init__(
        self,
        subject: dict[str, Any],
        model: ModelToMeasure,
        texts: TokenTexts,
        options: Options,
        *,
        device: torch.device,
        usable: dict[str, Estimate] | None = None,
        usable_by_layer: dict[str, tuple[LayerUsable, ...]] | None = None,
    ) -> None:
        self._subject, self._model, self._texts = subject, model, texts
        self._device, self._with_ksg = device, options.with_ksg
        self._usable, self._usable_by_layer = usable or {}, usable_by_layer
        self._n = min(options.n, texts.available)
        self._seeds = range(options.seeds)
        self._dimensions = min(options.dimensions, model.hidden_size)
        self._layers = tuple(range(model.n_layers)) if options.layers is None else options.layers
        self._refuse(options)

    def _refuse(self, options: Options) -> None:
        """Refuse what cannot be measured.

        Raises:
            UsageError, DataError: In one line with the cure.
        """
        model, texts = self._model, self._texts
        if texts.length > model.max_tokens:
            raise UsageError(f"texts of {texts.length} tokens, and the model takes {model.max_tokens}: lower --length")
        if wrong := [layer for layer in self._layers if not 0 <= layer < model.n_layers]:
            raise UsageError(f"--layers {wrong[0]}: the model has blocks 0 to {model.n_layers - 1}")
        if self._dimensions < FEWEST_DIMENSIONS:
            raise UsageError(f"{self._dimensions} dimensions: take {FEWEST_DIMENSIONS} at least")
        needed = PAIRS_PER_DIMENSION * self._dimensions
        if self._n < needed:
            cure = "raise --n" if options.n < needed <= texts.available else "give more texts, or lower --dimensions"
            raise DataError(f"{self._n:,} texts, but {self._dimensions} dimensions take {needed:,}: {cure}")
        if len(np.unique(texts.draw(self._n, 0), axis=0)) < 2:
            raise DataError(f"{texts.name}: all texts are the same {texts.length} tokens, which tell nothing")

    def cells(self, folder: Path) -> list[Cell[Row]]:
        cells = []
        for condition in CONDITIONS:
            for seed in self._seeds:
                of = self._decides(condition, seed)
                states = self._states(folder, condition, seed)
                for layer in self._layers:
                    is_last = layer == self._layers[-1]
                    cells.append(
                        Cell(
                            f"block {layer}, {condition}, seed {seed}",
                            content_digest([*of, layer])[:24],
                            partial(self._measure, condition, seed, layer, states, is_last),
                        )
                    )
        return cells

    def _decides(self, condition: str, seed: int) -> list[Any]:
        """All that decides the states of a condition's model."""
        model = self._model
        weights = (model.twins or model.weights) if condition == "random" else model.weights
        shared = [CELL_VERSION, weights, model.tokenizer, self._texts.fingerprint, self._n]
        return [*shared, self._dimensions, self._with_ksg, condition, seed]

    def _states(self, folder: Path, condition: str, seed: int) -> Path:
        return folder / f"{content_digest(self._decides(condition, seed))[:24]}.npy"

    def tidy(self, folder: Path) -> None:
        """States outlive the last layer's cell where that was done before, and another was not."""
        for condition in CONDITIONS:
            for seed in self._seeds:
                self._states(folder, condition, seed).unlink(missing_ok=True)

    def texts_of(self, condition: str, seed: int) -> Ids:
        """The texts (n, T) that a condition's model reads."""
        texts = self._texts.draw(self._n, seed)
        if condition == "shuffled":
            return shuffled_tokens(texts, seed)
        return resampled_tokens(texts, seed) if condition == "resampled" else texts

    def _measure(self, condition: str, seed: int, layer: int, path: Path, is_last: bool, progress: Progress) -> Row:
        texts = self.texts_of(condition, seed)
        tokens, index = np.unique(texts, return_inverse=True)
        index = index.reshape(texts.shape)
        shape = (self._model.n_layers + 1, len(texts) + len(tokens), self._model.hidden_size)

        def fill(stored: npt.NDArray[np.float32]) -> None:
            build = partial(self._model.twin, seed) if condition == "random" else self._model.build
            fill_states(stored, on_device(build(), self._device), texts, tokens, self._device)

        keep_states(path, shape, fill, "take fewer texts with --n")
        stored = np.load(path, mmap_mode="r")
        pair = LayerPair(stored[layer], stored[layer + 1], index, self._dimensions, seed)
        known = self._texts.entropy if condition in (MODEL, "random") else None
        if layer > 0 and pair.is_blind:
            raise DataError(f"{self._texts.name}: the states before block {layer} are the same for all texts")
        row = _in_bits(pair, None if known is None or layer == 0 else known.sequence, self._with_ksg)
        del stored
        if is_last:
            path.unlink(missing_ok=True)
        return plain({"condition": condition, "seed": seed, "layer": layer, **row})

    def restore(self, content: dict[str, Any]) -> Row:
        return content

    def result(self, made: Sequence[Row]) -> InformationResult:
        entropy = self._texts.entropy
        settings = {
            "texts": self._texts.name,
            "fingerprint": self._texts.fingerprint,
            "facts": self._texts.facts,
            "length": self._texts.length,
            "n": self._n,
            "available": self._texts.available,
            "seeds": list(self._seeds),
            "dimensions": self._dimensions,
            "noise": NOISE,
            "bos": None,
            "ceiling": BITS * ceiling_of(self._n // 2, entropy.sequence if entropy else None),
            "exact": BITS * (entropy.sequence - entropy.micro) if entropy else None,
        }
        return result_of(self._subject, settings, self._layers, made, self._usable, self._usable_by_layer)


@torch.no_grad()
def fill_states(
    stored: npt.NDArray[np.float32], encoder: Encoder, texts: Ids, tokens: Ids, device: torch.device
) -> None:
    """States of every level: first the last position of each text, then each token alone.

    Args:
        stored: (L + 1, n + U, D), to be filled.
        encoder: On the device.
        texts: (n, T). tokens: (U,).
    """
    n = len(texts)
    for first, ids in ((0, texts), (n, tokens[:, None])):
        size = max(1, TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cpu"]) // ids.shape[1])
        for begin in range(0, len(ids), size):
            levels = encoder.hidden_states(torch.from_numpy(ids[begin : begin + size]).to(device))
            for level, states in enumerate(levels):
                rows = slice(first + begin, first + begin + len(states))
                stored[level, rows] = states[:, -1].float().cpu().numpy()


@dataclass(frozen=True, eq=False)
class LayerPair:
    """States before and after a block.

    Attributes:
        before, after: (n + U, D): of n texts, then of U tokens alone.
        index: (n, T), the place of every token among the U.
        dimensions: r. seed: Of noise and shuffling.
    """

    before: npt.NDArray[np.float32]
    after: npt.NDArray[np.float32]
    index: Ids
    dimensions: int
    seed: int

    @property
    def middle(self) -> int:
        """Texts of half A, which the pooling is fitted on."""
        return len(self.index) // 2

    @cached_property
    def is_blind(self) -> bool:
        """Whether the states before the block are all the same, as the commas that end lists are at level 0."""
        before = self.before[: len(self.index)]
        return bool(np.ptp(before, axis=0).max() <= 1e-6 * np.abs(before).max())

    def macro(self) -> tuple[FloatArray, FloatArray]:
        """Pooled states of all texts, (n, r) each."""
        n = len(self.index)
        x, y = (
            fit_pooling(states[: self.middle], self.dimensions).of(states)
            for states in (self.before[:n], self.after[:n])
        )
        return x, y

    def micro(self) -> Iterator[tuple[FloatArray, FloatArray, float]]:
        """Of half B's tokens at every position: pooled states, (n - middle, r) each, and the tokens' entropy."""
        n = len(self.index)
        counts = np.bincount(self.index[: self.middle].ravel(), minlength=len(self.before) - n).astype(np.float64)
        x, y = (fit_pooling(states, self.dimensions, counts).of(states) for states in (self.before[n:], self.after[n:]))
        for position in self.index[self.middle :].T:
            share = np.bincount(position) / len(position)
            yield x[position], y[position], float(entr(share).sum())


def _in_bits(pair: LayerPair, entropy: float | None, with_ksg: bool) -> Row:
    """Everything that is estimated of one layer, in bits."""
    nothing = _nothing(len(pair.index) - pair.middle)
    macro: dict[float, Information]
    if pair.is_blind:
        macro, checks = dict.fromkeys((NOISE, *OTHER_NOISE), nothing), {}
    else:
        x, y = pair.macro()
        macro = _by_noise(x[pair.middle :], y[pair.middle :], entropy, pair.seed)
        checks = _checks(x, y, pair, with_ksg)
    micro = [
        _by_noise(before, after, entropy, pair.seed + 1000 * (t + 1)) if entropy else dict.fromkeys(macro, nothing)
        for t, (before, after, entropy) in enumerate(pair.micro())
    ]

    def emergence(share: float) -> float:
        return macro[share].value - float(np.mean([one[share].value for one in micro]))

    main, alone = macro[NOISE], [one[NOISE] for one in micro]
    blocks = np.array(main.blocks) - np.mean([one.blocks for one in alone], axis=0)
    closed = math.hypot(main.se, math.sqrt(sum(one.se**2 for one in alone)) / len(alone))
    flags = {*main.flags, *(f"micro_{flag}" for one in alone for flag in one.flags if flag != REFUSED)}
    flags |= {REFUSED} if math.isnan(emergence(NOISE)) else set()
    se = max(closed, block_se(blocks.tolist()))
    return {
        "ie": {"value": BITS * emergence(NOISE), "se": BITS * se, "blocks": (BITS * blocks).tolist()},
        "by_noise": {f"{share:g}": BITS * emergence(share) for share in OTHER_NOISE},
        "macro": _shown(main),
        "micro": [_shown(one) for one in alone],
        **checks,
        "flags": sorted(flags),
    }


def _by_noise(x: FloatArray, y: FloatArray, entropy: float | None, seed: int) -> dict[float, Information]:
    """Estimates with each amount of noise."""
    return {share: gaussian(x, y, noise=share, entropy=entropy, seed=seed) for share in (NOISE, *OTHER_NOISE)}


def _checks(x: FloatArray, y: FloatArray, pair: LayerPair, with_ksg: bool) -> Row:
    """Estimates of the macro pass that assume less than Gaussian states: the same noise is on them."""
    rng = np.random.default_rng([pair.seed, 1])
    x, y = with_noise(x, NOISE, rng), with_noise(y, NOISE, rng)
    middle = pair.middle
    found = {"infonce": _shown(infonce((x[:middle], y[:middle]), (x[middle:], y[middle:])))}
    if with_ksg:
        few = x[middle:, :KSG_DIMENSIONS], y[middle:, :KSG_DIMENSIONS]
        found["ksg"] = _shown(ksg(*few, seed=pair.seed))
        found["gaussian_beside_ksg"] = _shown(gaussian(*few, noise=0, seed=pair.seed))
    return found


def _nothing(n: int) -> Information:
    """Of states that are all the same there is nothing to tell."""
    return Information(0.0, 0.0, 0.0, n, blocks=(0.0,) * 4, half=0.0, quarter=0.0)


def _shown(found: Information) -> Row:
    """In bits."""
    numbers = ("value", "se", "ceiling", "half", "quarter", "shuffled", "shuffled_se")
    in_bits = {name: BITS * getattr(found, name) for name in numbers}
    shown: Row = plain(vars(replace(found, **in_bits, blocks=tuple(BITS * value for value in found.blocks))))
    return shown
