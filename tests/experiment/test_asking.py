"""Questions of one's own: a run answers them as it answered its test questions; what is not plain is asked for."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from emergence.errors import RunDirectoryError, UsageError
from emergence.experiment.asking import _predicate_place, ask
from emergence.experiment.store import RunDirectory
from emergence.training.checkpoint import load_weights, save_weights
from tests.command_lines import typed
from tests.planted_runs import write_run
from tests.small_runs import run_micro


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    root = tmp_path_factory.mktemp("asked")
    return run_micro(root, "pretrain.precision=fp32", freeze_llm=True, random_baseline=True)


def test_it_answers_as_it_answered_its_test_questions(frozen: RunDirectory) -> None:
    for row in frozen.read_predictions()[:6]:
        predicate = str(row["predicate_index"] + 1)
        answered = ask(frozen, " ".join(row["words"]), row["question"], predicate=predicate, top=10_000)
        assert answered.words == tuple(row["words"]) and answered.predicate_index == row["predicate_index"]
        best = answered.spans["linear"][0]
        assert [best.start, best.end] == row["prediction"] and best.text == row["prediction_text"]
        for name, stored in (("linear", row), ("bilinear", row["readouts"]["bilinear"])):
            spans = answered.spans[name]
            assert sum(span.probability for span in spans) == pytest.approx(1.0, abs=1e-4)
            of_golds = sum(s.probability for s in spans if [s.start, s.end] in row["golds"])
            assert math.log(of_golds) == pytest.approx(stored["log_prob"], abs=1e-3), name


def test_a_finetuned_model_is_asked_too(tmp_path: Path) -> None:
    run = run_micro(tmp_path, "pretrain.precision=fp32", random_baseline=True)
    row = run.read_predictions()[0]
    answered = ask(run, " ".join(row["words"]), row["question"], predicate=str(row["predicate_index"] + 1))
    assert list(answered.spans) == ["finetuned"] and answered.notes == ()
    best = answered.spans["finetuned"][0]
    assert [best.start, best.end] == row["prediction"] and len(answered.spans["finetuned"]) == 3


def test_runs_that_stored_the_linear_probe_alone_say_so(frozen: RunDirectory, tmp_path: Path) -> None:
    weights = load_weights(frozen.finetuned_path)
    old = {name: tensor for name, tensor in weights.state_dict.items() if not name.startswith("probe.")}
    weights.state_dict.clear()
    weights.state_dict.update(old)
    del weights.metadata["probe_layers"]
    copy = tmp_path / "old"
    copy.mkdir()
    for name in ("spec.json", "finetune_stats.json"):
        (copy / name).write_bytes((frozen.path / name).read_bytes())
    save_weights(copy / frozen.finetuned_path.name, weights)
    answered = ask(RunDirectory.open(copy), "The baker cut the rope .", "Who cut something?")
    assert list(answered.spans) == ["linear"] and "bilinear: not stored" in answered.text()


@pytest.mark.parametrize(
    ("question", "predicate", "place"),
    [
        ("What did someone cut?", None, 4),
        ("Who cuts something?", None, 4),
        ("What was sold?", None, 9),
        ("What was sold?", "sold", 9),
        ("What was sold?", "SOLD", 9),
        ("What was sold?", "10", 9),
    ],
)
def test_the_predicate_is_sought_or_named(question: str, predicate: str | None, place: int) -> None:
    words = ("The", "baker", "did", "n't", "cut", "the", "rope", ",", "he", "sold", "it", ".")
    assert _predicate_place(words, question, predicate) == place


@pytest.mark.parametrize(
    ("sentence", "question", "found"),
    [
        ("The baker gave the letter to the teacher .", "What did the baker give?", None),
        ("The baker gave the letter to the teacher .", "Who was the letter given to?", None),
        ("The baker gave the letter to the teacher .", "Who gave the letter to the teacher?", "gave"),
        ("The teacher sold a book .", "What did the teacher sell?", None),
        ("The professor emailed Kubernetes .", "What did the professor email?", "emailed"),
        ("Emma painted the roof with a brush .", "Who ate something?", None),
        ("Emma cut the roof .", "What did Emma cut?", "cut"),
        ("Emma painted the roof .", "What did Emma paint?", "painted"),
        ("The painter painted the roof .", "What did someone paint?", "painted"),
        ("The acquisition of the firm surprised them .", "What was acquired?", "acquisition"),
    ],
)
def test_nouns_and_names_are_no_predicates(sentence: str, question: str, found: str | None) -> None:
    words = tuple(sentence.split())
    if found is None:
        with pytest.raises(UsageError, match="name it with --predicate"):
            _predicate_place(words, question, None)
    else:
        assert words[_predicate_place(words, question, None)] == found


@pytest.mark.parametrize(
    ("predicate", "reason"),
    [
        (None, "not plain: name it with --predicate"),
        ("eat", "not a word of the sentence"),
        ("99", "has 5 words"),
        ("the", "as word 1, 3: give the number"),
    ],
)
def test_what_is_not_plain_is_one_line(predicate: str | None, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        _predicate_place(("The", "baker", "the", "rope", "."), "What did someone sell?", predicate)


def test_what_cannot_be_asked_is_one_line(frozen: RunDirectory, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="longer than this run's sequences of 96 tokens"):
        ask(frozen, "The baker cut the rope . " * 40, "Who cut something?", predicate="3")
    with pytest.raises(UsageError, match="a sentence and a question"):
        ask(frozen, "  ", "Who cut something?")
    with pytest.raises(RunDirectoryError, match="no finetuned model or probe"):
        ask(write_run(tmp_path, "frozen", 0.5), "The baker cut the rope .", "Who cut something?")


def test_the_command_prints_text_or_json(frozen: RunDirectory) -> None:
    words = ["ask", str(frozen.path), "The baker cut the rope .", "who cut something", "--top", "2"]
    text = typed("emergence", *words)
    assert text.code == 0 and "[cut]" in text.out and "bilinear, layer" in text.out
    stored = json.loads(typed("emergence", *words, "--json").out)
    assert stored["question"] == "Who cut something?" and len(stored["spans"]["linear"]) == 2
    assert typed("emergence", *words[:3], "Who sold something?").code == 2
