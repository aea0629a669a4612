"""What the parts of a results file may be: kinds, ranges and lengths, checked before any reader takes a number out.

A seal only says that a file is as somebody wrote it. Whoever can edit a file can seal it again, so every part that
readers use is described here and compared, and what nobody computes with is held to lengths alone. None stands for a
number that does not exist, and passes everywhere. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from emergence.errors import DataError
from emergence.experiment.store import is_run_id

#: A check of the value at a place in the file; it raises DataError, which names the place.
Check = Callable[[Any, str], None]

#: Longest name (a size, a read-out, a role), and longest other text (a path, a remark).
MOST_NAME, MOST_TEXT = 200, 10_000
#: Scores that are shares, in evaluations and in rows of predictions.
SHARES = frozenset(
    ("em", "f1_tokens", "iou", "expected_f1", "em_string", "f1_string", "invalid_rate", "f1_tokens_independent",
     "argument_selection", "both_right", "both_exact", "one_right")
)  # fmt: skip
#: A mean of shares may miss 0 or 1 by rounding.
_ROUNDING = 1e-9


def refuse(value: Any, where: str, wanted: str) -> None:
    """Raise the one-line error for a value that cannot stand at its place.

    Raises:
        DataError: Always.
    """
    shown = f"an object of {len(value):,}" if isinstance(value, Mapping) else repr(value)[:40]
    raise DataError(f"damaged or edited: {where[:MOST_NAME]} is {shown}, where {wanted} belongs")


def number(low: float = -math.inf, high: float = math.inf, *, whole: bool = False) -> Check:
    """A check for finite numbers from ``low`` to ``high``, both inclusive."""
    kinds = (int,) if whole else (int, float)
    noun = "a whole number" if whole else "a number"
    limits = f" of at least {low:g}" if math.isinf(high) else f" from {low:g} to {high:g}"
    wanted = noun if math.isinf(low) else noun + limits

    def check(value: Any, where: str) -> None:
        if value is None or (type(value) in kinds and low <= value <= high and math.isfinite(value)):
            return
        fits = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not low - _ROUNDING <= value <= high + _ROUNDING:
            refuse(value, where, wanted)

    return check


def words(value: Any, where: str) -> None:
    """A check for a name: text of at most ``MOST_NAME`` characters."""
    if value is not None and not (isinstance(value, str) and len(value) <= MOST_NAME):
        refuse(value, where, f"a name of at most {MOST_NAME} characters")


def run_name(value: Any, where: str) -> None:
    """A check for the id of a run, which names a folder and no path."""
    if value is not None and not (isinstance(value, str) and is_run_id(value)):
        refuse(value, where, "the name of a run")


def text(value: Any, where: str) -> None:
    """A check for a sentence, a remark, a path."""
    if value is not None and not (isinstance(value, str) and len(value) <= MOST_TEXT):
        refuse(value, where, f"text of at most {MOST_TEXT:,} characters")


def yes_or_no(value: Any, where: str) -> None:
    """A check for true and false."""
    if value is not None and not isinstance(value, bool):
        refuse(value, where, "true or false")


def bounded(value: Any, where: str) -> None:
    """A check for free parts: text and keys have lengths that a page can show."""
    if isinstance(value, str):
        text(value, where)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            words(key, f"a key of {where}")
            bounded(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            bounded(item, where)


def rows(check: Check) -> Check:
    """A check for lists whose items all pass ``check``."""

    def check_rows(value: Any, where: str) -> None:
        if value is not None and not isinstance(value, list):
            refuse(value, where, "a list")
        for item in value or ():
            check(item, where)

    return check_rows


def each(check: Check | Mapping[str, Check], other: Check | None = None) -> Check:
    """A check for objects: one for all values, or one by key and ``other`` (:func:`bounded`) for the other keys."""

    def check_each(value: Any, where: str) -> None:
        if value is not None and not isinstance(value, Mapping):
            refuse(value, where, "an object")
        for key, item in (value or {}).items():
            if type(key) is not str or len(key) > MOST_NAME:  # a place is spelled out where it may be told
                words(key, f"a key of {where}")
            chosen = check if callable(check) else check.get(key, other or bounded)
            chosen(item, f"{where}.{key}")

    return check_each


_count, _positive, _share = number(0, whole=True), number(0), number(0, 1)
_ESTIMATE: Mapping[str, Check] = {
    "point": number(), "lo": number(), "hi": number(), "se": _positive, "df": _positive, "level": _share,
    "method": words, "n": _count, "n_clusters": _count, "n_seeds": _count, "flags": rows(words),
}  # fmt: skip
_parts_of_estimate = each(_ESTIMATE)
#: Few clusters and seeds can take an interval out of what a share can be, but not far.
_share_end = number(-10, 10)
#: What an estimate always has; only of the numbers may one not exist.
_OF_EVERY_ESTIMATE = ("point", "lo", "hi", "method", "n", "n_clusters", "flags", "se", "df")
_NEVER_NULL = ("method", "n", "n_clusters", "flags")


def estimate(value: Any, where: str) -> None:
    """A check for a mean with its interval, as an ``Estimate`` is stored."""
    _parts_of_estimate(value, where)
    if value is None:
        return
    if any(key not in value for key in _OF_EVERY_ESTIMATE) or any(value[key] is None for key in _NEVER_NULL):
        refuse(value, where, "a mean with its interval")
    if value["lo"] is not None and value["hi"] is not None and value["lo"] > value["hi"]:
        refuse(value["lo"], f"{where}.lo", f"a number of at most {value['hi']:g}")


def estimates(value: Any, where: str) -> None:
    """A check for means with their intervals by the name of their score; those of shares are shares."""
    each(estimate)(value, where)
    for name in SHARES.intersection(value or ()):
        mean = value[name] or {}
        _share(mean.get("point"), f"{where}.{name}.point")
        for end in ("lo", "hi"):
            _share_end(mean.get(end), f"{where}.{name}.{end}")


_evaluation = each(
    {
        "n": _count, "n_clusters": _count, "n_documents": _count, "cluster": words, "floor": words,
        "document_widening": _positive, "max_answer_words": _count, "n_floored": _count,
        "n_unreachable_questions": _count, "scores": estimates, "macro": estimates, "baselines": each(estimates),
        "by": each(each(estimates)),
    }
)  # fmt: skip
_fit = each(
    {
        "family": words, "layer": _count, "n_trainable": _count, "validation_f1": _share, "validation_em": _share,
        "validation_loss": _positive, "ridge": _positive, "iterations": _count, "converged": yes_or_no,
    }
)  # fmt: skip
_readout = each(
    {
        "family": words, "layer": _count, "n_trainable": _count, "scorer": words, "validation": estimates,
        "test": estimates, "gain": each(estimate), "remarks": rows(text),
    }
)  # fmt: skip
_code_length = each({"uniform_bits": _positive, "online_bits": _positive, "compression": _positive})
_validity = each(
    {
        "layer": _count, "task_f1": _share, "control_f1": _share, "seen_types": number(), "selectivity": estimate,
        "mdl": _code_length, "control_mdl": _code_length,
    }
)  # fmt: skip
_text_loss = each(
    {"nats_per_token": _positive, "bits_per_byte": _positive, "perplexity": _positive, "interval": estimate}
)
_pretraining = each(
    {
        "steps": _count,
        "tokens_seen": _count,
        "passes": _positive,
        "snapshot": words,
        "validation": _text_loss,
        "test": _text_loss,
    }
)
_pairs = each({"n_pairs": _count, "n_incomplete": _count, "scores": estimates, "by_kind": each(estimate)})
_source = each(bounded)
_lineage = each({"trunk_sha256": words, "pretrain_id": words, "run_id": run_name, "stage": words, "source": _source})
_data = each(
    {
        "fingerprints": each(words),
        "filtering": each(each(_count)),
        "text": each(bounded),
        "questions": each(bounded),
        "overlap": each(_count),
    }
)
#: The parts of a results file by key; the spec has its own reader.
RESULT: Mapping[str, Check] = {
    "config_name": words, "run_id": run_name, "experiment_id": words, "condition": words, "initialisation": words,
    "layout": words, "seed": _count, "finetune_epochs": _count, "finetune_samples_limit": _count,
    "best_validation_loss": _positive, "final_validation_accuracy": _share, "final_validation_f1": _share,
    "qasrl_train_filtering": each(_count), "lineage": _lineage, "test_scores": _evaluation,
    "validation_scores": _evaluation, "minimal_pairs": each(_pairs), "pretraining": _pretraining,
    "probes": each({"headline_layer": _count, "readouts": each(_readout), "fits": rows(_fit),
                    "without_states": each(_positive), "conditional": each(_readout), "validity": each(_validity)}),
    "parameters": each(_count), "seconds": each(_positive), "tokens_per_second": each(_positive), "data": _data,
    "flags": rows(text), "versions": each(bounded),
}  # fmt: skip


def check_result(values: Mapping[str, Any]) -> None:
    """Check every part of a results file.

    Raises:
        DataError: Something cannot stand at its place; the message names the place, not the file.
    """
    for key, value in values.items():
        RESULT.get(key, bounded)(value, key)
