"""What an experiment found: :class:`RunResult` and its file, ``finetune_stats.json``.

The first nine keys are those that the experiment guide documents, at the top level and under their own names. The
other keys make the numbers traceable. People rename these files, so they are recognised by content. Files with the
documented keys alone, which is an older format, load too.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import math
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emergence import __version__
from emergence.errors import DataError, RunDirectoryError
from emergence.experiment.facts import (
    HEADLINE,
    HeldOutLoss,
    LayerFit,
    Pretraining,
    Readout,
    Scores,
    TrunkOrigin,
    Validity,
    dig,
    estimate_at,
    is_of,
    view_of,
    words_of_layout,
)
from emergence.experiment.manifest import MANIFEST_FILE, read_manifest
from emergence.experiment.shape import check_result
from emergence.experiment.source_commit import source_commit
from emergence.files import SEAL_KEY, read_json_and_text, unseal, unseal_as_written
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec

if TYPE_CHECKING:
    from emergence.measures.bootstrap import Estimate

SCHEMA_VERSION = 1

#: Keys that any results file must have. Without them it says nothing about emergence.
_REQUIRED = ("config_name", "freeze_llm", "random_baseline", "final_validation_f1")


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of one run; None wherever a number does not exist.

    The fields are what is stored. Readers ask the properties and methods, which know where each fact lies. A fact that
    an older file lacks is None or empty. A malformed one raises DataError.

    Attributes:
        config_name: The model's size.
        finetune_epochs: Epochs of finetuning that were run.
        best_validation_loss: Lowest validation loss of finetuning, nats per question.
        final_validation_accuracy: Exact match on validation, 0 to 1.
        final_validation_f1: Token F1 on validation, 0 to 1.
        freeze_llm, random_baseline: The cell of the 2x2.
        finetune_samples_limit: Few-shot limit.
        qasrl_train_filtering: Counts of training questions read, kept and dropped by reason.
        run_id, experiment_id, spec: Which run of which experiment (``spec`` as ``ExperimentSpec.to_dict``).
        condition, initialisation, layout, seed: The spec's, for readers that do not know specs.
        lineage: Where the trunk came from: path and sha256 of the weights, the ids of their run and pretraining.
        test_scores, validation_scores: Score name to estimate with interval, and breakdowns.
        probes: Fits and read-outs, by family and layer.
        minimal_pairs: Read-out or baseline to its scores on role-crossed pairs; None without pairs.
        finetuning: How its settings were searched, with all weights trained.
        pretraining: loss (nats per token), perplexity, bits per byte, tokens, steps.
        parameters: total, non_embedding, trainable.
        seconds: Wall-clock time by phase, summed over all attempts. tokens_per_second: Its rate by phase.
        data: Fingerprints and provenance.
        versions: Of Python, the libraries, this program; platform and threads.
        flags: What a reader of these numbers should know.
    """

    config_name: str
    finetune_epochs: int | None = None
    best_validation_loss: float | None = None
    final_validation_accuracy: float | None = None
    final_validation_f1: float | None
    freeze_llm: bool
    random_baseline: bool
    finetune_samples_limit: int | None = None
    qasrl_train_filtering: dict[str, int] | None = None

    run_id: str | None = None
    experiment_id: str | None = None
    spec: dict[str, Any] | None = None
    condition: str | None = None
    initialisation: str | None = None
    layout: str | None = None
    seed: int | None = None
    lineage: dict[str, Any] | None = None
    test_scores: dict[str, Any] | None = None
    validation_scores: dict[str, Any] | None = None
    probes: dict[str, Any] | None = None
    minimal_pairs: dict[str, Any] | None = None
    finetuning: dict[str, Any] | None = None
    pretraining: dict[str, Any] | None = None
    parameters: dict[str, int] | None = None
    seconds: dict[str, float] | None = None
    tokens_per_second: dict[str, float] | None = None
    data: dict[str, Any] | None = None
    versions: dict[str, Any] | None = None
    flags: list[str] = field(default_factory=list)

    @classmethod
    def from_spec(cls, spec: ExperimentSpec, run_id: str, **facts: Any) -> RunResult:
        """A result with everything that follows from the spec filled in."""
        return cls(
            run_id=run_id,
            experiment_id=spec.experiment_id,
            spec=spec.to_dict(),
            **{**facts_of_spec(spec), "final_validation_f1": None, **facts},
        )

    @property
    def is_documented_format(self) -> bool:
        """Whether the file held the guide's keys alone, so that nothing says which run it was."""
        return self.run_id is None

    def check_facts(self) -> None:
        """Raise DataError if a fact that readers ask for is malformed."""
        _ = self.readouts, self.fits, self.validities, self.no_model_floor, self.words_alone
        _ = self.held_out_loss, self.pretrained, self.trunk, self.pairs_right

    def scores(self, split: str) -> Scores:
        """The scores of a split, ``validation`` or ``test``."""
        stored = self.test_scores if split == "test" else self.validation_scores
        return view_of(Scores, stored, stored=stored, cluster=dig(stored, "cluster") or "sentence")

    def estimate(self, split: str, score: str, readout: str = HEADLINE) -> Estimate | None:
        """A stored mean with its interval. The older format has a point alone, for validation.

        Args:
            split: ``validation`` or ``test``. score: ``f1_tokens`` or ``em``.
            readout: ``headline`` or a probe's name.
        """
        if self.is_documented_format:
            from emergence.measures.bootstrap import Estimate

            names = {"f1_tokens": self.final_validation_f1, "em": self.final_validation_accuracy}
            value = names.get(score) if split == "validation" and readout == HEADLINE else None
            return None if value is None else Estimate(value, math.nan, math.nan, "none", 0, 0, flags=("no_interval",))
        if readout == HEADLINE:
            return self.scores(split).estimate(score)
        probe = self.readout(readout)
        return probe.estimate(split, score) if probe else None

    @property
    def readouts(self) -> dict[str, Readout]:
        """Scored probes by name: ``headline``, ``bilinear``, ``bilinear_last``, ...; empty with all weights trained."""
        return {
            name: view_of(Readout, stored, stored=stored)
            for name, stored in (dig(self.probes, "readouts") or {}).items()
        }

    def readout(self, name: str) -> Readout | None:
        """One of :attr:`readouts`."""
        return self.readouts.get(name)

    @property
    def chosen_layers(self) -> dict[str, int]:
        """Probe family to the layer that validation chose."""
        chosen = {"linear": dig(self.probes, "headline_layer")}
        chosen |= {name: probe.layer for name, probe in self.readouts.items() if probe.family == name != "linear"}
        return {family: layer for family, layer in chosen.items() if layer is not None}

    @property
    def fits(self) -> tuple[LayerFit, ...]:
        """Every family at every layer."""
        return tuple(view_of(LayerFit, fit) for fit in dig(self.probes, "fits") or ())

    @property
    def loss_without_states(self) -> float | None:
        """Validation loss of a probe that sees no states, nats per question; None in older results."""
        loss: float | None = dig(self.probes, "without_states", "validation_loss")
        return loss

    @property
    def validities(self) -> dict[str, Validity]:
        """Validity by probe family; empty where it was not measured."""
        return {family: Validity.of(stored) for family, stored in (dig(self.probes, "validity") or {}).items()}

    def validity(self, family: str) -> Validity | None:
        """One of :attr:`validities`."""
        return self.validities.get(family)

    @property
    def no_model_floor(self) -> tuple[str, Estimate] | None:
        """Name and test F1 of the best rule without a model (R_0)."""
        name: str | None = dig(self.test_scores, "floor")
        f1 = self.scores("test").baseline(name) if name else None
        return (name, f1) if name and f1 else None

    @property
    def words_alone(self) -> Estimate | None:
        """Test F1 of R_1, without a language model, on the words and positions that a state of this layout sees."""
        return self.scores("test").baseline(words_of_layout(self.layout))

    @property
    def held_out_loss(self) -> HeldOutLoss | None:
        """Held-out loss of the pretrained trunk; None for a random one.

        Of a published model or its random twin it is the loss on the reference text, which is the same for all of them.
        """
        stored = dig(self.pretraining, "test") or dig(self.pretraining, "validation")
        return None if dig(stored, "nats_per_token") is None else view_of(HeldOutLoss, stored)

    @property
    def pretrained(self) -> Pretraining:
        """How the trunk was pretrained."""
        return view_of(Pretraining, self.pretraining)

    @property
    def trunk(self) -> TrunkOrigin:
        """Where the trunk came from."""
        return view_of(TrunkOrigin, self.lineage)

    def fingerprint(self, part: str) -> str | None:
        """Identity of the run's ``tokenizer``, pretraining ``text`` or ``questions``."""
        digest: str | None = dig(self.data, "fingerprints", part)
        return digest

    def data_fact(self, *path: str) -> Any:
        """Provenance of the data, as ``data.json`` has it: ``questions``, ``text``, ``overlap``, ``marks``."""
        return dig(self.data, *path)

    @property
    def number_format(self) -> str | None:
        """What pretraining computed in: ``fp32``, ``bf16``, or both where it went on elsewhere; None without any."""
        stored = dig(self.pretraining, "precision")
        return stored if isinstance(stored, str) else None

    @property
    def pairs_right(self) -> dict[str, Estimate]:
        """Read-out or baseline to its share of minimal pairs with both members right; empty where none were scored.

        Read-outs that ignore the order of words have none.
        """
        stored = self.minimal_pairs or {}
        found = {name: estimate_at(stored, name, "scores", "both_right") for name in stored}
        return {name: right for name, right in found.items() if right is not None}

    def n_parameters(self, kind: str) -> int | None:
        """Number of parameters: ``total``, ``non_embedding`` or ``trainable``."""
        count: int | None = dig(self.parameters, kind)
        return count

    @property
    def training_questions(self) -> int | None:
        """Questions that finetuning or probes were trained on; None where nothing tells."""
        known = [self.finetune_samples_limit, (self.qasrl_train_filtering or {}).get("valid_examples")]
        return min((n for n in known if n is not None), default=None)

    @property
    def question_counts(self) -> dict[str, dict[str, int]]:
        """Questions read, kept and dropped by reason, for each split. Older files have ``train`` alone."""
        counts: dict[str, dict[str, int]] | None = dig(self.data, "filtering")
        return counts or {"train": self.qasrl_train_filtering or {}}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, documented keys first. A number that is not finite becomes null and leaves a flag."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        lost = [name for name, value in values.items() if isinstance(value, float) and not math.isfinite(value)]
        values["flags"] = [*self.flags, *(f"{name} was not finite" for name in lost)]
        documented = {name: values.pop(name) for name in DOCUMENTED_KEYS}
        return plain({**documented, "schema_version": SCHEMA_VERSION, **values})

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], source: str) -> RunResult:
        """The inverse of :meth:`to_dict`. The documented keys alone are enough.

        Raises:
            DataError: It is no result, of a later version, or has an impossible value. It names ``source``.
        """
        values = dict(raw)
        version = values.pop("schema_version", None)
        if version is not None and version != SCHEMA_VERSION:
            raise DataError(f"results of schema version {version!r}, but this program reads {SCHEMA_VERSION}", source)
        if missing := [key for key in _REQUIRED if key not in values]:
            raise DataError(f"not a results file: it lacks {', '.join(missing)}", source)
        known = {f.name for f in dataclasses.fields(cls)}
        if version is None:
            # An older program may have written more than the guide documents; ours always has a version.
            if ours := sorted((known - set(DOCUMENTED_KEYS)) & set(values)):
                raise DataError(f"damaged: it has {ours[0]!r} but no schema_version", source)
            values = {key: value for key, value in values.items() if key in known}
        elif unknown := sorted(set(values) - known):
            raise DataError(f"unknown key {unknown[0]!r}: written by a later version of this program?", source)
        _check_values(values, source)
        return cls(**values)


#: The guide's keys, in its order.
DOCUMENTED_KEYS = tuple(f.name for f in dataclasses.fields(RunResult)[:9])


def facts_of_spec(spec: ExperimentSpec) -> dict[str, Any]:
    """What a result repeats of its spec, by field, beside the spec itself."""
    return {
        "config_name": spec.config.name,
        "freeze_llm": spec.freeze_llm,
        "random_baseline": spec.random_baseline,
        "finetune_samples_limit": spec.finetune_samples,
        "condition": spec.condition,
        "initialisation": spec.initialisation,
        "layout": spec.layout,
        "seed": spec.seed,
    }


def recognise(raw: Any) -> bool:
    """Whether parsed JSON is a results file of either format."""
    return isinstance(raw, dict) and all(key in raw for key in _REQUIRED)


def load_result(path: Path) -> RunResult:
    """Read a results file, whatever it is called.

    Raises:
        DataError: The file is missing, no JSON, foreign, damaged, or of a later version. The message names it.
    """
    raw, text = read_json_and_text(path, DataError)
    if not isinstance(raw, dict):
        raise DataError("not a results file", path)
    if "schema_version" in raw or SEAL_KEY in raw:
        version = raw.get("schema_version")
        if isinstance(version, int) and version > SCHEMA_VERSION:
            raise DataError(
                f"results of schema version {version}: read them with a later version of this program", path
            )
        if path.with_name(MANIFEST_FILE).exists():  # inside a run the layout must be as written, too
            raw = unseal_as_written(raw, text, str(path), DataError, digest=_digest_of_manifest(path))
        else:
            raw = unseal(raw, str(path), DataError)
        if "schema_version" not in raw:
            raise DataError("not a results file", path)
    return RunResult.from_dict(raw, str(path))


def _digest_of_manifest(path: Path) -> str | None:
    try:
        entry = read_manifest(path.parent).get(path.name)
    except RunDirectoryError:
        return None
    return entry.sha256 if entry else None


def current_versions() -> dict[str, Any]:
    """Versions and circumstances that a number may depend on. No library is imported for it."""
    versions: dict[str, Any] = {"python": platform.python_version(), "emergence": __version__, **source_commit()}
    versions |= {library: _installed(library) for library in ("torch", "numpy", "tokenizers", "scipy")}
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    return {**versions, "platform": platform.platform(), "cpus": os.cpu_count(), "threads": threads}


@functools.cache  # every weights file asks, and reading a package's metadata takes milliseconds
def _installed(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _check_values(values: Mapping[str, Any], source: str) -> None:
    """Types and ranges, from the annotations of :class:`RunResult`."""
    for f in dataclasses.fields(RunResult):
        if f.name not in values:
            continue
        if not is_of(values[f.name], str(f.type)):
            raise DataError(f"{f.name} has the impossible value {str(values[f.name])[:60]!r}", source)
    for name in ("final_validation_accuracy", "final_validation_f1"):
        value = values.get(name)
        if value is not None and not 0 <= value <= 1:
            raise DataError(f"{name} is {value}, but scores lie between 0 and 1", source)
    if not values["config_name"]:
        raise DataError("config_name is empty", source)
    try:
        check_result({key: value for key, value in values.items() if key != "spec"})
    except DataError as reason:
        raise DataError(str(reason), source) from None
