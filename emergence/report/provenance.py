"""Where the report's numbers come from: data, cost and provenance of the runs, and the commands that repeat them."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from emergence.errors import EmergenceError
from emergence.experiment.result import DOCUMENTED_KEYS, load_result
from emergence.findings.collect import Found
from emergence.findings.comparable import MODES, cell_of
from emergence.findings.folder import ResultsFolder
from emergence.report.blocks import Block, Bullets, Code, Text, table
from emergence.spec.config import load_config
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.published import STILL_SET
from emergence.wording import duration

#: Folder of the sweeps' records, and what is asked of one.
SWEEPS, _VERBS = ".sweeps", ("status", "resume")
#: Shown characters of a fingerprint, which are enough to tell two apart.
_SHORT = 12


def used(folder: ResultsFolder) -> list[Found]:
    """Every result that is in a number of the report, each once, in the order of the table."""
    return list({item.name: item for scores in folder.scored for item in scores.comparable.results()}.values())


def used_and_trunks(folder: ResultsFolder) -> list[Found]:
    """The used results, after runs of this folder that are in no number but pretrained a trunk of theirs."""
    items = used(folder)
    made = {item.result.trunk.run_id for item in items if not item.result.random_baseline}
    known = {item.result.run_id for item in items}
    trunks = []
    for on_disk in folder.runs:
        if on_disk.run.run_id in made - known and on_disk.run.is_finished:
            try:
                trunks.append(Found(on_disk.name, load_result(on_disk.run.stats_path), on_disk.run.spec))
            except EmergenceError:
                continue  # the collection names it among the damaged ones
    return [*trunks, *items]


# Data --------------------------------------------------------------------------------------------


def filtering(folder: ResultsFolder) -> Iterator[Block]:
    """The counts of questions read, kept and dropped, one table for each set of questions."""
    tables: dict[str, tuple[dict[str, dict[str, int]], list[Found]]] = {}
    for item in used(folder):
        counts = item.result.question_counts
        tables.setdefault(json.dumps(counts, sort_keys=True), (counts, []))[1].append(item)
    for counts, items in tables.values():
        reasons = list(dict.fromkeys(reason for split in counts.values() for reason in split))
        rows = [
            (reason.replace("_", " "), *(_count(split.get(reason)) for split in counts.values())) for reason in reasons
        ]
        yield from table("Questions read, kept and dropped", ("Count", *counts), rows)
        yield Text(", ".join(item.name for item in items) + ".", "Runs:")
        facts = {key: items[0].result.data_fact("questions", key) for key in ("name", "route", "path", "formats")}
        shown = [f"{key}: {_plain(value)}" for key, value in facts.items() if value]
        if shown:
            yield Text("; ".join(shown) + ".", "Questions:")
    yield from _texts(folder)


def _texts(folder: ResultsFolder) -> Iterator[Block]:
    rows = []
    for item in used(folder):
        fact = item.result.data_fact
        if fact("text") or fact("overlap"):
            n = fact("overlap", "test_sentences_in_pretraining_text")
            shared = f"{n:,} of {fact('overlap', 'test_sentences'):,}" if n is not None else "-"
            rows.append((item.name, str(fact("text", "name") or fact("text", "route") or "-"), shared))
    yield from table("Pretraining text", ("Run", "Text", "Test sentences found in it"), rows)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


# Cost --------------------------------------------------------------------------------------------


def cost(folder: ResultsFolder) -> Iterator[Block]:
    """The seconds of every run by phase, and its tokens per second."""
    items = [item for item in used_and_trunks(folder) if item.result.seconds]
    phases = list(dict.fromkeys(phase for item in items for phase in item.result.seconds or {}))
    rates = list(dict.fromkeys(phase for item in items for phase in item.result.tokens_per_second or {}))
    head = ("Run", *(f"{p} (s)" for p in phases), "All", *(f"{p} (tokens/s)" for p in rates))
    rows = []
    for item in items:
        seconds, speed = item.result.seconds or {}, item.result.tokens_per_second or {}
        rows.append(
            (
                item.name,
                *(f"{seconds[p]:,.0f}" if p in seconds else "-" for p in phases),
                duration(sum(seconds.values())),
                *(f"{speed[p]:,.0f}" if speed.get(p) else "-" for p in rates),
            )
        )
    yield from table("Wall-clock time of each run's own phases, the pretraining of their trunks included", head, rows)
    total = sum(sum((item.result.seconds or {}).values()) for item in items)
    if rows:
        yield Text(f"All runs together: {duration(total)}.")
    if rows and not all(_is_published(item) for item in items):
        yield Text(
            "Dollars are not in a run directory: emergence plan, with a run's own flags, estimates them for Modal."
        )


# Provenance --------------------------------------------------------------------------------------


def provenance(folder: ResultsFolder) -> Iterator[Block]:
    """Identity, seed, data, trunk, versions and configuration of every run that is in a number."""
    items = used(folder)
    head = ("Run directory or file", "Cell", "Size", "Seed", "Layout", "Questions trained on", "Experiment", "Created")
    yield from table("Runs", head, [_identity(item) for item in items])
    columns = ("Run", "Tokenizer", "Pretraining text", "Questions", "Trunk (sha256)", "Trunk from", "Pretraining id")
    title = f"Data fingerprints and lineage (first {_SHORT} characters)"
    yield from table(title, columns, [_lineage(item) for item in items])
    yield from _versions(items)
    shared: dict[str, list[str]] = {}
    for item in items:
        if item.spec is not None:
            text = json.dumps(item.spec.config.to_dict(), indent=1, sort_keys=True)
            shared.setdefault(text, []).append(item.name)
    for text, runs in shared.items():
        yield Code(f"Configuration of {', '.join(runs)}", text, folded=True)
    older = [item.name for item in items if item.spec is None]
    if older:
        keys = ", ".join(DOCUMENTED_KEYS)
        yield Bullets((f"{', '.join(older)}: older format, which holds {keys} and nothing on where they come from.",))


def _versions(items: Iterable[Found]) -> Iterator[Block]:
    """Versions and machines, one line for all runs that share them."""
    groups: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for item in items:
        facts = dict(item.result.versions or {})
        if facts:
            groups.setdefault(json.dumps(facts, sort_keys=True), (facts, []))[1].append(item.name)
    names = list(dict.fromkeys(name for facts, _ in groups.values() for name in facts))
    rows = [(", ".join(runs), *(str(facts.get(name, "-")) for name in names)) for facts, runs in groups.values()]
    yield from table("Versions and machine", ("Runs", *names), rows)


def _identity(item: Found) -> tuple[str, ...]:
    result, spec = item.result, item.spec
    limit = "all" if result.finetune_samples_limit is None else f"{result.finetune_samples_limit:,}"
    created = item.scores.run.created if item.scores else "-"
    known = (
        (str(result.seed), spec.layout, limit, str(result.experiment_id), created)
        if spec
        else ("-", "-", limit, "-", "-")
    )
    return item.name, MODES[cell_of(item)], result.config_name, *known


def _lineage(item: Found) -> tuple[str, ...]:
    result, trunk = item.result, item.result.trunk
    parts = [*(result.fingerprint(part) for part in ("tokenizer", "text", "questions")), trunk.trunk_sha256]
    made_by = trunk.given("run_id") or trunk.run_id or "-"
    return (
        item.name,
        *(part[:_SHORT] if part else "-" for part in parts),
        "random" if result.random_baseline else ("this run" if made_by == result.run_id else made_by),
        trunk.pretrain_id or "-",
    )


# Commands ----------------------------------------------------------------------------------------


def reproduction(folder: ResultsFolder) -> Iterator[Block]:
    """The commands that give each number again."""
    root = shlex.quote(str(folder.root))
    yield Code(
        "Every table and figure of this report, from the run directories",
        "\n".join(
            [
                f"emergence report {root}    # this report",
                f"emergence table {root} --format json    # scores, intervals, readings with all their digits",
                f"emergence figures {root}    # figures as PNG, PDF, SVG, each with its data as CSV",
                f"emergence list --runs-dir {root}    # the runs",
            ]
        ),
    )
    sweeps = sorted(path.stem for path in (folder.root / SWEEPS).glob("*.json"))
    if sweeps:
        lines = [f"emergence sweep {verb} {shlex.quote(name)} --runs-dir {root}" for name in sweeps for verb in _VERBS]
        yield Code(
            "The sweeps recorded in this folder: how each stands, and what is left or failed of it", "\n".join(lines)
        )
    items = [item for item in used_and_trunks(folder) if item.spec is not None]
    pretraining = sorted(items, key=lambda item: (item.spec is not None and not _trains_trunk(item.spec), item.name))
    lines = [f"# {item.name}\n{command(item.spec, str(folder.root))}" for item in pretraining if item.spec]
    if lines:
        yield Code("Every run (those that pretrain first: others use their trunks)", "\n".join(lines))
        yield Text(
            "The same command on the same machine and versions gives the same numbers; add --fresh to run it anew "
            "where the finished run is still there." + _on_modal(items)
        )
    names = [item.name for item in items if item.spec and _trains_trunk(item.spec)]
    if names:
        path = shlex.quote(str(folder.root / names[0]))
        yield Code(
            "Similarity over checkpoints, and probes of every pretraining snapshot",
            f"python temporal_cka_analysis.py --model-dir {path}\nemergence probe-snapshots {path}",
        )


def _is_published(item: Found) -> bool:
    return item.spec is not None and item.spec.model is not None


def _on_modal(items: Iterable[Found]) -> str:
    """How to make these runs on Modal, which probes no published models."""
    published = [_is_published(item) for item in items]
    if all(published):
        return ""
    which = ", except those with --model" if any(published) else ""
    return (
        " On Modal: modal run pretrain_wikitext_finetune_qasrl_modal.py with the same flags, without --runs-dir"
        f"{which}."
    )


def _trains_trunk(spec: ExperimentSpec) -> bool:
    return spec.pretrains and not spec.at_snapshot


def command(spec: ExperimentSpec, runs_dir: str) -> str:
    """``emergence run`` with the flags that make this spec."""
    parts = ["emergence", "run", "--config-name", spec.base_config, "--runs-dir", runs_dir]
    defaults = {f.name: f.default for f in fields(ExperimentSpec)}
    for f in fields(ExperimentSpec):
        value, flag = getattr(spec, f.name), "--" + f.name.replace("_", "-")
        implied = f.name == "skip_pretrain" and (spec.random_baseline or spec.model is not None)
        if f.name == "config" or value == defaults[f.name] or implied:
            continue
        parts += [flag] if value is True else [flag, str(value)]
    for setting in _settings(spec):
        parts += ["--set", setting]
    return shlex.join(parts)


@functools.cache
def _usual(config_name: str, *recipe: str) -> Mapping[str, Any]:
    """What the configuration of that name holds today, by itself or with ``recipe=NAME``."""
    return load_config(config_name, recipe).to_dict()


def _settings(spec: ExperimentSpec) -> Iterable[str]:
    """``recipe=NAME`` and ``section.key=value`` for all that the configuration of that name does not have today."""
    recipe = f"recipe={spec.config.recipe}"
    try:
        by_itself, usual = _usual(spec.base_config), _usual(spec.base_config, recipe)
    except EmergenceError:
        return
    if spec.config.recipe != by_itself["recipe"]:
        yield recipe
    for section, values in spec.config.to_dict().items():
        if not isinstance(values, dict):
            continue
        for key, value in values.items():
            name = f"{section}.{key}"
            is_its_own = spec.model is not None and section in ("model", "pretrain") and name not in STILL_SET
            if section != "compute" and not is_its_own and value != usual[section].get(key):
                yield f"{name}={value if isinstance(value, str) and not value.isdigit() else json.dumps(value)}"
