"""The model card: what the directory is, what its run measured, and where it came from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from emergence.experiment.facts import HEADLINE
from emergence.experiment.result import RunResult
from emergence.experiment.run_directory import RunDirectory
from emergence.export.trunks import TrunkToExport
from emergence.measures.bootstrap import Estimate
from emergence.plain import plain
from emergence.report.escaping import markdown_escape
from emergence.spec.experiment import ExperimentSpec, pretrain_label
from emergence.wording import format_estimate

CARD_FILE = "README.md"

#: Score -> its name for people, and its type for the hub.
_SCORES = {
    "f1_tokens": ("Token F1", "f1"),
    "em": ("Exact match", "exact_match"),
    "argument_selection": ("Argument selection", "accuracy"),
}


def model_card(
    run: RunDirectory, result: RunResult | None, trunks: list[TrunkToExport], record: dict[str, Any], licence: str
) -> str:
    """The card in Markdown, with the hub's metadata before it.

    Args:
        run: The run.
        result: What it found; None for a run that is not finished.
        trunks: What the export holds, the trunk of the directory itself first.
        record: What the export says of that trunk (``folder.py``).
        licence: Of the weights, as the hub abbreviates it.
    """
    main, spec = trunks[0], run.spec
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in _metadata(run, result, main, licence).items()),
        "---",
        f"# {markdown_escape(run.run_id)}",
        "",
        f"This is {markdown_escape(main.what)}.",
        "",
        f"It is a `{record['architecture']}`, which `transformers` loads without code of its own. It is a small causal "
        "language model, made to ask whether semantic roles emerge from next-token prediction, and is of no other use. "
        "Its tokenizer takes the text of special tokens (`<|endoftext|>`) for those tokens; documents end with that "
        "token, so it stands before a first one, too.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("PATH")',
        'tokenizer = AutoTokenizer.from_pretrained("PATH")',
        "```",
        "",
        *_steps(trunks[1:]),
        "## What its run measured",
        "",
        *_measured(spec, result, main),
        "## Where it comes from",
        "",
        *(f"- {name}: {markdown_escape(str(value))}" for name, value in _provenance(run, result, record, licence)),
    ]
    return "\n".join(lines) + "\n"


# What stands before the text ------------------------------------------------------------------------


def _metadata(run: RunDirectory, result: RunResult | None, main: TrunkToExport, licence: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "license": licence,
        "language": "en",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["emergence", "semantic-roles", "interpretability"],
    }
    results = [] if result is None else list(_results(run.spec, result, main))
    if results:
        metadata["model-index"] = [{"name": run.run_id, "results": results}]
    return metadata


def _results(spec: ExperimentSpec, result: RunResult, main: TrunkToExport) -> Iterator[dict[str, Any]]:
    """The hub's entries: what was measured of the very trunk that is exported."""
    loss = result.held_out_loss
    if loss is not None and main.stage == "pretrained":
        metrics = [
            {"type": kind, "name": name, "value": value}
            for kind, name, value in (
                ("bits_per_byte", "Bits per byte", loss.bits_per_byte),
                ("perplexity", "Perplexity per token", loss.perplexity),
            )
            if value is not None
        ]
        yield _entry("text-generation", "Next-token prediction", pretrain_label(spec), metrics)
    if not _is_of_its_scores(spec, main):
        return
    for who, estimates in _estimates(spec, result):
        metrics = [
            {"type": kind, "name": f"{name}, {who}", "value": estimate.point, "args": _interval(result, estimate)}
            for score, (name, kind) in _SCORES.items()
            if (estimate := estimates.get(score)) is not None
        ]
        if metrics:
            yield _entry("question-answering", "Questions about semantic roles", _questions(result), metrics)


def _entry(task: str, name: str, data: str, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    dataset = {"type": data, "name": data, "split": "test"}
    return {"task": {"type": task, "name": name}, "dataset": dataset, "metrics": plain(metrics)}


def _interval(result: RunResult, estimate: Estimate) -> dict[str, Any]:
    resampled = result.scores("test").cluster
    return {"interval": [estimate.lo, estimate.hi], "level": estimate.level, "resampled": resampled}


def _is_of_its_scores(spec: ExperimentSpec, main: TrunkToExport) -> bool:
    """Whether the run's scores are read off the exported trunk: a frozen one, or the one that was finetuned."""
    return spec.freeze_llm or main.stage == "finetuned"


def _questions(result: RunResult) -> str:
    return str(result.data_fact("questions", "name") or result.data_fact("questions", "route") or "questions")


def _estimates(spec: ExperimentSpec, result: RunResult) -> Iterator[tuple[str, dict[str, Estimate]]]:
    """Who answered, and the scores on test questions with their intervals."""
    readouts = [HEADLINE, *(name for name in result.readouts if name in ("bilinear", "mlp"))]
    for name in readouts:
        found = {score: result.estimate("test", score, name) for score in _SCORES}
        who = f"{'linear' if name == HEADLINE else name} probe" if spec.freeze_llm else "finetuned head"
        yield who, {score: estimate for score, estimate in found.items() if estimate is not None}


# The text ---------------------------------------------------------------------------------------------


def _steps(steps: Iterable[TrunkToExport]) -> Iterator[str]:
    names = [f"`{trunk.folder}`" for trunk in steps]
    if names:
        yield (
            f"Its pretraining is here too, a model a folder (`subfolder=`), on the hub a branch (`revision=`): "
            f"{', '.join(names)}."
        )
        yield ""


def _measured(spec: ExperimentSpec, result: RunResult | None, main: TrunkToExport) -> Iterator[str]:
    if result is None:
        yield from ("The run is not finished, so nothing is measured yet.", "")
        return
    loss = result.held_out_loss
    if loss is not None and main.stage == "pretrained":
        per_byte = "" if loss.bits_per_byte is None else f", {loss.bits_per_byte:.4f} bits per byte"
        text = markdown_escape(pretrain_label(spec))
        yield f"Held-out text ({text}): {loss.nats_per_token:.4f} nats per token{per_byte}."
        yield ""
    rows = [
        (who, *(format_estimate(found.get(score), 3) for score in _SCORES)) for who, found in _estimates(spec, result)
    ]
    if not any(cell != "-" for row in rows for cell in row[1:]):
        return
    titles = ("", *(name for name, _ in _SCORES.values()))
    yield from (f"| {' | '.join(row)} |" for row in (titles, ("---",) * len(titles), *rows))
    scores = result.scores("test")
    whose = "this trunk" if _is_of_its_scores(spec, main) else "the trunk that was trained on from this one"
    yield ""
    yield (
        f"Test questions ({markdown_escape(_questions(result))}, n = {scores.n}) answered from the states of {whose}; "
        f"95% intervals, {scores.cluster}s resampled. The heads that answer are in the run directory and not here."
    )
    yield ""


def _provenance(
    run: RunDirectory, result: RunResult | None, record: dict[str, Any], licence: str
) -> Iterator[tuple[str, Any]]:
    spec = run.spec
    yield "Run", f"{run.run_id} (experiment {run.experiment_id}, condition {spec.condition})"
    yield "Configuration", f"{spec.config.name}, recipe {spec.config.recipe}"
    yield "Seed", spec.seed
    yield "Pretraining text", "none" if spec.random_baseline else pretrain_label(spec)
    if result is not None and not spec.skip_finetune:
        yield "Questions", _questions(result)
    for part in ("text", "questions", "tokenizer"):
        digest = None if result is None else result.fingerprint(part)
        if digest:
            yield f"Fingerprint of the {part}", digest
    yield "Weights (sha256 over the trunk's tensors)", record["weights"]
    versions = (result.versions if result is not None else None) or {}
    commit = versions.get("commit")
    modified = " (with changes)" if versions.get("modified") else ""
    yield "Program", f"emergence {versions.get('emergence', '?')}, git revision {commit or 'not recorded'}{modified}"
    yield "Licence", f"{licence}, of the weights; that of the text and of the questions is their owners'"
