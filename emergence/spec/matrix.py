"""The experiment matrix: a small TOML file of axes becomes named cells, each with its complete spec.

A ``[[cells]]`` table has a value or a list of values for each axis, and stands for their product. A cell's name
follows from its content as in the experiment guide: size, what the trunk has seen (``WN`` wiki+nq, ``W`` wiki,
``WC`` wiki+control, ``WS`` shuffled, ``R`` random), what is trained (``F`` all weights, ``Z`` a probe on frozen ones),
number of training questions: ``T-WN-F-ALL``, ``B-W-Z-100``. What is not the guide's follows: ``T-W-F-100-3of8``. An
axis that means nothing for a cell is left out of it, such as snapshots of a random trunk. A table with ``model`` in
place of ``size`` is of published models, which are probed frozen: ``pythia-70m-step512-Z-ALL``, and
``pythia-70m-R-Z-ALL`` for the random twin of all its revisions. Names are for people; specs say what is the same
experiment. No torch.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from emergence.errors import ConfigError, UsageError
from emergence.spec.config import CONFIG_NAMES, SECTIONS, config_path, read_toml
from emergence.spec.experiment import MIXES, MOST_SUBSET, ExperimentSpec, snapshot_name
from emergence.spec.flags import flags_of
from emergence.spec.pretraining_snapshot import LAST, meant_snapshot, spaced_snapshots
from emergence.spec.published import changes_nothing, size_name
from emergence.wording import did_you_mean

#: What a trunk has seen, with the guide's letters. A random trunk has seen nothing: it is the score's floor.
TRUNKS = {"wiki+nq": "WN", "wiki": "W", "wiki+control": "WC", "shuffled": "WS", "random": "R"}
TRAINED = {"full": "F", "frozen": "Z"}
#: What a published model's trunk is, and the letter where no revision is named.
PUBLISHED = {"published": "P", "random": "R"}
#: ``samples`` of a cell that trains on every question.
ALL = "all"
#: The matrices of ``configs/``.
MATRICES = ("matrix", "matrix-debug", "matrix-law", "matrix-law-debug")
#: Most cells of one ``[[cells]]`` table, and most seeds. More are a mistake, and would fill the memory.
MOST_CELLS, MOST_SEEDS = 10_000, 1_000

_AXES = ("size", "trunk", "train", "samples", "layout", "finetune_data", "snapshot", "subset", "adapter")
#: The axes of our own trunks alone, with what a published model has in their place.
_OWN_WORDS = {"size": "size", "snapshot": "snapshots, its revisions", "adapter": "weights, which stay"}
#: The axes of published models.
_PUBLISHED_AXES = ("model", "revision", *(axis for axis in _AXES if axis not in _OWN_WORDS))
_CELL_KEYS = (*_AXES, "model", "revision", "set", "tag")
#: Flags that say where the data of every cell comes from.
DATA_KEYS = ("data", "finetune_data", "pretrain_text", "nq_data", "qa_data")
_TOP_KEYS = ("name", "seeds", "set", *DATA_KEYS, "cells")
_CHOICES: dict[str, tuple[object, ...]] = {
    "size": CONFIG_NAMES,
    "trunk": tuple(TRUNKS),
    "train": tuple(TRAINED),
    **{each.name: each.choices for each in flags_of(ExperimentSpec, "layout", "adapter", *DATA_KEYS) if each.choices},
}
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix at one seed.

    Attributes:
        name: The guide's name, ``T-WN-F-ALL``. The seeds of a cell share it.
        spec: The whole experiment. A pretrained cell's spec contains its pretraining, so that equal content
            means equal experiments wherever the trunk was trained.
    """

    name: str
    spec: ExperimentSpec

    @property
    def label(self) -> str:
        """``T-WN-F-ALL.0``, the last number being the seed."""
        return f"{self.name}.{self.spec.seed}"


@dataclass(frozen=True)
class Matrix:
    """A matrix file, checked.

    Attributes:
        name: The matrix's name, for people.
        source: Path of the file.
        seeds: The seeds of every cell.
        cells: Flags of :meth:`ExperimentSpec.from_flags` by cell name, without seed and data.
        common: ``section.key=value`` for every cell. data: Flags that say where data comes from.
    """

    name: str
    source: str
    seeds: tuple[int, ...]
    cells: Mapping[str, Mapping[str, Any]]
    common: tuple[str, ...]
    data: Mapping[str, str]

    def select(
        self,
        only: Sequence[str] = (),
        seeds: int | None = None,
        data: Mapping[str, str | None] | None = None,
        set_values: Sequence[str] = (),
    ) -> list[Cell]:
        """The cells to run, seed by seed in the file's order.

        Args:
            only: Patterns of cell names (``T-*``). Without a pattern all cells are taken.
            seeds: Number of seeds, counted from 0, in place of the file's seeds.
            data: Flags that replace the file's (None: keep the file's).
            set_values: ``section.key=value`` for every cell, after the file's own.

        Raises:
            UsageError: A pattern fits no cell, or flags contradict each other.
            ConfigError: A config value is impossible. It names file and cell.
        """
        if seeds is not None and not 1 <= seeds <= MOST_SEEDS:
            raise UsageError(f"--seeds must be between 1 and {MOST_SEEDS:,}, not {seeds}")
        names = self._matching(only)
        data_flags = {**self.data, **{key: value for key, value in (data or {}).items() if value is not None}}
        by_seed = self.seeds if seeds is None else range(seeds)
        return [Cell(name, self._spec(name, seed, data_flags, set_values)) for seed in by_seed for name in names]

    def _matching(self, only: Sequence[str]) -> list[str]:
        for pattern in only:
            if not any(fnmatchcase(name, pattern) for name in self.cells):
                hint = did_you_mean(pattern, self.cells, cutoff=0.4)
                raise UsageError(f"--only {pattern} fits none of the {len(self.cells)} cells of {self.source}; {hint}")
        return [name for name in self.cells if not only or any(fnmatchcase(name, pattern) for pattern in only)]

    def _spec(self, name: str, seed: int, data: Mapping[str, str], set_values: Sequence[str]) -> ExperimentSpec:
        flags = {**data, **self.cells[name]}
        own, before, after = flags.pop("set_values"), self.common, tuple(set_values)
        if flags.get("pretrain_data") not in MIXES:
            flags.pop("nq_data", None)
        if flags.get("model"):  # what is said of all cells' pretraining is not meant for it
            flags.pop("pretrain_text", None)
            before, after = (tuple(v for v in values if not changes_nothing(v)) for values in (before, after))
        try:
            return ExperimentSpec.from_flags(**flags, seed=seed, set_values=(*before, *own, *after))
        except ConfigError as error:
            raise ConfigError(f"{self.source}: cell {name}: {error}") from None
        except UsageError as error:
            raise UsageError(f"{self.source}: cell {name}: {error}") from None


def matrix_path(name: str) -> Path:
    """The file that ``emergence sweep MATRIX`` means: a path, or the name of a file in ``configs/``.

    Raises:
        ConfigError: It is neither.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    try:
        return config_path(name)
    except ConfigError:
        raise ConfigError(f"no matrix {name!r}: give a .toml file, or {' or '.join(MATRICES)} of configs/") from None


def load_matrix(path: Path) -> Matrix:
    """Read and check a matrix file.

    Raises:
        ConfigError: It is no matrix. The message names the file, the key, and what is allowed.
    """
    return matrix_from_dict(read_toml(path), str(path), path.stem)


def matrix_from_dict(raw: Mapping[str, Any], source: str, name: str) -> Matrix:
    """Check a parsed matrix file. ``name`` is the matrix's name where the file gives none."""
    _refuse_unknown(raw, _TOP_KEYS, source)
    name = raw.get("name", name)
    if not isinstance(name, str) or not _WORD.fullmatch(name):
        raise ConfigError(f"{source}: name must be a word of letters, digits, '_', '.', '+' and '-', not {name!r}")
    seeds = raw.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and s >= 0 for s in seeds):
        raise ConfigError(f"{source}: seeds must be a list of whole numbers from 0 on, for example [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"{source}: seeds holds a seed twice")
    data = {key: _choice(source, key, raw[key]) for key in DATA_KEYS if key in raw}
    axes = list(_settings(raw.get("set", {}), source))
    if varied := [key for key, values in axes if len(values) > 1]:
        raise ConfigError(f"{source}: set.{varied[0]} has several values: an axis belongs in a [[cells]] table")
    tables = raw.get("cells")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{source}: a matrix needs [[cells]] tables: size, trunk, train and what else may differ")
    cells: dict[str, dict[str, Any]] = {}
    for number, table in enumerate(tables, start=1):
        place = f"{source}: [[cells]] number {number}"
        for cell, flags in _product(table, place):
            if cells.setdefault(cell, flags) != flags:
                raise ConfigError(f"{place}: another cell is called {cell}: tell them apart with tag = '...'")
    common = tuple(_override(key, values[0]) for key, values in axes)
    return Matrix(name, source, tuple(seeds), cells, common, data)


def _product(table: Mapping[str, Any], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Cells of one ``[[cells]]`` table: name and flags."""
    _refuse_unknown(table, _CELL_KEYS, place)
    tag = table.get("tag", "")
    if not isinstance(tag, str) or (tag and not _WORD.fullmatch(tag)):
        raise ConfigError(f"{place}: tag must be a word of letters, digits, '_', '.', '+' and '-', not {tag!r}")
    axes, defaults = _axes_of(table, place)
    values = {axis: _axis(table, axis, defaults.get(axis, [None]), place) for axis in axes}
    settings = list(_settings(table.get("set", {}), place))
    count = math.prod(map(len, [*values.values(), *(options for _, options in settings)]))
    if count > MOST_CELLS:
        raise ConfigError(f"{place}: its axes make {count:,} cells; at most {MOST_CELLS:,} are one sweep")
    for chosen in itertools.product(*values.values()):
        cell = _meant(dict(zip(axes, chosen, strict=True)))
        if cell.get("model") and cell["trunk"] == "random":
            cell["revision"] = _of_twin(cell["model"], values["revision"][0])
        for combination in itertools.product(*(options for _, options in settings)):
            pairs = [(key, value) for (key, _), value in zip(settings, combination, strict=True)]
            varied = [(key, value) for (key, value), (_, options) in zip(pairs, settings, strict=True) if options[1:]]
            yield _name(cell, varied, tag), _flags(cell, pairs)


def _axes_of(table: Mapping[str, Any], place: str) -> tuple[tuple[str, ...], dict[str, list[Any]]]:
    """The axes of a ``[[cells]]`` table, and the values of those that it leaves out.

    Raises:
        ConfigError: It says neither or both of ``size`` and ``model``, or what no published model can be.
    """
    defaults: dict[str, list[Any]] = {"samples": [ALL], "layout": ["question-first"]}
    defaults |= {"snapshot": [LAST], "subset": [0], "adapter": ["none"]}
    if "model" not in table:
        if "size" not in table:
            raise ConfigError(
                f"{place} lacks size: one or a list of {', '.join(CONFIG_NAMES)}; or model, a published one"
            )
        if "revision" in table:
            raise ConfigError(f"{place}: revision is of a published model: name it with model")
        return _AXES, defaults | {"trunk": ["wiki", "random"], "train": list(TRAINED)}
    if own := next((axis for axis in _OWN_WORDS if axis in table), None):
        raise ConfigError(f"{place}: a published model has its own {_OWN_WORDS[own]}: drop {own}, or model")
    return _PUBLISHED_AXES, defaults | {"trunk": list(PUBLISHED), "train": ["frozen"]}


def _meant(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell without what means nothing for it: snapshots of a random trunk, draws of all, adapters of a frozen one."""
    meant: dict[str, tuple[Any, bool]] = {
        "snapshot": (LAST, cell["trunk"] != "random"),
        "subset": (0, cell["samples"] != ALL),
        "adapter": ("none", cell["train"] != "frozen"),
    }
    return cell | {axis: default for axis, (default, is_meant) in meant.items() if axis in cell and not is_meant}


def _of_twin(model: str, revision: str | None) -> str | None:
    """The revision whose configuration random twins are drawn from: none, if the model has a configuration itself."""
    folder = Path(model).expanduser()
    return revision if folder.is_dir() and not (folder / "config.json").is_file() else None


def _axis(table: Mapping[str, Any], axis: str, default: list[Any], place: str) -> list[Any]:
    if axis not in table:
        return default
    values = table[axis] if isinstance(table[axis], list) else [table[axis]]
    if not values:
        raise ConfigError(f"{place}: {axis} is an empty list")
    if "model" in table:
        known = {"trunk": tuple(PUBLISHED), "train": ("frozen",)}.get(axis)
        if known and (wrong := [value for value in values if value not in known]):
            what = f"{axis} of a published model must be {' or '.join(known)}"
            raise ConfigError(f"{place}: {what}, not {wrong[0]!r}")
        if known:
            return list(values)
    if axis == "snapshot":
        values = [each for value in values for each in spaced_snapshots(value) or [value]]
    return [_choice(place, axis, value) for value in values]


def _choice(place: str, key: str, value: Any) -> Any:
    if key == "samples":
        if value != ALL and (type(value) is not int or value < 1):
            raise ConfigError(f"{place}: samples must be 'all' or a whole number from 1 on, not {value!r}")
        return value
    if key == "subset":
        if type(value) is not int or not 0 <= value <= MOST_SUBSET:
            raise ConfigError(f"{place}: subset must be a whole number from 0 to {MOST_SUBSET}, not {value!r}")
        return value
    if key == "snapshot":
        try:
            return meant_snapshot(str(value) if type(value) in (str, int) else repr(value))
        except UsageError:
            known = "'last', a step from 1 on, '3of8', or 'log8' for eight"
            raise ConfigError(f"{place}: snapshot must be {known}, not {value!r}") from None
    choices = _CHOICES.get(key)
    if choices is None:
        if not isinstance(value, str) or not value:
            kind = {"model": "a directory or a name on the hub", "revision": "a name"}.get(key, "a path")
            raise ConfigError(f"{place}: {key} must be {kind}, not {value!r}")
    elif value not in choices or isinstance(value, bool):
        raise ConfigError(f"{place}: {key} must be one of {', '.join(map(str, choices))}, not {value!r}")
    return value


def _flags(cell: Mapping[str, Any], settings: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Flags of :meth:`ExperimentSpec.from_flags`."""
    published = {"model": cell["model"], "revision": cell["revision"]} if "model" in cell else {}
    flags: dict[str, Any] = {
        **(published or {"config_name": cell["size"]}),
        "freeze_llm": cell["train"] == "frozen",
        "layout": cell["layout"],
        "finetune_samples": None if cell["samples"] == ALL else cell["samples"],
        "subset": cell["subset"],
        "set_values": tuple(_override(key, value) for key, value in settings),
    }
    if not published:
        flags |= {"snapshot": cell["snapshot"], "adapter": cell["adapter"]}
    if cell["trunk"] == "random":
        flags["random_baseline"] = True
    elif not published:
        flags["pretrain_data"] = cell["trunk"]
    if cell["finetune_data"] is not None:
        flags["finetune_data"] = cell["finetune_data"]
    return flags


def _name(cell: Mapping[str, Any], varied: Sequence[tuple[str, Any]], tag: str) -> str:
    """``T-WN-F-ALL``; what is not the guide's follows: ``T-W-F-ALL-echo-finetune.lr=0.001``."""
    if "model" in cell:
        is_named = cell["trunk"] != "random" and cell["revision"] is not None
        parts = [size_name(cell["model"]), size_name(cell["revision"]) if is_named else PUBLISHED[cell["trunk"]]]
    else:
        parts = [_letters(cell["size"]), TRUNKS[cell["trunk"]]]
    parts += [TRAINED[cell["train"]], str(cell["samples"]).upper()]
    if cell["layout"] != "question-first":
        parts.append(cell["layout"])
    if cell["finetune_data"] is not None:
        parts.append(cell["finetune_data"])
    if cell.get("snapshot", LAST) != LAST:
        parts.append(snapshot_name(cell["snapshot"]))
    if cell["subset"]:
        parts.append(f"subset{cell['subset']}")
    if cell.get("adapter", "none") != "none":
        parts.append(cell["adapter"])
    parts += [f"{key}={_plain(value)}" for key, value in varied]
    return "-".join([*parts, tag] if tag else parts)


def _letters(size: str) -> str:
    """The shortest beginning that no other size has: ``T`` for tiny."""
    lengths = range(1, len(size) + 1)
    others = [name for name in CONFIG_NAMES if name != size]
    length = next((k for k in lengths if not any(name.startswith(size[:k]) for name in others)), len(size))
    return size[:length].upper()


def _plain(value: Any) -> str:
    """A value in a cell's name, which also names files."""
    text = f"{value:g}" if isinstance(value, float) else json.dumps(value) if isinstance(value, list) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", text).strip("_")


def _settings(table: Any, place: str) -> Iterator[tuple[str, list[Any]]]:
    """``set.finetune.lr = [1e-4, 1e-3]`` as ``("finetune.lr", [1e-4, 1e-3])``; the values are checked with the spec."""
    if not isinstance(table, dict):
        raise ConfigError(f"{place}: set must be a table, for example set.finetune.lr = [1e-4, 1e-3]")
    for section, keys in table.items():
        if section not in SECTIONS or not isinstance(keys, dict):
            raise ConfigError(f"{place}: set.{section}: write set.SECTION.KEY, SECTION one of {', '.join(SECTIONS)}")
        _refuse_unknown(keys, [f.name for f in fields(SECTIONS[section])], f"{place}: set.{section}")
        for key, value in keys.items():
            if value == []:
                raise ConfigError(f"{place}: set.{section}.{key} is an empty list")
            yield f"{section}.{key}", value if isinstance(value, list) else [value]


def _override(key: str, value: Any) -> str:
    """``--set`` text of a TOML value (scalars and lists of scalars are written alike in JSON)."""
    return f"{key}={json.dumps(value)}"


def _refuse_unknown(table: Mapping[str, Any], known: Iterable[str], place: str) -> None:
    names = list(known)
    for key in table:
        if key not in names:
            raise ConfigError(f"{place}: unknown key {key!r}; {did_you_mean(key, names)}")
