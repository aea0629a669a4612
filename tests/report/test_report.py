"""The report from planted runs: one file that stands alone, its twin, escaping, examples, and what it leaves out."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import re
import shlex
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from emergence.cli import app
from emergence.errors import DataError, UsageError
from emergence.experiment.run_directory import RunDirectory
from emergence.files import make_folder
from emergence.findings.folder import read_folder
from emergence.findings.table import build_table
from emergence.findings.two_by_two import RunScores
from emergence.measures.bootstrap import Estimate
from emergence.measures.sentence_pairs import SentencePairScores
from emergence.plain import plain
from emergence.report.blocks import Example, Heading
from emergence.report.charts.chart import all_charts
from emergence.report.charts.rows import short_names
from emergence.report.charts.sentence_pairs import _short
from emergence.report.examples import GAP, N_EACH, _known_words, _pieces, example_blocks
from emergence.report.provenance import command
from emergence.report.write import WrittenReport, write_report
from emergence.spec.config import CONFIG_NAMES
from emergence.spec.experiment import ExperimentSpec
from emergence.studies.information.result import CONDITIONS, result_of
from emergence.studies.information.result import FILES as INFORMATION
from emergence.studies.prompted.result import FILES as PROMPTED
from emergence.studies.prompted.result import RULES, PromptedResult, PromptedTrunk, summarise
from emergence.studies.sentence_pairs.result import FILES as PAIRS
from emergence.studies.sentence_pairs.result import PairStudyResult, ScoredModel
from emergence.studies.study import StudyFiles
from emergence.studies.units.result import FILES as UNITS
from tests.planted_runs import F1, fake_run, spec_of, write_grid, write_guide_file, write_run
from tests.planted_units import planted_units
from tests.report.told import told
from tests.small_runs import run_micro

BOOT = 100
CELLS = {"full": 0.7, "frozen": 0.5, "random_full": 0.4, "random_frozen": 0.2}


class Page(HTMLParser):
    """What a browser would find: tags with attributes, text, and tags that do not close."""

    void = frozenset({"meta", "link", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", list[str]()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in self.void else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report") / "<b>runs"
    for condition in F1:
        fake_run(root, "debug", condition)
    return root


@pytest.fixture(scope="module")
def written(world: Path) -> WrittenReport:
    return write_report(world, n_boot=BOOT)


@pytest.fixture(scope="module")
def page(written: WrittenReport) -> Page:
    return Page(written.html.read_text())


# One file that stands alone ----------------------------------------------------------------------


def test_nothing_comes_from_outside(written: WrittenReport, page: Page) -> None:
    assert page.open == [] and page.all("script") == []
    links = [a["href"] or "" for a in page.all("a")]
    sources = [a["src"] or "" for a in page.all("img")] + [a["href"] or "" for a in page.all("link")]
    assert all(link.startswith("#") for link in links) and all(source.startswith("data:") for source in sources)
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links} <= set(ids)
    assert "@import" not in written.html.read_text() and "url(" not in written.html.read_text()
    assert any("default-src 'none'" in (a.get("content") or "") for a in page.all("meta"))


def test_every_figure_is_inlined_with_its_numbers_in_words(written: WrittenReport, page: Page) -> None:
    assert set(written.figures) == {
        *("pretraining_loss", "finetuning", "two_by_two", "probing_layers", "roles_debug_microworld")
    }
    images = page.all("img")
    assert len(images) == len(written.figures)
    f1 = json.loads(build_json(written.html.parents[1]))["sets"][0]["readouts"]["headline"]["grid"]["analysis"]["cells"]
    alt = next(a["alt"] or "" for a in images if "Frozen and trained" in (a["alt"] or ""))
    assert f"pretrained, frozen: {f1['frozen']['point']:.2f}" in alt
    for name in written.figures:
        assert (written.html.parent / f"{name}.svg").is_file() and (written.html.parent / f"{name}.csv").is_file()
        assert f"({name}.svg)" in written.markdown.read_text()


def build_json(root: Path) -> str:
    return json.dumps(build_table(root, n_boot=BOOT).to_dict())


def test_both_say_the_same(written: WrittenReport, page: Page) -> None:
    markdown = written.markdown.read_text()
    tables = page.all("table")
    assert len(tables) >= 8 and len(re.findall(r"^\|(?:---\|)+$", markdown, re.M)) == len(tables)
    for title in ("The verdict", "The 2x2", "Results", "Probes", "Data", "Provenance", "How to reproduce"):
        assert title in page.text and f"## {title}" in markdown
    assert "Cost: no run here tells its times." in page.text and "Cost: no run here tells its times." in markdown
    numbers = set(re.findall(r"\d\.\d\d\d? \[\d\.\d\d\d?, \d\.\d\d\d?\]", page.text))
    assert len(numbers) > 8 and all(number in markdown for number in numbers)
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert "4,800" in page.text and "total raw examples" in page.text  # data filtering
    assert "docs/methods.md#emergence-score" in page.text and "docs/methods.md#emergence-score" in markdown


def test_methods_has_the_sections_that_the_glossary_names() -> None:
    from emergence.report.glossary import GLOSSARY

    titles = re.findall(r"^## (.+)$", (Path(__file__).resolve().parents[2] / "docs" / "methods.md").read_text(), re.M)
    assert set(GLOSSARY) <= {title.lower().replace(" ", "-") for title in titles}


def test_what_comes_from_data_is_text(written: WrittenReport, page: Page) -> None:
    assert "<script>alert(1)</script>" in page.text and "saw <i>it</i> & you?" in page.text
    assert page.all("i") == [] and "<b>runs" in page.text
    markdown = written.markdown.read_text()
    assert "<script>" not in markdown.replace("\\<", "") and r"\*\*" in markdown


# Examples ----------------------------------------------------------------------------------------


def test_examples_are_drawn_by_role_right_and_wrong(world: Path) -> None:
    (found,) = read_folder(world, n_boot=BOOT).settings
    blocks = example_blocks(found.comparable)
    assert blocks == example_blocks(found.comparable)
    roles = [block.text.split(":")[0] for block in blocks if isinstance(block, Heading)][1:]
    assert roles[:2] == ["what", "who"] and len(roles) == 5
    examples = [block for block in blocks if isinstance(block, Example)]
    right = [e for e in examples if e.answers[0].is_right]
    assert len(right) == N_EACH * 5 and len(examples) == 2 * len(right)
    for example in examples:
        assert example.answers[0].cell == "pretrained, frozen" and len(example.answers) == 4
        assert "".join(p.text for p in example.pieces if p.is_gold) == "Emma Bo"
        marked = " ".join(p.text for p in example.pieces if p.is_predicted)
        assert marked == example.answers[0].text and [p.text for p in example.pieces if p.is_predicate] == ["saw"]


def test_examples_say_which_roles_they_are_drawn_by(tmp_path: Path) -> None:
    fake_run(tmp_path / "old")
    (found,) = read_folder(tmp_path / "old", n_boot=BOOT).settings
    assert "each of all 5 wh-words" in example_blocks(found.comparable)[1].text
    fake_run(tmp_path / "new", asked_roles=True)
    (found,) = read_folder(tmp_path / "new", n_boot=BOOT).settings
    blocks = example_blocks(found.comparable)
    assert "each of all 3 asked roles" in blocks[1].text
    headings = [block.text.split(":")[0] for block in blocks if isinstance(block, Heading)]
    assert headings[1:] == ["other", "agent", "patient"]


def test_a_sentence_is_put_together_from_what_spans_show_of_it() -> None:
    row: dict[str, Any] = {"source": "s", "sentence_id": "1", "predicate_index": 4, "predicate": "ate"}
    row |= {"golds": [[0, 2]], "gold_texts": ["The cat"], "prediction": [5, 7], "prediction_text": "-LRB- fish"}
    words = _known_words([row])["s", "1"]
    pieces = _pieces(words, row, is_whole=False)
    text = "".join(" " * p.has_space_before + p.text for p in pieces)
    assert text == f"The cat {GAP} ate (fish {GAP}"
    assert [p.text for p in pieces if p.is_gold] == ["The cat"] and [p.text for p in pieces if p.is_predicted] == [
        "(fish"
    ]


# Commands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        spec_of("full", pretrain_data="wiki+nq", seed=3, layout="echo", qa_data="/a b/qa"),
        spec_of("random_frozen", finetune_samples=10, sets=("finetune.epochs=7", "probe.ridges=[0.5, 1.0]")),
        spec_of("frozen", skip_pretrain=True, pretrained_model_path="RUN/x.pth", sets=("finetune.marks=text",)),
        # A size that has rates of its own gives way to a recipe, and a setting to neither.
        *(
            spec_of("full", config_name=size, sets=("recipe=gpt2", *other))
            for size in CONFIG_NAMES
            for other in ((), ("pretrain.optimizer=muon", "model.qk_norm=true", "finetune.lr=0.5"))
        ),
    ],
)
def test_the_command_of_a_run_makes_its_spec(spec: ExperimentSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ExperimentSpec] = []
    monkeypatch.setattr("emergence.commands.run.run_locally", lambda given, *_, **__: asked.append(given))
    monkeypatch.setattr("emergence.cli.refuse_bad_paths", lambda *_, **__: None)  # none of the paths is there
    parts = shlex.split(command(spec, "some runs"))
    assert parts[0] == "emergence"
    done = CliRunner().invoke(app, parts[1:], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert asked == [spec]


# What is left out --------------------------------------------------------------------------------


def test_what_sizes_differ_in_beside_size_stands_where_sizes_are_compared(tmp_path: Path) -> None:
    write_grid(tmp_path, CELLS)
    write_grid(tmp_path, CELLS, config_name="tiny", sets=("recipe=gpt2",))
    write_run(tmp_path, "full", 0.6, config_name="small", tokenizer="tokenizer B")
    markdown = write_report(tmp_path, n_boot=BOOT).markdown.read_text()
    over_sizes = markdown.split("\n## Over model sizes\n")[1].split("\n## ")[0]
    assert "- Not size alone: wiki: recipe (debug modern, tiny gpt2)" in over_sizes
    assert " Not size alone: recipe (debug modern, tiny gpt2)." in over_sizes, "under the figure"
    problems = markdown.split("\n## What is left out")[1]
    assert "- Not size alone: " in problems
    assert "- Not in one series over sizes: wiki: tokenizer (debug " in problems


def test_what_does_not_belong_is_named_and_in_no_average(tmp_path: Path) -> None:
    """In the report, the figures and the table alike."""
    write_grid(tmp_path, CELLS)
    half = write_run(tmp_path, "full", 0.9, finished=False, seed=7)
    tokenizer = write_run(tmp_path, "frozen", 0.9, tokenizer="tokenizer B", seed=8)
    questions = write_run(tmp_path, "full", 0.1, questions="questions B", seed=9)
    (tmp_path / "foreign.json").write_text('{"accuracy": 0.9}')
    write_guide_file(tmp_path / "nan.json", float("nan"))
    null = write_run(tmp_path, "random_full", 0.9, seed=10)
    stats = json.loads(null.stats_path.read_text())
    stats["test_scores"]["scores"]["f1_tokens"]["point"] = None
    null.stats_path.unlink()
    null.write_stats({key: value for key, value in stats.items() if key != "sha256"})

    table = build_table(tmp_path, n_boot=BOOT)
    charts = all_charts(read_folder(tmp_path, n_boot=BOOT), n_boot=BOOT)
    written = write_report(tmp_path, n_boot=BOOT)
    texts = {
        "table": "\n".join(table.notes()),
        "figures": "\n".join(f"{name}: {why}" for name, why in charts.skipped),
        "report": Page(written.html.read_text()).text,
        "twin": written.markdown.read_text(),
    }
    for what, text in texts.items():
        for name in (half.run_id, "foreign.json", "nan.json", null.run_id, tokenizer.run_id, questions.run_id):
            assert name in text, (what, name)
        assert "differ in tokenizer" in text and "differ in questions (" in text, what

    means = {(r.set_label, r.mode): r.test_f1.point for r in table.rows if r.test_f1 and not r.is_extra_probe}
    (two_by_two,) = [chart for chart in charts.charts if chart.name == "two_by_two"]
    drawn = sorted(row["f1"] for row in two_by_two.rows)
    assert drawn == sorted(means.values())
    clean = next(found for found in table.sets if len(found.comparable.cells) == 4)
    assert {cell: e.point for cell, e in clean.headline.f1.items()} == pytest.approx(CELLS)


def test_the_older_format_alone(tmp_path: Path) -> None:
    write_guide_file(tmp_path / "full.json", 0.7)
    write_guide_file(tmp_path / "frozen.json", 0.5, frozen=True)
    text = Page(write_report(tmp_path, n_boot=BOOT).html.read_text()).text
    assert "no interval: per-question scores are not in this file" in text and "undetermined" in text
    assert "older format, which holds config_name" in text and "6,414" in text
    assert "Questions and answers: no run here has predictions" in text


def test_refusals(tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no finished results here"):
        write_report(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs jinja2: pip install -e '.\[report\]'"):
        write_report(world)


def test_few_shot_runs_alone_have_a_verdict_and_beside_all_questions_none(tmp_path: Path) -> None:
    for condition in F1:
        fake_run(tmp_path, "debug", condition, finetune_samples=40)
    (few,) = read_folder(tmp_path, n_boot=BOOT).main
    assert few.comparable.base.samples == 40
    for condition in F1:
        fake_run(tmp_path, "debug", condition)
    (all_questions,) = read_folder(tmp_path, n_boot=BOOT).main
    assert all_questions.comparable.base.samples is None


# Studies ------------------------------------------------------------------------------------------


def plant_information(root: Path, run: Path) -> None:
    """Of the run and of a model, and one that cannot be read."""
    more = dict(zip(CONDITIONS, (9.0, 9.0, 7.0, 6.5), strict=True))
    settings = {"texts": "icl-animal", "length": 10, "n": 400, "dimensions": 4, "noise": 0.1, "seeds": [0, 1]}
    around = np.array([-0.1, 0.1, -0.1, 0.1])
    rows = [
        {
            "condition": condition,
            "seed": seed,
            "layer": layer,
            "flags": ["above_ceiling"] if layer else [],
            "ie": {"value": value + layer, "se": 0.1, "blocks": (value + layer + around).tolist()},
        }
        for condition, value in more.items()
        for seed in (0, 1)
        for layer in (0, 1)
    ]
    for name, home in ((run.name, run / INFORMATION.folder), ("me/model", root / INFORMATION.name / "me-model")):
        result = result_of({"name": name}, {**settings, "ceiling": 7.6}, (0, 1), rows, {})
        INFORMATION.save(result, make_folder(home / "icl-animal-T10"))
    (make_folder(run / INFORMATION.folder / "broken") / INFORMATION.json_file).write_text("{}")


def plant_units(run: Path) -> None:
    """Of three seeds, and one that cannot be read."""
    for seed in range(3):
        counts = {step: 8 * 1.5**i * (1 + 0.01 * seed) for i, step in enumerate((1, 4, 16, 64, 256))}
        UNITS.save(planted_units(f"run {seed}", counts, seed=seed), make_folder(run / UNITS.folder / f"gold{seed}"))
    (make_folder(run / UNITS.folder / "broken") / UNITS.json_file).write_text("{}")


def plant_prompted(run: Path) -> None:
    names, n = ("f1_tokens", "em", "log_prob", "expected_f1"), 20
    trunks = []
    for shots in (0, 5):
        for name, loss, f1 in (("pretrain_step_4", 5.0, 0.25), ("pretrained", 2.5, 0.5)):
            scores = {rule: dict.fromkeys(names, np.full(n, f1)) for rule in RULES}
            scores["raw"]["gold_nats"] = np.full(n, -9.0)
            spans = dict.fromkeys(RULES, np.zeros((n, 2), dtype=np.int64))
            loss_of = {"nats_per_token": loss}
            trunks.append(PromptedTrunk(name, shots, 4, 4096, "digest", loss_of, scores, spans))
    clusters = np.arange(n) // 2
    found = tuple(summarise(trunk, clusters, n_boot=BOOT, level=0.95) for trunk in trunks)
    rule = {"rule": "wh_rule", "f1_tokens": 0.4, "em": 0.1, "uniform_f1": 0.2}
    ids = tuple(map(str, range(n)))
    about = {"name": run.name}, {"questions": "0123456789", "level": 0.95}
    result = PromptedResult(*about, (), ids, clusters, rule, tuple(trunks), found)
    PROMPTED.save(result, make_folder(run / PROMPTED.folder / "microworld"))


def plant_sentence_pairs(root: Path, run: Path) -> None:
    """Of the run and of a model, and one that cannot be read."""
    nats = np.array([[-1.0, -2.0], [-2.0, -1.0], [-1.0, -3.0], [-1.0, -2.0]])
    scores = SentencePairScores(
        {"with_bos": nats}, {"with_bos": np.ones((4, 2))}, np.full((4, 2), 8.0), ("a", "a", "b", "b"), ("x", "y") * 2
    )
    model = ScoredModel("pretrained", 5, 10, "digest", 0, scores)
    settings = {"name": "microworld-roles", "fingerprint": "f", "facts": {}}
    for name, folder in ((run.name, run / PAIRS.folder), ("me/model", root / PAIRS.name / "me-model")):
        result = PairStudyResult({"name": name}, settings, (model,), (scores.summary(n_boot=BOOT),))
        PAIRS.save(result, make_folder(folder / "microworld-roles"))
    (make_folder(run / PAIRS.folder / "broken") / PAIRS.json_file).write_text("{}")


@dataclasses.dataclass(frozen=True)
class Studied:
    """The name of a run with studies of every kind, and the report on it and on models of some."""

    run: str
    text: str


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    root = tmp_path_factory.mktemp("studied")
    run = fake_run(root, "debug", "frozen").path
    plant_information(root, run)
    plant_units(run)
    plant_prompted(run)
    plant_sentence_pairs(root, run)
    return Studied(run.name, write_report(root, n_boot=BOOT).markdown.read_text())


@pytest.mark.parametrize("study", ["ie", "units", "fewshot", "minimal-pairs"])
def test_a_study_is_offered_until_it_is_made(study: str, written: WrittenReport, studied: Studied) -> None:
    assert f"emergence {study} RUN" in written.markdown.read_text() and f"emergence {study} RUN" not in studied.text


@pytest.mark.parametrize("files", [INFORMATION, UNITS, PAIRS], ids=lambda files: files.name)
def test_a_study_that_cannot_be_read_is_named(files: StudyFiles, studied: Studied) -> None:
    assert f"analysis/{files.name}/broken" in studied.text


def test_information_emergence_is_told_by_its_differences(studied: Studied) -> None:
    assert "information_icl_animal.svg" in studied.text
    assert studied.text.count("more than shuffled text and more than text of") == 2
    of_model = [line for line in studied.text.splitlines() if line.startswith("| me/model, 10 tokens |")]
    assert len(of_model) == 2 and "| +2.00 [" in of_model[1] and "(10.00) | above ceiling" in of_model[1]


def test_units_have_a_section_with_matrix_counts_and_verdict(studied: Studied) -> None:
    for figure in ("unit_selectivity_microworld_gold_mlp", "unit_ablation_run_0", "unit_concentration_microworld_gold"):
        assert figure in studied.text
    assert "MLP neurons over pretraining, 3 seeds: more distributed (half times 5.06" in studied.text
    assert "| MLP neurons, 2: agent | +0.20 [+0.15, +0.25] | +0.01 [-0.04, +0.06] | +0.012 | +0.03 |" in studied.text
    assert "Best units that seeds share" in studied.text


def test_of_two_studies_of_a_run_figures_show_the_larger_and_tables_what_half_a_chose(tmp_path: Path) -> None:
    run = fake_run(tmp_path, "debug", "frozen").path
    small, large = (planted_units("one", dict.fromkeys(steps, 8.0)) for steps in ((4,), (1, 4, 16)))
    row = large.main["units"]["mlp"]["selectivity"][0]
    row["best"] = 0.61  # half A's choice; of half B's values another block's is the largest
    row["by_block"][0]["best"] = 0.87
    for name, result in (("gold", small), ("gold-mlp", large)):
        UNITS.save(result, make_folder(run / UNITS.folder / name))
    text = told(tmp_path, n_boot=BOOT)
    assert text.count("one, trained | agent |") == 1
    assert "| one, trained | agent | 0.61" in text


def test_a_figure_of_units_names_runs_by_size_and_seed_where_that_tells_them_apart() -> None:
    results = [planted_units(f"run {n}", {1: 8.0}, seed=seed) for n, seed in enumerate((0, 1, 1))]
    assert short_names(results[:2]) == ["debug, seed 0", "debug, seed 1"]
    assert short_names(results) == ["debug, seed 0", "run 1", "run 2"]
    model = dataclasses.replace(results[0], subject={"name": "me/model", "kind": "model"})
    assert short_names([model]) == ["me/model"]


def test_answers_from_prompts_have_a_section(studied: Studied) -> None:
    assert "prompted_01234567.svg" in studied.text
    assert "F1 0.25 at a loss of 5.00, 0.50 at 2.50" in studied.text
    rows = [line for line in studied.text.splitlines() if f"| {studied.run} | pretrained | 5 | 2.500 | 0.500" in line]
    assert len(rows) == 1 and rows[0].endswith("| 20 |")


def test_sentence_pairs_of_runs_and_models_have_a_section(studied: Studied) -> None:
    assert "sentence_pairs_microworld_roles.svg" in studied.text
    of_all = [line for line in studied.text.splitlines() if "| all pairs |" in line]
    assert len(of_all) == 2 and "me/model" in of_all[1] and all("0.750" in row for row in of_all)
    short = {"kind": "run", "size": "tiny", "initialisation": "pretrained"}
    assert [_short(short | more) for more in ({}, {"pretrain_data": "wiki"}, {"pretrain_data": "shuffled"})] == [
        "tiny, pretrained", "tiny, pretrained", "tiny, pretrained, shuffled",
    ]  # fmt: skip
    assert any("| whole items | 2 | 0.500" in line for line in studied.text.splitlines())


def test_pretrainings_alone_are_told_without_a_verdict(tmp_path: Path) -> None:
    """Studies of trunks need no questions put to them."""
    run_micro(tmp_path, skip_finetune=True)
    text = write_report(tmp_path / "runs", n_boot=BOOT).markdown.read_text()
    assert "> No verdict" in text and "## Training" in text and "pretraining_loss.svg" in text


def test_a_report_opens_a_run_once_and_reads_no_predictions_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (0, 1):
        for cell, f1 in CELLS.items():
            write_run(tmp_path / "runs", cell, f1, seed=seed)
    touched: Counter[tuple[str, str]] = Counter()
    opened, read = RunDirectory.open, RunDirectory.read_predictions
    monkeypatch.setattr(RunDirectory, "open", lambda path: touched.update([("open", path.name)]) or opened(path))
    monkeypatch.setattr(
        RunDirectory, "read_predictions", lambda run: touched.update([("predictions", run.path.name)]) or read(run)
    )
    write_report(tmp_path / "runs", tmp_path / "report", n_boot=BOOT)
    assert len(touched) == 16 and all(times == 1 for (what, _), times in touched.items() if what == "open")
    again = [name for (what, name), times in touched.items() if what == "predictions" and times > 1]
    assert len(again) == 2  # one full and one frozen run, for the figure of skills; no answer here can be shown


# Minimal pairs ------------------------------------------------------------------------------------


def test_minimal_pairs_of_runs_have_a_table_by_trunk_and_read_out(tmp_path: Path) -> None:
    def scored(right: float, n: int = 400) -> dict[str, object]:
        both = plain(Estimate(right, right - 0.05, right + 0.05, "bca", n, n, se=0.025))
        return {"n_pairs": n, "n_incomplete": 0, "chance": 0.25, "order_free": 0.0, "scores": {"both_right": both}}

    def write(cell: str, f1: float, seed: int, pairs: dict[str, object]) -> None:
        run = write_run(tmp_path, cell, f1, seed=seed, bilinear=f1 if cell.endswith("frozen") else None)
        run.write_stats({**RunScores.load(run).result.to_dict(), "minimal_pairs": pairs})

    for seed, right in enumerate((0.3, 0.4)):
        write("full", 0.8, seed, {"headline": scored(0.9), "words_left": scored(0.6)})
        order_free = {**scored(0.0), "scores": {}}
        write("frozen", 0.6, seed, {"headline": scored(right), "bilinear": scored(right + 0.3), "rule": order_free})
        # The second seed was not asked as many.
        write("random_frozen", 0.3, seed, {"headline": scored(0.1, 400 - 300 * seed), "bilinear": scored(0.2)})
    text = told(tmp_path, n_boot=BOOT)
    _, table = text.split("both members right, of 400 role-crossed pairs (guessing 0.25, readers without word order 0)")
    rows = [line.strip("| ").split(" | ") for line in table.split("<a id")[0].splitlines() if line.startswith("| ")]
    assert [[cell.split(" [")[0] for cell in row] for row in rows[1:]] == [
        ["linear probe, frozen trunk", "0.350", "not run"],
        ["bilinear probe, frozen trunk", "0.650", "0.200"],
        ["all weights trained", "0.900", "not run"],
        ["words and positions", "0.600"],
    ]


def test_without_minimal_pairs_the_report_says_so(tmp_path: Path) -> None:
    write_run(tmp_path, "full", 0.8)
    text = told(tmp_path, n_boot=BOOT)
    assert "no run here has minimal pairs" in text and "role-crossed pairs (guessing" not in text
