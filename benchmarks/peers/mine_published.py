"""The published estimator of information emergence (Chen et al. 2025), kept to show what it reports.

It is MINE: a critic f is trained to raise mean f(x, y) - log mean exp f(x, y'), where y' is y in one random order,
drawn anew every step. What is reported is the largest value of all steps, on the pairs that the critic was trained on.
With a permutation of no fixed point that value is unbounded, and the largest of many steps selects such ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

FloatArray = npt.NDArray[np.float64]

#: Widths behind the concatenated states, as published for states of 768.
WIDTHS = (768, 384, 192, 96, 48, 24, 12, 6, 3, 1)
#: For states of 32: without the two widest.
NARROW = WIDTHS[2:]
#: Steps between two looks at other pairs.
HELD_OUT_EVERY = 10
_WARM_UP, _LAST_RATE, _POWER = 5, 1e-8, 3


@dataclass(frozen=True, eq=False)
class Trace:
    """The bound in nats: at every step on the pairs that the critic is trained on, and now and then on others.

    Attributes:
        in_sample: (S,). held_out: (S,), nan where it was not evaluated.
    """

    in_sample: FloatArray
    held_out: FloatArray

    @property
    def reported(self) -> float:
        """What the published code prints."""
        return float(np.nanmax(self.in_sample))

    @property
    def held_out_there(self) -> float:
        """The bound on other pairs, where it was evaluated last before the step that is reported."""
        before = self.held_out[: int(np.nanargmax(self.in_sample)) + 1]
        return float(before[np.isfinite(before)][-1])


class MinePublished:
    """The critic and its training; full batches.

    Args:
        x, y: (N, d) pairs. others: Pairs to evaluate the bound on, too.
        steps: Of Adam, whose rate falls to 1e-8 as the cube of what is left. rate: Its first.
    """

    def __init__(
        self,
        x: FloatArray,
        y: FloatArray,
        others: tuple[FloatArray, FloatArray] | None = None,
        *,
        steps: int,
        rate: float = 1e-3,
        widths: Sequence[int] = NARROW,
        seed: int = 0,
    ) -> None:
        self._pairs = tuple(torch.from_numpy(part).float() for part in (x, y))
        self._others = None if others is None else tuple(torch.from_numpy(part).float() for part in others)
        self._steps, self._generator = steps, torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for inner, outer in zip((x.shape[1] + y.shape[1], *widths), widths, strict=False):
                layers += [linear := nn.Linear(inner, outer), nn.LeakyReLU()]
                nn.init.xavier_normal_(linear.weight)
                nn.init.zeros_(linear.bias)
        self._critic = nn.Sequential(*layers[:-1])
        self._optimiser = torch.optim.Adam(self._critic.parameters(), lr=rate)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda step: self._rate(step, rate))

    def _rate(self, step: int, first: float) -> float:
        if step < _WARM_UP:
            return (step + 1) / _WARM_UP
        left = max(0.0, 1 - (step - _WARM_UP) / max(1, self._steps - _WARM_UP))
        return (left**_POWER * (first - _LAST_RATE) + _LAST_RATE) / first

    def step(self) -> float:
        """One update; the bound before it."""
        bound = self._bound(*self._pairs)
        self._optimiser.zero_grad()
        (-bound).backward()
        self._optimiser.step()
        self._schedule.step()
        return float(bound.detach())

    def train(self) -> Iterator[tuple[float, float]]:
        """The bound at every step, in-sample and held out (every tenth step, nan between)."""
        for step in range(self._steps):
            held_out = math.nan
            if self._others is not None and step % HELD_OUT_EVERY == 0:
                with torch.no_grad():
                    held_out = float(self._bound(*self._others))
            yield self.step(), held_out

    def _bound(self, x: Tensor, y: Tensor) -> Tensor:
        apart = y[torch.randperm(len(y), generator=self._generator)]
        joint, product = (self._critic(torch.cat([x, other], dim=1))[:, 0] for other in (y, apart))
        return joint.mean() - (torch.logsumexp(product, dim=0) - math.log(len(y)))


def mine_published(
    x: FloatArray, y: FloatArray, others: tuple[FloatArray, FloatArray] | None = None, *, steps: int, **options: object
) -> Trace:
    """Train for ``steps`` and keep the bound of each. See :class:`MinePublished` for the options."""
    found = np.array(list(MinePublished(x, y, others, steps=steps, **options).train()))  # type: ignore[arg-type]
    return Trace(found[:, 0], found[:, 1])
