"""Intervals for a ratio n/d of two estimates, by the delta method and by Fieller's theorem.

A ratio whose denominator may be zero has no honest bounded interval. Fieller's set then is the whole
line or what lies outside an interval, and is reported as just that (docs/methods.md#emergence-score; Fieller 1954).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Fieller:
    """The set of ratios that the data do not reject.

    Attributes:
        kind: ``bounded`` [lo, hi]; ``unbounded`` the whole line; ``complement`` all but (lo, hi);
            ``half_line`` one end infinite; ``undefined`` without variances.
        lo, hi: Its ends, infinite or nan where there are none.
        gamma: z²V_dd/d²; from 1 on, the denominator is not clearly different from 0.
    """

    kind: Literal["bounded", "unbounded", "complement", "half_line", "undefined"]
    lo: float
    hi: float
    gamma: float

    def describe(self) -> str:
        if self.kind == "bounded":
            return f"[{self.lo:.3f}, {self.hi:.3f}]"
        if self.kind == "complement":
            return f"all but ({self.lo:.3f}, {self.hi:.3f})"
        if self.kind == "half_line":
            return f"from {self.lo:.3f} up" if math.isfinite(self.lo) else f"up to {self.hi:.3f}"
        return "unbounded (any value)" if self.kind == "unbounded" else "no interval"

    def contains(self, ratio: float) -> bool:
        if self.kind == "complement":
            return not self.lo < ratio < self.hi
        return self.kind != "undefined" and self.lo <= ratio <= self.hi


def fieller_set(
    n: float, d: float, v_nn: float, v_dd: float, v_nd: float, quantile: float = 1.959963984540054
) -> Fieller:
    """{S : (d² − z²V_dd)S² − 2(nd − z²V_nd)S + (n² − z²V_nn) ≤ 0} for the ratio S = n/d.

    Args:
        n, d: Numerator and denominator.
        v_nn, v_dd, v_nd: Their variances and covariance.
        quantile: z (by default that of 95%), or Student's t for few seeds.
    """
    if not all(map(math.isfinite, (n, d, v_nn, v_dd, v_nd))):
        return Fieller("undefined", math.nan, math.nan, math.nan)
    z2 = quantile * quantile
    a, b, c = d * d - z2 * v_dd, n * d - z2 * v_nd, n * n - z2 * v_nn
    gamma = z2 * v_dd / (d * d) if d else math.inf
    if a == 0:
        return _linear_set(b, c, gamma)
    discriminant = b * b - a * c
    if discriminant < 0:  # only possible with a < 0, since n/d itself is always in the set
        return Fieller("unbounded", -math.inf, math.inf, gamma)
    lo, hi = sorted(((b - math.sqrt(discriminant)) / a, (b + math.sqrt(discriminant)) / a))
    return Fieller("bounded" if a > 0 else "complement", lo, hi, gamma)


def _linear_set(b: float, c: float, gamma: float) -> Fieller:
    """The set where the quadratic term vanishes: −2bS + c ≤ 0."""
    if b == 0:
        return Fieller("unbounded", -math.inf, math.inf, gamma)
    edge = c / (2 * b)
    return Fieller("half_line", edge, math.inf, gamma) if b > 0 else Fieller("half_line", -math.inf, edge, gamma)


def delta_se(n: float, d: float, v_nn: float, v_dd: float, v_nd: float) -> float:
    """Standard error of n/d by the delta method, √((V_nn − 2S·V_nd + S²V_dd) / d²); nan for d = 0."""
    if d == 0:
        return math.nan
    s = n / d
    variance = (v_nn - 2 * s * v_nd + s * s * v_dd) / (d * d)
    return math.sqrt(max(variance, 0.0)) if math.isfinite(variance) else math.nan
