"""TOML to validated, frozen configuration, with the standard library alone.

Every field (:mod:`emergence.spec.settings`) has a help text and limits. ``emergence config`` shows them, and the error
about an impossible value names file, key and what is allowed. A *recipe* (``modern`` or ``gpt2``) supplies the defaults
of architecture and optimiser that belong together. The file overrides them, and ``--set`` overrides the file. So does a
recipe that ``--set`` asks for.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from emergence.errors import ConfigError
from emergence.spec.settings import (
    RECIPES,
    SECTIONS,
    ComputeConfig,
    EvaluateConfig,
    ExperimentConfig,
    FinetuneConfig,
    MicroworldSettings,
    ModelConfig,
    PretrainConfig,
    ProbeConfig,
)
from emergence.wording import did_you_mean

__all__ = [
    "CONFIG_NAMES",
    "RECIPES",
    "SECTIONS",
    "ComputeConfig",
    "ConfigName",
    "EvaluateConfig",
    "ExperimentConfig",
    "FinetuneConfig",
    "MicroworldSettings",
    "ModelConfig",
    "PretrainConfig",
    "ProbeConfig",
    "config_from_dict",
    "config_path",
    "describe_settings",
    "load_config",
    "load_config_file",
    "model_config_from_dict",
    "read_toml",
]

#: Tokens of the shortest context window.
SHORTEST_CONTEXT = 16
CONFIG_NAMES = ("debug", "tiny", "small", "base", "medium")
ConfigName = Literal["debug", "tiny", "small", "base", "medium"]


def config_path(name: str) -> Path:
    """Where the file of a named configuration lies: beside the package in a checkout, inside it when installed.

    Raises:
        ConfigError: There is no such configuration.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package.parent / "configs", package / "configs"):
        path = folder / f"{name}.toml"
        if path.is_file():
            return path
    raise ConfigError(f"no configuration {name!r}; {did_you_mean(Path(name).stem, CONFIG_NAMES)}")


def load_config(name: str, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read ``configs/<name>.toml``, apply ``section.key=value`` overrides, validate.

    Raises:
        ConfigError: A value is impossible. It names the file (or ``--set``), the key, and what is allowed.
    """
    return load_config_file(config_path(name), overrides)


def load_config_file(path: Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Like :func:`load_config` for any TOML file."""
    raw = read_toml(path)
    origin = {}
    for text in overrides:
        section, key, value = _parse_override(text)
        if section:
            table = raw.setdefault(section, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{path}: {section} must be a table of settings, [{section}]")
            table[key] = value
        else:
            raw[key] = value
        origin[(section, key)] = f"--set {text}"
    if ("", "recipe") in origin:
        _give_way(raw, origin)
    return config_from_dict(raw, str(path), origin)


def _give_way(raw: Mapping[str, Any], origin: Mapping[tuple[str, str], str]) -> None:
    """Drop what a file sets for its own recipe and the recipe that was asked for in its place sets otherwise."""
    for section, named in RECIPES.get(str(raw["recipe"]), {}).items():
        table = raw.get(section)
        if isinstance(table, dict):
            for key in named.keys() & table.keys():
                if (section, key) not in origin:
                    del table[key]


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file.

    Raises:
        ConfigError: The file is missing, not UTF-8, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error


def config_from_dict(
    raw: Mapping[str, Any], source: str = "config", origin: Mapping[tuple[str, str], str] | None = None
) -> ExperimentConfig:
    """Validate a plain dictionary (a parsed TOML file, or ``to_dict`` of a stored run).

    Args:
        raw: Tables by section plus ``name``, ``run_prefix``, ``recipe``.
        source: Name of the place that the values come from, for errors.
        origin: More exact names of places, for single ``(section, key)`` pairs.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: not a table of settings")
    origin = origin or {}
    top = {"name", "run_prefix", "recipe"}
    for key in raw:
        if key not in top and key not in SECTIONS:
            in_sections = [f"{name}.{key}" for name, kind in SECTIONS.items() if key in {f.name for f in fields(kind)}]
            meant = f"did you mean {' or '.join(in_sections)}?" if in_sections else None
            known = did_you_mean(key, [*sorted(top), *SECTIONS])
            raise ConfigError(f"{origin.get(('', key), source)}: unknown key {key!r}; {meant or known}")
    for key in ("name", "run_prefix"):
        if not isinstance(raw.get(key), str) or not str(raw[key]).replace("_", "").replace("-", "").isalnum():
            raise ConfigError(f"{source}: {key} must be a word of letters, digits, '_' and '-'")
    recipe = raw.get("recipe", "modern")
    if recipe not in tuple(RECIPES):  # a tuple, because a list in the file cannot be hashed
        place = origin.get(("", "recipe"), source)
        raise ConfigError(f"{place}: recipe must be one of {', '.join(RECIPES)}, not {recipe!r}")
    sections = {}
    for section, kind in SECTIONS.items():
        table = raw.get(section, {})
        if not isinstance(table, Mapping):
            raise ConfigError(f"{source}: {section} must be a table of settings, [{section}]")
        defaults = RECIPES[recipe].get(section, {})
        where = {key: origin.get((section, key), source) for key in table}
        sections[section] = _build(kind, section, {**defaults, **table}, where, source)
    config = ExperimentConfig(name=raw["name"], run_prefix=raw["run_prefix"], recipe=recipe, **sections)
    _check_together(config, source, origin)
    return config


def model_config_from_dict(raw: object, source: str) -> ModelConfig:
    """Validate the architecture stored beside weights (``dataclasses.asdict`` of a :class:`ModelConfig`)."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{source}: model must be a table of settings")
    config: ModelConfig = _build(ModelConfig, "model", raw, {}, source)
    return config


_hints = functools.cache(get_type_hints)  # reading hundreds of stored specs spends its time here


def _build(kind: type, section: str, values: Mapping[str, Any], where: Mapping[str, str], source: str) -> Any:
    hints = _hints(kind)
    known = {f.name: f for f in fields(kind)}
    for key in values:
        if key not in known:
            meant = did_you_mean(key, known).replace("did you mean ", f"did you mean {section}.")
            raise ConfigError(f"{where.get(key, source)}: unknown key {section}.{key}; {meant}")
    checked = {}
    for key, value in values.items():
        setting = known[key].metadata
        place = f"{where.get(key, source)}: {section}.{key}"
        checked[key] = _check_value(value, hints[key], place, setting["low"], setting["high"])
    try:
        return kind(**checked)
    except TypeError:
        missing = [f.name for f in fields(kind) if f.name not in checked and f.default is f.default_factory]
        raise ConfigError(f"{source}: [{section}] lacks {', '.join(missing)}") from None


def _check_value(value: Any, hint: Any, place: str, low: float | None, high: float | None) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint) or isinstance(value, bool):
            raise ConfigError(f"{place} must be one of {', '.join(map(str, get_args(hint)))}, not {value!r}")
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)) or not value:
            of, such = ("numbers", "[0.1, 1]") if get_args(hint)[0] in (int, float) else ("names", '["A", "B"]')
            raise ConfigError(f"{place} must be a list of {of}, such as {such}, not {value!r}")
        return tuple(_check_value(item, get_args(hint)[0], place, low, high) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # too large for a float: refused below
            value = float(value)
    if type(value) is not hint:
        names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
        raise ConfigError(f"{place} must be {names[hint]}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{place} must be a finite number, not {value!r}")
    if (low is not None and value < low) or (high is not None and value > high):
        limits = (
            f"at least {low:g}"
            if high is None
            else f"between {low:g} and {high:g}"
            if low is not None
            else f"at most {high:g}"
        )
        raise ConfigError(f"{place} must be {limits}, not {value!r}")
    return value


def _check_together(config: ExperimentConfig, source: str, origin: Mapping[tuple[str, str], str]) -> None:
    """Refuse values that are possible alone and impossible together, and name what was set last of them."""
    model, pretrain = config.model, config.pretrain

    def places(*names: str) -> str:
        found = (origin.get((section, key)) for section, _, key in (name.partition(".") for name in names))
        return ", ".join(dict.fromkeys(place for place in found if place)) or source

    if model.hidden_size % model.n_heads or (model.hidden_size // model.n_heads) % 2:
        raise ConfigError(
            f"{places('model.n_heads', 'model.hidden_size')}: model.n_heads = {model.n_heads} must divide "
            f"model.hidden_size = {model.hidden_size} into heads of even size"
        )
    if pretrain.micro_batch_size and pretrain.batch_size % pretrain.micro_batch_size:
        raise ConfigError(
            f"{places('pretrain.micro_batch_size', 'pretrain.batch_size')}: pretrain.micro_batch_size = "
            f"{pretrain.micro_batch_size} must divide pretrain.batch_size = {pretrain.batch_size}"
        )
    if pretrain.initial_context:
        together = places("pretrain.initial_context", "model.sequence_length", "model.positions")
        window, length = pretrain.initial_context, model.sequence_length
        if length % window or not SHORTEST_CONTEXT <= window < length:
            raise ConfigError(
                f"{together}: pretrain.initial_context = {window} must be {SHORTEST_CONTEXT} or more, less than "
                f"model.sequence_length = {length} and divide it: add --set pretrain.initial_context=0 for sequences "
                "that are whole from the start"
            )
        if model.positions == "learned":
            raise ConfigError(
                f"{together}: pretrain.initial_context needs model.positions = rotary: positions beyond the "
                "window would be learned in the last updates alone: add --set pretrain.initial_context=0"
            )
    if config.probe.layers != "all" and not re.fullmatch(r"\d{1,4}(,\d{1,4})*", config.probe.layers):
        raise ConfigError(
            f"{places('probe.layers')}: probe.layers must be all, or numbers with commas such as 0,2,3, "
            f"not {config.probe.layers!r}"
        )
    if "linear" not in config.probe.families:
        raise ConfigError(f"{places('probe.families')}: probe.families must include linear, the headline")
    if pretrain.warmup_fraction + (pretrain.decay_fraction if pretrain.schedule == "wsd" else 0) > 1:
        where = places("pretrain.warmup_fraction", "pretrain.decay_fraction", "pretrain.schedule")
        raise ConfigError(f"{where}: pretrain.warmup_fraction + pretrain.decay_fraction must be at most 1")


def _parse_override(text: str) -> tuple[str, str, Any]:
    """``section.key=value`` with ``value`` in TOML syntax (a bare word is a string)."""
    name, equals, value = text.partition("=")
    section, _, key = name.strip().rpartition(".")
    if not equals or not key:
        raise ConfigError(f"--set {text}: write it as SECTION.KEY=VALUE, for example --set pretrain.epochs=2")
    try:
        return section, key, tomllib.loads(f"value = {value.strip()}")["value"]
    except (ValueError, RecursionError):  # not TOML, or too many digits or brackets: a plain string
        return section, key, value.strip()


def describe_settings() -> dict[str, dict[str, str]]:
    """Help text of every setting by section, for ``emergence config`` and the documentation."""
    return {section: {f.name: f.metadata["help"] for f in fields(kind)} for section, kind in SECTIONS.items()}
