"""The benchmarks measure what they say: the peers compute what ours does, and every row runs at toy size."""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import linregress

from benchmarks import __main__ as command
from benchmarks import recipe as changes
from benchmarks import scaling
from benchmarks.marks import against_float32, against_tuned, kind_of, kind_of_result, of_finetuning
from benchmarks.materials import Bench
from benchmarks.measure import (
    gemm,
    hottest_packages,
    interleaved,
    machine,
    package_of,
    peak_bytes_above,
    ratio,
    repeated,
    run_command,
)
from benchmarks.mine_campaign import published
from benchmarks.ours import Pretraining, model_config
from benchmarks.peers.gpt2 import PlainGPT2, cosine, tuned_loss
from benchmarks.peers.mine_published import WIDTHS
from benchmarks.peers.padded import PaddedTrainer
from benchmarks.report import Comparison, Figure, RowResult, file_name, load_newest, number, precision_notes
from benchmarks.rows import ROWS, run_row
from benchmarks.rows.answers import spent_by
from benchmarks.rows.cka import drifting, feature_form, least_operations
from benchmarks.rows.information_cost import by_heart
from benchmarks.rows.jobs import Swept, profile_of
from benchmarks.rows.pretrain import padded_work
from benchmarks.rows.restart import updates_before
from benchmarks.rows.time_to_loss import BATCH, Curve, Parties, Setting, Text, draw, parties_of
from benchmarks.scaling import exponent
from benchmarks.table import _recipe, page, page_of
from emergence.errors import DataError, EmergenceError
from emergence.measures.cka import cka_matrix
from emergence.training.schedule import PretrainPlan

#: Rows whose toy size takes a second; the others start processes or import much.
QUICK = ("cka-128", "finetune", "probe")
#: Rows that tell where time or memory goes, and rows that tell what nothing of the kind does without.
EXPLAINED = (
    "pretrain-2x128", "pretrain-4x256", "gemm-share", "memory", "finetune", "probe", "answers", "jobs", "restart",
    "sizes", "start-up",
)  # fmt: skip
LIMITED = (
    "time-to-loss-tiny", "pretrain-2x128", "gemm-share", "memory", "finetune", "probe", "cka-128", "tokenise",
    "answers", "jobs", "start-up", "restart", "sizes",
)  # fmt: skip
ABOUT = {"machine": {"cpu": "a processor", "cores": 2}, "versions": {"torch": "2"}, "precision": "fp32"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(repeats=2, toy=True, cache=tmp_path_factory.mktemp("cache"))


def row(name: str, value: float, **more: Any) -> dict[str, Any]:
    found = RowResult(
        name, "a title", [Figure.of("ours", "s", [1.0, 3.0, 2.0])], [Comparison("it", value, 2.0)], "data"
    )
    return {**found.to_dict({**ABOUT, "device": "cpu"}), **more}


def test_parties_take_turns_and_the_ratio_is_that_of_a_round() -> None:
    turns: list[str] = []

    def party(name: str) -> float:
        turns.append(name)
        return 2.0

    seconds = interleaved({"a": lambda: party("a"), "b": lambda: party("b")}, repeats=3)
    assert turns == ["a", "b"] * 4  # one round to warm up
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}
    assert ratio([2.0, 30.0, 8.0], [1.0, 10.0, 2.0]) == 3.0  # a round in which both were slow counts as the others


def test_marks_are_floors_or_ceilings() -> None:
    assert Comparison("x", 2.0, 2.0).met and not Comparison("x", 1.9, 2.0).met
    assert Comparison("x", 0.1, 0.2, at_least=False).met and not Comparison("x", 0.3, 0.2, at_least=False).met
    assert [number(x) for x in (0.0, 0.12345, 12.345, 123456.7)] == ["0", "0.123", "12.3", "123,457"]


def test_the_exponents_error_is_that_of_a_regression() -> None:
    sizes, noise = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([0.1, -0.05, 0.02, -0.1, 0.03])
    wanted = linregress(np.log(sizes), 0.5 * np.log(sizes) + noise)
    assert exponent(sizes.tolist(), (sizes**0.5 * np.exp(noise)).tolist()) == pytest.approx(
        (wanted.slope, wanted.stderr)
    )
    assert exponent([1.0, 2.0], [1.0, 4.0]) == (pytest.approx(2.0), None)


def test_an_exact_power_law_has_its_exponent() -> None:
    sizes = [1.0, 2.0, 8.0, 64.0]
    slope, error = exponent(sizes, [3 * size**1.7 for size in sizes])
    assert slope == pytest.approx(1.7)
    assert error == pytest.approx(0, abs=1e-9)


def test_the_table_is_made_of_the_newest_results(tmp_path: Path) -> None:
    for file, found in (
        ("a.json", row("cka-128", 1.0, date="2026-01-01")),
        ("b.json", row("cka-128", 2.5, date="2026-02-01")),
        ("c.json", row("memory", 1.0, profile=[{"what": "aten::mm", "share": 0.5, "calls": 3}])),
        ("d.json", row("jobs", 1.0, profile=[{"what": "waiting", "share": 0.25}])),
        ("e.json", row("restart", 1.0, date="2026-03-01")),
    ):
        (tmp_path / file).write_text(json.dumps(found), encoding="utf-8")
    text = page(load_newest(tmp_path))
    assert "| `cka-128` | a title: it | 2.5× |  | ≥ 2× | met |" in text
    assert "| `memory` | a title: it | 1× |  | ≥ 2× | missed |" in text
    assert "`memory`, float32 only: `aten::mm` 50% (3 calls)\n" in text and "`waiting` 25%\n" in text
    assert "`restart`, float32 only: not looked for (2026-03-01)" in text
    assert "No row here was measured on a GPU" in text
    assert "Not measured with float32 only: `time-to-loss-tiny`, " in text and "`cka-768`, " in text
    assert "commit" not in text
    known = {**row("memory", 1.0), "commit": "0123456789abcdef", "modified": True}
    assert "Versions: torch 2, commit 01234567, modified." in page({"memory@float32 only": known})


def test_each_kind_of_machine_has_its_own_part_of_the_page(tmp_path: Path) -> None:
    units = {"cpu": "another", "cores": 4, "kind": "bf16 vector units"}
    tiles = row("memory", 3.0, machine=units)
    tiles["comparisons"][0]["limit"] = 5.0
    tiles["comparisons"].append({**tiles["comparisons"][0], "value": 1.0})
    compiled = [{"what": f"Call CompiledFxGraph {x}", "share": 0.2, "calls": 2} for x in "ab"]
    tiles["profile"] = [{"what": "aten::mm", "share": 0.3, "calls": 1}, *compiled]
    for file, found in (("a.json", row("memory", 1.0)), ("b.json", tiles)):
        (tmp_path / file).write_text(json.dumps(found), encoding="utf-8")
    text = page(load_newest(tmp_path))
    summary = text.split("\n\n## ")[0].splitlines()[-2:]
    assert summary == ["| Bf16 vector units | 1 | 0 | 1 | `memory` |", "| Float32 only | 0 | 0 | 1 | `memory` |"]
    assert "## Float32 only" in text and "| `memory` | a title: it | 1× |  | ≥ 2× | missed |" in text
    assert "`memory`, bf16 vector units: `compiled code` 40% (4 calls), `aten::mm` 30% (1 calls)\n" in text
    assert (
        "## Bf16 vector units\n\nanother, 4 cores" in text
        and "| `memory` | a title: it | 3× | 5× | ≥ 2× | met |" in text
    )


def test_a_heading_says_which_rows_are_of_another_machine() -> None:
    other = {"cpu": "another", "cores": 4, "kind": "float32 only"}
    rows = [row("memory", 1.0), row("finetune", 1.0, machine=other), row("probe", 1.0)]
    text = page({f"{one['row']}@float32 only": one for one in rows})
    (line,) = [line for line in text.splitlines() if "another, 4 cores" in line]
    assert line.endswith("; another, 4 cores, one thread a process, fp32 (`finetune`).") and line.count("`") == 2


def test_the_padded_peer_counts_as_many_tokens_as_its_paragraphs_hold_on_average(bench: Bench) -> None:
    work, padding = padded_work(bench, (1, 16, 2), 448, 2)
    first, *others = (work() for _ in range(3))
    assert first == pytest.approx(2 * 512 * (1 - padding)) and others == [first, first]


def test_marks_against_float32_are_those_of_tiles_by_what_bf16_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, found = torch.device("cpu"), []
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("emergence.training.precision._is_made_for_tiles", lambda: False)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: True)
    for amx, avx in ((False, False), (False, True), (True, True)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        others = against_tuned(1.7, cpu), of_finetuning(cpu)
        found.append((kind_of(cpu), against_float32(20.0, cpu), against_float32(2.0, cpu), *others))
    gpu = torch.device("cuda")
    assert (kind_of(gpu), against_float32(20.0, gpu)) == ("GPU", 36.0)
    assert (against_tuned(1.7, gpu), of_finetuning(gpu)) == (1.0, 50.0)
    assert found == [
        ("float32 only", 4.0, 1.0, 1.0, 22.0),
        ("bf16 vector units", 10.0, 1.0, 1.0, 50.0),
        ("bf16 tiles", 20.0, 2.0, 1.7, 50.0),
    ]
    assert kind_of_result({"machine": {"bf16_matrix_units": False}}) == "float32 only"


def test_a_machine_held_to_fewer_instructions_is_measured_as_one_that_has_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_init_amx", lambda: True)
    assert "held_to" not in machine(cpu) and kind_of(cpu) == "bf16 tiles"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    about = machine(cpu)
    assert (about["kind"], about["held_to"], against_float32(20.0, cpu)) == ("float32 only", "AVX512_CORE", 4.0)
    told = page({"memory@float32 only": row("memory", 3.0, machine={**about, "cpu": "a CPU"})})
    assert "a CPU, held to AVX512_CORE, " in told


class Planted(Parties):
    """The peer is best at 0.016, with a warm-up of 30% at 0.032; ours needs 105 updates of 240, with seed 1 more."""

    def peer(self, setting: Setting, updates: int, seed: int) -> Curve:
        rate, warm_up = setting
        return [(updates, 3.5 - warm_up + abs(np.log2(rate / (0.032 if warm_up == 0.3 else 0.016))) / 10)]

    def ours(self, updates: int, seed: int) -> Curve:
        return [(updates, 2.9 if updates >= 105 and seed != 1 else 3.1)]


def test_the_peers_rate_is_sought_until_it_is_inside_and_ours_until_it_is_enough() -> None:
    text = Text(None, torch.zeros(1, 3), 240 * BATCH, 2)  # type: ignore[arg-type]
    parties = Planted(text, None, None, 50, "fp32")  # type: ignore[arg-type]
    best, tried = parties.best_peer()
    assert best == (pytest.approx(0.032), 0.3) and max(tried)[0] == pytest.approx(0.064)
    for start in (0, 5, 100):  # parts tried first: too short, too short, too long
        found, curves = parties.fewest(3.0, 0, start)
        assert found == 105 and {100, 104, 105, 110} <= curves.keys()  # parts, and then to the update
    assert parties.fewest(3.0, 1, 3)[0] is None


def test_loss_is_drawn_against_time(bench: Bench, tmp_path: Path) -> None:
    facts = {
        "per_update": {"ours": 0.5, "peer": 1.0},
        "peer": {"0": [(4, 7.0), (8, 6.0)], "1": [(4, 7.1), (8, 6.1)]},
        "ours": {"0": {"4": [(2, 6.5), (4, 5.9)]}, "1": {"8": [(8, 6.2)]}},
        "needed": {"0": 4},
    }
    line = draw([row("time-to-loss-tiny", 4.0, facts=facts)], tmp_path / "figures" / "x.svg")
    assert line == "tiny: 4 times as fast" and "best-tuned GPT-2" in (tmp_path / "figures" / "x.svg").read_text()


def test_pair_by_pair_and_all_at_once_give_the_same_cka() -> None:
    items = drifting(50, 12, 5)
    found = cka_matrix(items).values
    expected = [[1.0 if i == j else feature_form(items[i], items[j]) for j in range(5)] for i in range(5)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_the_padded_peer_ignores_its_padding(bench: Bench) -> None:
    trainer = PaddedTrainer(bench.pretraining.tokenizer, 448, 1, 16, 2, bench.device)
    row = trainer.tokenizer.encode(bench.paragraphs[0]).ids[:100]
    ids, mask = trainer._padded([row])
    assert ids.shape == (1, 512) and int(mask.sum()) == len(row)
    alone = trainer.model(torch.tensor([row]), torch.ones(1, len(row), dtype=torch.bool))
    torch.testing.assert_close(trainer.model(ids, mask)[:, : len(row)], alone, rtol=1e-4, atol=1e-5)
    before = [weight.clone() for weight in trainer.model.parameters()]
    examples = bench.qa["train"][:2]
    assert trainer.probe_step(examples) == 2  # the trunk is frozen
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
    assert trainer.finetune_step(examples) == 2
    assert not torch.equal(before[0], trainer.model.embedding.weight)


def test_the_tuned_peer_is_a_language_model() -> None:
    torch.manual_seed(0)
    model = PlainGPT2(50, 1, 16, 2, 8)
    ids = torch.randint(0, 50, (2, 9))
    assert float(model(ids).detach()) == pytest.approx(np.log(50), abs=0.3)
    states = model.embedding(ids[:, :-1]) + model.position.weight
    for block in model.blocks:
        states = block(states)
    logits = model.norm(states) @ model.embedding.weight.T
    torch.testing.assert_close(model(ids), F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in ROWS])
def test_every_row_runs(name: str, bench: Bench) -> None:
    found = run_row(name, bench)
    assert found.row == name
    assert found.comparisons and all(np.isfinite(c.value) for c in found.comparisons)
    assert all(f.samples and np.isfinite(f.value) for f in found.figures)
    text = found.text()
    assert found.title in text and "mark" in text
    if name in EXPLAINED:  # whose marks one kind of machine or another misses
        assert found.profile and sum(entry["share"] for entry in found.profile) < 1.01
    if name in LIMITED:
        assert all(c.limit is not None and np.isfinite(c.limit) for c in found.comparisons)
    json.dumps(found.to_dict({**ABOUT, "device": "cpu"}))


def test_the_limit_of_all_pairs_is_the_cheaper_form() -> None:
    assert least_operations(1, 100, 1_000) == 100**2 * 1_000 + 100**2  # half of a kernel matrix, its norm
    assert least_operations(3, 1_000, 10) == (3 * 2 + 3) * 1_000 * 10**2  # three pairs, halves of three with themselves


def test_what_the_published_estimator_reports_lies_above_every_ceiling_for_independent_pairs() -> None:
    """On purpose: it is the largest in-sample value of all steps. The Gaussian estimate of these pairs finds none."""
    found, trace = by_heart()
    assert trace.reported > np.log(found["n"]) and trace.held_out_there < 0
    assert abs(found["value"]) < 3 * found["se"] and found["truth"] == 0


def test_the_published_network_was_seen_above_the_ceiling_and_its_command_repeats_that(tmp_path: Path) -> None:
    stored = json.loads((command.RESULTS / "campaigns" / "mine_published.json").read_text())
    assert (stored["n"], stored["dimensions"], stored["steps"], stored["rate"]) == (3000, 32, 10_000, 1e-4)
    assert stored["widths"] == list(WIDTHS) and stored["reported"] > np.log(3000) > 8
    assert abs(stored["value"]) < 3 * stored["se"]
    found = published(60, 2, 30)
    assert len(found["in_sample"]) == len(found["held_out"]) == 3 and found["reported"] == pytest.approx(
        max(found["in_sample"]), abs=1e-3
    )


@pytest.mark.slow
def test_the_figure_is_made_of_the_newest_result(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "DOCS", tmp_path / "docs")
    assert command.main(["figure", "--results", str(tmp_path)]) == 2
    assert "python -m benchmarks time-to-loss-tiny" in capsys.readouterr().err
    assert command.main(["information-cost", "--toy", "--repeats", "1", "--results", str(tmp_path)]) == 0
    assert command.main(["figure", "--results", str(tmp_path)]) == 0
    assert (tmp_path / "figures" / "mine_published.svg").stat().st_size > 1000 and not (tmp_path / "docs").exists()
    assert capsys.readouterr().out.count("the published estimate reports") == 5


@pytest.mark.slow
def test_scaling_and_its_figure(bench: Bench, tmp_path: Path) -> None:
    from benchmarks.scaling import draw, measure_scaling

    found = measure_scaling(bench)
    draw(found, tmp_path / "figures" / "scaling.svg")
    assert (tmp_path / "figures" / "scaling.svg").stat().st_size > 1000
    assert all(np.isfinite(curve["exponent"]) for curve in found["curves"])


@pytest.mark.parametrize(
    "path, odd",
    [
        (("date",), "27.11.2026"),
        (("title",), "a | b"),
        (("data",), "x\n\n## A heading"),
        (("precision",), 5),
        (("figures", 0, "value"), "3"),
        (("figures", 0, "value"), 99.0),
        (("figures", 0, "samples"), []),
        (("figures", 0, "samples"), ["1", "2"]),
        (("comparisons", 0, "value"), True),
        (("comparisons", 0, "mark"), None),
        (("comparisons", 0, "at_least"), None),
        (("comparisons", 0, "limit"), -5),
        (("profile",), [{"what": 5, "share": 0.1}]),
        (("profile",), [{"what": "a", "share": 37.0}]),
        (("notes",), "one note"),
        (("versions",), ["torch"]),
        (("machine", "cpu"), "<b>\x1b[31m"),
        (("machine", "held_to"), None),
        (("machine", "held_to"), "x|y"),
        (("machine", "kind"), "abacus"),
        (("toy",), "false"),
        (("commit",), 7),
    ],
)
def test_a_damaged_result_is_refused_in_one_line(
    path: tuple[Any, ...], odd: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads(json.dumps(row("memory", 1.0)))
    place = result
    for key in path[:-1]:
        place = place[key]
    (tmp_path / "x.json").write_text(json.dumps(result))
    assert command.main(["table", "--results", str(tmp_path)]) == 0
    page_before = (tmp_path / "speed.md").read_bytes()
    capsys.readouterr()
    place[path[-1]] = odd
    (tmp_path / "x.json").write_text(json.dumps(result))
    assert command.main(["table", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "x.json" in error and error.count("\n") == 1
    assert (tmp_path / "speed.md").read_bytes() == page_before


def test_a_toy_takes_no_measurements_place(tmp_path: Path) -> None:
    measured, toy = row("memory", 1.0), row("memory", 9.0, toy=True)
    for name, found, date in (("a", measured, "2026-03-01"), ("b", toy, "2026-04-01")):
        (tmp_path / f"{name}.json").write_text(json.dumps({**found, "date": date}))
    (newest,) = load_newest(tmp_path).values()
    assert not newest.get("toy")
    (tmp_path / "c.json").write_text(json.dumps({**row("memory", 5.0), "date": "2026-03-01"}))
    (newest,) = load_newest(tmp_path).values()
    assert newest["comparisons"][0]["value"] == 5.0, "of one day the later file"


def test_what_cannot_be_measured_or_told_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "DOCS", tmp_path / "docs")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x.json").write_text("{}")
    (tmp_path / "foreign" / "mine.txt").write_text("precious")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "x.json").write_text(json.dumps(row("memory", 1.0)))
    (tmp_path / "pages" / "speed.md").write_text("# Speed of my own")
    for arguments, told in (
        (["cka-128", "--toy", "--repeats", "0"], "--repeats 0: at least 1"),
        (["cka-128", "--toy", "--repeats", "x"], "argument --repeats: invalid int value: 'x'"),
        (["nowhere", "--toy"], "no row 'nowhere'; choose from time-to-loss-tiny, "),
        (["startup", "--toy"], "no row 'startup'; did you mean start-up?"),
        (["cka-128", "--toy", "--json", os.devnull], f"{os.devnull}: no regular file: name another --json"),
        (["cka-128", "--toy", "--text", "/nowhere"], "check --text"),
        (["table", "--results", str(tmp_path)], "no results"),
        (["cka-128", "table", "--toy"], "table stands alone"),
        (["table", "--results", str(tmp_path / "circle")], "no folder: check --results"),
        (["cka-128", "probe", "--toy", "--json", str(tmp_path / "x")], "--json FILE is for one row"),
        (["table", "--json", str(tmp_path / "x")], "--json FILE is for one row"),
        (["cka-128", "probe", "cka-128"], "cka-128 is named twice"),
        (["cka-128", "--toy", "--results", str(tmp_path / "foreign" / "x.json")], "give --results a folder"),
        (["cka-128", "--toy", "--json", str(tmp_path / "foreign" / "x.json" / "y")], "File exists"),
        (["cka-128", "--toy", "--json", str(tmp_path / "foreign")], "give --json a file"),
        (
            ["cka-128", "--toy", "--json", str(tmp_path / "foreign" / "x.json")],
            "no result of these benchmarks, so it is",
        ),
        (["cka-128", "--json", str(tmp_path / "foreign" / "mine.txt")], "no result of these benchmarks, so it is not"),
        (["table", "--results", str(tmp_path / "pages")], "speed.md: not a page of these benchmarks"),
        (["scaling", "--toy", "--results", str(tmp_path / "foreign")], "a toy has no place"),
        (["table", "--results", str(tmp_path / "foreign")], "x.json: no result of these benchmarks"),
    ):
        assert command.main(arguments) == (1 if told == "File exists" else 2)
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1
    assert not (tmp_path / "docs").exists()
    assert (tmp_path / "foreign" / "mine.txt").read_text() == "precious"
    assert (tmp_path / "pages" / "speed.md").read_text() == "# Speed of my own"


def test_a_measurement_takes_no_place_of_the_projects_own_unasked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It lies in a folder of the reader's, whose table is another page; it says which commit it is of."""
    monkeypatch.chdir(tmp_path)
    before = {file: file.read_bytes() for file in [*command.RESULTS.glob("*.json"), *command.DOCS.glob("*.md")]}
    assert command.main(["cka-128", "--toy", "--repeats", "1"]) == command.main(["table"]) == 0
    capsys.readouterr()
    (file,) = (tmp_path / command.DEFAULT_RESULTS).glob("*.json")
    assert {"commit", "modified"} <= json.loads(file.read_text()).keys()
    assert (tmp_path / command.DEFAULT_RESULTS / "speed.md").is_file()
    assert {file: file.read_bytes() for file in before} == before


def test_a_toy_does_not_take_the_place_of_a_measurement(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path)
    assert command.main(["cka-128", "--toy", "--repeats", "1", "--results", str(tmp_path)]) == 0
    assert "not kept" in capsys.readouterr().out and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        {"figures": None}, {"figures": [{"name": "x"}]}, {"comparisons": [{"what": "x"}]}, {"notes": None},
        {"profile": [{"what": "x", "share": None}]}, {"machine": {"kind": "quantum"}}, {"machine": None}, {"date": 3},
        {"row": ["a"]}, {"row": "nothing"}, {"row": "scaling"}, {"precision": ...}, {"title": ...}, {"versions": 7},
    ],
)  # fmt: skip
def test_a_damaged_result_is_told_in_one_line(
    damage: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {key: value for key, value in {**row("memory", 1.0), **damage}.items() if value is not ...}
    (tmp_path / "x.json").write_text(json.dumps(found))
    assert command.main(["table", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(tmp_path) in error and error.count("\n") == 1


def test_a_limit_that_is_no_number_is_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = row("memory", 1.0)
    found["comparisons"][0]["limit"] = "fast"
    (tmp_path / "x.json").write_text(json.dumps(found))
    assert command.main(["table", "--results", str(tmp_path)]) == 2 and "damaged" in capsys.readouterr().err


def test_a_verdict_is_that_of_its_numbers(tmp_path: Path) -> None:
    found = row("memory", 1.0)
    found["comparisons"][0]["verdict"] = "met"
    (tmp_path / "x.json").write_text(json.dumps(found))
    assert "| 1× |  | ≥ 2× | missed |" in page(load_newest(tmp_path))


def test_other_toys_do_not_either(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever way the folder of the project's results is written; toys may lie elsewhere."""
    monkeypatch.setattr(scaling, "measure_scaling", lambda bench: {"curves": []})
    monkeypatch.setattr(scaling, "draw", lambda found, file: pytest.fail(f"{file} was drawn"))
    before = {file: file.read_bytes() for file in command.RESULTS.glob("*.json")}
    written = str(command.RESULTS.parent / "rows" / ".." / "results")
    for toy in (["scaling", "--toy"], ["cka-128", "--toy", "--repeats", "1"]):
        assert command.main([*toy, "--results", written]) == 0 and "not kept" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in command.RESULTS.glob("*.json")} == before


def test_time_is_told_by_package(tmp_path: Path) -> None:
    root = tmp_path / "emergence"  # as a checkout may be called
    library = "/usr/lib/site-packages/numpy/core.py"
    paths = {str(root / "emergence" / "x.py"): "emergence", library: "numpy", "/usr/lib/json.py": "Python itself"}
    assert {path: package_of(path, "f", root) for path in paths} == paths
    assert package_of("~", "<built-in method marshal.loads>", root) == "<built-in method marshal.loads>"
    assert package_of("~", "<built-in method torch._C._nn.linear>", root) == "torch"
    found = hottest_packages(["-m", "json.tool", "--help"], tmp_path)
    assert 0.5 < sum(entry["share"] for entry in found) < 1.01 and len(found) <= 8


def test_what_two_cores_do_while_two_jobs_run() -> None:
    shares = [entry["share"] for entry in profile_of([Swept(100.0, 90.0)], [Swept(60.0, 96.0)])]
    assert shares == [0.75, 0.05, 0.2]
    faster = [entry["share"] for entry in profile_of([Swept(100.0, 90.0)], [Swept(60.0, 80.0)])]
    assert faster == [0.667, 0.0, 0.333]


def test_figures_are_medians_and_a_ceiling_may_be_reached() -> None:
    assert Figure.of("x", "s", [1.0, 9.0, 2.0]).value == 2.0
    assert Figure.rate("x", "per s", [1.0, 0.1, 0.5]).value == 2.0
    assert Comparison("x", 2.0, 2.0, at_least=False).met and Comparison("x", 2.0, 2.0).met
    assert not Comparison("x", 2.1, 2.0, at_least=False).met and not Comparison("x", 1.9, 2.0).met


def test_a_mark_between_the_rounds_is_undetermined(tmp_path: Path) -> None:
    wide, few = [1.0, 1.5, 2.5, 2.6, 3.0], [1.0, 2.5, 3.0]
    for rounds, mark, at_least, verdict in (
        (wide, 2.0, True, "undetermined"),
        (wide, 2.0, False, "undetermined"),
        (wide, 1.0, True, "met"),
        (wide, 3.0, True, "missed"),
        (wide, 3.5, True, "missed"),
        (wide, 3.5, False, "met"),
        (few, 2.0, True, "met"),
        ([], 2.0, True, "met"),
    ):
        found = Comparison.of("it", rounds, mark, at_least) if rounds else Comparison("it", 2.5, mark, at_least)
        assert (found.value, found.verdict) == (2.5, verdict)
    result = row("memory", 2.5)
    result["comparisons"] = [{**result["comparisons"][0], "mark": 2.0, "rounds": wide}]
    (tmp_path / "x.json").write_text(json.dumps(result))
    assert "| 2.5× (1 .. 3) |  | ≥ 2× | undetermined |" in page(load_newest(tmp_path))
    result["comparisons"][0]["rounds"] = [9.0, 9.0]
    (tmp_path / "x.json").write_text(json.dumps(result))
    with pytest.raises(DataError, match="not the median of its rounds"):
        load_newest(tmp_path)


def test_time_is_that_of_this_process_and_not_of_the_clock() -> None:
    def sleeps() -> float:
        time.sleep(0.2)
        return 1.0

    assert max(interleaved({"sleeps": sleeps}, 2, warm_up=0)["sleeps"]) < 0.1


def test_a_product_counts_its_operations_and_a_gpu_gets_many_at_once() -> None:
    assert gemm(torch.device("cpu"), "fp32", 32)() == 2 * 32**3
    gpu = torch.device("cuda")
    assert repeated(lambda: 1.0, gpu, 1e9)() == 20 and repeated(lambda: 1.0, gpu, 4e12)() == 2
    assert repeated(lambda: 1.0, gpu, 1e15)() == 1 and repeated(lambda: 1.0, torch.device("cpu"), 1.0)() == 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells it")
def test_peaks_begin_anew() -> None:
    def fill(n_bytes: int) -> None:
        with mmap.mmap(-1, n_bytes) as memory:  # returned at once, unlike what Python allocates
            for place in range(0, n_bytes, mmap.PAGESIZE):
                memory[place] = 1

    fill(50_000_000)
    assert peak_bytes_above(lambda: fill(10)) < 20_000_000
    assert 40_000_000 < peak_bytes_above(lambda: fill(50_000_000)) < 70_000_000


def test_a_gpu_is_held_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    about = machine(torch.device("cuda"))
    assert about["gpu"] == "a GPU" and about["kind"] == "GPU" and "held_to" not in about


def test_the_memory_of_a_command_is_its_own() -> None:
    """And not that of the process that measures it, which has torch in it."""
    of_nothing, of_much = (
        spent_by([sys.executable, "-S", "-c", f"x = bytearray({size}); y = x[:]"]).megabytes for size in (1, 40_000_000)
    )
    assert of_nothing < 40 and 70 < of_much - of_nothing < 100
    with pytest.raises(EmergenceError, match="exit code 3"):
        spent_by([sys.executable, "-S", "-c", "raise SystemExit(3)"])


def test_a_restart_is_measured_where_nothing_is_evaluated() -> None:
    plan = PretrainPlan(8, 100, (100,), frozenset({0, 8, 100}), frozenset({0, 8, 16, 100}))
    assert updates_before(plan, 5) == 8 and updates_before(plan, 1) == 6 and updates_before(plan, 12) == 16
    assert updates_before(replace(plan, total_steps=7), 5) == 6  # too short for any


def test_a_command_that_ends_otherwise_than_meant_is_an_error_with_its_last_line() -> None:
    failing = [sys.executable, "-c", "import sys; print('why', file=sys.stderr); sys.exit(3)"]
    with pytest.raises(EmergenceError, match=r"why$"):
        run_command(failing)
    run_command(failing, refused=True)
    with pytest.raises(EmergenceError, match=r"exit code 0$"):
        run_command([sys.executable, "-c", ""], refused=True)


def test_float32_is_told_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    assert precision_notes("bf16", cpu) == precision_notes("fp32", gpu) == []
    assert precision_notes("fp32", cpu) == ["float32 throughout: ours choose it where bf16 is not faster"]
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE")
    (note,) = precision_notes("fp32", cpu, tuned_peer=True)
    assert note == "float32 throughout: ours and the tuned peer choose it where oneDNN is held to AVX512_CORE"


def test_the_page_in_the_repository_is_made_of_its_results() -> None:
    assert (command.DOCS / "speed.md").read_text(encoding="utf-8") == page_of(command.RESULTS)[0]


def test_changes_of_the_recipe_are_told_against_the_recipe_without_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert changes.main(["tiny:3", "--toy", "--json", str(tmp_path / "recipe.json")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    found = json.loads((tmp_path / "recipe.json").read_text())
    assert len({one["loss"] for one in found["runs"]}) == len(found["runs"]) == 6
    runs = [("tiny", "old", 6.5), ("tiny", "new", 6.25), ("small", "old", 6.0)]
    found["runs"] = [{"size": s, "updates": 8, "change": change, "loss": loss} for s, change, loss in runs]
    text = _recipe(found)
    assert "| old | 6.500 | 6.000 |" in text and "| new | 6.250 (-0.250) |  |" in text


def test_ours_learns_from_the_window_it_is_told() -> None:
    made = Pretraining(model_config((1, 16, 2), 32), 448, "fp32", torch.device("cpu"))
    ids = torch.zeros(2, 33, dtype=torch.int64)
    seen = []
    for window in (8, 8, 0):
        made.step(ids, window)
        seen.append(made.gradients)
    assert [one.window for one in seen if one] == [8, 8, 0] and seen[0] is seen[1]


@pytest.mark.parametrize("wrong", ["tiny", "tiny:x", "tiny:0", "nosuch:8"])
def test_sizes_and_updates_of_the_recipe_are_refused_in_a_line(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        changes.main([wrong, "--toy"])
    assert refused.value.code == 2 and "like tiny:80" in capsys.readouterr().err.splitlines()[-1]
    for more, told in (
        (["--text", "/nowhere"], "check --text"), (["--seed", "-1"], "0 or more"), (["--json", "/no/x"], "check --json")
    ):  # fmt: skip
        with pytest.raises(SystemExit) as refused:
            changes.main(["tiny:2", "--toy", *more])
        assert refused.value.code == 2 and told in capsys.readouterr().err.splitlines()[-1]


def test_a_result_is_named_by_row_kind_of_machine_and_date() -> None:
    found = {"row": "memory", "date": "2026-11-26", "machine": {"kind": "bf16 tiles"}, "device": "cpu"}
    assert file_name(found) == "memory_bf16-tiles_2026-11-26.json"
    for file in command.RESULTS.glob("*_*.json"):
        assert file.name == file_name(json.loads(file.read_text(encoding="utf-8")))


def test_the_peers_curves_are_kept_by_what_they_depend_on(bench: Bench, tmp_path: Path) -> None:
    parties = replace(parties_of(bench, "tiny"), kept=tmp_path / "curves")
    first = parties.peer((1e-3, 0.1), 2, 0)
    assert parties.peer((1e-3, 0.1), 2, 0) == first and len(list((tmp_path / "curves").iterdir())) == 1
    others = [parties.peer((1e-3, 0.1), 2, 1), parties.peer((2e-3, 0.1), 2, 0), parties.peer((1e-3, 0.5), 2, 0)]
    others.append(replace(parties, text=replace(parties.text, n_sequences=8)).peer((1e-3, 0.1), 2, 0))
    assert len(list((tmp_path / "curves").iterdir())) == 5 and first not in others[:2]


def test_the_peers_loss_and_schedule() -> None:
    torch.manual_seed(0)
    model, ids = PlainGPT2(50, 1, 16, 2, 8), torch.randint(0, 50, (2, 9))
    torch.testing.assert_close(tuned_loss(model, ids, "fp32").detach(), model(ids).detach())
    factor = cosine(100, 0.1)
    assert [factor(step) for step in (0, 9, 10, 55, 100)] == pytest.approx([0.1, 1.0, 1.0, 0.55, 0.1])


def test_the_command_writes_json_and_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "DOCS", tmp_path / "docs")
    assert command.main(["cka-128", "--toy", "--repeats", "1", "--results", str(tmp_path)]) == 0
    assert command.main(["table", "--results", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path / 'speed.md'}: 1 result\n" in told and "no meaning for a toy" in told
    assert f"--results {tmp_path}`" in (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "| a toy |" in (tmp_path / "speed.md").read_text(encoding="utf-8")  # no mark is met or missed by it
    assert "CKA" in (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert not (tmp_path / "docs").exists()  # the documentation is made of the project's own results


def test_commands_of_a_row_find_the_program_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As installed ones do, even where the environment forbids keeping what was compiled."""
    (tmp_path / "emergence").mkdir()
    (tmp_path / "emergence" / "module.py").write_text("answer = 42\n")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(
        command,
        "run_row",
        lambda name, bench: (
            compiled.extend(tmp_path.rglob("*.pyc"))
            or RowResult(name, "a title", [Figure.of("ours", "s", [1.0])], [], "data")
        ),
    )
    compiled: list[Path] = []
    assert command.main(["answers", "--toy", "--results", str(tmp_path / "results")]) == 0
    assert [file.name.partition(".")[0] for file in compiled] == ["module"]
