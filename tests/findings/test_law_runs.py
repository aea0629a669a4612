"""Tables of laws out of folders: which runs and snapshots are rows, and which runs a folder lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emergence.errors import DataError, UsageError
from emergence.experiment.store import RunDirectory
from emergence.files import make_folder
from emergence.findings.law_runs import RunRows, law_table_of, scaling_table_of
from emergence.findings.laws import analyse_law
from emergence.findings.scaling import analyse_scaling
from emergence.studies.prompted.result import FILES as PROMPTED
from emergence.studies.prompted.result import RULES, SCORES, PromptedResult, PromptedTrunk, summarise
from emergence.studies.snapshots.result import FILES
from tests.command_lines import typed
from tests.planted_runs import N_SNAPSHOT_QUESTIONS, breaking, planted_snapshots, write_run

LOSSES = (4.4, 4.1, 3.8, 3.5, 3.2)
AMOUNTS = (30, 300, None)


def _score(loss: float, amount: int | None) -> float:
    return 0.2 + 0.3 * max({30: 3.6, 300: 3.9, None: 4.2}[amount] - loss, 0)


def sweep(root: Path, losses: Sequence[float] = LOSSES, amounts: Sequence[int | None] = AMOUNTS, **more: Any) -> Path:
    """A trunk of each loss, which are told apart by their seed, finetuned on each number of questions."""
    for seed, loss in enumerate(losses):
        for amount in amounts:
            write_run(root, "full", _score(loss, amount), loss=loss, seed=seed, finetune_samples=amount, **more)
    return root


def test_finished_runs_are_rows(tmp_path: Path) -> None:
    root = sweep(tmp_path / "runs")
    write_run(root, "random_full", 0.1, finetune_samples=30)
    write_run(root, "full", 0.5, seed=9)  # tells no loss
    analysis = analyse_law(root, n_draws=19)
    text = analysis.text()
    assert "15 finetuned runs; 5 checkpoints x 3 amounts; best loss 3.2" in text
    assert "rows: all weights trained; f1_tokens on test questions; wiki; losses in nats" in text
    assert "_seed9_" in text and "no loss on held-out text" in text
    assert analysis.data.amounts.tolist() == [30, 300, 4800]
    assert analysis.free.elbows == pytest.approx([3.6, 3.9, 4.2], abs=0.02)
    table = law_table_of(root, RunRows(unit="bits_per_byte"))
    assert sorted({row["loss"] for row in table.rows}) == pytest.approx([loss / 3 for loss in sorted(LOSSES)])
    assert {row["unit"] for row in table.rows} == {"bits_per_byte"} and all(row["se"] > 0 for row in table.rows)


def test_prompts_are_few_shot_rows_of_the_trunks_that_were_finetuned(tmp_path: Path) -> None:
    root = sweep(tmp_path / "runs")
    for seed, loss in enumerate(LOSSES):
        _plant_prompts(root, seed, loss)
    analysis = analyse_law(root, n_draws=19)
    assert "15 finetuned runs, 5 few-shot; 5 checkpoints x 3 amounts" in analysis.text()
    assert "emergence point at 5 shots" in analysis.text(), "the most that were asked"
    few = analysis.data.fewshot
    assert set(analysis.data.checkpoint[few]) == set(analysis.data.checkpoint[~few]), "the same models"
    assert law_table_of(root, RunRows(shots=2)).numbers("amount").min() == 2
    assert not any(law_table_of(root, RunRows(shots=0)).flags("fewshot"))
    next(root.glob(f"*seed3*/{PROMPTED.folder}/*/{PROMPTED.json_file}")).write_text("{}")
    table = law_table_of(root)
    assert sum(table.flags("fewshot")) == 4 and any("_seed3_" in words for words in table.left_out)


def _plant_prompts(root: Path, seed: int, loss: float) -> None:
    """Answers to 0, 2 and 5 shots of the trunk of one seed, in the run that was finetuned on all questions."""
    (run,) = (
        run
        for path in root.iterdir()
        if (run := RunDirectory.open(path)).spec.seed == seed and run.spec.finetune_samples is None
    )
    scores = {rule: dict.fromkeys(SCORES, np.full(20, 0.2 + 0.001 * seed)) for rule in RULES}
    spans = dict.fromkeys(RULES, np.zeros((20, 2), dtype=np.int64))
    losses = {"nats_per_token": loss, "bits_per_byte": loss / 3}
    trunks = tuple(
        PromptedTrunk("pretrained", shots, 100, 1000, "digest", losses, scores, spans) for shots in (0, 2, 5)
    )
    clusters = np.arange(20) // 2
    found = tuple(summarise(trunk, clusters, n_boot=50, level=0.95) for trunk in trunks)
    rule = {"rule": "wh_rule", "f1_tokens": 0.4, "em": 0.1, "uniform_f1": 0.2}
    about = {"name": run.run_id}, {"questions": run.read_data()["fingerprints"]["questions"], "level": 0.95}
    result = PromptedResult(*about, (), tuple(map(str, range(20))), clusters, rule, trunks, found)
    PROMPTED.save(result, make_folder(run.path / PROMPTED.folder / "microworld"))


def test_a_folder_without_a_law_says_which_runs_would_do(tmp_path: Path) -> None:
    for name, losses, amounts, words in (
        ("few checkpoints", LOSSES[:2], (30, 100, 300, None), "1 more checkpoint(s)"),
        ("few amounts", LOSSES, (300, None), "each checkpoint with --finetune-samples 30"),
    ):
        with pytest.raises(DataError) as caught:
            analyse_law(sweep(tmp_path / name, losses, [a for a in amounts if a != 100]), n_draws=19)
        assert "; runs that would do: " in str(caught.value) and words in str(caught.value)
        assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    root = tmp_path / "holes"
    for seed, loss, amount in ((0, 4.4, 30), (1, 4.1, 300), (2, 3.8, None), (2, 3.8, 30)):
        write_run(root, "full", _score(loss, amount), loss=loss, seed=seed, finetune_samples=amount)
    with pytest.raises(DataError, match=r"4 finetuned runs.* the other 5 of 3 checkpoints x 3 amounts"):
        analyse_law(root, n_draws=19)
    ended = typed("emergence", "law", "fit", str(tmp_path / "few amounts"))
    assert ended.code == 2 and ended.err.count("\n") == 1 and "--finetune-samples 30" in ended.err


def test_two_tokenizers_share_an_axis_in_bits_per_byte_alone(tmp_path: Path) -> None:
    root = sweep(tmp_path / "runs", LOSSES[:3])
    for seed, loss in ((3, 3.5), (4, 3.2)):
        for amount in AMOUNTS:
            write_run(
                root,
                "full",
                _score(loss, amount),
                loss=loss,
                seed=seed,
                finetune_samples=amount,
                tokenizer="tokenizer B",
            )
    with pytest.raises(DataError, match=r"2 tokenizers .* on one axis: .*--unit bits_per_byte"):
        analyse_law(root, n_draws=19)
    assert analyse_law(root, rows=RunRows(unit="bits_per_byte"), n_draws=19).best_loss == pytest.approx(3.2 / 3)


def test_one_law_takes_one_pretraining_data(tmp_path: Path) -> None:
    root = sweep(tmp_path / "runs", LOSSES[:1])
    sweep(root, LOSSES[:1], AMOUNTS[:2], pretrain_data="wiki+nq")
    with pytest.raises(DataError, match=r"give --series \(wiki: 3 rows; wiki\+nq: 2 rows\)"):
        law_table_of(root)
    assert len(law_table_of(root, RunRows(series="wiki+nq"))) == 2
    with pytest.raises(UsageError, match=r"--series wikinq: did you mean wiki\+nq\?"):
        law_table_of(root, RunRows(series="wikinq"))


def test_snapshots_draws_and_adapters_of_one_pretraining_are_rows(tmp_path: Path) -> None:
    """Each snapshot is a checkpoint and each draw a draw; another adapter is another law."""
    root = tmp_path / "runs"
    for loss, (snapshot, steps) in zip(LOSSES[2:], (("4", 4), ("2of3", 20), ("last", 100)), strict=True):
        for subset in (1, 2):
            for amount in AMOUNTS[:2]:
                flags: dict[str, Any] = {"finetune_samples": amount, "subset": subset, "snapshot": snapshot}
                write_run(root, "full", _score(loss, amount), loss=loss, steps=steps, **flags)
        write_run(root, "full", 0.3, loss=loss, steps=steps, snapshot=snapshot, adapter="lora-1")
    with pytest.raises(DataError, match=r"give --series \(wiki, lora-1: 3 rows; wiki: 12 rows\)"):
        law_table_of(root)
    table = law_table_of(root, RunRows(series="wiki"))
    assert len(table) == 12 and not table.left_out
    assert len({row["checkpoint"] for row in table.rows}) == 3
    assert {row["subset"] for row in table.rows} == {"seed 0, subset 1", "seed 0, subset 2"}


def test_probed_snapshots_are_checkpoints_of_one_amount(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run = write_run(root, "full", 0.6, loss=3.61)
    frozen = write_run(root, "frozen", 0.45, loss=3.61, trunk_of=run.spec)
    other = write_run(root, "frozen", 0.45, loss=3.5, seed=1)
    _plant_snapshots(run)
    with pytest.raises(DataError, match="1 finetuned runs: a law takes at least 8; runs that would do"):
        analyse_law(root, n_draws=19)
    analysis = analyse_law(root, rows=RunRows(cell="frozen"), form="free")
    assert analysis.data.amounts.tolist() == [100, 4800]
    assert int(analysis.data.checkpoint.max()) + 1 == 10, "the frozen run's trunk is the last snapshot"
    assert analysis.best_loss == 3.6, "on the text of the snapshots"
    assert frozen.run_id not in analysis.text()
    assert f"left out: {other.run_id}: its trunk's snapshots are not probed here" in analysis.text()
    assert analysis.free.elbows[0] == pytest.approx(5.8, abs=0.1)
    with pytest.raises(DataError, match=r"no probed snapshots of a frozen run: --cell full has 1 row"):
        analyse_law(root, rows=RunRows(cell="frozen", family="mlp"))


def _plant_snapshots(run: RunDirectory) -> None:
    probes = planted_snapshots(breaking)
    assert len(probes.ids) == N_SNAPSHOT_QUESTIONS
    prints = run.read_data()["fingerprints"]
    probes.run.update(pretrain_id=run.spec.pretrain_id, text="wiki", run_id=run.run_id, config_name="debug")
    probes.settings.update(layout="question-first", questions=prints["questions"], tokenizer=prints["tokenizer"])
    folder = run.path / FILES.folder
    folder.mkdir(parents=True)
    FILES.save(probes, folder)


def test_a_pretraining_is_one_row_of_the_scaling_law(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    run = write_run(root, "full", 0.6, loss=4.0)
    write_run(root, "frozen", 0.5, loss=4.0, trunk_of=run.spec)
    write_run(root, "full", 0.6, loss=3.9, seed=1)
    write_run(root, "full", 0.4, loss=5.0, seed=2, snapshot="4", steps=4)
    write_run(root, "full", 0.4, loss=5.1, seed=3, skip_pretrain=True, pretrained_model_path="other/trunk.pth")
    table = scaling_table_of(root)
    assert [(row["params"], row["params_total"], row["loss"]) for row in table.rows] == [
        (1000, 3000, 4.0),
        (1000, 3000, 3.9),
    ]
    with pytest.raises(
        DataError, match=r"1 size \(params\): a scaling law takes at least 5; runs that would do: 4 more"
    ):
        analyse_scaling(root)
