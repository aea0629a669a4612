"""Answers from prompts: every span against sums done by hand, prompts against text written by hand, the study whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emergence.answering.prompted import Prompter, score_prompts
from emergence.cli import app
from emergence.data.qa_encoding import word_pieces
from emergence.errors import UsageError
from emergence.experiment.result import load_result
from emergence.experiment.run_directory import RunDirectory
from emergence.experiment.verification import verify_run
from emergence.model import Trunk
from emergence.studies.prompted import answer as study
from emergence.studies.prompted.answer import PromptedOptions, PromptedStudy, prepare
from emergence.studies.prompted.result import FILES, GOLD_NATS, PMI, RAW, read_result
from emergence.training.context import Context
from tests.small_runs import run_micro

MORE = ("model.sequence_length=256", "microworld.text_documents=40", "pretrain.samples_per_epoch=64")
QUESTIONS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run_micro(tmp_path_factory.mktemp("prompted"), *MORE, skip_finetune=True)


@pytest.fixture(scope="module")
def work(run: RunDirectory) -> study.Work:
    cache = run.path.parents[1] / "cache"
    return prepare(run, PromptedOptions(shots=(0, 2), questions=QUESTIONS, snapshots=True, cache_dir=cache))


def prompter(work: study.Work, shots: int, **changes: Any) -> Prompter:
    settings: dict[str, Any] = {"bos": work.timeline.tokenizer.eot, "separator": work.separator, "n_shots": shots}
    settings["mark"] = work.mark
    settings |= {"max_answer_words": work.max_answer_words, "max_tokens": 256, "seed": 0, **changes}
    return Prompter(work.train.examples, work.timeline.tokenizer, **settings)


@pytest.mark.parametrize("shots", [0, 2])
def test_every_span_has_the_probability_that_it_is_written_and_ends(work: study.Work, shots: int) -> None:
    trunk = work.timeline.start.source.build()
    assert isinstance(trunk, Trunk)
    write, examples = prompter(work, shots), work.test.examples[:3]
    prompts = [prompt for n, example in enumerate(examples) if (prompt := write(example, n))]
    tables = score_prompts(trunk.eval(), prompts, work.separator, work.max_answer_words, Context(), chunk_rows=7)
    assert len(prompts) == 3
    for n, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
        for table, prefix in zip(tables, (prompt.with_question, prompt.without), strict=True):
            for i in range(len(example.tokens)):
                for k in range(work.max_answer_words):
                    if i + k >= len(example.tokens):
                        assert table[n, i, k] == -np.inf
                        continue
                    span = [token for word in prompt.words[i][: k + 1] for token in word]
                    ids = torch.tensor([*prefix, *span, work.separator])
                    with torch.no_grad():
                        log_p = (trunk(ids[None])[0] @ trunk.unembedding.T).log_softmax(1)
                    by_hand = log_p[len(prefix) - 1 : -1].gather(1, ids[len(prefix) :, None]).sum()
                    assert table[n, i, k] == pytest.approx(float(by_hand), abs=1e-4)


def test_a_prompt_is_the_text_that_a_person_would_write(work: study.Work) -> None:
    """This micro-world has no line breaks, so a full stop separates; where there are some, a line break does."""
    asked = dataclasses.replace(work.test.examples[0], tokens=("Anna", "slept", "."), question="Who slept?")
    tokenizer, shot = work.timeline.tokenizer, work.train.examples[0]
    assert work.mark == "." and shot.tokens[-1] == "."
    end = tokenizer.encode("\n")[-1]
    for separator, mark, after, gap in ((work.separator, ".", "", " "), (end, "\n", "\n", "")):
        for n in range(50):
            prompt = prompter(work, 1, separator=separator, mark=mark)(asked, n)
            assert prompt is not None
            text, bare = tokenizer.decode(prompt.with_question), tokenizer.decode(prompt.without)
            if shot.question in text and text.count(text_of(shot.tokens)):
                break
        answer = shot.answers[0]
        spoken = text_of(shot.tokens[answer.start : answer.end]) + mark
        one, asks = f"<|endoftext|>{text_of(shot.tokens)}{after}", f" Anna slept.{after}"
        assert text == f"{one}{gap}{shot.question}{spoken}{asks}{gap}Who slept?"
        assert bare == f"{one}{spoken}{asks}"
        assert [[tokenizer.decode(word) for word in words] for words in prompt.words] == [
            [" Anna", " slept", "."][i : i + work.max_answer_words] for i in range(3)
        ]


def test_a_span_is_spelled_as_in_its_sentence(work: study.Work) -> None:
    """Quotation marks open and close in turn, which a few words out of a sentence do not tell."""
    tokens = ("He", "said", '"', "Yes", "I", "do", '"', "and", "left", ".")
    prompt = prompter(work, 0, max_answer_words=6)(dataclasses.replace(work.test.examples[0], tokens=tokens), 0)
    assert prompt is not None
    spelled = [[work.timeline.tokenizer.decode(word) for word in words] for words in prompt.words]
    assert spelled[3] == [" Yes", " I", " do", '"', " and", " left"]
    assert spelled[1][:3] == [" said", ' "', "Yes"]


def text_of(tokens: tuple[str, ...]) -> str:
    return "".join(word_pieces(tokens))


def test_questions_draw_shots_of_their_own_and_always_as_many(work: study.Work) -> None:
    write = prompter(work, 2)
    first, second = work.test.examples[:2]
    assert write(first, 0) == prompter(work, 2)(first, 0) != write(first, 1)
    length = max(len(prompt.with_question) for prompt in (write(first, n) for n in range(20)) if prompt)
    tight = prompter(work, 2, max_tokens=length - 5)  # long shots no longer fit: shorter ones are drawn
    drawn = [tight(second, n) for n in range(20)]
    counts = {prompt.with_question.count(work.separator) for prompt in drawn if prompt}
    assert all(prompt and len(prompt.with_question) <= length - 5 for prompt in drawn)
    assert counts == {prompt.with_question.count(work.separator) for prompt in [write(second, 0)] if prompt}
    assert prompter(work, 2, max_tokens=30)(first, 0) is None


def test_snapshots_are_asked_and_an_interrupted_study_goes_on(
    work: study.Work, run: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked() -> PromptedStudy:
        return PromptedStudy(dataclasses.replace(work, losses={}), {"name": "x"})

    whole = asked().run(tmp_path / "whole")
    real, calls = study.score_prompts, []

    def stopping(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(study, "score_prompts", stopping)
    with pytest.raises(KeyboardInterrupt):
        asked().run(tmp_path / "cut")
    asked().run(tmp_path / "cut")
    assert len(calls) == len(whole.trunks) + 1  # nothing that was done is done again
    for name in (FILES.json_file, FILES.arrays_file):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    again = read_result(tmp_path / "cut")
    assert again.to_dict() == whole.to_dict() and again.text() == whole.text()
    assert [(t.shots, t.name) for t in whole.trunks][-1] == (2, "pretrained")
    last = whole.trunks[-1]
    kept = load_result(run.stats_path).pretraining or {}
    assert last.loss["nats_per_token"] == kept["test"]["nats_per_token"], "the loss that results of runs have"
    assert (last.step, last.tokens_seen) == (kept["steps"], kept["tokens_seen"])
    for trunk in whole.trunks:
        raw, pmi = trunk.scores[RAW], trunk.scores[PMI]
        assert (raw["log_prob"] >= raw[GOLD_NATS] - 1e-9).all(), "to be written, a gold must beat other texts, too"
        assert trunk.n_answered == QUESTIONS and not np.array_equal(raw["expected_f1"], pmi["expected_f1"])


def test_the_command_and_what_it_leaves(run: RunDirectory) -> None:
    line = ["fewshot", run.run_id, "--shots", "0,40,1", "--questions", "4", "--runs-dir", str(run.path.parent)]
    told = CliRunner().invoke(app, line)
    assert told.exit_code != 0 and isinstance(told.exception, UsageError)
    assert "no prompt fits the 256 tokens" in str(told.exception) or "training questions" in str(told.exception)
    line[3] = "1"
    told = CliRunner().invoke(app, [*line, "--json"])
    (point,) = json.loads(told.stdout)["trunks"]
    assert told.exit_code == 0 and point["shots"] == 1 and point["scores"]["pmi"]["f1_tokens"]["n"] == 4
    (folder,) = (run.path / FILES.folder).iterdir()
    assert "4 of" in read_result(folder).text() and not verify_run(run.path).damaged
    with pytest.raises(UsageError, match="--shots"):
        PromptedOptions(shots=(1, 1))
