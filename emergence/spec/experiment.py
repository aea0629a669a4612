"""One frozen description of an experiment, built the same way from Modal's flags and from the local CLI.

The spec holds the *resolved* configuration, so it travels alone: into the container, into
``spec.json``, into the result file. Its content, not its name, says whether two runs are the same
experiment (:attr:`ExperimentSpec.experiment_id`) or share a pretraining (:attr:`ExperimentSpec.pretrain_id`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from emergence.errors import ConfigError, UsageError
from emergence.spec.adapters import Adapter
from emergence.spec.config import ConfigName, ExperimentConfig, config_from_dict, load_config
from emergence.spec.flags import Flag, flag, flags_of
from emergence.spec.pretraining_snapshot import LAST, meant_snapshot, spaced_among, wanted_of
from emergence.spec.published import refuse_with_model, size_name

SPEC_VERSION = 1
#: The condition of a run that was asked no questions.
PRETRAIN_ONLY = "pretrain-only"
#: Largest seed. Generators take 64 bits, and some seeds are the experiment's plus a count.
MOST_SEED = 2**32 - 1
#: Greatest number of a draw of training questions.
MOST_SUBSET = 10_000

PretrainData = Literal["wiki", "wiki+nq", "wiki+control", "shuffled"]
#: Pretraining data in which short documents replace some text: NQ-open's, or passages of the same lengths.
MIXES: tuple[PretrainData, ...] = ("wiki+nq", "wiki+control")
FinetuneData = Literal["qasrl", "qasrl-bank", "squad", "qasrl+squad"]
DataRoute = Literal["hub", "microworld"]
Layout = Literal["question-first", "echo"]
OnNan = Literal["stop", "rewind"]

#: The flags of the first stored specs, which are always part of an experiment's identity. A later flag is part of it
#: only where it is not at its default, so that runs older than the flag stay the experiments that they were.
_FIRST_FLAGS = frozenset({
    "pretrain_data", "freeze_llm", "random_baseline", "finetune_samples", "skip_pretrain", "pretrained_model_path",
    "skip_finetune", "seed", "layout", "finetune_data", "data", "pretrain_text", "nq_data", "qa_data",
})  # fmt: skip

# Flags that shape the configuration, and so are no fields of the spec.
CONFIG_NAME = Flag("config_name", ConfigName, "tiny", "Model size.")
ON_NAN = Flag(
    "on_nan", OnNan, "stop", "At a NaN: stop, or rewind to the last checkpoint and go on at half the learning rate."
)
SET = Flag(
    "set",
    list[str] | None,
    None,
    "Override a config field (repeatable), e.g. pretrain.epochs=2 or recipe=gpt2.",
    metavar="KEY=VALUE",
    # Modal's client knows no repeated flags.
    on_modal=Flag("set", str | None, None, "Override config fields, all in one text.", metavar="KEY=VALUE,KEY=VALUE"),
)


@dataclass(frozen=True, kw_only=True)
class ExperimentSpec:
    """Everything that decides an experiment's result, and nothing else.

    Every field but ``config`` is a flag of all commands that take an experiment, so a new flag is a line here.
    """

    config: ExperimentConfig
    pretrain_data: PretrainData = flag(
        "wiki", "Pretraining data, one budget; +control: text in place of +nq; shuffled: no word order."
    )
    freeze_llm: bool = flag(False, "Freeze the trunk, train only probes.")
    random_baseline: bool = flag(False, "Random trunk, never pretrained.")
    finetune_samples: int | None = flag(None, "Few-shot: use this many training questions.")
    # The weights are those of ``pretrained_model_path``, or of the newest run with the same pretraining.
    skip_pretrain: bool = flag(False, "Use existing pretrained weights.")
    # The path is relative to the runs folder, or absolute.
    pretrained_model_path: str | None = flag(None, "Weights to start from, e.g. RUN/toy_llm_unified_pretrained.pth.")
    skip_finetune: bool = flag(False, "Pretrain only.")
    # The splits do not depend on it: all seeds share the test questions.
    seed: int = flag(0, "Seeds initialisation, data order and few-shot subsets.")
    # In an echo, words are read at the second copy of the sentence.
    layout: Layout = flag("question-first", "question-first: question, sentence. echo: sentence, question, sentence.")
    finetune_data: FinetuneData = flag("qasrl", "Questions the hub route loads.")
    data: DataRoute = flag("hub", "hub (Hugging Face) or microworld (built in, offline).")
    pretrain_text: str | None = flag(None, "Local text (file or folder) instead of the route's.")
    # The control uses only the lengths of its documents.
    nq_data: str | None = flag(None, "Local NQ-open (jsonl or parquet) for wiki+nq and wiki+control.")
    qa_data: str | None = flag(None, "Local question data (file or folder) instead of the route's.")
    # A published model in place of a trunk of this program. Its random twin is drawn from its configuration.
    model: str | None = flag(
        None, "Probe this causal model: a name on the Hugging Face hub, a directory, or a .pth file."
    )
    revision: str | None = flag(None, "Its revision: a branch, tag or commit, or a subfolder of the directory.")
    # Nothing is pretrained for a snapshot: a run that is there must have kept it.
    snapshot: str = flag(LAST, "Start from this pretraining snapshot: last, a step, or 3of8 (in log steps).")
    # Draw 0 is nested, the others are independent of it, of each other and between amounts.
    subset: int = flag(0, "Draw of --finetune-samples questions: 0 nested over amounts; 1, 2, ... independent.")
    adapter: Adapter = flag("none", "Finetune this in place of the trunk's weights: LoRA of a rank, 16 states.")

    @classmethod
    def from_flags(
        cls,
        *,
        config_name: str = CONFIG_NAME.default,
        set_values: Sequence[str] | None = (),
        on_nan: OnNan = ON_NAN.default,
        **flags: Any,
    ) -> ExperimentSpec:
        """Build and check a spec from command-line flags.

        Args:
            config_name: A configuration in ``configs/``.
            set_values: ``section.key=value`` overrides.
            on_nan: Any value but ``stop`` stands for ``pretrain.on_nan=...``. It does not change the identity.
            **flags: The remaining fields of :class:`ExperimentSpec`; empty strings count as not given.

        Raises:
            UsageError: Flags contradict each other. It names the flag that cures it.
            ConfigError: A config value is impossible. It names the key.
        """
        flags = {name: None if value == "" else value for name, value in flags.items()}
        overrides = [*(set_values or ()), *([f"pretrain.on_nan={on_nan}"] if on_nan != ON_NAN.default else [])]
        spec = cls(config=load_config(config_name, overrides), **flags)
        if spec.model:
            refuse_with_model(spec, overrides)
            name = size_name(spec.model)
            spec = dataclasses.replace(spec, config=dataclasses.replace(spec.config, name=name, run_prefix=name))
        return spec.checked()

    def as_studied(self) -> ExperimentSpec:
        """This experiment as studies ask its trunk: frozen, with all training questions, whatever it trained on."""
        return dataclasses.replace(self, freeze_llm=True, finetune_samples=None, subset=0, adapter="none")

    def checked(self) -> ExperimentSpec:
        """The spec to use, with what its flags imply filled in. Flags that contradict each other are refused."""
        for each in flags_of(type(self)):
            value, choices = getattr(self, each.name), each.choices
            if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
                raise UsageError(f"{each.option} {value!r}: its name is not UTF-8, and no file can keep it: rename it")
            if choices and value not in choices:
                raise UsageError(f"{each.option} must be one of {', '.join(choices)}, not {value!r}")
        spec = dataclasses.replace(self, snapshot=meant_snapshot(self.snapshot))
        _refuse_contradictions(spec)
        # A random trunk is never pretrained, and a published one was: both mean --skip-pretrain too.
        is_given = spec.random_baseline or spec.model is not None
        return dataclasses.replace(spec, skip_pretrain=True) if is_given else spec

    # What the flags amount to -------------------------------------------------------------------

    @property
    def initialisation(self) -> Literal["pretrained", "random"]:
        """The row of the 2x2 this run belongs to."""
        return "random" if self.random_baseline else "pretrained"

    @property
    def trained(self) -> Literal["frozen", "full"]:
        """The column of the 2x2: probes on a frozen trunk, or all weights trained."""
        return "frozen" if self.freeze_llm else "full"

    @property
    def condition(self) -> str:
        """``full``, ``frozen``, ``random``, ``random-frozen`` or ``pretrain-only``."""
        if self.skip_finetune:
            return PRETRAIN_ONLY
        if self.random_baseline:
            return "random-frozen" if self.freeze_llm else "random"
        return self.trained

    @property
    def base_config(self) -> str:
        """The configuration that the settings are told against: that of the size; the default for a published model."""
        return str(CONFIG_NAME.default) if self.model else self.config.name

    @property
    def pretrains(self) -> bool:
        """Whether its pretraining is its own: it reads the text, and trains the trunk unless a run has it already."""
        return not self.skip_pretrain

    @property
    def at_snapshot(self) -> bool:
        """Whether it starts within its pretraining. Then the trunk is always another run's."""
        return self.snapshot != LAST

    @property
    def trunk_stays(self) -> bool:
        """Whether the trunk's own weights stay, its embedding among them: probes or an adapter are trained."""
        return self.freeze_llm or self.adapter != "none"

    @property
    def pretraining_alone(self) -> ExperimentSpec:
        """The run that does its pretraining and nothing else."""
        trunk_alone = dataclasses.replace(self, skip_finetune=True, freeze_llm=False, snapshot=LAST)
        return dataclasses.replace(trunk_alone, finetune_samples=None, subset=0, adapter="none")

    # Identity -----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; :meth:`from_dict` is the inverse."""
        stored: dict[str, Any] = {"spec_version": SPEC_VERSION}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            stored[f.name] = value.to_dict() if isinstance(value, ExperimentConfig) else value
        return stored

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str = "spec") -> ExperimentSpec:
        """Rebuild a stored spec.

        Raises:
            ConfigError: A field is unknown or malformed, or the version is a later one.
        """
        try:
            text = json.dumps(raw, sort_keys=True)
            return _known_spec(cls, text)  # type: ignore[arg-type]  # every class is hashable
        except (TypeError, ConfigError):
            return cls._of(raw, source)

    @classmethod
    def _of(cls, raw: Any, source: str) -> ExperimentSpec:
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{source}: not a spec")
        values = dict(raw)
        version = values.pop("spec_version", None)
        if version != SPEC_VERSION:
            raise ConfigError(f"{source}: spec version {version!r}, but this program reads version {SPEC_VERSION}")
        known = {f.name for f in dataclasses.fields(cls)}
        if set(values) - known or "config" not in values:
            odd = [f"unknown {name!r}" for name in sorted(set(values) - known)] or ["no 'config'"]
            raise ConfigError(f"{source}: not a spec of this program ({', '.join(map(str, odd[:5]))})")
        _check_types(cls, values, source)
        values["config"] = _config_of(values["config"], f"{source}: config")
        try:
            return cls(**values).checked()
        except UsageError as error:
            raise ConfigError(f"{source}: {error}") from None

    @functools.cached_property
    def experiment_id(self) -> str:
        """Twelve hexadecimal digits of the content: equal specs are the same experiment."""
        defaults = {each.name: each.default for each in flags_of(type(self)) if each.name not in _FIRST_FLAGS}
        content = {k: v for k, v in self.to_dict().items() if k not in defaults or v != defaults[k]}
        content["config"] = _without_cosmetics(content["config"])
        if self.model:  # which brings its own architecture and was pretrained elsewhere
            content["config"] |= {"model": None, "pretrain": self.config.pretrain.precision}
        return _digest(content)

    @functools.cached_property
    def pretrain_id(self) -> str:
        """Identity of the pretraining alone: specs that share it can share one trunk."""
        config = _without_cosmetics(self.config.to_dict())
        content = {key: config[key] for key in ("model", "pretrain")}
        content["world"] = config["microworld"] if self.data == "microworld" and not self.pretrain_text else None
        content["data"] = [self.data, self.pretrain_data, self.pretrain_text, self.nq_data]
        content["seed"] = self.seed
        if self.model:  # whose pretraining is somebody else's, and follows from the name alone
            content = {"model": [self.model, self.revision], "seed": self.seed}
        return _digest(content)

    @functools.cached_property
    def training_id(self) -> str:
        """Identity of the pretraining without its data. Specs that share it make one trunk from equal texts."""
        config = _without_cosmetics(self.config.to_dict())
        return _digest([config["model"], config["pretrain"], self.seed])

    def run_name(self, now: datetime) -> str:
        """``TinyQA_spe200k_frozen_20251231-005835``: only what differs from the defaults adds a suffix."""
        parts = [self.config.run_prefix]
        if self.pretrain_data != "wiki":
            parts.append(self.pretrain_data.replace("+", ""))
        if self.finetune_samples is not None:
            parts.append(f"n{self.finetune_samples}")
        if self.subset:
            parts.append(f"subset{self.subset}")
        if self.freeze_llm:
            parts.append("frozen")
        if self.random_baseline:
            parts.append("random")
        if self.adapter != "none":
            parts.append(self.adapter)
        if self.revision:
            parts.append(size_name(self.revision))
        if self.at_snapshot:
            parts.append(snapshot_name(self.snapshot))
        if self.layout == "echo":
            parts.append("echo")
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "_".join([*parts, now.strftime("%Y%m%d-%H%M%S")])


def refuse_with_resume(flags: Mapping[str, Any]) -> None:
    """Refuse flags of an experiment beside ``--resume``, which goes on with the spec that the run has.

    Raises:
        UsageError: One of ``flags`` (name -> value) is not at its default.
    """
    given = [each.option for each in experiment_flags() if flags[each.name] != each.default]
    if given:
        raise UsageError(
            f"--resume goes on with the run's own spec: drop {given[0]}, or start a new run without --resume"
        )


def experiment_flags() -> tuple[Flag, ...]:
    """The flags that describe an experiment: those of ``run``, ``plan`` and ``modal run`` alike."""
    return (CONFIG_NAME, *flags_of(ExperimentSpec), ON_NAN, SET)


def snapshot_name(snapshot: str) -> str:
    """A snapshot within a name: ``step64``, ``3of8``."""
    return snapshot if wanted_of(snapshot) else f"step{snapshot}"


def pretrain_label(spec: ExperimentSpec) -> str:
    """``wiki``, ``wiki+nq``, ``wiki shuffled``; ``microworld`` or the name of a local text in place of ``wiki``.

    A published model has its revision there, or ``published``.
    """
    if spec.model:
        return spec.revision or "published"
    text = Path(spec.pretrain_text).name if spec.pretrain_text else ("microworld" if spec.data == "microworld" else "")
    if spec.pretrain_data == "shuffled":
        return f"{text or 'wiki'} shuffled"
    return spec.pretrain_data.replace("wiki", text or "wiki", 1)


def _refuse_contradictions(spec: ExperimentSpec) -> None:
    if spec.random_baseline and spec.pretrained_model_path:
        raise UsageError(
            "--random-baseline uses random weights, --pretrained-model-path pretrained ones: drop one of the two"
        )
    if spec.skip_pretrain and spec.skip_finetune:
        raise UsageError("--skip-pretrain and --skip-finetune together leave nothing to do: drop one of the two")
    if spec.random_baseline and spec.skip_finetune:
        raise UsageError(
            "--random-baseline never pretrains, so --skip-finetune leaves nothing to do: drop one of the two"
        )
    if spec.pretrained_model_path and not spec.skip_pretrain:
        raise UsageError("--pretrained-model-path is used instead of pretraining: add --skip-pretrain")
    if spec.freeze_llm and spec.skip_finetune:
        raise UsageError("--freeze-llm trains a probe but --skip-finetune trains nothing: drop one of the two")
    if spec.revision and not spec.model:
        raise UsageError("--revision is a revision of --model: add --model NAME, or drop it")
    if spec.model:
        refuse_with_model(spec)
    elif spec.freeze_llm and spec.skip_pretrain and not _names_weights(spec):
        raise UsageError(
            "--freeze-llm --skip-pretrain needs weights to probe: add "
            "--pretrained-model-path RUN/toy_llm_unified_pretrained.pth (or --random-baseline for the floor)"
        )
    if spec.finetune_samples is not None and spec.finetune_samples <= 0:
        raise UsageError(
            f"--finetune-samples must be at least 1, not {spec.finetune_samples}: drop the flag to use all questions"
        )
    if not 0 <= spec.seed <= MOST_SEED:
        raise UsageError(f"--seed must be between 0 and {MOST_SEED}, not {spec.seed}")
    if not 0 <= spec.subset <= MOST_SUBSET:
        raise UsageError(f"--subset must be between 0 and {MOST_SUBSET}, not {spec.subset}")
    if spec.subset and spec.finetune_samples is None:
        raise UsageError("--subset is a draw of some training questions: add --finetune-samples N, or drop it")
    if spec.adapter != "none" and (spec.freeze_llm or spec.skip_finetune):
        other = "--freeze-llm trains probes" if spec.freeze_llm else "--skip-finetune trains nothing"
        raise UsageError(f"--adapter {spec.adapter} is finetuned, but {other}: drop one of the two")
    if spec.at_snapshot:
        _refuse_at_snapshot(spec)
    if spec.nq_data and spec.pretrain_data not in MIXES:
        raise UsageError(
            "--nq-data is only used with --pretrain-data wiki+nq or wiki+control: add one of them, or drop --nq-data"
        )


def _names_weights(spec: ExperimentSpec) -> bool:
    return bool(spec.pretrained_model_path or spec.random_baseline or spec.at_snapshot)


def _refuse_at_snapshot(spec: ExperimentSpec) -> None:
    """Refuse what has no snapshots of its own pretraining, or does not start from them."""
    unused = {
        "--model has revisions (--revision)": spec.model,
        "--random-baseline was never pretrained": spec.random_baseline,
        "--pretrained-model-path names the weights already": spec.pretrained_model_path,
        "--skip-finetune pretrains alone": spec.skip_finetune,
    }
    if reason := next((reason for reason, value in unused.items() if value), None):
        raise UsageError(f"--snapshot is where a run starts within its pretraining, but {reason}: drop one of the two")
    wanted, kept = wanted_of(spec.snapshot), spec.config.pretrain.step_snapshots
    if kept < (wanted[1] if wanted else 1):
        instead = f"take {spacing}, or pretrain" if (spacing := spaced_among(spec.snapshot, kept)) else "pretrain"
        raise UsageError(
            f"--snapshot {spec.snapshot}: this pretraining keeps {kept} snapshots in log steps: {instead} "
            f"with --set pretrain.step_snapshots={max(wanted[1] if wanted else 10, 10)}"
        )


#: Settings that are younger than the first stored specs, with what their absence means. A resumed run must not begin
#: to search, nor train its probes on other golds, nor its trunk otherwise. Its experiment stays the same.
_ABSENT_MEANS: dict[str, dict[str, Any]] = {
    "pretrain": {"adamw_beta1": 0.9, "muon_momentum_warmup": 0, "initial_context": 0, "initial_context_fraction": 0.6},
    "finetune": {"search": "off", "dropout": 0.0},
    "probe": {
        "train_gold": "first",
        "conditional": False,
        "nested": False,
        "layers": "all",
        "weights": "fp32",
        "features": "bf16",
    },
    "evaluate": {"cluster": "sentence", "minimal_pairs": 0},
}


def _check_types(owner: type[ExperimentSpec], values: Mapping[str, Any], source: str) -> None:
    """Types of a stored spec's own fields (the config checks itself)."""
    for each in flags_of(owner):
        value = values.get(each.name, each.default)
        if not isinstance(value, each.types) or (isinstance(value, bool) and bool not in each.types):
            raise ConfigError(f"{source}: {each.name} has the impossible value {value!r}")


def _as_it_was_meant(config: object) -> Any:
    """A stored config. The settings that it is too old to hold get the values that it ran with."""
    if not isinstance(config, Mapping):
        return config
    complete = dict(config)
    for section, settings in _ABSENT_MEANS.items():
        stored = config.get(section)
        if isinstance(stored, Mapping):
            complete[section] = {**settings, **stored}
    return complete


def _config_of(stored: object, source: str) -> ExperimentConfig:
    try:
        return _known_config(json.dumps(stored, sort_keys=True))
    except (TypeError, ConfigError):
        return config_from_dict(_as_it_was_meant(stored), source)


@functools.lru_cache(maxsize=256)  # hundreds of runs differ in cell and seed alone
def _known_config(text: str) -> ExperimentConfig:
    """The config of a stored one's JSON text."""
    return config_from_dict(_as_it_was_meant(json.loads(text)), "config")


@functools.lru_cache(maxsize=4_096)  # a run holds its spec twice
def _known_spec(kind: type[ExperimentSpec], text: str) -> ExperimentSpec:
    """The spec of a stored one's JSON text."""
    return kind._of(json.loads(text), "spec")


def _without_cosmetics(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config dictionary without what cannot change a result: names, hardware, cadence of logs and checkpoints."""
    kept = {key: value for key, value in config.items() if key not in ("name", "run_prefix", "compute")}
    for section in ("pretrain", "finetune"):
        cosmetic = ("log_every_steps", "checkpoint_every_steps", "on_nan")
        kept[section] = {key: value for key, value in config[section].items() if key not in cosmetic}
    for section, settings in _ABSENT_MEANS.items():  # so that older experiments keep their identity
        kept[section] = {k: v for k, v in kept[section].items() if k not in settings or v != settings[k]}
    return kept


def _digest(content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
