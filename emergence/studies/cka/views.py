"""Curves and heatmaps of one kind of rows, cut out of one matrix of all checkpoints and levels.

Every trunk that plays a part (checkpoints, random networks, nulls, another run) adds its levels to one list of
representations. Their CKA matrix is computed once, and everything reported is a block of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np
import numpy.typing as npt

from emergence.measures.cka import CKAMatrix, CKAMethod, cka_matrix
from emergence.measures.cka_resampling import PermutationTest, delete_half, permutation_test
from emergence.measures.similarity import (
    angular_procrustes,
    excess_over_random,
    mutual_neighbours,
    nearest_neighbours,
)
from emergence.studies.activations import States, TrunkSource

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Atlas:
    """The representations of one kind of rows, with the CKA of all pairs.

    Attributes:
        levels: Key of a source -> its L + 1 arrays (n, D).
        places: Key of a source -> its rows and columns in the matrix.
        matrix: CKA of all pairs of levels of all sources.
        blocks: (n,) the sentence of each row.
        method: The kind of CKA.
    """

    levels: Mapping[str, Sequence[npt.NDArray[np.float32]]]
    places: Mapping[str, slice]
    matrix: CKAMatrix
    blocks: npt.NDArray[np.int64]
    method: CKAMethod

    @classmethod
    def chart(
        cls,
        states: Mapping[str, States],
        rows: str,
        which: str,
        blocks: npt.NDArray[np.int64],
        method: CKAMethod,
        batch_rows: int | None,
    ) -> Atlas:
        levels = {key: of_trunk.levels(rows, which) for key, of_trunk in states.items()}
        ends = np.cumsum([len(arrays) for arrays in levels.values()])
        places = {key: slice(int(end) - len(levels[key]), int(end)) for key, end in zip(levels, ends, strict=True)}
        matrix = cka_matrix([array for arrays in levels.values() for array in arrays], method, batch_rows=batch_rows)
        return cls(levels, places, matrix, blocks, method)

    def block(self, left: TrunkSource, right: TrunkSource) -> FloatArray:
        """CKA of every level of one trunk (rows) with every level of another (columns)."""
        return self.matrix.values[self.places[left.key], self.places[right.key]]

    def same_level(self, left: TrunkSource, right: TrunkSource) -> FloatArray:
        """(L + 1,) CKA of each level with the same level of another trunk, which has as many."""
        return np.diagonal(self.block(left, right)).copy()

    def flags(self, source: TrunkSource) -> tuple[str, ...]:
        """(L + 1,) the reason why a level has no CKA, or an empty string."""
        return self.matrix.flags[self.places[source.key]]

    def usable(self, level: int, *sources: TrunkSource) -> bool:
        return not any(self.flags(source)[level] for source in sources)


@dataclass(frozen=True)
class Cast:
    """The trunks that one run's curves are drawn from.

    Attributes:
        checkpoints: T checkpoints in order.
        start: Index of the checkpoint that is the reference.
        random: S untrained trunks.
        noise: Index of a checkpoint -> the start, moved as far as that checkpoint in a random direction.
        twin: Last checkpoint of a run with another finetuning seed.
        control: Checkpoints of a run finetuned on control labels.
    """

    checkpoints: tuple[TrunkSource, ...]
    start: int
    random: tuple[TrunkSource, ...]
    noise: Mapping[int, TrunkSource]
    twin: TrunkSource | None = None
    control: tuple[TrunkSource, ...] = ()

    def everyone(self) -> list[TrunkSource]:
        others = [self.twin] if self.twin else []
        return [*self.checkpoints, *self.random, *self.noise.values(), *others, *self.control]

    def keyed(self, prefix: str) -> Cast:
        """The same trunks with ``prefix`` before their keys."""

        def named(source: TrunkSource) -> TrunkSource:
            return replace(source, key=f"{prefix}|{source.key}")

        return Cast(
            checkpoints=tuple(map(named, self.checkpoints)),
            start=self.start,
            random=tuple(map(named, self.random)),
            noise={index: named(source) for index, source in self.noise.items()},
            twin=named(self.twin) if self.twin else None,
            control=tuple(map(named, self.control)),
        )


@dataclass(frozen=True)
class Effort:
    """How much is resampled, and from which seed."""

    draws: int = 200
    level: float = 0.95
    permutations: int = 999
    components: int = 64
    neighbours: int = 10
    seed: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """Curves of a run on one kind of rows: T checkpoints, L + 1 levels, S random trunks. Undefined values are nan.

    Attributes:
        drift: (T, L+1) CKA with the start. ``_lo`` and ``_hi`` are its interval, ``_se`` its standard error.
        velocity: (T-1, L+1) CKA of consecutive checkpoints, with the same companions.
        layers: (T, L+1, L+1) CKA of a checkpoint's levels with each other.
        from_start: (T, L+1, L+1) CKA of the start's levels (rows) with a checkpoint's (columns).
        random: (S, T, L+1) CKA with untrained trunks.
        excess: (T, L+1) excess of ``drift`` over the mean of ``random``.
        noise: (T, L+1) CKA of the start with itself moved as far at random; nan before finetuning.
        twin: (L+1,) CKA of the last checkpoint with that of a twin; empty without one.
        control: (C, L+1) drift of a run trained on control labels; empty without one.
        procrustes: (T, L+1) angle to the start in radians. neighbours: (T, L+1) share kept since the start.
        procrustes_random, neighbours_random: (S, L+1) the same, from the last checkpoint to untrained trunks.
        neighbours_chance: Share of neighbours that unrelated rows have in common.
        permutation: For each level, the test of no correspondence of start and last checkpoint; None where undefined.
        flags: For each checkpoint and level, why there is no CKA; empty where there is one.
    """

    drift: FloatArray
    drift_lo: FloatArray
    drift_hi: FloatArray
    drift_se: FloatArray
    velocity: FloatArray
    velocity_lo: FloatArray
    velocity_hi: FloatArray
    velocity_se: FloatArray
    layers: FloatArray
    from_start: FloatArray
    random: FloatArray
    excess: FloatArray
    noise: FloatArray
    twin: FloatArray
    control: FloatArray
    procrustes: FloatArray
    neighbours: FloatArray
    procrustes_random: FloatArray
    neighbours_random: FloatArray
    neighbours_chance: float
    permutation: tuple[PermutationTest | None, ...] = field(default=())
    flags: tuple[tuple[str, ...], ...] = field(default=())

    def arrays(self) -> dict[str, FloatArray]:
        """Every array by its name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def view(atlas: Atlas, cast: Cast, effort: Effort) -> View:
    """All curves of one run on one kind of rows."""
    points, start = cast.checkpoints, cast.checkpoints[cast.start]
    drift = np.stack([atlas.same_level(start, point) for point in points])
    velocity = _stack([atlas.same_level(a, b) for a, b in itertools.pairwise(points)], drift.shape[1])
    random = np.array([[atlas.same_level(point, other) for point in points] for other in cast.random])
    random = random.reshape(len(cast.random), *drift.shape)
    noise = np.full_like(drift, np.nan)
    for index, moved in cast.noise.items():
        noise[index] = atlas.same_level(start, moved)
    intervals = _intervals(atlas, cast, effort)
    average = random.mean(axis=0) if len(random) else np.full_like(drift, np.nan)
    return View(
        drift=drift,
        velocity=velocity,
        **intervals,
        layers=np.stack([atlas.block(point, point) for point in points]),
        from_start=np.stack([atlas.block(start, point) for point in points]),
        random=random,
        excess=excess_over_random(drift, average),
        noise=noise,
        twin=atlas.same_level(points[-1], cast.twin) if cast.twin else np.zeros(0),
        control=_stack([atlas.same_level(start, point) for point in cast.control], drift.shape[1]),
        **_companions(atlas, cast, effort),
        neighbours_chance=_neighbours(atlas, effort) / (len(atlas.blocks) - 1),
        permutation=_permutations(atlas, cast, effort),
        flags=tuple(atlas.flags(point) for point in points),
    )


def _intervals(atlas: Atlas, cast: Cast, effort: Effort) -> dict[str, FloatArray]:
    """Delete-half intervals of drift and velocity, level by level. Undefined ones are nan."""
    points = cast.checkpoints
    n_points, n_levels = len(points), len(atlas.levels[points[0].key])
    wanted = {
        "drift": [(cast.start, t) for t in range(n_points)],
        "velocity": [(t, t + 1) for t in range(n_points - 1)],
    }
    names = [f"{curve}_{part}" for curve in wanted for part in ("lo", "hi", "se")]
    intervals = {name: np.full((len(wanted[name.partition("_")[0]]), n_levels), np.nan) for name in names}
    for level in range(n_levels):
        usable = [(curve, row, pair) for curve, pairs in wanted.items() for row, pair in enumerate(pairs)]
        usable = [u for u in usable if atlas.usable(level, points[u[2][0]], points[u[2][1]])]
        if not usable:
            continue
        halves = delete_half(
            [atlas.levels[point.key][level] if atlas.usable(level, point) else _absent(atlas) for point in points],
            [pair for _, _, pair in usable],
            atlas.blocks,
            atlas.method,
            draws=effort.draws,
            seed=effort.seed,
        )
        ends = dict(zip(("lo", "hi"), halves.intervals(effort.level), strict=True)) | {"se": halves.standard_errors}
        for i, (curve, row, _) in enumerate(usable):
            for part, values in ends.items():
                intervals[f"{curve}_{part}"][row, level] = values[i]
    return intervals


def _companions(atlas: Atlas, cast: Cast, effort: Effort) -> dict[str, FloatArray]:
    """Procrustes angles and shared neighbours: checkpoints with the start, the last one with untrained trunks."""
    points, start = cast.checkpoints, cast.checkpoints[cast.start]
    n_levels, k = len(atlas.levels[start.key]), _neighbours(atlas, effort)
    shapes = {"": (len(points), n_levels), "_random": (len(cast.random), n_levels)}
    curves = {f"{name}{end}": np.full(s, np.nan) for name in ("procrustes", "neighbours") for end, s in shapes.items()}
    for level in range(n_levels):
        near: dict[str, npt.NDArray[np.int64]] = {}
        pairs = [("", t, start, point) for t, point in enumerate(points)]
        pairs += [("_random", s, points[-1], other) for s, other in enumerate(cast.random)]
        for end, row, left, right in pairs:
            if not atlas.usable(level, left, right):
                continue
            for source in (left, right):
                if source.key not in near:
                    near[source.key] = nearest_neighbours(atlas.levels[source.key][level], k)
            states = atlas.levels[left.key][level], atlas.levels[right.key][level]
            same = left.key == right.key
            curves[f"procrustes{end}"][row, level] = 0.0 if same else angular_procrustes(*states)
            curves[f"neighbours{end}"][row, level] = mutual_neighbours(near[left.key], near[right.key])
    return curves


def _permutations(atlas: Atlas, cast: Cast, effort: Effort) -> tuple[PermutationTest | None, ...]:
    """Tests of the start with the last checkpoint, level by level. Without finetuning the first one takes its place."""
    start, last = cast.checkpoints[cast.start], cast.checkpoints[-1]
    other = last if last.key != start.key else cast.checkpoints[0]
    if other.key == start.key or effort.permutations < 1:
        return (None,) * len(atlas.levels[start.key])
    return tuple(
        permutation_test(
            atlas.levels[start.key][level],
            atlas.levels[other.key][level],
            atlas.blocks,
            atlas.method,
            n_permutations=effort.permutations,
            components=effort.components,
            seed=effort.seed,
        )
        if atlas.usable(level, start, other)
        else None
        for level in range(len(atlas.levels[start.key]))
    )


def _neighbours(atlas: Atlas, effort: Effort) -> int:
    return min(effort.neighbours, math.ceil(len(atlas.blocks) / 4))


def _absent(atlas: Atlas) -> npt.NDArray[np.float32]:
    """What stands for a level without CKA, which no pair asks for."""
    return np.zeros((len(atlas.blocks), 1), dtype=np.float32)


def _stack(rows: Sequence[FloatArray], width: int) -> FloatArray:
    return np.stack(rows) if len(rows) else np.zeros((0, width))
