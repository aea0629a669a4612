"""Temporal CKA over a published model's revisions: as of the run they are, suspects left out and named, one figure."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("transformers")

from emergence.commands.probe import show_revisions
from emergence.data.sources import load_qa
from emergence.export.folder import write_export
from emergence.findings.folder import read_folder
from emergence.model.huggingface import find_model
from emergence.model.huggingface.files import list_revisions
from emergence.model.huggingface.loading import load_tokenizer, sizes_of
from emergence.report.charts.chart import all_charts
from emergence.report.charts.cka import KIND
from emergence.studies.cka.published import analyse_revisions
from emergence.studies.cka.result import FILES, read_result
from emergence.studies.cka.temporal import CKAOptions, analyse_run
from emergence.studies.cka.views import Effort
from emergence.studies.probe_sentences import choose_sentences, encode_sentences
from emergence.studies.revisions.record import load_revisions, save_revisions
from tests.command_lines import typed
from tests.published_models import save_model, sentencepiece_like
from tests.small_runs import run_micro, small_spec

OPTIONS = CKAOptions(sentences=20, random_seeds=0, effort=Effort(draws=2, permutations=0))


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four revisions, two of which serve the same weights."""
    root = tmp_path_factory.mktemp("history") / "neox"
    for seed, step in enumerate((0, 2, 64)):
        save_model(root / f"step{step}", "gpt_neox", seed=seed)
    shutil.copytree(root / "step2", root / "step8")
    return root


def test_revisions_of_our_own_export_have_the_curves_of_their_run(tmp_path: Path) -> None:
    run = run_micro(tmp_path / "runs", "microworld.test_documents=4", skip_finetune=True)
    native = analyse_run(run.path, options=OPTIONS)
    write_export(run, tmp_path / "export", snapshots=True)
    spec = replace(run.spec, model=str(tmp_path / "export"), freeze_llm=True)
    names = list_revisions(spec.model or "")
    ours = analyse_revisions(spec, names, tmp_path / "cka", options=OPTIONS)
    (timeline,), (history,) = native.timelines, ours.timelines
    assert len(names) == len(timeline.checkpoints) > 2 and history.reference == f"the last revision, {names[-1]}"
    assert ours.n_sentences == native.n_sentences and ours.probe_fingerprint == native.probe_fingerprint
    for rows, view in native.views[0].items():
        np.testing.assert_allclose(ours.views[0][rows].drift, view.drift, atol=1e-4, err_msg=rows)
    of_run, of_model = (result.to_dict()["runs"][0] for result in (native, ours))
    assert of_run.keys() == of_model.keys() and of_run["views"].keys() == of_model["views"].keys()
    assert of_run["start_index"] == of_model["start_index"] and of_model["checkpoints"][-1]["phase"] == "start"


@pytest.mark.slow
def test_the_command_leaves_suspects_out_names_them_and_the_figure_is_that_of_runs(
    history: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    flags = ["--data", "microworld", "--sentences", "20", "--random-seeds", "1", "--runs-dir", str(runs)]
    ended = typed("emergence", "cka", "--model", str(history), "--revisions", "all", *flags)
    assert ended.code == 0, ended.err
    copied = re.search(r"left out: (step\d): it has the weights of (step\d), byte for byte", ended.out)
    assert copied and {*copied.groups()} == {"step2", "step8"} and "against the last revision, step64" in ended.out
    (stored,) = (runs / FILES.name).rglob(FILES.json_file)
    content, arrays = read_result(stored.parent)
    assert [point["name"] for point in content["runs"][0]["checkpoints"]] == ["step0", copied[2], "step64"]
    assert arrays["run/sentence/raw/drift"][-1] == pytest.approx(1.0) and arrays["run/sentence/raw/drift"][0, -1] < 0.9
    folder = read_folder(runs)
    drawn = [chart for chart in all_charts(folder).charts if chart.name.startswith(KIND.name)]
    assert len(drawn) == 2 and any(copied[0].removeprefix("left out: ") in chart.caption for chart in drawn)
    assert not folder.skipped  # what lies beside runs is no result

    show_revisions(str(history), "all", runs, with_loss=False, precision="fp32", as_json=False)
    examined = load_revisions(runs, str(history))
    assert examined is not None
    judged = [replace(r, suspect="of another run") if r.name == "step0" else r for r in examined.revisions]
    save_revisions(runs, replace(examined, revisions=tuple(judged)))
    refused = typed("emergence", "cka", "--model", str(history), "--revisions", "step0,step64", *flags)
    assert refused.code == 2 and "1 sound revision, and a history takes 2" in refused.err


def test_what_is_no_history_is_refused_in_one_line(history: Path, tmp_path: Path) -> None:
    flags = ["--data", "microworld", "--runs-dir", str(tmp_path)]
    for said, words in {
        "has no revisions that name a step": ["--model", str(history / "step0"), *flags],
        "--against is of runs": ["--model", str(history), "--against", "RUN", *flags],
        "one of the two": ["RUN", "--model", str(history), *flags],
        "are of --model": ["RUN", "--revisions", "all", "--runs-dir", str(tmp_path)],
    }.items():
        ended = typed("emergence", "cka", *words)
        assert (ended.code, ended.out) == (2, "") and said in ended.err and ended.err.count("\n") == 1, ended.err
    assert typed("emergence", "cka").code == 2


@pytest.mark.parametrize("begins", [True, False])
def test_sentences_as_a_published_tokenizer_cuts_them(begins: bool, tmp_path: Path) -> None:
    """Behind its BOS, which is no token of the sentence; without one nothing is left out."""
    name = str(save_model(tmp_path / "model", "llama", tokenizer=sentencepiece_like(bos=begins)))
    files = find_model(name)
    tokenizer, sizes = load_tokenizer(files), sizes_of(files)
    tokenizer.start = tokenizer.start if begins else None
    sentences = choose_sentences(load_qa(small_spec()), 20, 0).sentences
    inputs = encode_sentences(sentences, tokenizer)
    assert inputs.n_before == int(begins) and sizes.n_levels == 3
    ids, inside = inputs.padded(np.arange(20))
    assert (inside.sum(axis=1) == inputs.lengths - begins).all() and bool(begins) == (not inside[:, 0].any())
    first = int(inputs.predicate_sentences[0])
    text = tokenizer.decode(ids[first, : inputs.predicate_positions[0] + 1].tolist())
    assert text.endswith(sentences[first].tokens[sentences[first].predicates[0]])
