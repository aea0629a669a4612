"""Which revisions of a published training history can be believed (docs/methods.md#revisions).

Published histories are damaged: branches serve final weights, shards of another step, or the same weights under several
steps. Equal bytes show some of this. The rest shows in the way that weights go: training moves them along a path, so a
revision that is not of its step makes the path go out and back.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

#: Deviations from the trend beyond this many robust standard deviations are suspect.
MOST_Z = 6.0
#: Least robust standard deviation of log detours and of losses (nats), since a smooth history has almost none.
_LEAST_DETOUR_SD, _LEAST_LOSS_SD = 0.1, 0.1
#: The same of how many times faster the weights move at one place than at the next, in logs.
_LEAST_SPEED_SD = 0.25
#: Exchanging two revisions has to shorten the path near them by this factor.
_SHORTER = 1.25
#: Ways of placing copies that are all tried; of more, one set of equal weights is placed after the other.
_MOST_PLACINGS = 4096
#: How far a step 0 may be from the loss of guessing, ln V, as a share of it.
_GUESSING = 0.15
#: Revisions with steps that a trend takes.
LEAST_REVISIONS = 5


@dataclass(frozen=True)
class RevisionFacts:
    """What is known of one revision.

    Attributes:
        name: Of the revision. step: Its training step.
        digests: Group of tensors -> digest of its bytes.
        sketch: Group of tensors -> some of its values, the same places for all revisions.
        loss: In nats per token, the same text for all; None where it was not measured.
    """

    name: str
    step: int
    digests: Mapping[str, str] = field(default_factory=dict)
    sketch: Mapping[str, FloatArray] = field(default_factory=dict)
    loss: float | None = None


#: How far two revisions lie apart.
Distance: TypeAlias = Callable[[RevisionFacts, RevisionFacts], float]


def find_suspects(revisions: Iterable[RevisionFacts], log_vocabulary: float) -> dict[str, str]:
    """Revisions that are not what their step says, with the reason.

    In this order: equal groups of tensors at different steps, where all but those that make the path shortest are
    named; a step 0 whose loss is not that of guessing; two revisions whose exchange makes the path shorter; and one by
    one, the worst first, revisions whose weights or loss are off the trend of their neighbours.

    Args:
        revisions: Of one training run.
        log_vocabulary: ln V, the loss of guessing.
    """
    ordered = sorted(revisions, key=lambda r: (r.step, r.name))
    suspects = _copies(ordered)
    for first in [r for r in ordered if r.step == 0 and r.loss is not None and r.name not in suspects]:
        if abs((first.loss or 0.0) - log_vocabulary) > _GUESSING * log_vocabulary:
            suspects[first.name] = f"its loss is {first.loss:.2f}, and guessing has ln V = {log_vocabulary:.2f}"
    for pair in _exchanged([r for r in ordered if r.name not in suspects]):
        for one, other in (pair, pair[::-1]):
            suspects[one.name] = f"its weights lie where those of {other.name} should: the two seem exchanged"
    while found := _worst([r for r in ordered if r.name not in suspects]):
        suspects[found[0]] = found[1]
    return suspects


# Equal bytes --------------------------------------------------------------------------------------


def _copies(ordered: Sequence[RevisionFacts]) -> dict[str, str]:
    """Revisions that share groups of tensors with one of another step."""
    suspects: dict[str, str] = {}
    whole: dict[tuple[tuple[str, str], ...], list[RevisionFacts]] = {}
    for revision in ordered:
        if revision.digests:
            whole.setdefault(tuple(sorted(revision.digests.items())), []).append(revision)
    sets = [same for same in whole.values() if len({r.step for r in same}) > 1]
    alone = [r for r in ordered if not any(r in same for same in sets)]
    for same, sound in zip(sets, _placed(sets, alone), strict=True):
        for revision in same:
            if revision is not sound:
                suspects[revision.name] = f"it has the weights of {sound.name}, byte for byte"
    rest = [r for r in ordered if r.name not in suspects]
    for one, other in itertools.combinations(rest, 2):
        shared = [g for g in one.digests if one.digests[g] == other.digests.get(g)]
        # A group may be constant, such as a norm before the first update: it has to have moved elsewhere.
        shared = [g for g in shared if _has_moved(g, one, other, [r for r in rest if r.name not in suspects])]
        if not shared or one.step == other.step or {one.name, other.name} & set(suspects):
            continue
        settled = [r for r in rest if r.name not in suspects and not _shares(r, shared, rest)]
        (sound,) = _placed([[one, other]], settled, shared)
        bad = other if sound is one else one
        suspects[bad.name] = f"{len(shared)} of its {len(bad.digests)} groups of tensors are those of {sound.name}"
    return suspects


def _has_moved(group: str, one: RevisionFacts, other: RevisionFacts, rest: Sequence[RevisionFacts]) -> bool:
    """Whether revisions between or beside the two hold other values, so that equal ones are no accident."""
    between = [r for r in rest if one.step < r.step < other.step]
    beside = between or [r for r in rest if r not in (one, other)]
    return any(r.digests.get(group) not in (None, one.digests[group]) for r in beside)


def _shares(revision: RevisionFacts, groups: Sequence[str], others: Iterable[RevisionFacts]) -> bool:
    """Whether another revision holds one of these groups, too."""
    return any(revision.digests.get(g) == r.digests.get(g) for r in others if r is not revision for g in groups)


def _placed(
    sets: Sequence[Sequence[RevisionFacts]], alone: Sequence[RevisionFacts], groups: Sequence[str] | None = None
) -> tuple[RevisionFacts, ...]:
    """Of every set of revisions with equal groups the one whose step they are of; the first if nothing tells.

    All sets are placed at once, where they make the path through everybody's weights shortest. So what one copy serves
    says nothing about where another belongs. At an end several places may be equally good; then the speed decides.

    Args:
        sets: Each by step. alone: Revisions that no other one is equal to.
        groups: Which groups the path is of; None for all.
    """
    between = _distances(groups)

    def path(chosen: Sequence[RevisionFacts]) -> list[RevisionFacts]:
        return sorted([*alone, *chosen], key=lambda r: (r.step, r.name))

    def length(chosen: Sequence[RevisionFacts]) -> float:
        return sum(between(a, b) for a, b in itertools.pairwise(path(chosen)))

    def misplaced(chosen: Sequence[RevisionFacts]) -> float:
        by_step = path(chosen)
        return round(sum(_misplacement(r, groups, [o for o in by_step if o is not r]) for r in chosen), 9)

    def best(candidates: Sequence[tuple[RevisionFacts, ...]]) -> tuple[RevisionFacts, ...]:
        lengths = [length(chosen) for chosen in candidates]
        limit = min(lengths) * (1 + 1e-9)
        return min((c for c, long in zip(candidates, lengths, strict=True) if long <= limit), key=misplaced)

    if math.prod(map(len, sets)) <= _MOST_PLACINGS:
        return best(list(itertools.product(*sets)))
    chosen, before = tuple(same[0] for same in sets), None
    while chosen != before and length(chosen) < (math.inf if before is None else length(before)):
        before = chosen
        for i, same in enumerate(sets):
            chosen = best([(*chosen[:i], one, *chosen[i + 1 :]) for one in same])
    return chosen


def _misplacement(revision: RevisionFacts, groups: Sequence[str] | None, others: Sequence[RevisionFacts]) -> float:
    """How far a revision's groups lie from where the step wants them, from 0 on.

    Of three revisions in a row, the revision's neighbours and itself or at an end the two next to it, the way from the
    first to the second is compared, as a share of the way over all three, with the share of the log steps; and a
    detour counts.
    """
    before = [r for r in others if r.step < revision.step][-2:]
    after = [r for r in others if r.step > revision.step][:2]
    if before and after:
        row = [before[-1], revision, after[0]]
    else:
        row = [*before, revision] if before else [revision, *after]
    if len(row) < 3:
        return 0.0
    first, second, third = row
    left, right, across = (_distance(a, b, groups) for a, b in ((first, second), (second, third), (first, third)))
    if left + right <= 0:
        return 0.0
    x = [math.log1p(r.step) for r in row]
    share = abs(left / (left + right) - (x[1] - x[0]) / (x[2] - x[0]))
    return share + math.log(max((left + right) / max(across, 1e-12), 1.0))


def _distance(a: RevisionFacts, b: RevisionFacts, groups: Sequence[str] | None = None) -> float:
    """Root mean square difference of the sketches, each group by its own size."""
    names = [g for g in (groups or a.sketch) if g in a.sketch and g in b.sketch]
    parts = []
    for name in names:
        one, other = a.sketch[name], b.sketch[name]
        size = float(np.mean(one**2) + np.mean(other**2)) / 2
        parts.append(float(np.mean((one - other) ** 2)) / size if size > 0 else 0.0)
    return math.sqrt(sum(parts) / len(parts)) if parts else 0.0


def _distances(groups: Sequence[str] | None = None) -> Distance:
    """:func:`_distance`, worked out once for two names in one order."""
    known: dict[tuple[str, str], float] = {}

    def between(a: RevisionFacts, b: RevisionFacts) -> float:
        if (a.name, b.name) not in known:
            known[a.name, b.name] = _distance(a, b, groups)
        return known[a.name, b.name]

    return between


# The path -----------------------------------------------------------------------------------------


def _exchanged(ordered: Sequence[RevisionFacts]) -> list[tuple[RevisionFacts, RevisionFacts]]:
    """Pairs whose exchange shortens the path near them most, as long as there are any."""
    path = [r for r in ordered if r.sketch]
    between = _distances()
    pairs: list[tuple[RevisionFacts, RevisionFacts]] = []
    while len(path) >= LEAST_REVISIONS:
        gains = {
            (i, j): _near(between, path, i, j) / max(_near(between, _swapped(path, i, j), i, j), 1e-12)
            for i, j in itertools.combinations(range(len(path)), 2)
        }
        (i, j), gain = max(gains.items(), key=lambda item: item[1])
        if gain < _SHORTER or not _both_gain(between, path, i, j):
            return pairs
        pairs.append((path[i], path[j]))
        path = [r for k, r in enumerate(path) if k not in (i, j)]
    return pairs


def _swapped(path: Sequence[RevisionFacts], i: int, j: int) -> list[RevisionFacts]:
    swapped = list(path)
    swapped[i], swapped[j] = swapped[j], swapped[i]
    return swapped


def _near(between: Distance, path: Sequence[RevisionFacts], *places: int) -> float:
    """Length of the path's edges at these places."""
    edges = {e for place in places for e in (place - 1, place) if 0 <= e < len(path) - 1}
    return sum(between(path[e], path[e + 1]) for e in edges)


def _both_gain(between: Distance, path: Sequence[RevisionFacts], i: int, j: int) -> bool:
    """Whether the path gets shorter at both places, so that it is not one bad revision that any exchange helps."""
    swapped = _swapped(path, i, j)
    return all(_near(between, path, k) > _near(between, swapped, k) for k in (i, j))


def _worst(ordered: Sequence[RevisionFacts]) -> tuple[str, str] | None:
    """The revision that is farthest off the trend of weights or loss; None if none is far enough."""
    path = [r for r in ordered if r.sketch]
    candidates = [*_detours(path), *_off_ends(path), *_off_loss([r for r in ordered if r.loss is not None])]
    z, name, reason = max(candidates, default=(0.0, "", ""))
    return (name, reason) if z > MOST_Z else None


def _detours(path: Sequence[RevisionFacts]) -> list[tuple[float, str, str]]:
    """Robust z of every inner revision's detour: the way between its neighbours over it, against the direct one."""
    if len(path) < LEAST_REVISIONS:
        return []
    logs = []
    for a, b, c in zip(path, path[1:], path[2:], strict=False):
        way = _distance(a, b) + _distance(b, c)
        logs.append(math.log(max(way, 1e-12) / max(_distance(a, c), 1e-12)) if way > 0 else 0.0)
    scores = _robust_z(np.array(logs), _LEAST_DETOUR_SD)
    return [
        (float(z), r.name, f"its weights lie off the way between its neighbours (robust z = {z:.1f})")
        for z, r in zip(scores, path[1:-1], strict=True)
    ]


def _off_ends(path: Sequence[RevisionFacts]) -> list[tuple[float, str, str]]:
    """Robust z of how much faster the weights move at an end than beside it, against the same everywhere else.

    Speed is distance over the difference of log steps. Slower proves nothing: a rate that warms up or decays is slow.
    """
    if len(path) < LEAST_REVISIONS or len({r.step for r in path}) < len(path):
        return []
    x = [math.log1p(r.step) for r in path]
    speeds = [max(_distance(a, b), 1e-12) / (v - u) for a, b, u, v in zip(path, path[1:], x, x[1:], strict=False)]
    faster = np.diff(np.log(speeds))  # of each edge than the one before
    inner = np.concatenate([faster, -faster])
    sd = max(1.4826 * float(np.median(np.abs(inner))), _LEAST_SPEED_SD)
    return [
        (float(jump / sd), r.name, f"its weights lie {math.exp(jump):.0f} times too far from its neighbour's")
        for jump, r in ((-faster[0], path[0]), (faster[-1], path[-1]))
    ]


def _off_loss(curve: Sequence[RevisionFacts]) -> list[tuple[float, str, str]]:
    """Robust z of how far every inner revision's loss lies outside what its neighbours have.

    Between the two any loss may be right, because an early loss falls along a curve and not along a line. So may one
    that lines through the two revisions before and through the two after (over the log of the step) both lead to, as at
    the turn of a loss that first falls and then rises, on text unlike what is trained on. An end is judged by its
    weights, and a step 0 by the loss of guessing.
    """
    if len(curve) < LEAST_REVISIONS:
        return []
    outside = []
    for place in range(1, len(curve) - 1):
        low, high = sorted((curve[place - 1].loss or 0.0, curve[place + 1].loss or 0.0))
        led = (_led_to(curve, place, -1), _led_to(curve, place, 1))
        low, high = min(low, max(led)), max(high, min(led))
        loss = curve[place].loss or 0.0
        outside.append(loss - min(max(loss, low), high))
    scores = np.abs(_robust_z(np.array(outside), _LEAST_LOSS_SD))
    return [
        (float(z), r.name, f"its loss {r.loss:.2f} is {abs(off):.2f} nats outside its neighbours' (robust z = {z:.1f})")
        for z, r, off in zip(scores, curve[1:-1], outside, strict=True)
    ]


def _led_to(curve: Sequence[RevisionFacts], place: int, side: int) -> float:
    """The loss at a place on the line through the next two revisions before (``side`` -1) or after it (1).

    It is the neighbour's where there is no second one.
    """
    near, second = curve[place + side], place + 2 * side
    if not 0 <= second < len(curve) or not (way := _log_steps(near, curve[second])):
        return near.loss or 0.0
    slope = ((curve[second].loss or 0.0) - (near.loss or 0.0)) / way
    return (near.loss or 0.0) + slope * _log_steps(near, curve[place])


def _log_steps(one: RevisionFacts, other: RevisionFacts) -> float:
    """From one to the other in the log of the step."""
    return math.log1p(other.step) - math.log1p(one.step)


def _robust_z(values: FloatArray, least_sd: float) -> FloatArray:
    """Deviations from the median in units of the scaled median absolute deviation."""
    off = values - np.median(values)
    return np.asarray(off / max(1.4826 * float(np.median(np.abs(off))), least_sd))
