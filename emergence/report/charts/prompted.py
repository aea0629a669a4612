"""What the language model alone answers from a prompt, against its loss, one figure a set of questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from emergence.findings.folder import ResultsFolder
from emergence.report.blocks import Block, table
from emergence.report.charts.chart import Chart, ChartKind, Charts, Figure, Row
from emergence.report.charts.drawing import COLOURS, LINES, MARKERS, error_bars, shared_legend
from emergence.report.charts.rows import distinct, never, numbers, rows_where, slug, studies, value_words
from emergence.studies.prompted.result import FILES, PMI, RAW, RULES, PromptedResult, read_result
from emergence.wording import counted, format_interval

_WORDS = {RAW: "by probability", PMI: "by PMI"}


def _collect(folder: ResultsFolder, charts: Charts, n_boot: int) -> None:
    otherwise = "no trunk was asked with prompts: emergence fewshot RUN"
    results = studies(folder, charts, KIND.name, FILES, read_result, otherwise)
    named = Counter[str]()
    for asked in dict.fromkeys(map(_asked, results)):
        mine = [result for result in results if _asked(result) == asked]
        rows = [row for result in mine for row in _rows(result)]
        caption = (
            "Token F1 of spans that the language model chooses after a prompt, by their log-probability (raw) or by "
            "what the question adds to it (PMI), against its loss on held-out text; nothing is trained. Dotted: the "
            f"best rule without a model, and a span drawn at random. Bars: {mine[0].settings['level']:.0%} intervals."
        )
        of = str(mine[0].settings["questions"])[:8]
        named[of] += 1
        charts.add(KIND, "Answers from a prompt", caption, rows, of=slug(of if named[of] == 1 else f"{of} {named[of]}"))


def _asked(result: PromptedResult) -> tuple[str, tuple[str, ...], float]:
    """What two results have to share for one figure: the questions asked, and the level of their intervals."""
    return str(result.settings["questions"]), result.ids, result.settings["level"]


def _rows(result: PromptedResult) -> Iterator[Row]:
    for trunk, found in zip(result.trunks, result.estimates, strict=True):
        for rule in RULES:
            estimate = found[rule]["f1_tokens"]
            yield {
                "setting": str(result.subject["name"]),
                "trunk": trunk.name,
                "shots": trunk.shots,
                "rule": rule,
                "tokens": trunk.tokens_seen,
                "loss": trunk.loss["nats_per_token"],
                "f1": estimate.point,
                "lo": estimate.lo,
                "hi": estimate.hi,
                "em": found[rule]["em"].point,
                "log_prob": found[rule]["log_prob"].point,
                "n": trunk.n_answered,
                "no_model": result.no_model["f1_tokens"],
                "at_random": result.no_model["uniform_f1"],
            }


def _draw(figure: Figure, rows: Sequence[Row]) -> None:
    figure.set_figheight(2.6)
    axes = figure.subplots(1, len(RULES), sharey=True, squeeze=False)[0]
    settings, shots = distinct(rows), list(dict.fromkeys(row["shots"] for row in rows))
    for ax, rule in zip(axes, RULES, strict=True):
        for i, setting in enumerate(settings):
            for k, n in enumerate(shots):
                mine = sorted(rows_where(rows, setting=setting, shots=n, rule=rule), key=lambda row: -row["loss"])
                if not mine:
                    continue
                style: dict[str, Any] = {"color": COLOURS[i % 7], "marker": MARKERS[k % 7], "linestyle": LINES[k % 4]}
                label = counted(n, "shot") if len(settings) == 1 else f"{setting}, {counted(n, 'shot')}"
                error_bars(ax, numbers(mine, "loss"), mine, **style, label=label)
        for level in ("no_model", "at_random"):
            ax.axhline(rows[0][level], color="black", linestyle=":", linewidth=0.8)
        ax.invert_xaxis()  # a better model stands further right
        ax.set(xlabel="held-out loss, nats per token", title=_WORDS[rule])
    axes[0].set(ylabel="token F1 (test)", ylim=(0, 1))
    shared_legend(figure, axes)


def _series(rows: Sequence[Row]) -> list[str]:
    phrases = []
    for setting, shots, rule in dict.fromkeys((row["setting"], row["shots"], row["rule"]) for row in rows):
        mine = rows_where(rows, setting=setting, shots=shots, rule=rule)
        first, last = max(mine, key=lambda row: row["loss"]), min(mine, key=lambda row: row["loss"])
        ends = f"{value_words(first['f1'])} at a loss of {value_words(first['loss'])}"
        if last is not first:
            ends += f", {value_words(last['f1'])} at {value_words(last['loss'])}"
        phrases.append(f"{setting}, {counted(shots, 'shot')}, {_WORDS[rule]}: F1 {ends}")
    return phrases


def _tables(chart: Chart, reasons: Sequence[str]) -> Iterable[Block]:
    shown = []
    for setting, trunk, shots in dict.fromkeys((row["setting"], row["trunk"], row["shots"]) for row in chart.rows):
        raw, pmi = (rows_where(chart.rows, setting=setting, trunk=trunk, shots=shots, rule=rule)[0] for rule in RULES)
        both = (format_interval(row["f1"], row["lo"], row["hi"], 3) for row in (raw, pmi))
        shown.append((setting, trunk, str(shots), f"{raw['loss']:.3f}", *both, f"{raw['em']:.3f}", f"{raw['n']:,}"))
    head = ("Run", "Trunk", "Shots", "Loss, nats", "F1, raw", "F1, PMI", "EM, raw", "Questions")
    return table("Answers from a prompt by the language model alone; nothing was trained", head, shown)


KIND = ChartKind("prompted", 65, "prompted", _collect, _draw, _series, never, _tables)
