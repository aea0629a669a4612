"""The content of the report, section by section, from a folder that was read, scored and drawn before."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import get_args

from emergence import __version__
from emergence.experiment.facts import HEADLINE, words_of_layout
from emergence.findings.ablation import without_order
from emergence.findings.collect import Found
from emergence.findings.comparable import MODES, ComparableSet
from emergence.findings.folder import ResultsFolder
from emergence.findings.scores import ReadoutScores, SetScores
from emergence.findings.table import NOT_ONE_SERIES, ResultsTable, score_text
from emergence.findings.verdict import FamilyFinding, Verdict, verdict_of
from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import BILINEAR, SCORES
from emergence.measures.emergence_score import FROZEN, FROZEN_CELLS, FULL, RANDOM_FROZEN, RANDOM_FULL
from emergence.measures.measured_coverage import units_of
from emergence.measures.minimal_sets import CHANCE, ORDER_FREE
from emergence.measures.readings import FLOORS, SCORE_NAMES, describe_score
from emergence.measures.summaries import mean_over_seeds
from emergence.report.blocks import Block, Bullets, Heading, Picture, Report, Section, Table, Text, table
from emergence.report.charts.chart import Charts, Place, chart_kinds
from emergence.report.charts.rows import CELL_NAMES
from emergence.report.examples import example_blocks
from emergence.report.glossary import GLOSSARY
from emergence.report.provenance import cost, filtering, provenance, reproduction, used_and_trunks
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

_ONE_SIZE = "a reading over sizes takes two sizes that differ in nothing else"
_SCORE_WORDS = (
    f"Floor of the {SCORE_NAMES[RANDOM_FROZEN]}: {FLOORS[RANDOM_FROZEN]}; of the {SCORE_NAMES[RANDOM_FULL]}: "
    f"{FLOORS[RANDOM_FULL]}. Frozen minus floor is what the frozen probe has over the floor, full minus floor what "
    "there is to have a share of."
)
_NO_ANSWERS = "no run here has predictions that tell what was answered"
#: Read-outs of the 2x2 that a frozen trunk is compared by.
SHOWN_PROBES = {HEADLINE: "linear", BILINEAR: "bilinear"}


def report_of(folder: ResultsFolder, results: ResultsTable, charts: Charts) -> Report:
    """The report on one folder.

    Args:
        folder: From :func:`emergence.findings.folder.read_folder`. results, charts: Its table and its figures.
    """
    scored = list(folder.main)
    verdicts = [(scores, verdict_of(scores.comparable, scores)) for scores in scored]
    shown: dict[str, list[Block]] = {place: list(_figures(charts, place)) for place in get_args(Place)}

    def section(
        place: str, title: str, terms: tuple[str, ...] = (), blocks: Iterable[Block] | None = None, why: str = ""
    ) -> Section:
        """A section with ``blocks``, else the figures of its place, else the reason why there is nothing."""
        told = tuple(shown[place] if blocks is None else blocks)
        names = tuple(kind.name for kind in chart_kinds() if kind.place == place)
        absent = why or charts.reason(names) or "no such run in this folder"
        return Section(place, title, told, terms, "" if told else absent)

    sections = [
        section("verdict", "The verdict", ("verdict", "selectivity", "mdl"), _verdicts(verdicts, shown["verdict"])),
        section("grid", "The 2x2", ("token-f1", "intervals"), _grids(folder, scored, shown["grid"])),
        Section("question", "The question", (Text(QUESTION),), ("emergence-score", "probes")),
        section("scale", "Over model sizes", ("emergence-score",), _scale(results, shown["scale"]), _ONE_SIZE),
        section(
            *("table", "Results", ("exact-match", "no-model-floor", "intervals")),
            _results(results) if folder.scored else (),
            "no finished result",
        ),
        section("probes", "Probes", ("probes", "selectivity", "mdl"), _probes(verdicts, shown["probes"])),
        section("roles", "By role and voice", ("token-f1", "asked-role")),
        section(
            *("minimal-pairs", "Minimal pairs", ("minimal-pairs",), _minimal_pairs(scored)),
            "no run here has minimal pairs: those of the micro-world are scored by default",
        ),
        section("examples", "Questions and answers", ("exact-match", "token-f1"), _examples(scored), _NO_ANSWERS),
        section("few-shot", "Few-shot learning"),
        section("prompted", "Answers from a prompt", ("answers-from-a-prompt",)),
        section("training", "Training", ("bits-per-byte",), _training(folder, shown["training"])),
        section("curve", "Emergence during pretraining", ("asked-role",)),
        section("laws", "Laws of emergence", ("emergence-law",)),
        section("ablation", "Questions in the pretraining text", ("data-ablation", "intervals")),
        section("order", "Word order in the pretraining text", ("shuffled-text", "intervals")),
        section("pairs", "Sentence pairs", ("sentence-pairs",)),
        section("information", "Information emergence", ("information-emergence",)),
        section("units", "Units that tell roles", ("units",)),
        section("cka", "How states change", ("temporal-cka",)),
        *([section("others", "Other figures")] if shown["others"] else []),
        section("filtering", "Data", ("filtering",), filtering(folder), "these files do not tell of their questions"),
        section("cost", "Cost", ("cost",), cost(folder), "no run here tells its times"),
        Section("provenance", "Provenance", tuple(provenance(folder))),
        Section("reproduce", "How to reproduce each number", tuple(reproduction(folder))),
    ]
    told = {empty.absent for empty in sections}
    problems = section("problems", "What is left out, and what to mind", (), _problems(folder, charts, told), "none")
    sections.insert(-2, problems)
    short = tuple((verdict.set_label, verdict.short) for _, verdict in verdicts)
    name = folder.root.resolve().name
    return Report(f"Emergence report: {name}", short, tuple(sections), GLOSSARY, f"emergence {__version__}")


def _figures(charts: Charts, place: Place) -> Iterator[Block]:
    """The figures of one section, and below them their tables."""
    mine = [chart for chart in charts.charts if chart.kind.place == place]
    for chart in mine:
        yield Picture(chart.name, chart.title, chart.caption, chart.alt, chart.is_wide)
    for chart in mine:
        yield from chart.kind.tables(chart, [reason for name, reason in charts.skipped if name == chart.name])


# Verdict and score -------------------------------------------------------------------------------


def _verdicts(verdicts: Iterable[tuple[SetScores, Verdict]], pictures: list[Block]) -> Iterable[Block]:
    yield from pictures
    for _, verdict in verdicts:
        yield Heading(f"{verdict.set_label}: {verdict.short}")
        yield Bullets(verdict.sentences)


def _scale(results: ResultsTable, pictures: list[Block]) -> Iterable[Block]:
    for label, trend in results.trends.items():
        pattern = f", {trend.pattern}" if trend.pattern else ""
        yield Heading(f"{label}: {trend.verdict}{pattern}")
        yield Bullets(trend.evidence)
    yield from _told("Not size alone", results.confounds_with_size)
    yield from pictures


def _told(begins: str, sentences: Sequence[str]) -> Iterable[Block]:
    """Sentences that all begin with the same words; nothing where there are none."""
    if sentences:
        yield Bullets(tuple(f"{begins}: {sentence}" for sentence in sentences))


def _grids(folder: ResultsFolder, scored: Iterable[SetScores], pictures: list[Block]) -> Iterable[Block]:
    twins = without_order(folder.grouping)
    yield from pictures
    for set_scores in scored:
        comparable, scores = set_scores.comparable, set_scores.headline
        twin = twins.get(id(comparable))
        yield Heading(comparable.label)
        yield _two_by_two(set_scores, folder.scores_of(twin) if twin else None)
        yield from table(f"Score and gap: {comparable.label}", ("Number", "Value"), _score_rows(scores))
        if scores.basis:
            yield Text(f"{scores.split} F1, {scores.basis}. {_SCORE_WORDS}", "How:")


def _two_by_two(set_scores: SetScores, shuffled: SetScores | None) -> Table:
    """The 2x2 as a table, with a column for each probe. ``shuffled``: the trunk of shuffled text, if there is one.

    Published models are never trained, so they have no column for that.
    """
    comparable, scores = set_scores.comparable, set_scores.headline
    probes = [name for name in set_scores.readouts if name in SHOWN_PROBES]

    has_full = FULL in comparable.cells_to_run

    def row(title: str, of: SetScores, frozen: str, full: str) -> tuple[str, ...]:
        asked = [(of.readouts.get(name), frozen) for name in probes]
        asked += [(of.headline, full)] if has_full else []
        return title, *(shown(scores.f1[cell]) if scores and cell in scores.f1 else "not run" for scores, cell in asked)

    rows = [
        row("pretrained trunk", set_scores, FROZEN, FULL),
        *([row("trunk of shuffled text", shuffled, FROZEN, FULL)] if shuffled else []),
        row("random trunk", set_scores, RANDOM_FROZEN, RANDOM_FULL),
    ]
    free, blank = comparable.model_free, [""] * (len(probes) - 1 + has_full)
    if free.floor:
        rows.append((free.floor[0].replace("_", " "), f"{free.floor[1].point:.3f}", *blank))
    if free.words:
        rows.append(("words and positions", shown(free.words), *blank))
    f1 = next(iter(scores.f1.values()), None)
    counts = f" on {f1.n:,} {scores.split} questions of {units_of(*set_scores.units)}" if f1 and f1.n else ""
    level = f", {f1.level:.0%} intervals" if f1 and math.isfinite(f1.lo) else ""
    head = ("Token F1", *(f"frozen, {SHOWN_PROBES[name]} probe" for name in probes))
    head += ("all weights trained",) if has_full else ()
    return Table(f"{comparable.label}: token F1{counts}{level}", head, tuple(rows))


def _score_rows(scores: ReadoutScores) -> Iterable[tuple[str, str]]:
    for score in (scores.probe, scores.scratch):
        if score:
            name = SCORE_NAMES[score.floor]
            yield name, describe_score(score)
            yield f"{name}: frozen minus floor", shown(score.above_floor)
            yield f"{name}: full minus floor", shown(score.headroom)
    if scores.gap:
        yield "emergence gap: full minus frozen", shown(scores.gap)


def _results(results: ResultsTable) -> Iterable[Block]:
    head, rows = printed(results)
    yield from table("Every comparable set, in the order of the experiment guide", head, rows)
    yield Text(" ".join(legend(results)))
    yield Text(
        "Rows that share Model and Pretrain may be compared with each other, and with the Model's floors, whose "
        "Pretrain is none. What may not be compared differs in its Model, which then says how."
    )


# Probes, examples, training ----------------------------------------------------------------------


def _probes(verdicts: Iterable[tuple[SetScores, Verdict]], pictures: list[Block]) -> Iterable[Block]:
    """A table for each set with a column for each probe family, and the figures beside the first."""
    yield from pictures
    for set_scores, verdict in verdicts:
        columns = [_family(finding) for finding in verdict.families]
        rows = [(title, *values) for title, *values in zip(_FAMILY_ROWS, *columns, strict=True)]
        caption = (
            f"Probe families of {verdict.set_label}, each against its own random floor "
            "(gain: what the states add to words and positions)"
        )
        told = [row for row in rows if any(cell not in ("", "-") for cell in row[1:])]
        yield from table(caption, ("Probe", *(finding.family for finding in verdict.families)), told)
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


_FAMILY_ROWS = (
    *("F1, pretrained", "F1, random (floor)", "Emergence score", "By the guide"),
    *("Gain, F1", "Gain, argument selection", "Gain above the twin's, F1", "The same, selection"),
    *("Selectivity, pretrained", "Selectivity, random", "Compression, pretrained", "Compression, random"),
    "Remarks",
)


def _family(finding: FamilyFinding) -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return f"{value:.2f}" if value is not None else "-"

    reading = "-"
    if finding.reading:
        several = len(finding.reading.could_be) > 1
        reading = finding.reading.verdict + (f" ({' or '.join(finding.reading.could_be)})" if several else "")
    return (
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


def _minimal_pairs(scored: Iterable[SetScores]) -> Iterable[Block]:
    """A table for each set: how often both members of a pair are right, by read-out and trunk."""
    for set_scores in scored:
        right = {cell: _pairs_right(items) for cell, items in set_scores.comparable.cells.items() if cell in CELL_NAMES}
        asked = [(f"{words} probe, frozen trunk", name, FROZEN_CELLS) for name, words in SHOWN_PROBES.items()]
        asked += [("all weights trained", HEADLINE, (FULL, RANDOM_FULL))]
        rows = [
            (title, *(shown(found) if (found := right.get(cell, {}).get(name)) else "not run" for cell in cells))
            for title, name, cells in asked
            if any(name in right.get(cell, {}) for cell in cells)
        ]
        words_alone = words_of_layout(set_scores.comparable.base.layout)
        free = next((found[words_alone] for found in right.values() if words_alone in found), None)
        if rows and free:
            rows.append(("words and positions", shown(free), ""))
        n = next((estimate.n for of_cell in right.values() for estimate in of_cell.values()), 0)
        caption = (
            f"{set_scores.comparable.label}: both members right, of {n:,} role-crossed pairs (guessing {CHANCE}, "
            f"readers without word order {ORDER_FREE:g})"
        )
        yield from table(caption, ("Read-out", "Pretrained", "Random"), rows)


def _pairs_right(items: Sequence[Found]) -> dict[str, Estimate]:
    """Read-out to its share of pairs over the seeds, where all seeds were asked equally many."""
    by_seed = [item.result.pairs_right for item in items]
    shared = {name: [right[name] for right in by_seed] for name in by_seed[0] if all(name in one for one in by_seed)}
    return {name: mean_over_seeds(each) for name, each in shared.items() if len({one.n for one in each}) == 1}


def _examples(scored: Iterable[SetScores]) -> Iterable[Block]:
    return [block for set_scores in scored for block in example_blocks(set_scores.comparable)]


def _training(folder: ResultsFolder, pictures: list[Block]) -> Iterable[Block]:
    head = ("Nats per token (test)", "Bits per byte", "Perplexity", "Tokens seen", "Passes", "Steps")
    own: dict[str, tuple[str, ...]] = {}
    published: dict[str, tuple[str, ...]] = {}
    for set_scores in folder.scored:
        cells = set_scores.comparable.cells
        own |= {item.name: row for item in cells.get(FULL, ()) if (row := _loss_row(item))}
        frozen = [item for cell in FROZEN_CELLS for item in cells.get(cell, ()) if item.spec and item.spec.model]
        published |= {item.name: row for item in frozen if (row := _loss_row(item))}
    yield from table("Pretraining, on held-out text", ("Run", *head), own.values())
    head = ("Nats per token", *head[1:])
    yield from table(
        "Published models and their random twins, on the reference text", ("Run", *head), published.values()
    )
    yield from pictures


def _loss_row(item: Found) -> tuple[str, ...] | None:
    """Loss and length of a run's pretraining; None where the loss is not recorded."""
    loss, pretrained = item.result.held_out_loss, item.result.pretrained
    if loss is None:
        return None
    return (
        *(item.name, f"{loss.nats_per_token:.3f}", _number(loss.bits_per_byte, ".3f")),
        *(_number(loss.perplexity, ".1f"), _number(pretrained.tokens_seen, ",")),
        *(_number(pretrained.passes, ".2f"), _number(pretrained.steps, ",")),
    )


def _number(value: float | None, style: str) -> str:
    return "-" if value is None else format(value, style)


# Problems ----------------------------------------------------------------------------------------


def _problems(folder: ResultsFolder, charts: Charts, told: Collection[str]) -> Iterable[Block]:
    """Everything that is in no number of the report, each by name and once. ``told``: reasons given elsewhere."""
    kinds = {"unfinished": "not finished", "pretraining": "pretraining alone"}
    trunks = {item.name for item in used_and_trunks(folder)}
    apart = [item for item in folder.skipped if item.name not in trunks]
    rows = [(item.name, kinds.get(item.kind, item.kind), item.reason) for item in apart]
    yield from table("In no score of this report", ("Name", "Kind", "Why"), rows)
    yield from _told("Not size alone", folder.grouping.confounds_with_size())
    yield from _told(NOT_ONE_SERIES, folder.grouping.sizes_apart())
    yield from _told("Kept apart", folder.grouping.mixed)
    notes = [f"{scores.comparable.label}: {note}" for scores in folder.scored for note in scores.notes]
    notes += [f"{scores.comparable.label}: {flag}" for scores in folder.scored for flag in _flags(scores.comparable)]
    if notes:
        yield Bullets(tuple(notes))
    set_labels = {scores.comparable.label for scores in folder.scored}
    named_above = {item.name for item in folder.skipped} | set_labels | {"kept apart"}
    not_drawn = [(name, reason) for name, reason in charts.skipped if name not in named_above and reason not in told]
    yield from table("Figures and curves not drawn", ("Figure", "Why"), not_drawn)


def _flags(comparable: ComparableSet) -> Iterable[str]:
    """The warnings that the runs themselves give."""
    words = {"probe_not_converged": "a probe had not converged when its iterations ended"}
    for cell, items in comparable.cells.items():
        for item in items:
            for flag in item.result.flags:
                if flag != "trunk_from_another_run":  # as it should be for a probe; the lineage names it
                    yield f"{item.name} ({MODES[cell]}): {words.get(flag, flag.replace('_', ' '))}"
