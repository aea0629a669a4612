"""An exported run in minicons and lm-eval, unchanged: as right as ours to the pair, by every rule.

Both are looked for; where they are not installed, nothing is tested.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from emergence.answering.sentence_scores import score_pairs
from emergence.data.role_pairs import role_pairs
from emergence.data.sentence_pairs import SentencePair
from emergence.export.folder import write_export
from emergence.measures.sentence_pairs import PER_TOKEN, WITH_BOS, SentencePairScores
from emergence.studies.sentence_pairs.score import models_of_run
from tests.small_runs import run_small

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(300)]

PAIRS = role_pairs(30).pairs


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[[Any], SentencePairScores]]:
    """An export, and our scores of pairs by the run that it is of."""
    root = tmp_path_factory.mktemp("tools")
    run, _ = run_small(root / "runs", skip_finetune=True)
    write_export(run, root / "model")
    model = models_of_run(run)[0].load(torch.device("cpu"))
    return root / "model", lambda pairs: score_pairs(model, pairs)


def test_minicons(exported: tuple[Path, Callable[[Any], SentencePairScores]]) -> None:
    scorer = pytest.importorskip("minicons.scorer")
    folder, scored = exported
    ours, model = scored(PAIRS), scorer.IncrementalLMScorer(str(folder), "cpu")
    for rule in ours.rules:

        def reduce(values: torch.Tensor, rule: str = rule) -> float:
            return float(values.mean(0) if rule.endswith(PER_TOKEN) else values.sum(0))

        with_bos = rule.startswith(WITH_BOS)
        columns = [
            model.sequence_score([getattr(p, side) for p in PAIRS], reduction=reduce, bos_token=with_bos)
            for side in ("good", "bad")
        ]
        theirs = np.array(columns).T
        np.testing.assert_allclose(theirs, ours.scores(rule), atol=1e-3)
        np.testing.assert_array_equal(theirs[:, 0] > theirs[:, 1], ours.right(rule) == 1)


@pytest.mark.parametrize("delimiter", ["", " "])  # its own default puts a space before every sentence
def test_lm_eval(
    delimiter: str,
    exported: tuple[Path, Callable[[Any], SentencePairScores]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    folder, scored = exported
    rows = [{"sentence_good": pair.good, "sentence_bad": pair.bad} for pair in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "local_pairs",
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"train": str(tmp_path / "pairs.jsonl")},
            "cache_dir": str(tmp_path / "cache"),
        },
        "output_type": "multiple_choice",
        "validation_split": "train",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "target_delimiter": delimiter,
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "local_pairs.yaml").write_text(json.dumps(task))
    model = HFLM(pretrained=str(folder), tokenizer=str(folder), device="cpu", batch_size=16)
    found = lm_eval.simple_evaluate(
        model=model,
        tasks=["local_pairs"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    theirs = [sample["acc"] for sample in found["samples"]["local_pairs"]]
    asked = [SentencePair(delimiter + pair.good, delimiter + pair.bad, pair.kind, pair.item) for pair in PAIRS]
    np.testing.assert_array_equal(theirs, scored(asked).right("with_bos"))
