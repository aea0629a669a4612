"""Which results may stand beside each other: sets that differ in nothing but the cell of the 2x2 and the seed.

Size, pretraining data, settings and snapshot, layout, number and draw of training questions, adapter, tokenizer and
questions (of all splits) must agree. A result that differs in one of them makes a set of its own, and a sentence names
the difference. Results that differ are never averaged.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np

from emergence.data.records import SPLITS
from emergence.experiment.result import RunResult
from emergence.files import content_digest
from emergence.findings.collect import Collection, Found, Skipped
from emergence.findings.two_by_two import CELL_OF_CONDITION, ModelFree, model_free
from emergence.measures.emergence_score import CELLS, FROZEN, FROZEN_CELLS, FULL, RANDOM_FROZEN, RANDOM_FULL
from emergence.spec.config import CONFIG_NAMES, ConfigName, load_config
from emergence.spec.experiment import ExperimentSpec, pretrain_label
from emergence.spec.model_size import count_parameters

NOT_RECORDED = "not recorded"
K = TypeVar("K", bound=Hashable)
#: The cells in words for people: the guide's, in its table's order. Its ``random`` is a random trunk trained whole.
MODES = {FULL: "full", FROZEN: "frozen", RANDOM_FULL: "random", RANDOM_FROZEN: "random frozen"}
#: Settings that cannot change a score.
_COSMETIC = (
    *("checkpoint_every_steps", "log_every_steps", "cache_gigabytes", "families", "max_answer_words"),
    *("validity", "mdl_epochs", "conditional", "on_nan"),
)
#: Settings of pretraining and finetuning that every phase goes by, whatever its cell.
OF_ALL_PHASES = ("pretrain.precision", "finetune.marks")
#: What sizes may differ in beside size: none of these, and not what size itself is.
_NO_CONFOUND = (
    *(key for key in _COSMETIC if key != "max_answer_words"),
    *("step_snapshots", "compile", "loss_chunk_rows"),
    *("weights", "features"),  # of published models alone
    *("n_layers", "hidden_size", "n_heads"),
)
#: What a key's digest is made of: sections, and single settings.
_BEHIND = {
    "model_settings": ("model.",),
    "pretraining_settings": ("model.", "pretrain.", "microworld."),
    "evaluation_settings": ("evaluate.alpha", "evaluate.cluster", "finetune.max_answer_words"),
    "questions": (*(f"microworld.{key}_documents" for key in SPLITS), "microworld.difficulty", "microworld.seed"),
}
#: So many settings that two sets differ in are named.
_MOST_SETTINGS = 5


@dataclass(frozen=True)
class BaseKey:
    """What pretrained and random cells have in common; the field names are used in messages."""

    size: str
    layout: str
    samples: int | None
    subset: int
    adapter: str
    model_settings: str
    tokenizer: str
    questions: str
    evaluation_settings: str
    file_format: str


@dataclass(frozen=True)
class TrunkKey:
    """What pretrained cells have in common beyond their :class:`BaseKey`."""

    pretrain: str
    pretraining_text: str
    pretraining_settings: str
    pretraining_steps: str
    is_snapshot: bool = False


@dataclass(frozen=True)
class ComparableSet:
    """Results that differ in cell and seed only.

    Attributes:
        base, trunk: What the results share; ``trunk`` is None where only random trunks were run.
        cells: Cell of the 2x2 -> its results, one for each seed.
        number: From 1 on among the sets of one ``label``; 0 where the label is unique, or ``named`` makes it so.
        named: What tells a published model from others that would have its label: more of its path, or its weights.
        pretraining: The spec that pretrained its trunks, one of them for all seeds; None where nothing in the folder
            tells it.
    """

    base: BaseKey
    trunk: TrunkKey | None
    cells: Mapping[str, tuple[Found, ...]]
    number: int = 0
    named: str = ""
    pretraining: ExperimentSpec | None = None

    @property
    def pretrain(self) -> str:
        return self.trunk.pretrain if self.trunk else "none"

    @property
    def is_documented_format(self) -> bool:
        return all(item.spec is None for items in self.cells.values() for item in items)

    @property
    def is_published(self) -> bool:
        """Whether its trunks are published models, which are probed and never trained."""
        return any(item.spec is not None and item.spec.model is not None for item in self.results())

    @property
    def is_of_a_law(self) -> bool:
        """Whether it is on a snapshot, a draw of its own or an adapter: a point of a law rather than a 2x2."""
        return bool(self.base.subset or self.base.adapter != "none" or (self.trunk and self.trunk.is_snapshot))

    @property
    def cells_to_run(self) -> tuple[str, ...]:
        """The cells that there can be. A point of a law misses nothing."""
        if self.is_of_a_law:
            return tuple(cell for cell in CELLS if cell in self.cells)
        return FROZEN_CELLS if self.is_published else CELLS

    @property
    def model(self) -> str:
        """``tiny``, with what is not the default behind it."""
        parts = [self.base.layout] if self.base.layout not in ("question-first", NOT_RECORDED) else []
        parts += training_words(self.base)
        parts += [self.named] if self.named else []
        parts += [f"set {self.number}"] if self.number else []
        return self.base.size + (f" ({', '.join(parts)})" if parts else "")

    @property
    def label(self) -> str:
        """``tiny, wiki``."""
        return f"{self.model}, {self.pretrain}" if self.pretrain != NOT_RECORDED else self.model

    @property
    def n_params(self) -> int | None:
        """Non-embedding parameters as recorded, or of the configuration that the older format names and counts not."""
        counts = (item.result.n_parameters("non_embedding") for item in self.results())
        named = _named_size(self.base.size) if self.is_documented_format else None
        return next((count for count in counts if count is not None), named)

    @property
    def model_free(self) -> ModelFree:
        """What answers the test questions without a language model."""
        return model_free([item.result for item in self.results()])

    @property
    def held_out_loss(self) -> float:
        """Loss of the pretrained trunks in nats per token, averaged over the seeds; nan where it is not recorded."""
        recorded = (item.result.held_out_loss for item in self.cells.get(FULL, ()))
        losses = [loss.nats_per_token for loss in recorded if loss]
        return float(np.mean(losses)) if losses else math.nan

    def results(self) -> list[Found]:
        return [item for items in self.cells.values() for item in items]


def training_words(base: BaseKey) -> list[str]:
    """What is not the default of questions to train on and weights to train, a word each."""
    words = [f"n={base.samples}"] if base.samples is not None else []
    words += [f"subset {base.subset}"] if base.subset else []
    return words + ([base.adapter] if base.adapter != "none" else [])


@cache
def _named_size(name: str) -> int | None:
    """Non-embedding parameters of a configuration of this version; None if it has none of that name."""
    return count_parameters(load_config(name).model, vocab_rows=0).non_embedding if name in CONFIG_NAMES else None


@dataclass(frozen=True)
class Grouping:
    """Comparable sets, what could not be put into any, and which sets only look alike."""

    sets: tuple[ComparableSet, ...]
    skipped: tuple[Skipped, ...]
    mixed: tuple[str, ...]

    def over_sizes(self) -> dict[str, tuple[ComparableSet, ...]]:
        """Label (``wiki``) to sets of different sizes whose scores are of the same questions, smallest first.

        They may differ in more than size: see :meth:`confounds_with_size`.
        """
        groups = _grouped(self.sets, lambda s: (*_series_key(s), *(getattr(s.base, name) for name in _OF_QUESTIONS)))
        series: dict[str, tuple[ComparableSet, ...]] = {}
        for members in groups.values():
            if len({s.base.size for s in members}) == len(members) > 1:
                label = _series_label(members[0])
                series[label if label not in series else f"{label} ({len(series)})"] = tuple(members)
        return series

    def sizes_apart(self) -> tuple[str, ...]:
        """A sentence for sizes that are not all in one series of :meth:`over_sizes`: what keeps them apart.

        Nothing is said of published models, whose families have their own tokenizers, nor of points of a law.
        Example: ``wiki: tokenizer (debug 1f0c, tiny 77ab)``.
        """
        groups = _grouped((s for s in self.sets if not (s.is_published or s.is_of_a_law)), _series_key)
        in_a_series = {id(s) for members in self.over_sizes().values() for s in members}
        told = []
        for members in groups.values():
            if all(id(s) in in_a_series for s in members):
                continue
            apart = [words for name in _OF_QUESTIONS for words in _told_apart(name, members)]
            counts = Counter(s.base.size for s in members)
            apart += [f"{count} sets of {size}" for size, count in counts.items() if count > 1]  # see Grouping.mixed
            if len(counts) > 1 and apart:
                told.append(f"{_series_label(members[0])}: {', '.join(apart)}")
        return tuple(told)

    def confounds_with_size(self) -> tuple[str, ...]:
        """A sentence for each series of :meth:`over_sizes` whose sizes differ in more than size."""
        told = ((label, confounds_with_size(members)) for label, members in self.over_sizes().items())
        return tuple(f"{label}: {words}" for label, words in told if words)

    def over_samples(self) -> dict[str, tuple[ComparableSet, ...]]:
        """Label (``tiny, wiki``) to sets that differ in the number of training questions alone, fewest first."""
        groups = _grouped(self.sets, lambda s: (replace(s.base, samples=None), s.trunk))
        series: dict[str, tuple[ComparableSet, ...]] = {}
        for (base, trunk), members in groups.items():
            if len(members) > 1:
                whole = [s for s in members if s.base.samples is None]
                label = whole[0].label if whole else ComparableSet(base, trunk, {}).label
                ordered = sorted(members, key=lambda s: s.base.samples or math.inf)
                series[label if label not in series else f"{label} ({len(series)})"] = tuple(ordered)
        return series


#: Fields of a :class:`BaseKey` that are equal within a series, so that all scores are of the same questions.
_OF_QUESTIONS = ("tokenizer", "questions", "file_format", "evaluation_settings")


def _grouped(sets: Iterable[ComparableSet], key: Callable[[ComparableSet], K]) -> dict[K, list[ComparableSet]]:
    """Sets with equal keys, in their order."""
    groups: dict[K, list[ComparableSet]] = {}
    for s in sets:
        groups.setdefault(key(s), []).append(s)
    return groups


def _series_key(s: ComparableSet) -> tuple[object, ...]:
    """What is equal within a series beside :data:`_OF_QUESTIONS`."""
    return s.pretrain, s.base.layout, s.base.samples, s.base.subset, s.base.adapter


def _told_apart(name: str, members: Sequence[ComparableSet]) -> list[str]:
    """How sets differ in a field of their :class:`BaseKey`, with all values; empty if they do not.

    Where a digest stands for settings and every spec tells them, those are named. Example: ``evaluate.cluster (debug
    sentence, tiny document)``.
    """
    if len({getattr(s.base, name) for s in members}) == 1:
        return []
    specs = [(s.model, spec) for s in members if (spec := _spec_of(s)) is not None]
    settings = [(model, _settings_of(spec)) for model, spec in specs]
    differing = [
        f"{setting} {_each((model, values[setting]) for model, values in settings)}"
        for setting in _behind(name, *(spec for _, spec in specs))
        if len({values[setting] for _, values in settings}) > 1
    ]
    if differing and len(settings) == len(members):
        return differing
    return [f"{name.replace('_', ' ')} {_each((s.model, getattr(s.base, name)) for s in members)}"]


def _series_label(s: ComparableSet) -> str:
    """``wiki``, with what is not the default behind it."""
    data = f"pretraining data {NOT_RECORDED}" if s.pretrain == NOT_RECORDED else s.pretrain
    parts = [data, *([s.base.layout] if s.base.layout not in ("question-first", NOT_RECORDED) else [])]
    return ", ".join([*parts, *training_words(s.base)])


def group_results(collection: Collection) -> Grouping:
    """The comparable sets of a collection, smallest model first."""
    trunk_specs, texts = _pretrainings(collection)
    skipped: list[Skipped] = []
    by_key: dict[tuple[BaseKey, TrunkKey | None], list[Found]] = {}
    for item in collection.found:
        key = _base_key(item), _trunk_key(item, trunk_specs, texts)
        by_key.setdefault(key, []).append(_with_seed(item, trunk_specs))
    sets = []
    for base in dict.fromkeys(base for base, _ in by_key):
        trunks: list[TrunkKey | None] = [trunk for other, trunk in by_key if other == base and trunk is not None]
        random = by_key.get((base, None), [])
        for trunk in trunks or [None]:
            members = by_key[base, trunk] + random if trunk else random
            cells, left_out = _cells(members)
            skipped += [s for s in left_out if s not in skipped]
            made = (_trunk_spec(item, trunk_specs)[0] for item in (by_key[base, trunk] if trunk else ()))
            pretraining = next((spec for spec in made if spec and spec.model is None), None)
            sets.append(ComparableSet(base, trunk, cells, pretraining=pretraining))
    sets = [s for s in sets if s.cells]
    sets = _numbered(sorted(sets, key=_place))
    return Grouping(tuple(sets), tuple(skipped), tuple(_mixed(sets)))


def _pretrainings(collection: Collection) -> tuple[dict[str, ExperimentSpec], dict[str, str]]:
    """By id: the spec of every pretraining in the folder, and the fingerprint of its text where that is recorded.

    Runs that only pretrained are in no score, and tell what others were given.
    """
    opened = (collection.run(item.name) for item in collection.skipped if item.kind == "pretraining")
    made = [(run.spec, run.text_fingerprint) for run in opened if run]
    # A run that was given its trunk may have the settings that this was pretrained with, as a sweep's runs have.
    made += [
        (item.spec, _own_text(item))
        for item in collection.found
        if item.spec and (item.spec.pretrains or tells_its_pretraining(item.spec, item.result))
    ]
    return {spec.pretrain_id: spec for spec, _ in made}, {spec.pretrain_id: text for spec, text in made if text}


def _place(s: ComparableSet) -> tuple[object, ...]:
    """Sorts sets as the guide's table does; the full training set before few-shot ones."""
    names: tuple[str, ...] = get_args(ConfigName)
    size = names.index(s.base.size) if s.base.size in names else len(names)
    return size, s.base.size, s.n_params or 0, s.pretrain, s.base.layout, -(s.base.samples or 10**12)


def cell_of(item: Found) -> str:
    """The result's cell of the 2x2."""
    if item.spec is not None:
        return CELL_OF_CONDITION[item.spec.condition]
    frozen, random = item.result.freeze_llm, item.result.random_baseline
    return (RANDOM_FROZEN if frozen else RANDOM_FULL) if random else (FROZEN if frozen else FULL)


def seed_of(item: Found) -> int | None:
    """The seed of the trunk; None where the file does not tell."""
    if item.spec is None:
        return None
    return item.spec.seed if item.trunk_seed is None else item.trunk_seed


# Keys ---------------------------------------------------------------------------------------------


def _base_key(item: Found) -> BaseKey:
    result, spec = item.result, item.spec
    if spec is None:
        known = result.config_name, NOT_RECORDED, result.finetune_samples_limit
        return BaseKey(*known, 0, "none", *(NOT_RECORDED,) * 4, "older format")
    evaluation = spec.config.evaluate
    scoring = {
        "alpha": evaluation.alpha,
        "cluster": evaluation.cluster,
        "longest": spec.config.finetune.max_answer_words,
    }
    return BaseKey(
        size=result.config_name,
        layout=spec.layout,
        samples=spec.finetune_samples,
        subset=spec.subset,
        adapter=spec.adapter,
        model_settings=_short(content_digest(_model_settings(item, spec))),
        tokenizer=_short(result.fingerprint("tokenizer")),
        questions=_short(result.fingerprint("questions")),
        evaluation_settings=_short(content_digest(scoring)),
        file_format="run",
    )


def _model_settings(item: Found, spec: ExperimentSpec) -> Any:
    """What decides a trunk's shape: of a published model what was found in its files."""
    if spec.model is None:
        return asdict(spec.config.model)
    facts = item.result.data_fact("model") or {}
    return [facts.get(key) for key in ("class", "hidden_size", "n_layers", "parameters")]


def _trunk_key(item: Found, trunk_specs: Mapping[str, ExperimentSpec], texts: Mapping[str, str]) -> TrunkKey | None:
    """None for a random trunk, which is the floor of every pretraining."""
    if item.result.random_baseline and item.spec is not None:
        return None
    if item.spec is None:
        return TrunkKey(*(NOT_RECORDED,) * 4)
    if item.spec.model is not None:
        digest = _short(item.result.trunk.trunk_sha256)
        return TrunkKey(
            pretrain_label(item.spec), NOT_RECORDED, f"weights {digest}", item.spec.revision or NOT_RECORDED
        )
    spec, pretrain_id = _trunk_spec(item, trunk_specs)
    # A text is what it says, not where it lay; where no run recorded it, the path stands for it.
    text = _own_text(item) or texts.get(spec.pretrain_id if spec else str(pretrain_id))
    settings = f"pretraining {pretrain_id}"
    if spec:
        world = asdict(spec.config.microworld) if spec.data == "microworld" else None
        alone = replace(spec, seed=0)
        settings = _short(content_digest([alone.training_id, world])) if text else alone.pretrain_id
    steps, given = item.result.pretrained.steps, Path(item.result.trunk.given("path") or "").name
    steps_label = (given or NOT_RECORDED) if steps is None else str(steps)
    label, is_snapshot = pretrain_label(spec or item.spec), item.spec.at_snapshot
    label += f" at step {steps_label}" if is_snapshot else ""
    return TrunkKey(label, _short(text), settings, steps_label, is_snapshot)


def _own_text(item: Found) -> str | None:
    """The fingerprint of the text that a run read itself; None where it was given its weights."""
    if item.spec is None or not item.spec.pretrains:
        return None
    return item.result.fingerprint("text")


def tells_its_pretraining(spec: ExperimentSpec, result: RunResult) -> bool:
    """Whether the settings of a run are those that its trunk was pretrained with, by itself or by another run.

    One that was given its trunk has settings for a pretraining, too, and need not have that one's.
    """
    return not spec.random_baseline and result.trunk.pretrain_id in (None, spec.pretrain_id)


def _trunk_spec(item: Found, trunk_specs: Mapping[str, ExperimentSpec]) -> tuple[ExperimentSpec | None, str | None]:
    """The spec that pretrained the trunk of ``item``, where it is its own or among the results; and its id."""
    pretrain_id = item.result.trunk.pretrain_id
    if item.spec is not None and tells_its_pretraining(item.spec, item.result):
        return item.spec, item.spec.pretrain_id
    return trunk_specs.get(str(pretrain_id)), pretrain_id


def _with_seed(item: Found, trunk_specs: Mapping[str, ExperimentSpec]) -> Found:
    """The result with the seed of its trunk, where it probes or finetunes one of another seed than its own."""
    if item.spec is None or item.spec.random_baseline:
        return item
    spec, _ = _trunk_spec(item, trunk_specs)
    if spec is None or spec.seed == item.spec.seed:
        return item
    scores = replace(item.scores, trunk_seed=spec.seed) if item.scores else None
    return replace(item, scores=scores, trunk_seed=spec.seed)


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:12] if fingerprint else NOT_RECORDED


# Cells --------------------------------------------------------------------------------------------


def _cells(members: Iterable[Found]) -> tuple[dict[str, tuple[Found, ...]], list[Skipped]]:
    """Members by cell: equal training settings, one of each seed."""
    cells: dict[str, tuple[Found, ...]] = {}
    skipped: list[Skipped] = []
    for cell in CELLS:
        items = [item for item in members if cell_of(item) == cell]
        if any(item.spec is None for item in items) and len(items) > 1:
            names = " and ".join(item.name for item in items)
            why = f"{names} are all {items[0].result.config_name} {MODES[cell]}, and nothing in them says "
            skipped += [
                Skipped(i.name, "incomparable", why + "how they differ: put each experiment into its own folder")
                for i in items
            ]
            continue
        items, left_out = _same_settings(items)
        items, doubles = _one_per_seed(items)
        skipped += left_out + doubles
        if items:
            cells[cell] = tuple(items)
    return cells, skipped


def _training_settings(item: Found) -> dict[str, Any]:
    if item.spec is None:
        return {}
    whole = cell_of(item) in (FULL, RANDOM_FULL)
    name, settings = ("finetune", item.spec.config.finetune) if whole else ("probe", item.spec.config.probe)
    chosen = {f"{name}.{key}": value for key, value in asdict(settings).items() if key not in _COSMETIC}
    marks = item.result.data_fact("marks") or {}  # absent in results of an earlier version
    return chosen if whole else chosen | {"marks": [mark["text"] for mark in marks.values()]}


def _same_settings(items: list[Found]) -> tuple[list[Found], list[Skipped]]:
    """The results that were trained the way most of them were, and the others with the reason."""
    if len(items) < 2:
        return items, []
    digests = [content_digest(_training_settings(item)) for item in items]
    common = Counter(digests).most_common(1)[0][0]
    usual = next(item for item, digest in zip(items, digests, strict=True) if digest == common)
    kept, skipped = [], []
    for item, digest in zip(items, digests, strict=True):
        if digest == common:
            kept.append(item)
            continue
        there, here = _training_settings(usual), _training_settings(item)
        changed = ", ".join(f"{key} {here[key]} instead of {there[key]}" for key in here if here[key] != there[key])
        skipped.append(Skipped(item.name, "incomparable", f"trained with {changed} in {usual.name}"))
    return kept, skipped


def _one_per_seed(items: list[Found]) -> tuple[list[Found], list[Skipped]]:
    """One result of each seed: with predictions rather than without, the newest of those."""
    best: dict[int | None, Found] = {}
    skipped = []
    for item in sorted(items, key=_preference, reverse=True):
        seed = seed_of(item)
        if seed in best:
            why = f"the same cell and pretraining seed {seed} as {best[seed].name}, which is used"
            skipped.append(Skipped(item.name, "incomparable", why))
        else:
            best[seed] = item
    return [best[seed] for seed in sorted(best, key=lambda s: -1 if s is None else s)], skipped


def _preference(item: Found) -> tuple[bool, str, str]:
    stamp = re.search(r"\d{8}-\d{6}(-\d+)?$", item.result.run_id or "")
    return item.scores is not None, stamp[0] if stamp else "", item.name


# Sets that only look alike --------------------------------------------------------------------------


def _look(s: ComparableSet) -> tuple[object, ...]:
    """Sets that a reader would take for one another."""
    layout = "question-first" if s.base.layout == NOT_RECORDED else s.base.layout
    return s.base.size, layout, s.base.samples, s.base.subset, s.base.adapter


def _alike(a: ComparableSet, b: ComparableSet) -> bool:
    labels = {a.pretrain, b.pretrain}
    return _look(a) == _look(b) and (len(labels) == 1 or bool(labels & {"none", NOT_RECORDED}))


def _numbered(sets: Sequence[ComparableSet]) -> list[ComparableSet]:
    seen: Counter[str] = Counter()
    out = []
    for s in sets:
        others = [other for other in sets if other is not s and _alike(s, other)]
        if others and (named := _own_name(s, others)):
            s = replace(s, named=named)
        elif others:
            seen[s.base.size] += 1
            s = replace(s, number=seen[s.base.size])
        out.append(s)
    return out


def _own_name(s: ComparableSet, others: Sequence[ComparableSet]) -> str:
    """What tells a published model from ``others`` of its label: ``from A/tiny``, or its weights; empty for none."""
    if s.trunk is None or not s.is_published:
        return ""
    mine, theirs = _source(s), [_source(other) for other in others]
    if mine in theirs:  # one directory that held several models in turn
        weights = s.trunk.pretraining_settings
        return weights if all(o.trunk and o.trunk.pretraining_settings != weights for o in others) else ""
    for length in range(2, len(mine) + 1):
        if all(mine[-length:] != other[-length:] for other in theirs):
            return f"from {'/'.join(mine[-length:]).replace('//', '/')}"
    return f"from {'/'.join(mine).replace('//', '/')}"


def _source(s: ComparableSet) -> tuple[str, ...]:
    """The parts of the published model's name or directory."""
    names = (item.spec.model for item in s.results() if item.spec and item.spec.model)
    return PurePath(next(names, "")).parts


def _mixed(sets: Sequence[ComparableSet]) -> list[str]:
    """A sentence for each pair of sets that look alike and may not be compared."""
    sentences = []
    for i, a in enumerate(sets):
        for b in sets[i + 1 :]:
            if not _alike(a, b):
                continue
            parts = ", ".join(_differences(a, b))
            sentences.append(f"{_members(a)} and {_members(b)} are not compared: they differ in {parts}")
    return sentences


def _differences(a: ComparableSet, b: ComparableSet) -> list[str]:
    if a.base.file_format != b.base.file_format:
        return ["format (one is the older one, which does not record what was compared)"]
    pairs = [(asdict(a.base), asdict(b.base))]
    pairs += [(asdict(a.trunk), asdict(b.trunk))] if a.trunk and b.trunk else []
    told: dict[str, None] = {}  # in order, each once
    for x, y in pairs:
        for key in x:
            if x[key] != y[key]:
                digests = [f"{key.replace('_', ' ')} ({x[key]} and {y[key]})"]
                told |= dict.fromkeys(_settings_behind(key, a, b) or digests)
    return list(told)


def _settings_behind(key: str, a: ComparableSet, b: ComparableSet) -> list[str]:
    """``pretrain.precision (auto and bf16)``: what differs behind two digests; empty where specs do not tell."""
    of_trunk = key == "pretraining_settings"
    one, other = ((s.pretraining if of_trunk else None) or _spec_of(s) for s in (a, b))
    return differing_settings(one, other, _behind(key, one, other)) if one and other else []


def _behind(key: str, *specs: ExperimentSpec) -> tuple[str, ...]:
    """Settings, or how they begin, that a digest of ``specs`` is made of; of questions in the micro-world alone."""
    of_world = all(spec.data == "microworld" and not spec.qa_data for spec in specs)
    return _BEHIND.get(key, ()) if of_world or key != "questions" else ()


def differing_settings(a: ExperimentSpec, b: ExperimentSpec, among: tuple[str, ...]) -> list[str]:
    """``pretrain.precision (auto and bf16)``: settings that may change a score and in which two specs differ.

    Args:
        among: The settings' names, or how they begin.
    """
    first, second = _settings_of(a), _settings_of(b)
    told = [
        f"{name} ({first[name]} and {second[name]})"
        for name in sorted(first.keys() & second.keys())
        if first[name] != second[name]
        and (name in among or (name.startswith(among) and name.partition(".")[2] not in _COSMETIC))
    ]
    return _first_settings(told)


def _first_settings(told: list[str]) -> list[str]:
    """As many as are named, and how many there are more."""
    if len(told) <= _MOST_SETTINGS:
        return told
    return [*told[: _MOST_SETTINGS - 1], f"{len(told) - _MOST_SETTINGS + 1} more settings"]


def _spec_of(s: ComparableSet) -> ExperimentSpec | None:
    """The spec of one of its results; None in the documented older format."""
    return next((item.spec for item in s.results() if item.spec is not None), None)


def _settings_of(spec: ExperimentSpec) -> dict[str, Any]:
    """``section.key`` -> value."""
    return _flat(spec.to_dict()["config"])


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    sections = {name: value for name, value in config.items() if isinstance(value, Mapping)}
    return {f"{section}.{key}": value for section, of in sections.items() for key, value in of.items()}


def _members(s: ComparableSet) -> str:
    names = [item.name for item in s.results()]
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    return f"{s.label} ({', '.join(names[:4] if more else names)}{more})"


# Sizes --------------------------------------------------------------------------------------------


class _Setting(NamedTuple):
    """A setting of one size, and whether it is another than that size has by itself."""

    value: Any
    is_changed: bool


def confounds_with_size(members: Sequence[ComparableSet]) -> str:
    """What sets of several sizes differ in beside size, in words; empty if no difference is known.

    Each size has rates and lengths of training of its own. What is named is a setting that some size changes and that
    then is not the same at all of them, cell by cell, another tokenizer and another pretraining text. Published models,
    and results in the documented older format, record no settings. Example: ``finetune.lr of full (debug 0.003, tiny
    0.5)``.
    """
    own = [s for s in members if not (s.is_published or s.is_documented_format)]
    told = _first_settings(_uneven_settings(own))
    data = {
        "tokenizer": [(s.model, s.base.tokenizer) for s in own],
        "pretraining text": [(s.model, s.trunk.pretraining_text) for s in own if s.trunk],
    }
    for what, prints in data.items():
        recorded = [(model, fingerprint) for model, fingerprint in prints if fingerprint != NOT_RECORDED]
        if len({fingerprint for _, fingerprint in recorded}) > 1:
            told.append(f"{what} {_each(recorded)}")
    return ", ".join(told)


def _each(values: Iterable[tuple[str, object]]) -> str:
    """``(debug 0.003, tiny 0.5)``."""
    return f"({', '.join(f'{model} {value}' for model, value in values)})"


def _uneven_settings(sets: Sequence[ComparableSet]) -> list[str]:
    """``pretrain.muon_lr (debug 0.02, tiny 0.5)``, the recipe first."""
    found = [(s.model, _settings_by_cell(s)) for s in sets]
    told: dict[str, dict[str, list[str]]] = {}  # name -> values in words -> cells
    cells: Counter[str] = Counter()
    for cell, name in dict.fromkeys(key for _, settings in found for key in settings):
        here = [(model, settings[cell, name]) for model, settings in found if (cell, name) in settings]
        cells[name] += 1
        if any(of.is_changed for _, of in here) and any(of.value != here[0][1].value for _, of in here):
            told.setdefault(name, {}).setdefault(_each((model, of.value) for model, of in here), []).append(cell)
    words = []
    for name in sorted(told, key=lambda name: (name != "recipe", name)):
        for values, where in told[name].items():
            in_all = len(where) == cells[name]
            words.append(f"{name} {values}" if in_all else f"{name} of {' and '.join(where)} {values}")
    return words


def _settings_by_cell(s: ComparableSet) -> dict[tuple[str, str], _Setting]:
    """(cell in words or ``pretraining``, name) -> setting that may change a score. ``recipe`` is all that it sets.

    Settings of the micro-world are none of them: they decide the questions, which a series shares, and the text.
    """
    spec = s.pretraining or _spec_of(s)
    if spec is None:
        return {}
    of_trunk = _settings_within(spec, ["model.", *(["pretrain."] if s.pretraining else [])])
    of_trunk["recipe"] = _Setting(spec.config.recipe, spec.config.recipe != "modern")  # which every size has by itself
    found = {("pretraining", name): setting for name, setting in of_trunk.items()}
    for cell, items in s.cells.items():
        if (of := items[0].spec) is not None:
            names = ["finetune." if cell in (FULL, RANDOM_FULL) else "probe.", *OF_ALL_PHASES]
            found |= {(MODES[cell], name): setting for name, setting in _settings_within(of, names).items()}
    return found


def _settings_within(spec: ExperimentSpec, names: Sequence[str]) -> dict[str, _Setting]:
    """Settings with these names, or that begin with them."""
    usual = _usual_settings(spec.base_config, spec.config.recipe)
    return {
        name: _Setting(value, value != usual.get(name, value))
        for name, value in _settings_of(spec).items()
        if name.startswith(tuple(names)) and name.partition(".")[2] not in _NO_CONFOUND
    }


@cache
def _usual_settings(size: str, recipe: str) -> dict[str, Any]:
    """``section.key`` -> value as a size has it by itself; nothing of one that is none of this version's."""
    return _flat(load_config(size, [f"recipe={recipe}"]).to_dict()) if size in CONFIG_NAMES else {}


def peers_of(s: ComparableSet, grouping: Grouping) -> list[dict[str, tuple[Found, ...]]]:
    """Cells of the sets that differ from ``s`` in size alone, to pool the variance over seeds with.

    A cell is taken if it has two seeds or more, the same pretraining text, and the same changes to its size's default
    settings as the cell of ``s`` has. Example: both were trained with ``finetune.epochs=3``, or both with the defaults.
    Pooling is within a cell, never over cells (docs/methods.md#intervals).
    """
    text = s.trunk.pretraining_text if s.trunk else None
    peers = []
    for series in grouping.over_sizes().values():
        for other in series if any(one is s for one in series) else ():
            if other is s or (other.trunk.pretraining_text if other.trunk else None) != text:
                continue
            cells = {
                cell: items
                for cell, items in other.cells.items()
                if len(items) > 1 and cell in s.cells and _changes(items[0]) == _changes(s.cells[cell][0])
            }
            peers += [cells] if cells else []
    return peers


def _changes(item: Found) -> dict[str, Any]:
    """Training settings other than the size's own."""
    if item.spec is None:
        return {}
    if item.spec.base_config not in CONFIG_NAMES:
        return _training_settings(item)
    usual = replace(item, spec=replace(item.spec, config=load_config(item.spec.base_config)))
    own = _training_settings(usual)
    return {key: value for key, value in _training_settings(item).items() if value != own.get(key)}


def missing_cells(s: ComparableSet) -> dict[str, str]:
    """Cells that were not run, with what to run. Without the random cells there is no score."""
    weights = "--skip-pretrain --pretrained-model-path RUN/toy_llm_unified_pretrained.pth"
    flags = {FULL: "", FROZEN: f"--freeze-llm {weights}", RANDOM_FROZEN: "--random-baseline --freeze-llm"}
    flags[RANDOM_FULL] = "--random-baseline --skip-pretrain"
    if s.is_published:
        flags[FROZEN] = ""
    missing = {cell: flags[cell] for cell in s.cells_to_run if cell not in s.cells}
    without = "the same command without --freeze-llm and --random-baseline"
    return {cell: f"the same command with {f}" if f else without for cell, f in missing.items()}
