"""A sample of the malformed campaign: one line, exit code 1 or 2, nothing written (no time is measured here)."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

import benchmarks.malformed_campaign as campaign
from benchmarks import samples
from benchmarks.malformed_cases import Case, file_cases, flag_cases
from emergence.data.tokenizer import TextTokenizer
from emergence.model.trunk import build_trunk
from emergence.spec.config import load_config
from emergence.spec.experiment import ExperimentSpec
from emergence.training.checkpoint import WeightsFile, save_weights
from tests.small_runs import MICRO


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    model = load_config("debug", MICRO).model
    tokenizer = TextTokenizer.train([samples.TEXT * 4], 320)
    trunk = build_trunk(model, tokenizer.vocab_rows, seed=0)
    save_weights(path, WeightsFile(dict(trunk.state_dict()), model, tokenizer.vocab_rows, tokenizer.to_json()))
    return path.read_bytes()


def _judged(cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> campaign.Tally:
    monkeypatch.setattr(campaign, "MOST_SECONDS", 60.0)
    (tmp_path / "cache").mkdir()
    return campaign.judge_all(cases, tmp_path / "cache", tmp_path / "of" / "one" / "case")


def test_odd_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = list(flag_cases(MICRO))
    chosen = [case for number, case in enumerate(every) if number % 18 == 3 and "microworld.seed" not in case.name]
    tally = _judged(chosen, tmp_path, monkeypatch)
    assert not tally.problems
    assert tally.verdicts["refused"] > 0.9 * len(chosen) > 40


def test_damaged_files(tmp_path: Path, weights: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = ExperimentSpec.from_flags(config_name="debug").to_dict()
    cases = file_cases(random.Random(5), MICRO, weights, repr(stats).replace("'", '"').encode(), b'{"model": {}}')
    chosen = list(itertools.islice(cases, 27))
    tally = _judged(chosen, tmp_path, monkeypatch)
    assert not tally.problems
    assert tally.verdicts["refused"] > 0.7 * len(chosen)
