"""How fast and how right CKA is here: three ways to the same matrix, the bias table, interval coverage.

    python benchmarks/cka.py [--rows 2000] [--width 128] [--items 40]

Prints what it measures; nothing is asserted. Times are CPU seconds, so other work on the machine counts
little; run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from emergence.measures.cka import CKAMethod, cka, cka_matrix
from emergence.measures.cka_resampling import delete_half

Items = list[NDArray[np.float64]]
Result = TypeVar("Result")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--items", type=int, default=40)
    args = parser.parse_args()
    speed(args.rows, args.width, args.items)
    bias()
    coverage()


def speed(n: int, d: int, m: int) -> None:
    """All pairs of m representations, by the methods in use elsewhere (on a few pairs, scaled up) and here."""
    items = drifting(n, d, m)
    pairs = m * (m + 1) // 2
    print(f"all {pairs} pairs of {m} representations, {n} rows x {d} features, float64")
    unbatched, few = timed(lambda: [by_centring_matrices(items[0], x) for x in items[1:3]])
    naive = unbatched / len(few) * pairs
    by_pair, several = timed(lambda: [by_features(items[0], x) for x in items[1:11]])
    gram, matrix = timed(lambda: cka_matrix(items, CKAMethod("biased"), side="gram").values)
    debiased, _ = timed(lambda: cka_matrix(items, side="gram").values)
    feature, again = timed(lambda: cka_matrix(items, CKAMethod("biased"), side="feature").values)
    for name, seconds in (
        ("centring matrices, pair by pair", naive),
        ("features, pair by pair", by_pair / len(several) * pairs),
        ("one product of kernel matrices", gram),
        ("the same, debiased", debiased),
        ("one product of features", feature),
    ):
        print(f"  {name:<34} {seconds:9.2f} s   {naive / seconds:8.1f}x")
    differences = np.abs(matrix - again).max(), np.abs(matrix[0, 1:3] - few).max()
    print(f"  largest difference: features {differences[0]:.1e}, centring matrices {differences[1]:.1e}")


def bias(draws: int = 200) -> None:
    """Independent Gaussian representations (METHODS C2): what the biased estimator gives, and the debiased one."""
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


def by_centring_matrices(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """tr(KHLH) as written in the paper."""
    h = np.eye(len(x)) - 1 / len(x)
    k, l = x @ x.T @ h, y @ y.T @ h  # noqa: E741 - the field's letters
    return float(np.trace(k @ l) / math.sqrt(np.trace(k @ k) * np.trace(l @ l)))


def by_features(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(x.T @ y) ** 2 / norms)


def drifting(n: int, d: int, m: int) -> Items:
    """A random walk, as checkpoints are."""
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(n, d)) * (1.0 if i == 0 else 0.2) for i in range(m)]
    return list(np.cumsum(steps, axis=0))


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


if __name__ == "__main__":
    main()
