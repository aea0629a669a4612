"""MLP neurons and attention heads: where they sit, reading them, and replacing what they give.

Both are read where they go into a linear layer: a neuron after its activation (and its gate, if there is one) at the
input of the MLP's output layer, a head at the input of the attention's output projection. A head is not cut at that
projection's output, because the projection mixes the heads. Hooks exist within a ``with`` alone.

Axes: B batch, T tokens, C columns of a site's input, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Kind = Literal["mlp", "head"]
KINDS: tuple[Kind, ...] = ("mlp", "head")
IntArray = npt.NDArray[np.int64]

#: What is done with the input (B, T, C) of a site, given the site's place: None leaves it, a tensor takes its place.
AtInput = Callable[[int, Tensor], Tensor | None]


class HasUnits(Protocol):
    """A model whose units can be reached."""

    def output_layer(self, block: int, kind: Kind) -> nn.Module:
        """The linear layer of a block whose input is its neurons (``mlp``) or its heads side by side (``head``)."""

    @property
    def n_heads(self) -> int:
        """Heads of a block."""

    @property
    def n_layers(self) -> int:
        """Blocks."""


@dataclass(frozen=True, eq=False)
class Units:
    """All units of one kind.

    Attributes:
        kind: ``mlp`` or ``head``.
        modules: The output layer of each block, in order.
        per_block: Units of each block. columns: Columns of a unit in the input of its block's layer, 1 for a neuron.
    """

    kind: Kind
    modules: tuple[nn.Module, ...]
    per_block: tuple[int, ...]
    columns: int

    def __len__(self) -> int:
        return sum(self.per_block)

    @cached_property
    def blocks(self) -> IntArray:
        """(U,) the block of each unit. Units are numbered block by block."""
        return np.repeat(np.arange(len(self.per_block)), self.per_block).astype(np.int64)

    @cached_property
    def first(self) -> IntArray:
        """The number of each block's first unit, and that of all units, (blocks + 1,)."""
        return np.concatenate([[0], np.cumsum(self.per_block)]).astype(np.int64)

    def columns_of(self, units: IntArray, block: int) -> IntArray:
        """Columns of those of the ``units`` that are in a block."""
        inside = units[self.blocks[units] == block] - self.first[block]
        return (inside[:, None] * self.columns + np.arange(self.columns)).reshape(-1)

    def by_unit(self, activations: Tensor) -> Tensor:
        """(..., C) of one block as (..., units of the block, columns of a unit)."""
        return activations.unflatten(-1, (-1, self.columns))


def units_of(model: HasUnits, kind: Kind) -> Units:
    """All units of a kind."""
    modules = tuple(model.output_layer(block, kind) for block in range(model.n_layers))
    widths = [inputs_of(module) for module in modules]
    if kind == "mlp":
        return Units(kind, modules, tuple(widths), 1)
    return Units(kind, modules, (model.n_heads,) * len(modules), widths[0] // model.n_heads)


def inputs_of(module: nn.Module) -> int:
    """How many numbers a linear layer reads. GPT-2's is a ``Conv1D``, whose weight is transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return int(weight.shape[1] if isinstance(module, nn.Linear) else weight.shape[0])


@contextmanager
def reading(modules: Sequence[nn.Module], read: AtInput, places: Sequence[int] | None = None) -> Iterator[None]:
    """Show ``read`` the input of every module while the ``with`` lasts.

    Args:
        modules: Output layers of blocks.
        read: See :data:`AtInput`.
        places: Which of them have a hook; None for all.
    """
    with ExitStack() as hooks:
        for place in range(len(modules)) if places is None else places:

            def before(module: nn.Module, args: tuple[Any, ...], place: int = place) -> tuple[Any, ...] | None:
                replaced = read(place, args[0])
                return None if replaced is None else (replaced, *args[1:])

            hooks.callback(modules[place].register_forward_pre_hook(before).remove)
        yield


@dataclass(eq=False)
class Ablation:
    """Units that give something else than what they would: a value for each class of positions.

    Attributes:
        units: All units of a kind. which: (k,) those that are ablated.
        values: For each block the values (classes, C) of all its columns; None for zeros.
        classes: (B, T) class of every position of the batch that runs next; not needed with zeros. A model that is run
            without the last tokens takes the first classes.
    """

    units: Units
    which: IntArray
    values: Sequence[Tensor] | None = None
    classes: Tensor | None = None
    _columns: dict[int, Tensor] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for block in range(len(self.units.modules)):
            columns = self.units.columns_of(self.which, block)
            if len(columns):
                self._columns[block] = torch.from_numpy(columns)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model without these units, while the ``with`` lasts."""
        with reading(self.units.modules, self._replace, list(self._columns)):
            yield

    def _replace(self, place: int, activations: Tensor) -> Tensor:
        columns = self._columns[place].to(activations.device)
        replaced = activations.clone()
        if self.values is None:
            replaced[..., columns] = 0.0
            return replaced
        assert self.classes is not None, "the batch has no classes of positions"
        replaced[..., columns] = values_at(self.values[place][:, columns], self.classes, activations)
        return replaced


def values_at(values: Tensor, classes: Tensor, activations: Tensor) -> Tensor:
    """The values (classes, C) of each position's class, (B, T, C), in the type of ``activations`` (B, T, ...)."""
    return values.to(activations)[classes[:, : activations.shape[1]].to(activations.device)]


@dataclass(eq=False)
class Attribution:
    """Inputs of the blocks' output layers and, after a backward pass, what units lose to first order.

    Attributes:
        units: All units of a kind.
        values: For each block the values (classes, C) that units would give instead.
        way: How far they have gone there when the gradient is taken: 0 where they are, 1 at ``values``.
        classes: (B, T) class of every position of the batch that runs next.
    """

    units: Units
    values: Sequence[Tensor]
    way: float = 0.0
    classes: Tensor | None = None
    _off: list[Tensor] = field(default_factory=list, init=False)
    _kept: list[Tensor] = field(default_factory=list, init=False)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Keep inputs while the ``with`` lasts. The model may be frozen."""
        self._off.clear()
        self._kept.clear()
        with reading(self.units.modules, self._keep):
            yield

    def _keep(self, place: int, activations: Tensor) -> Tensor | None:
        assert self.classes is not None, "the batch has no classes of positions"
        off = activations - values_at(self.values[place], self.classes, activations)
        kept = activations - self.way * off if self.way else activations
        if kept.requires_grad:
            kept.retain_grad()
        else:
            kept.requires_grad_(True)
        self._off.append(off.detach())
        self._kept.append(kept)
        return kept if self.way else None

    def lost(self) -> Iterator[Tensor]:
        """For each block gradient x (activation - value), (B, T, units), summed over the columns of a unit."""
        for off, kept in zip(self._off, self._kept, strict=True):
            assert kept.grad is not None, "no backward pass has reached this block"
            yield self.units.by_unit(kept.grad * off).sum(-1)
