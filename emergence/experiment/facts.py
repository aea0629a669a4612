"""Typed, read-only views of what a result holds, for :class:`~emergence.experiment.result.RunResult`.

Stored JSON is read here and nowhere else. A fact that an older file lacks is None or empty. A fact in another format
than this program's raises DataError when it is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from emergence.errors import DataError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from emergence.measures.bootstrap import Estimate
    from emergence.measures.clustering import ClusterKind

View = TypeVar("View", bound="DataclassInstance")
_KINDS: Mapping[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "dict": dict, "list": list}

#: The read-out reported for a run: the finetuned model, or the linear probe at its chosen layer.
HEADLINE = "headline"
#: What answers without a language model: words and positions (R_1), and the rule from the wh-word (R_0). Results and
#: rows of predictions hold their scores beside the read-outs.
WORDS, WORDS_BOTH, RULE = "words_left", "words_both", "wh_rule"


def own_scorer(layout: str | None) -> Literal["left", "both"]:
    """The R_1 that knows what a state knows. In the echo layout a state has seen the next word, too."""
    return "both" if layout == "echo" else "left"


def words_name(scorer: str) -> str:
    """The name of an R_1 among the baselines: ``words_left``."""
    return f"words_{scorer}"


def words_of_layout(layout: str | None) -> str:
    """The name of the baseline R_1 that states of this layout are compared with."""
    return words_name(own_scorer(layout))


def dig(stored: Any, *path: str) -> Any:
    """What lies at ``path`` in nested JSON objects; None where a step is absent or null.

    Raises:
        DataError: A step on the way is there and is no object.
    """
    for depth, key in enumerate(path):
        if stored is None:
            return None
        if not isinstance(stored, Mapping):
            where = ".".join(path[:depth]) or "this"
            raise DataError(f"not in this program's format ({where} is no object: {str(stored)[:40]!r})")
        stored = stored.get(key)
    return stored


def is_of(value: Any, annotation: str) -> bool:
    """Whether a JSON value is what an annotation (``float | None``, ``dict[str, int]``) allows."""
    if value is None:
        return annotation.endswith("| None")
    kind = _KINDS[annotation.split("[")[0].split(" ")[0]]
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def view_of(view: type[View], stored: Any, /, **given: Any) -> View:
    """A dataclass whose fields are read from ``stored`` by their names. Fields that are ``given`` are not read.

    Raises:
        DataError: As :func:`dig`, or a field does not allow its value.
    """
    values = {f.name: dig(stored, f.name) for f in dataclasses.fields(view) if f.name not in given}
    for f in dataclasses.fields(view):
        if f.name in values and not is_of(values[f.name], str(f.type)):
            raise DataError(f"not in this program's format ({f.name} is {str(values[f.name])[:40]!r})")
    return view(**values, **given)


def estimate_at(stored: Any, *path: str) -> Estimate | None:
    """The mean with its interval at ``path``.

    Raises:
        DataError: As :func:`dig`, or the value there is no estimate.
    """
    from emergence.measures.bootstrap import Estimate  # takes numpy, which listing and launching do without

    values = dig(stored, *path)
    try:
        return None if values is None else Estimate.from_dict(values)
    except (KeyError, TypeError, AttributeError) as reason:
        raise DataError(f"not in this program's format ({'.'.join(path)}: {reason!r})") from None


@dataclass(frozen=True)
class Scores:
    """One split's scores of the headline and of the baselines without a language model. None: it is not recorded.

    Attributes:
        n, n_clusters, n_documents: Questions, sentences and documents that were scored.
        cluster: What the intervals resample: ``sentence`` where an older file does not say.
        document_widening: Standard error of F1 by documents over that by sentences.
    """

    stored: Mapping[str, Any] | None
    n: int | None
    n_clusters: int | None
    n_documents: int | None
    cluster: ClusterKind
    document_widening: float | None

    def estimate(self, score: str) -> Estimate | None:
        """The mean of a score: ``f1_tokens``, ``em``, ..."""
        return estimate_at(self.stored, "scores", score)

    def baseline(self, name: str) -> Estimate | None:
        """F1 of a baseline, which answers without a language model."""
        return estimate_at(self.stored, "baselines", name, "f1_tokens")

    @property
    def widening(self) -> Mapping[str, float]:
        """``document_widening`` by the name of its score, as ``interval_notes`` takes it; empty in older files."""
        return {} if self.document_widening is None else {"F1": self.document_widening}


@dataclass(frozen=True)
class Readout:
    """One scored probe of a frozen trunk, at the layer that validation chose or at the last."""

    stored: Mapping[str, Any]
    family: str | None
    layer: int | None
    n_trainable: int | None

    def estimate(self, split: str, score: str) -> Estimate | None:
        return estimate_at(self.stored, split, score)


@dataclass(frozen=True)
class Validity:
    """How far a probe family's scores come from the states rather than from the probe.

    Attributes:
        selectivity: F1 beyond that on the control task; None where questions have no predicate.
        compression: How many times shorter the states make the code of the answers.
    """

    selectivity: Estimate | None
    compression: float | None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Validity:
        uniform, online = (dig(stored, "mdl", key) for key in ("uniform_bits", "online_bits"))
        return cls(estimate_at(stored, "selectivity"), uniform / online if online and online > 0 else None)


@dataclass(frozen=True)
class HeldOutLoss:
    """A pretrained trunk's loss on the test text. Older files have it on the validation text."""

    nats_per_token: float
    bits_per_byte: float | None
    perplexity: float | None


@dataclass(frozen=True)
class Pretraining:
    """How long a trunk was pretrained; None for a random one, and for what is not recorded.

    ``snapshot`` is the name of the weights within the pretraining, None at its end.
    """

    steps: int | None
    tokens_seen: int | None
    passes: float | None
    snapshot: str | None


@dataclass(frozen=True)
class TrunkOrigin:
    """Where a trunk came from; None for what is not recorded.

    Attributes:
        trunk_sha256: sha256 of its weights file. pretrain_id: Id of its pretraining; a random trunk has none.
        run_id: The run that made it. source: What is known of weights that were given to the run.
    """

    trunk_sha256: str | None
    pretrain_id: str | None
    run_id: str | None
    source: dict[str, Any] | None

    def given(self, key: str) -> str | None:
        """The ``path``, ``run_id`` or ``pretrain_id`` of weights that were given to the run."""
        value = dig(self.source, key)
        return None if value is None else str(value)


@dataclass(frozen=True)
class LayerFit:
    """One probe family fitted to one layer (0: embeddings). The loss is in nats per question."""

    family: str
    layer: int
    validation_loss: float | None
    validation_f1: float | None
    validation_em: float | None
    n_trainable: int
    converged: bool
