"""The content of the report, section by section, from a folder that was read, scored and drawn before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import get_args

from emergence import __version__
from emergence.findings.ablation import without_order
from emergence.findings.comparable import MODES, ComparableSet
from emergence.findings.folder import ResultsFolder
from emergence.findings.scores import ReadoutScores, SetScores
from emergence.findings.table import ResultsTable, score_text
from emergence.findings.verdict import FamilyFinding, Verdict, verdict_of
from emergence.measures.conditional import SCORES
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS, FULL, RANDOM_FROZEN, RANDOM_FULL
from emergence.measures.measured_coverage import units_of
from emergence.measures.readings import FLOORS, SCORE_NAMES, describe_score
from emergence.report.blocks import Block, Bullets, Heading, Picture, Report, Section, Table, Text, table
from emergence.report.charts.chart import Charts, Place, chart_kinds
from emergence.report.charts.rows import CELL_NAMES
from emergence.report.examples import example_blocks
from emergence.report.glossary import GLOSSARY
from emergence.report.provenance import cost, filtering, provenance, reproduction
from emergence.report.table_formats import legend, printed
from emergence.wording import gained, shown

QUESTION = (
    "Does a language model come to know who did what to whom from predicting the next word alone? A trunk is "
    "pretrained on text and frozen; a probe that only reads its states answers questions such as “Who painted "
    "something?” with a span of the sentence. The emergence score places that between a floor, the same probe on a "
    "random trunk, and a ceiling, a model trained on the questions with all its weights: 0 says that pretraining gave "
    "the probe nothing to read, 1 that it gave everything that training on the questions gives. But words and "
    "positions tell much without any model: the verdict asks what the states add to them, and whether a random trunk's "
    "states add as much."
)


def report_of(folder: ResultsFolder, results: ResultsTable, charts: Charts) -> Report:
    """The report on one folder.

    Args:
        folder: From :func:`emergence.findings.folder.read_folder`. results, charts: Its table and its figures.
    """
    scored = list(folder.main)
    verdicts = [(scores, verdict_of(scores.comparable, scores)) for scores in scored]
    shown = {place: list(_figures(charts, place)) for place in get_args(Place)}

    def part(place: Place) -> tuple[Block, ...]:
        names = tuple(kind.name for kind in chart_kinds() if kind.place == place)
        reason = charts.reason(names) or "no such run in this folder"
        return tuple(shown[place] or [Text(f"Not shown: {reason}.")])

    sections = [
        Section("question", "The question", (Text(QUESTION),), ("emergence-score", "probes")),
        Section("verdict", "The verdict", tuple(_verdicts(verdicts)), ("verdict", "selectivity", "mdl")),
        Section("scale", "Over model sizes", tuple(_scale(results, shown["scale"])), ("emergence-score",)),
        Section("grid", "The 2x2", tuple(_grids(folder, scored, shown["grid"])), ("token-f1", "intervals")),
        Section("table", "Results", tuple(_results(results)), ("exact-match", "no-model-floor", "intervals")),
        Section("probes", "Probes", (*_probes(verdicts), *part("probes")), ("probes", "selectivity", "mdl")),
        Section("roles", "By role and voice", part("roles"), ("token-f1", "asked-role")),
        Section("examples", "Questions and answers", tuple(_examples(scored)), ("exact-match", "token-f1")),
        Section("few-shot", "Few-shot learning", part("few-shot")),
        Section("training", "Training", tuple(_training(folder, shown["training"])), ("bits-per-byte",)),
        Section("curve", "Emergence during pretraining", part("curve"), ("asked-role",)),
        Section("ablation", "Questions in the pretraining text", part("ablation"), ("data-ablation", "intervals")),
        Section("order", "Word order in the pretraining text", part("order"), ("shuffled-text", "intervals")),
        Section("pairs", "Sentence pairs", part("pairs"), ("sentence-pairs",)),
        Section("cka", "How states change", part("cka"), ("temporal-cka",)),
        *([Section("others", "Other figures", part("others"))] if shown["others"] else []),
        Section("filtering", "Data", tuple(filtering(folder)), ("filtering",)),
        Section("cost", "Cost", tuple(cost(folder)), ("cost",)),
        Section("problems", "Problems found in this folder", tuple(_problems(folder, charts))),
        Section("provenance", "Provenance", tuple(provenance(folder))),
        Section("reproduce", "How to reproduce each number", tuple(reproduction(folder))),
    ]
    short = tuple((verdict.set_label, _in_short(verdict)) for _, verdict in verdicts)
    name = folder.root.resolve().name
    return Report(f"Emergence report: {name}", short, tuple(sections), GLOSSARY, f"emergence {__version__}")


def _in_short(verdict: Verdict) -> str:
    return verdict.short


def _figures(charts: Charts, place: Place) -> Iterator[Block]:
    """The figures of one section, and below them their tables."""
    mine = [chart for chart in charts.charts if chart.kind.place == place]
    for chart in mine:
        yield Picture(chart.name, chart.title, chart.caption, chart.alt, chart.is_wide)
    for chart in mine:
        yield from chart.kind.tables(chart, [reason for name, reason in charts.skipped if name == chart.name])


# Verdict and score -------------------------------------------------------------------------------


def _verdicts(verdicts: Iterable[tuple[SetScores, Verdict]]) -> Iterable[Block]:
    for set_scores, verdict in verdicts:
        yield Heading(f"{verdict.set_label}: {_in_short(verdict)}")
        yield Bullets(verdict.sentences)
        reading = set_scores.headline.reading
        if reading:
            yield Text("; ".join(reading.evidence).replace("_", " ") + ".", "By the guide's scale:")


def _scale(results: ResultsTable, pictures: list[Block]) -> Iterable[Block]:
    if not results.trends:
        yield Text("Not shown: a reading over sizes takes two sizes that differ in nothing else.")
    for label, trend in results.trends.items():
        pattern = f", {trend.pattern}" if trend.pattern else ""
        yield Heading(f"{label}: {trend.verdict}{pattern}")
        yield Bullets(trend.evidence)
    yield from pictures


def _grids(folder: ResultsFolder, scored: Iterable[SetScores], pictures: list[Block]) -> Iterable[Block]:
    twins = without_order(folder.grouping)
    for set_scores in scored:
        comparable, scores = set_scores.comparable, set_scores.headline
        twin = twins.get(id(comparable))
        yield Heading(comparable.label)
        yield _two_by_two(set_scores, folder.scores_of(twin).headline if twin else None)
        yield from table(f"Score and gap: {comparable.label}", ("Number", "Value", "What it is"), _score_rows(scores))
        if scores.basis:
            yield Text(f"{scores.split} F1, {scores.basis}.", "How:")
    yield from pictures


def _two_by_two(set_scores: SetScores, shuffled: ReadoutScores | None) -> Table:
    """The 2x2 as a table. ``shuffled`` has the scores of the trunk of shuffled text, where there is one."""
    comparable, scores = set_scores.comparable, set_scores.headline

    def cell(name: str, of: ReadoutScores = scores) -> str:
        return shown(of.f1[name]) if name in of.f1 else "not run"

    rows = [
        ("pretrained trunk", cell(FROZEN), cell(FULL)),
        *([("trunk of shuffled text", cell(FROZEN, shuffled), cell(FULL, shuffled))] if shuffled else []),
        ("random trunk", cell(RANDOM_FROZEN), cell(RANDOM_FULL)),
    ]
    free = comparable.model_free
    if free.floor:
        rows.append((f"no model ({free.floor[0].replace('_', ' ')})", f"{free.floor[1].point:.3f}", ""))
    if free.words:
        rows.append(("no model (words and positions, trained)", shown(free.words), ""))
    f1 = next(iter(scores.f1.values()), None)
    counts = f" on {f1.n:,} {scores.split} questions of {units_of(*set_scores.units)}" if f1 and f1.n else ""
    level = f", {f1.level:.0%} intervals" if f1 and math.isfinite(f1.lo) else ""
    head = ("Token F1", "frozen, linear probe", "all weights trained")
    return Table(f"{comparable.label}: token F1{counts}{level}", head, tuple(rows))


def _score_rows(scores: ReadoutScores) -> Iterable[tuple[str, str, str]]:
    for score in (scores.probe, scores.scratch):
        if score:
            name = SCORE_NAMES[score.floor]
            yield name, describe_score(score), f"floor: {FLOORS[score.floor]}"
            yield f"{name}: frozen minus floor", shown(score.above_floor), "what the frozen probe has over the floor"
            yield f"{name}: full minus floor", shown(score.headroom), "what there is to have a share of"
    if scores.gap:
        yield "emergence gap", shown(scores.gap), "full minus frozen"


def _results(results: ResultsTable) -> Iterable[Block]:
    head, rows = printed(results)
    yield from table("Every comparable set, in the order of the experiment guide", head, rows)
    yield Text(" ".join(legend(results)))
    yield Text("Rows that share Model and Pretrain may be compared; what may not is a set of its own.")


# Probes, examples, training ----------------------------------------------------------------------


def _probes(verdicts: Iterable[tuple[SetScores, Verdict]]) -> Iterable[Block]:
    head = (
        *("Probe", "F1, pretrained", "F1, random (floor)", "Emergence score", "By the guide"),
        *("Added to words and positions, F1", "Added, argument selection", "More than random, F1", "More, selection"),
        *("Selectivity, pretrained", "Selectivity, random", "Compression, pretrained", "Compression, random"),
        "Remarks",
    )
    for set_scores, verdict in verdicts:
        caption = f"Probe families of {verdict.set_label}, each against its own random floor"
        yield from table(caption, head, [_family(finding) for finding in verdict.families])
        layers = sorted(
            {
                f"{family} on the {CELL_NAMES[cell]} trunk: layer {layer}"
                for cell in FROZEN_CELLS
                for item in set_scores.comparable.cells.get(cell, ())
                for family, layer in item.result.chosen_layers.items()
            }
        )
        if layers:
            yield Text("; ".join(layers) + ".", "Layers, chosen on validation:")


def _family(finding: FamilyFinding) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return f"{value:.2f}" if value is not None else "-"

    reading = "-"
    if finding.reading:
        several = len(finding.reading.could_be) > 1
        reading = finding.reading.verdict + (f" ({' or '.join(finding.reading.could_be)})" if several else "")
    return (
        finding.family,
        shown(finding.frozen),
        shown(finding.random_frozen),
        score_text(finding.score) or "-",
        reading,
        *(gained(finding.gains[name].gain if name in finding.gains else None) for name in SCORES),
        *(gained(finding.gains[name].difference if name in finding.gains else None) for name in SCORES),
        *(shown(finding.selectivity.get(cell)) for cell in FROZEN_CELLS),
        *(number(finding.compression.get(cell)) for cell in FROZEN_CELLS),
        ", ".join(finding.flags).replace("_", " "),
    )


def _examples(scored: Iterable[SetScores]) -> Iterable[Block]:
    blocks = [block for set_scores in scored for block in example_blocks(set_scores.comparable)]
    return blocks or [Text("Not shown: no run here has predictions that tell what was answered.")]


def _training(folder: ResultsFolder, pictures: list[Block]) -> Iterable[Block]:
    head = ("Run", "Nats per token (test)", "Bits per byte", "Perplexity", "Tokens seen", "Passes", "Steps")
    rows = {}
    for set_scores in folder.scored:
        for item in set_scores.comparable.cells.get(FULL, ()):
            loss, pretrained = item.result.held_out_loss, item.result.pretrained
            if loss:
                rows[item.name] = (
                    *(item.name, f"{loss.nats_per_token:.3f}", _number(loss.bits_per_byte, ".3f")),
                    *(_number(loss.perplexity, ".1f"), _number(pretrained.tokens_seen, ",")),
                    *(_number(pretrained.passes, ".2f"), _number(pretrained.steps, ",")),
                )
    yield from table("Pretraining, on held-out text", head, rows.values())
    yield from pictures or [Text("Not shown: no training history in this folder.")]


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


# Problems ----------------------------------------------------------------------------------------


def _problems(folder: ResultsFolder, charts: Charts) -> Iterable[Block]:
    """Everything that is in no number of the report, each by name and once."""
    kinds = {"unfinished": "not finished", "pretraining": "pretraining alone"}
    rows = [(item.name, kinds.get(item.kind, item.kind), item.reason) for item in folder.skipped]
    yield from table("In no number of this report", ("Name", "Kind", "Why"), rows)
    if folder.grouping.mixed:
        yield Bullets(tuple(f"Kept apart: {sentence}" for sentence in folder.grouping.mixed))
    notes = [f"{scores.comparable.label}: {note}" for scores in folder.scored for note in scores.notes]
    notes += [f"{scores.comparable.label}: {flag}" for scores in folder.scored for flag in _flags(scores.comparable)]
    if notes:
        yield Bullets(tuple(notes))
    set_labels = {scores.comparable.label for scores in folder.scored}
    named_above = {item.name for item in folder.skipped} | set_labels | {"kept apart"}
    not_drawn = [(name, reason) for name, reason in charts.skipped if name not in named_above]
    yield from table("Figures and curves not drawn", ("Figure", "Why"), not_drawn)
    if not (rows or notes or not_drawn or folder.grouping.mixed):
        yield Text("None.")


def _flags(comparable: ComparableSet) -> Iterable[str]:
    """The warnings that the runs themselves give."""
    words = {"probe_not_converged": "a probe had not converged when its iterations ended"}
    for cell, items in comparable.cells.items():
        for item in items:
            for flag in item.result.flags:
                if flag != "trunk_from_another_run":  # as it should be for a probe; the lineage names it
                    yield f"{item.name} ({MODES[cell]}): {words.get(flag, flag.replace('_', ' '))}"
