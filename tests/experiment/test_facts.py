"""Facts of a stored result: where each lies, nothing where an older file lacks it, one line where it is malformed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import DataError
from emergence.experiment.facts import HeldOutLoss
from emergence.experiment.result import RunResult
from emergence.findings.two_by_two import model_free
from emergence.measures.bootstrap import Estimate
from emergence.plain import plain
from emergence.report.terminal import describe_result
from emergence.spec.experiment import ExperimentSpec


def estimate(point: float) -> dict[str, Any]:
    found: dict[str, Any] = plain(Estimate(point, point - 0.1, point + 0.1, "bca", 120, 40))
    return found


F1 = {name: {"f1_tokens": estimate(point)} for name, point in (("wh_rule", 0.3), ("words_left", 0.4))}
SCORES = {
    "n": 120,
    "n_clusters": 40,
    "cluster": "document",
    "floor": "wh_rule",
    "scores": {"f1_tokens": estimate(0.5), "em": estimate(0.25)},
    "baselines": {**F1, "words_both": {"f1_tokens": estimate(0.45)}},
}
PROBES = {
    "headline_layer": 2,
    "readouts": {
        "headline": {"family": "linear", "layer": 2, "n_trainable": 34, "test": SCORES["scores"]},
        "bilinear": {"family": "bilinear", "layer": 1, "n_trainable": 640, "test": {"f1_tokens": estimate(0.6)}},
        "bilinear_last": {"family": "bilinear", "layer": 3, "n_trainable": 640, "test": {"f1_tokens": estimate(0.55)}},
    },
    "validity": {
        "linear": {"selectivity": estimate(0.2), "mdl": {"uniform_bits": 30.0, "online_bits": 20.0}},
        "bilinear": {"selectivity": None, "mdl": {"uniform_bits": 30.0, "online_bits": 0.0}},
    },
}


def result(layout: str = "question-first", **found: Any) -> RunResult:
    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld", freeze_llm=True, layout=layout)
    return RunResult.from_spec(spec, "Run", **{"test_scores": SCORES, "probes": PROBES, **found})


OLD = {"config_name": "tiny", "freeze_llm": True, "random_baseline": False, "final_validation_f1": 0.5}


def test_every_fact_is_found_where_it_lies() -> None:
    text = {"nats_per_token": 4.0, "bits_per_byte": 1.5, "perplexity": 54.6, "n_tokens": 10}
    full = result(
        pretraining={"steps": 100, "tokens_seen": 1000, "validation": {"nats_per_token": 9.0}, "test": text},
        lineage={"pretrain_id": "p", "run_id": "A", "source": {"path": "A/trunk.pth", "pretrain_id": "q"}},
        data={"fingerprints": {"text": "t"}, "filtering": {"test": {"valid_examples": 3}}, "text": {"name": "wiki"}},
        parameters={"total": 10, "trainable": 1},
    )
    assert full.held_out_loss == HeldOutLoss(4.0, 1.5, 54.6) and full.pretrained.tokens_seen == 1000
    assert (full.trunk.run_id, full.trunk.pretrain_id, full.trunk.given("pretrain_id")) == ("A", "p", "q")
    assert full.fingerprint("text") == "t" and full.data_fact("text", "name") == "wiki"
    assert full.question_counts == {"test": {"valid_examples": 3}} and full.n_parameters("trainable") == 1
    assert full.chosen_layers == {"linear": 2, "bilinear": 1}
    points = [full.estimate("test", "f1_tokens", name) for name in ("headline", "bilinear", "bilinear_last")]
    assert [found and found.point for found in points] == [0.5, 0.6, 0.55]
    readout, linear, bilinear = full.readout("bilinear"), full.validity("linear"), full.validity("bilinear")
    assert readout and readout.n_trainable == 640 and linear and linear.selectivity and linear.compression == 1.5
    assert bilinear and bilinear.selectivity is None and bilinear.compression is None
    scores = full.scores("test")
    assert (scores.n, scores.n_clusters, scores.n_documents, scores.cluster) == (120, 40, None, "document")


@pytest.mark.parametrize("old", [RunResult.from_dict(OLD, "old"), result(test_scores=None, probes=None)])
def test_what_an_older_file_lacks_is_absent(old: RunResult) -> None:
    assert old.held_out_loss is old.no_model_floor is old.words_alone is old.pretrained.steps is None
    assert old.trunk.run_id is old.fingerprint("text") is old.n_parameters("total") is old.data_fact("text") is None
    assert old.readouts == old.validities == old.chosen_layers == old.scores("test").widening == {}
    assert old.fits == () and old.readout("linear") is old.validity("linear") is old.estimate("test", "em") is None
    assert old.scores("test").cluster == "sentence" and old.question_counts == {"train": {}}


def test_the_older_format_has_a_point_alone() -> None:
    found = RunResult.from_dict(OLD, "old").estimate("validation", "f1_tokens")
    assert found and found.point == 0.5 and found.flags == ("no_interval",)


def test_malformed_facts_are_one_line() -> None:
    bad = result(
        test_scores={"scores": [], "floor": "wh_rule", "baselines": {"wh_rule": {"f1_tokens": {"point": 1}}}},
        probes={"readouts": {"bilinear": {"layer": "two"}}, "fits": [{"family": "linear"}], "validity": {"linear": 3}},
        pretraining={"steps": True, "test": {"nats_per_token": "4"}},
        lineage={"source": "A"},
    )
    questions = (
        lambda: bad.estimate("test", "em"), lambda: bad.no_model_floor, lambda: bad.readouts, lambda: bad.fits,
        lambda: bad.validities, lambda: bad.pretrained, lambda: bad.held_out_loss, lambda: bad.trunk,
    )  # fmt: skip
    for ask in questions:
        with pytest.raises(DataError, match="not in this program's format") as error:
            ask()
        assert "\n" not in str(error.value)
    with pytest.raises(DataError):
        replace(bad, test_scores=SCORES).check_facts()
    result().check_facts()


def test_words_and_positions_know_what_a_state_of_the_layout_knows() -> None:
    for layout, f1 in (("question-first", 0.4), ("echo", 0.45)):
        found = result(layout)
        assert found.words_alone and found.words_alone.point == f1
        assert f"words, positions {f1:.3f} [" in describe_result(found, Path("runs"))
    only_left = {**SCORES, "baselines": F1}
    assert result("echo", test_scores=only_left).words_alone is None
    assert "words, positions" not in describe_result(result("echo", test_scores=only_left), Path("runs"))


def test_what_needs_no_model_is_looked_for_in_every_run() -> None:
    without = replace(result(), test_scores={"scores": SCORES["scores"]})
    free = model_free([without, result()])
    assert free.floor and (free.floor[0], free.floor[1].point, free.bar) == ("wh_rule", 0.3, 0.4)
    assert model_free([without]).bar is None
    no_words = result(test_scores={**SCORES, "baselines": {"wh_rule": F1["wh_rule"]}})
    assert model_free([no_words]).bar == 0.3 and model_free([no_words, result()]).bar == 0.4
