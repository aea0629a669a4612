"""Nelder-Mead for many small problems at once, as every iteration's steps are array operations over all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from emergence.measures.resampling import FloatArray

IntArray: TypeAlias = NDArray[np.int64]

#: From places (R, P) and which problems they belong to (R,) to values (R,).
Objective: TypeAlias = Callable[[FloatArray, IntArray], FloatArray]
#: Iterations between looks for problems that are done.
_LOOK = 20


def minimise(
    objective: Objective, start: FloatArray, step: FloatArray, *, iterations: int = 160, tolerance: float = 1e-7
) -> tuple[FloatArray, FloatArray]:
    """Local minima of B functions of P variables.

    Args:
        start: (B, P). step: (P,) size of the first simplex along each variable.
        iterations: At most so many for each. tolerance: A problem is done where the values of its simplex differ by
            less than this share of the least one.

    Returns:
        Places (B, P) and values (B,).
    """
    n, p = start.shape
    simplex = np.repeat(start[:, None, :], p + 1, axis=1)  # (B, P + 1, P)
    simplex[:, np.arange(1, p + 1), np.arange(p)] += step
    every = np.arange(n)
    values = np.stack([objective(simplex[:, k], every) for k in range(p + 1)], axis=1)
    active = every
    for iteration in range(iterations):
        if iteration % _LOOK == _LOOK - 1:
            spread = np.ptp(values[active], axis=1)
            active = active[spread > tolerance * np.abs(values[active]).min(axis=1) + 1e-300]
            if not len(active):
                break
        simplex[active], values[active] = _iterate(objective, simplex[active], values[active], active)
    best = values.argmin(axis=1)
    return simplex[every, best], values[every, best]


def _iterate(
    objective: Objective, simplex: FloatArray, values: FloatArray, problems: IntArray
) -> tuple[FloatArray, FloatArray]:
    """One step of every problem: reflect, then expand or contract, else shrink towards the best corner."""
    order = np.argsort(values, axis=1, kind="stable")
    rows = np.arange(len(values))[:, None]
    values, simplex = values[rows, order], simplex[rows, order]
    centre, worst = simplex[:, :-1].mean(axis=1), simplex[:, -1]
    away = centre - worst
    reflected = centre + away
    at_reflected = objective(reflected, problems)
    expands = at_reflected < values[:, 0]
    outside = at_reflected < values[:, -1]
    stays = ~expands & (at_reflected < values[:, -2])  # the reflected corner is taken as it is
    scale = np.where(expands, 2.0, np.where(outside, 0.5, -0.5))
    second = centre + scale[:, None] * away
    at_second = objective(second, problems)
    takes_second = ~stays & (at_second < np.where(outside, at_reflected, values[:, -1]))
    takes_reflected = ~takes_second & (expands | stays)
    simplex[:, -1] = np.where(takes_second[:, None], second, np.where(takes_reflected[:, None], reflected, worst))
    values[:, -1] = np.where(takes_second, at_second, np.where(takes_reflected, at_reflected, values[:, -1]))
    shrinks = np.flatnonzero(~takes_second & ~takes_reflected)
    if len(shrinks):
        for k in range(1, simplex.shape[1]):
            simplex[shrinks, k] = (simplex[shrinks, k] + simplex[shrinks, 0]) / 2
            values[shrinks, k] = objective(simplex[shrinks, k], problems[shrinks])
    return simplex, values
