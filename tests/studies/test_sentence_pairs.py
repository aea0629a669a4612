"""Pairs scored by runs and by published models: against sums done by hand, resumable, the same through an export."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emergence.answering.sentence_scores import language_model_of, score_pairs
from emergence.cli import app
from emergence.data.role_pairs import role_pairs
from emergence.data.sentence_pairs import PairSet, SentencePair
from emergence.errors import DataError, UsageError
from emergence.experiment.run_directory import RunDirectory
from emergence.export.folder import write_export
from emergence.findings.collect import collect_results
from emergence.studies.revisions.record import Revision, Revisions, save_revisions
from emergence.studies.sentence_pairs import score as study
from emergence.studies.sentence_pairs.result import FILES, read_result
from emergence.studies.sentence_pairs.score import SentencePairStudy, models_of_name, models_of_run
from emergence.studies.trunks import read_timeline
from tests.published_models import save_model
from tests.small_runs import run_micro

CPU = torch.device("cpu")
PAIRS = PairSet(
    "made",
    (
        SentencePair("The dog saw the cat.", "The cat dog the saw.", "order", "1"),
        SentencePair("A", "The old dog was chased by Anna.", "length", "2"),
    ),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run_micro(tmp_path_factory.mktemp("pairs"), skip_finetune=True)


def test_a_sentence_scores_the_sum_of_its_tokens(run: RunDirectory) -> None:
    timeline = read_timeline(run)
    trunk, tokenizer = timeline.start.source.build(), timeline.tokenizer
    scores = score_pairs(language_model_of(trunk, tokenizer, tokenizer.eot, CPU), PAIRS.pairs)  # type: ignore[arg-type]
    for context, before in (("with_bos", [tokenizer.eot]), ("without_bos", [])):
        for row, pair in enumerate(PAIRS.pairs):
            for column, text in enumerate((pair.good, pair.bad)):
                ids = torch.tensor([*before, *tokenizer.encode(text)])
                with torch.no_grad():
                    logits = trunk(ids[None])[0] @ trunk.unembedding.T  # type: ignore[operator, attr-defined]
                by_hand = logits.log_softmax(1)[:-1].gather(1, ids[1:, None]).sum()
                assert scores.nats[context][row, column] == pytest.approx(float(by_hand), abs=1e-4)
                assert scores.n_tokens[context][row, column] == len(ids) - 1
                assert scores.n_bytes[row, column] == len(text)


def test_pairs_are_kept_whole(run: RunDirectory) -> None:
    timeline = read_timeline(run)
    trunk, tokenizer = timeline.start.source.build(), timeline.tokenizer
    model = language_model_of(trunk, tokenizer, tokenizer.eot, CPU)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="pairs are scored whole"):
        score_pairs(model, [SentencePair("dog " * 200, "cat " * 200, "long", "1")])


def test_snapshots_are_scored_and_an_interrupted_study_goes_on(
    run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = models_of_run(run, snapshots=True)
    names = [model.name for model in models]
    assert names[-1] == "pretrained" and len(names) >= 3 and names[0].startswith("pretrain_step")
    pairs = role_pairs(5)

    def asked() -> SentencePairStudy:
        return SentencePairStudy({"name": "x"}, models, pairs, device=CPU, n_boot=100)

    whole = asked().run(tmp_path / "whole")
    real, calls = study.score_pairs, []

    def stopping(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "score_pairs", stopping)
    with pytest.raises(KeyboardInterrupt):
        asked().run(tmp_path / "cut")
    asked().run(tmp_path / "cut")
    assert len(calls) == len(names) + 1  # nothing that was done is done again
    for name in (FILES.json_file, FILES.arrays_file):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    again = read_result(tmp_path / "cut")
    assert again.to_dict() == whole.to_dict() and again.text() == whole.text()
    assert "a bigram model of words: 0.500" in whole.text() and "all of an item" in whole.text()


def test_a_run_and_its_export_score_alike(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    write_export(run, tmp_path / "model", snapshots=True)
    pairs = role_pairs(10)
    models = models_of_run(run, snapshots=True), models_of_name(str(tmp_path / "model"), snapshots=True)
    assert [model.step for model in models[0]] == [model.step for model in models[1] if model.step in
                                                   {m.step for m in models[0]}]  # fmt: skip
    by_step = {model.step: model for model in models[1]}
    for model in models[0]:
        ours = score_pairs(model.load(CPU), pairs.pairs)
        theirs = score_pairs(by_step[model.step].load(CPU), pairs.pairs)
        assert ours.rules == theirs.rules
        for context in ours.nats:
            np.testing.assert_allclose(ours.nats[context], theirs.nats[context], atol=1e-3)
            np.testing.assert_array_equal(ours.n_tokens[context], theirs.n_tokens[context])
    assert [model.tokens_seen for model in models[0]] == [by_step[model.step].tokens_seen for model in models[0]]


def test_revisions_that_are_known_to_be_suspect_are_left_out_and_named(run: RunDirectory, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model, runs = tmp_path / "model", tmp_path / "runs"
    write_export(run, model, snapshots=True)
    save_revisions(runs, Revisions(str(model), (Revision("step0", 0, 0, suspect="it is a copy"),)))
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"sentence_good": "The dog saw Anna.", "sentence_bad": "Anna dog the saw."}) + "\n"
    )
    flags = ["minimal-pairs", str(model), "--snapshots", "--data", str(tmp_path / "pairs.jsonl")]
    done = CliRunner().invoke(app, [*flags, "--runs-dir", str(runs)])
    assert done.exit_code == 0, done.output
    assert "left out: step0: it is a copy" in done.output
    lines = [line.split()[0] for line in done.output.splitlines() if line.startswith("step")]
    assert "step0" not in lines and "step1" in lines


def test_the_command_scores_a_run_and_says_what_it_cannot(run: RunDirectory, tmp_path: Path) -> None:
    copy = tmp_path / "runs" / run.run_id
    shutil.copytree(run.path, copy)
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"sentence_good": "The dog saw Anna.", "sentence_bad": "Anna dog the saw.", "UID": "order"}) + "\n"
    )
    flags = ["minimal-pairs", run.run_id, "--runs-dir", str(copy.parent), "--data", str(tmp_path / "pairs.jsonl")]
    done = CliRunner().invoke(app, [*flags, "--json"])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["kind"] == "emergence-minimal-pairs" and content["models"][0]["n_pairs"] == 1
    assert (copy / FILES.folder / "pairs.jsonl" / FILES.json_file).is_file()
    for more, says in (
        (["--revision", "step1"], "a run has --snapshots"),
        (["--data", str(tmp_path / "none")], "cannot be read"),
    ):
        refused = CliRunner().invoke(app, [*flags, *more])
        assert isinstance(refused.exception, UsageError) and says in str(refused.exception)


def test_a_mistyped_run_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    refused = CliRunner().invoke(app, ["minimal-pairs", "runs/typo"])
    assert isinstance(refused.exception, UsageError) and "no such folder here or in runs" in str(refused.exception)


def test_the_command_scores_a_published_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    save_model(tmp_path / "model", "llama")
    (tmp_path / "pairs.jsonl").write_text(
        json.dumps({"sentence_good": "The dog saw the cat.", "sentence_bad": "The cat dog the saw."}) + "\n"
    )
    flags = ["minimal-pairs", str(tmp_path / "model"), "--data", str(tmp_path / "pairs.jsonl")]
    done = CliRunner().invoke(app, [*flags, "--runs-dir", str(tmp_path / "runs")])
    assert done.exit_code == 0 and "with bos" in done.output
    stored = list((tmp_path / "runs" / FILES.name).rglob(FILES.json_file))
    assert len(stored) == 1 and read_result(stored[0].parent).subject["kind"] == "model"
    # Its cells are beside it, and nobody takes them for results that cannot be read.
    assert list(stored[0].parent.glob("cells/*.json")) and not collect_results(tmp_path / "runs").skipped
    refused = CliRunner().invoke(app, [*flags, "--snapshots"])
    assert isinstance(refused.exception, UsageError) and "no revisions that name a step" in str(refused.exception)
