"""How right CKA is here: the bias of both estimators, and how often the interval holds the truth.

    python -m benchmarks.cka_accuracy

Prints what it measures; its speed is ``python -m benchmarks cka-128`` and ``cka-768``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from emergence.measures.cka import CKAMethod, cka
from emergence.measures.cka_resampling import delete_half

Items = list[NDArray[np.float64]]


def bias(draws: int = 200) -> None:
    """What both estimators give for independent Gaussian representations (docs/methods.md#temporal-cka)."""
    print("independent representations     predicted  biased  debiased mean (SD)")
    rng = np.random.default_rng(0)
    for n, p, q in ((50, 64, 64), (100, 768, 768), (100, 10, 10), (200, 128, 512), (1000, 128, 128)):
        pairs = [(rng.normal(size=(n, p)), rng.normal(size=(n, q))) for _ in range(draws if n < 500 else draws // 5)]
        biased = np.mean([cka(x, y, CKAMethod("biased")) for x, y in pairs])
        debiased = np.array([cka(x, y) for x, y in pairs])
        predicted = math.sqrt(p * q / ((p + n) * (q + n)))
        mean, spread = debiased.mean(), debiased.std()
        print(f"  n={n:<5} p={p:<4} q={q:<12} {predicted:9.4f} {biased:7.4f} {mean:9.4f} ({spread:.4f})")


def coverage(trials: int = 400) -> None:
    """How often the 95 % delete-half interval holds the value on a very large sample."""
    print("delete-half intervals (95 %)    truth   coverage  mean SE  true SE")
    rng = np.random.default_rng(0)
    mixing = [rng.normal(size=(6, 32)) for _ in range(2)]

    def sample(n: int, noise: float) -> Items:
        factors = rng.normal(size=(n, 6)) * [3, 2, 1, 1, 1, 1]
        first = factors @ mixing[0]
        return [x + noise * rng.normal(size=x.shape) for x in (first, first + 0.3 * factors @ mixing[1])]

    for n, noise in ((100, 0.3), (100, 3.0), (300, 0.3)):
        left, right = sample(100_000, noise)
        truth, held, errors, points = cka(left, right), 0, [], []
        for trial in range(trials):
            halves = delete_half(sample(n, noise), [(0, 1)], np.arange(n), seed=trial)
            lo, hi = halves.intervals()
            held += int(lo[0] <= truth <= hi[0])
            errors.append(halves.standard_errors[0])
            points.append(halves.points[0])
        spread = np.std(points)
        print(f"  n={n:<5} noise={noise:<16} {truth:.4f} {held / trials:9.3f} {np.mean(errors):9.4f} {spread:8.4f}")


if __name__ == "__main__":
    bias()
    coverage()
