"""Information emergence of trunks and published models: against stand-ins whose answer is known, resumable, refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emergence.cli import app
from emergence.commands import information
from emergence.data.sources import load_qa
from emergence.data.token_texts import TokenTexts, load_texts, resampled_tokens, shuffled_tokens
from emergence.errors import DataError, UsageError
from emergence.experiment.run_directory import RunDirectory
from emergence.findings.folder import read_folder
from emergence.measures.information import BITS
from emergence.model import Encoder
from emergence.report.charts.chart import all_charts
from emergence.report.charts.information_curve import KIND as CURVE_KIND
from emergence.studies.information.curve import FILES as CURVE_FILES
from emergence.studies.information.curve import Place
from emergence.studies.information.curve import read_result as read_curve
from emergence.studies.information.measure import InformationStudy, ModelToMeasure, Options
from emergence.studies.information.result import (
    CONTROLS,
    FILES,
    FIRST_BLOCK,
    NOTHING,
    ONE_SEED,
    UNKNOWN,
    Emergence,
    concluded,
    read_result,
)
from emergence.studies.information.snapshots import InformationCurveStudy
from emergence.studies.revisions.record import Revision, Revisions, save_revisions
from emergence.studies.snapshots.result import FILES as PROBE_FILES
from emergence.training.recording import StopRequested
from tests.published_models import save_model
from tests.small_runs import run_micro

CPU = torch.device("cpu")
SMALL = ["--n", "160", "--seeds", "2", "--dimensions", "4"]


class Adding:
    """Level 0 is a token's embedding, level l + 1 is level l plus the mean over the text up to it."""

    hidden_size, n_layers = 6, 2

    def __init__(self, seed: int = 0) -> None:
        self.table = torch.randn(50, 6, generator=torch.Generator().manual_seed(seed))

    def hidden_states(self, ids: torch.Tensor) -> list[torch.Tensor]:
        levels = [self.table[ids]]
        for _ in range(self.n_layers):
            sums = levels[-1].cumsum(1) / torch.arange(1, ids.shape[1] + 1)[None, :, None]
            levels.append(levels[-1] + sums)
        return levels


def adding(seed: int = 0) -> Encoder:
    return Adding(seed)


def random_texts(length: int) -> TokenTexts:
    def draw(n: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 50, (n, length))

    return TokenTexts("drawn", length, 10**6, draw, f"drawn {length}")


MODEL = ModelToMeasure("w", "t", 2, 6, 16, adding, adding)
OPTIONS = Options(n=400, seeds=1, dimensions=4)


class Words:
    """A tokenizer of whole words."""

    fingerprint = "words"

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def encode_batch(self, texts: object) -> list[list[int]]:
        assert isinstance(texts, (list, tuple))
        return [[self.known.setdefault(word, len(self.known)) for word in text.split()] for text in texts]


def study(texts: TokenTexts, model: ModelToMeasure = MODEL, options: Options = OPTIONS) -> InformationStudy:
    return InformationStudy({"name": "x", "kind": "run"}, model, texts, options, device=CPU)


def test_a_text_of_one_token_has_no_emergence_and_a_model_no_more_than_itself(tmp_path: Path) -> None:
    result = study(random_texts(1)).run(tmp_path)
    for layer in range(2):
        for condition in ("model", "random", "shuffled"):
            raw = result.emergence.raw(condition, layer, 200)
            assert abs(raw.point) < 3 * raw.se
    # The twin is the model itself, and one token is in the only order that there is.
    assert result.emergence.difference("random", None, 200).point == 0
    assert result.emergence.difference("shuffled", None, 200).point == 0
    assert result.conclusion[0] == ONE_SEED
    assert not list(tmp_path.rglob("*.npy"))  # the states are gone when the layers are done


def test_numbers_are_those_of_the_states_and_resuming_changes_no_byte(tmp_path: Path) -> None:
    texts = random_texts(3)
    whole = study(texts).run(tmp_path / "whole")
    cells = tmp_path / "cut" / "cells"
    for k in range(9):
        try:
            study(texts).run(tmp_path / "cut", should_stop=lambda k=k: len(list(cells.glob("*.json"))) > k)
        except StopRequested:
            continue
        break
    stored = [(tmp_path / at / FILES.json_file).read_bytes() for at in ("whole", "cut")]
    assert stored[0] == stored[1]
    again = read_result(tmp_path / "cut")
    assert again.text() == whole.text() and again.to_dict() == whole.to_dict()
    row = whole.rows[1]
    assert (row["condition"], row["layer"]) == ("model", 1) and len(row["micro"]) == 3
    by_hand = row["macro"]["value"] - np.mean([one["value"] for one in row["micro"]])
    assert row["ie"]["value"] == pytest.approx(by_hand) and row["macro"]["value"] > 3
    assert abs(row["by_noise"]["0.03"] - row["by_noise"]["0.3"]) > 2  # the raw value is mostly the noise
    assert 0 <= row["infonce"]["value"] <= BITS * np.log(200)


def test_layers_that_were_done_before_leave_no_states(tmp_path: Path) -> None:
    study(random_texts(3), options=replace(OPTIONS, layers=(1,))).run(tmp_path)
    result = study(random_texts(3)).run(tmp_path)
    assert result.layers == (0, 1) and not list(tmp_path.rglob("*.npy"))


def test_the_first_block_alone_says_nothing_of_a_model() -> None:
    values = np.zeros((4, 2, 1)) + np.array([1.0, 1.2])[:, None]
    alone = Emergence((0,), values, np.full((4, 2, 1), 0.05), np.repeat(values[..., None], 4, axis=-1))
    assert concluded(alone, 50, 10.0) == (FIRST_BLOCK, ())


def test_refused_rows_are_no_finding_of_nothing() -> None:
    nothing = np.full((4, 2, 2), np.nan)
    refused = Emergence((0, 1), nothing, nothing, np.repeat(nothing[..., None], 4, axis=-1))
    phrase, sentences = concluded(refused, 50, 10.0)
    assert phrase == UNKNOWN and all("rows were refused" in sentence for sentence in sentences)
    assert np.isnan(refused.raw_mean)


def test_one_seed_and_wide_intervals_decide_nothing() -> None:
    values = -np.array([0.0, 3.0, 3.0, 3.0])[:, None, None] + np.zeros((4, 1, 2))
    one = Emergence((1, 2), values, np.full((4, 1, 2), 0.1), np.repeat(values[..., None], 4, axis=-1))
    assert concluded(one, 100, 10.0)[0] == ONE_SEED
    assert np.isnan(one.difference("random", None, 100).lo) and one.difference("shuffled", None, 100).lo > 0
    apart = np.array([-3.0, 9.0])[None, :, None] * np.array([0.0, 1.0, 1.0, 1.0])[:, None, None] + np.zeros((4, 2, 2))
    two = Emergence((1, 2), apart, np.full((4, 2, 2), 0.1), np.repeat(apart[..., None], 4, axis=-1))
    phrase, sentences = concluded(two, 100, 10.0)
    assert phrase.startswith("undetermined against") and NOTHING not in phrase and "98.3% interval" in sentences[0]


@pytest.mark.parametrize("seeds", [3, 10])
def test_an_untrained_network_is_one_of_its_twins(seeds: int) -> None:
    """Networks and twins from one distribution: the model is named more or less no oftener than promised."""
    rng, named = np.random.default_rng(0), 0
    for _ in range(400):
        values = np.zeros((4, seeds, 1))
        values[0], values[1, :, 0] = rng.normal(), rng.normal(size=seeds)
        errors = np.full(values.shape, 0.01)
        quarters = np.repeat(values[..., None], 4, axis=-1)
        found = Emergence((1,), values, errors, quarters).difference("random", None, 100)
        named += not found.lo <= 0 <= found.hi
    assert named / 400 < 0.08


def test_flags_are_in_the_conclusion_and_explained(tmp_path: Path) -> None:
    result = study(random_texts(3), options=replace(OPTIONS, seeds=2)).run(tmp_path)
    flagged = [
        dict(row, flags=["micro_not_converged"] if row["condition"] == "shuffled" else []) for row in result.rows
    ]
    told = replace(result, rows=tuple(flagged))
    assert "(by estimates that are flagged: not converged)" in told.conclusion[0]
    assert "controls: micro not converged" in told.text() and "more texts would move it" in told.text()
    assert "a difference alone is no sign of learning" in told.text() and "seeds share texts" not in told.text()
    shared = replace(told, settings={**told.settings, "available": 500})
    assert "seeds share texts (500 for 800)" in shared.text()


def test_what_the_first_block_reads_decides_nothing() -> None:
    values = np.zeros((4, 2, 2))
    values[0, :, 0], values[0, :, 1] = 100.0, (1.0, 1.2)
    quarters = np.repeat(values[..., None], 4, axis=-1) + np.linspace(-0.1, 0.1, 4)
    mean = Emergence((0, 1), values, np.full((4, 2, 2), 0.05), quarters).difference("random", None, 50)
    assert mean.point == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("random", "shuffled", "resampled", "phrase"),
    [
        (0.0, 0.0, 0.0, NOTHING),
        (2.0, 0.0, -2.0, f"more than {CONTROLS['random']}, but less than {CONTROLS['resampled']}"),
        (0.0, 1.0, 1.0, f"more than {CONTROLS['shuffled']} and more than {CONTROLS['resampled']}"),
        (-1.0, 0.0, 0.0, f"{NOTHING}, but less than {CONTROLS['random']}"),
        (np.nan, 1.0, 0.0, f"more than {CONTROLS['shuffled']}"),
    ],
)
def test_the_numbers_choose_the_words(random: float, shuffled: float, resampled: float, phrase: str) -> None:
    values = -np.array([0.0, random, shuffled, resampled])[:, None, None] + np.zeros((4, 3, 2))
    found = Emergence((1, 2), values, np.full((4, 3, 2), 0.1), np.repeat(values[..., None], 4, axis=-1))
    told, sentences = concluded(found, 100, 10.0)
    assert told == phrase and len(sentences) == 3 and "semantic" not in " ".join([told, *sentences])
    assert ("refused" in sentences[0]) == bool(np.isnan(random))


def test_lists_and_controls(tmp_path: Path) -> None:
    texts = load_texts("icl-animal", Words(), 6)
    drawn = texts.draw(2000, 1)
    assert drawn.shape == (2000, 6) and texts.available == 16 * 15 * 14
    assert len(set(drawn[:, 1::2].ravel().tolist())) == 1
    assert all(len(set(text[::2])) == 3 for text in drawn.tolist())
    told = study(texts, options=replace(OPTIONS, layers=(1,))).run(tmp_path).text()
    assert f"the true one is {BITS * (np.log(16 * 15 * 14) - np.log(16) / 2):.2f} after the first block" in told
    counts = [np.unique(drawn[:, place], return_counts=True)[1] for place in (0, 2, 4)]
    assert all(len(count) == 16 and count.min() > 80 for count in counts)  # 125 on average in every place
    assert texts.entropy is not None and texts.entropy.sequence == pytest.approx(np.log(16 * 15 * 14))
    assert (drawn != texts.draw(2000, 2)).any()
    shuffled, resampled = shuffled_tokens(drawn, 0), resampled_tokens(drawn, 0)
    assert (np.sort(shuffled, axis=1) == np.sort(drawn, axis=1)).all() and (shuffled != drawn).any()
    assert set(resampled.ravel()) == set(drawn.ravel())
    with pytest.raises(UsageError, match="even length"):
        load_texts("icl-animal", Words(), 5)


def test_lines_of_a_file_are_cut_to_windows_or_must_agree(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("a b c d e\n\nf g\nh\n")
    with pytest.raises(DataError, match=r"unequal length, 1 to 5 tokens: give --length"):
        load_texts(str(path), Words())
    cut = load_texts(str(path), Words(), 2)
    assert sorted(cut.draw(9, 0).tolist()) == [[0, 1], [2, 3], [5, 6]] and cut.facts["lines_too_short"] == 1
    with pytest.raises(DataError, match="no text has 6 tokens"):
        load_texts(str(path), Words(), 6)
    with pytest.raises(UsageError, match="did you mean icl-country"):
        load_texts("icl-county", Words())


def test_what_cannot_be_measured_is_refused(tmp_path: Path) -> None:
    def refused(match: str, texts: TokenTexts, **options: object) -> None:
        with pytest.raises((UsageError, DataError), match=match) as error:
            study(texts, options=replace(OPTIONS, **options))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)

    drawn = random_texts(3)
    refused("takes? 16: lower --length", random_texts(17))
    refused("79 texts, but 4 dimensions take 80: raise --n", drawn, n=79)
    refused("60 texts, but 4 dimensions take 80: give more texts", replace(drawn, available=60))
    refused("all texts are the same", replace(drawn, draw=lambda n, seed: np.ones((n, 3), dtype=np.int64)))
    refused("blocks 0 to 1", drawn, layers=(2,))
    refused("take 4 at least", drawn, dimensions=3)

    class Dead(Adding):
        def hidden_states(self, ids: torch.Tensor) -> list[torch.Tensor]:
            first, *others = super().hidden_states(ids)
            return [first, *(torch.ones_like(level) for level in others)]

    with pytest.raises(DataError, match="before block 1 are the same for all texts"):
        study(drawn, replace(MODEL, build=Dead), replace(OPTIONS, layers=(1,))).run(tmp_path)


def test_a_curve_is_the_estimates_of_its_snapshots_on_the_same_texts_and_twins(tmp_path: Path) -> None:
    built: list[int] = []

    def twin(seed: int) -> Encoder:
        built.append(seed)
        return Adding(seed + 7)

    class Still(Adding):
        """A snapshot whose blocks do nothing."""

        def hidden_states(self, ids: torch.Tensor) -> list[torch.Tensor]:
            return [self.table[ids]] * (self.n_layers + 1)

    texts, options = random_texts(3), replace(OPTIONS, layers=(1,))
    ways = [("a", 0, Still), ("b", 8, Adding), ("c", 64, Adding)]
    models = [replace(MODEL, weights=name, build=build, twin=twin, twins="ours") for name, _, build in ways]
    studies = [(Place(n, s, 10 * s, n), study(texts, m, options)) for (n, s, _), m in zip(ways, models, strict=True)]
    curve = InformationCurveStudy({"name": "x", "kind": "run"}, studies).run(tmp_path / "curve")
    assert built == [0], "twins are the same for all"
    for (place, alone), found in zip(studies, curve.results, strict=True):
        assert alone.run(tmp_path / place.name).rows == found.rows
    again = read_curve(tmp_path / "curve")
    assert again.to_dict() == curve.to_dict() and again.text() == curve.text()
    assert curve.results[1].emergence.values[0] == pytest.approx(curve.results[2].emergence.values[0])
    gained = [
        result.emergence.difference("shuffled", None, 200).point for result in (curve.results[0], curve.results[2])
    ]
    assert curve.change("shuffled").point == pytest.approx(gained[1] - gained[0])
    assert curve.change("random").point == pytest.approx(
        np.mean(curve.results[2].emergence.values[0] - curve.results[0].emergence.values[0])
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return run_micro(tmp_path_factory.mktemp("ie"), "model.n_layers=2", freeze_llm=True)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    words = ["the", "baker", "cut", "a", "rope", "with", "her", "old", "knife", "and", "saw", "Anna", "chase", "dogs"]
    path = tmp_path_factory.mktemp("texts") / "answers.txt"
    path.write_text("\n".join(" ".join(rng.choice(words, 12)) for _ in range(150)))
    return path


def test_a_run_by_command(run: RunDirectory, texts: Path) -> None:
    command = ["ie", run.run_id, "--runs-dir", str(run.path.parent), "--texts", str(texts), "--length", "3", *SMALL]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "usable information about the answer" in done.output and "minus shuffled" in done.output
    (file,) = (run.path / FILES.folder).rglob(FILES.json_file)
    stored = json.loads(file.read_text())
    assert stored["subject"]["name"] == run.run_id and [row["layer"] for row in stored["layers"]] == [0, 1]
    assert set(stored["usable_information"]) >= {"linear", "bilinear"}
    fits = json.loads(run.stats_path.read_text())["probes"]
    for fit in fits["fits"]:
        told = next(one for one in stored["usable_by_layer"][fit["family"]] if one["layer"] == fit["layer"])
        lost = fits["without_states"]["validation_loss"] - fit["validation_loss"]
        assert told["bits"] == pytest.approx(BITS * lost)
        first = next(f for f in fits["fits"] if (f["family"], f["layer"]) == (fit["family"], 0))
        assert told["beyond_embeddings"] == pytest.approx(BITS * (first["validation_loss"] - fit["validation_loss"]))
    assert "usable information about the answer by layer" in done.output


def test_other_settings_and_other_texts_take_the_place_of_nothing(texts: Path, tmp_path: Path) -> None:
    def folder(name: str, content: str, **changes: object) -> str:
        file = tmp_path / name
        file.write_text(content)
        return information._folder(str(file), load_texts(str(file), Words(), 2), replace(Options(), **changes))

    usual = folder("texts.txt", "a b c d")
    others = [
        folder("texts.txt", "a b c d e f"), folder("other.txt", "a b c d"), folder("texts.txt", "a b c d", n=99),
        folder("texts.txt", "a b c d", seeds=1), folder("texts.txt", "a b c d", dimensions=3),
        folder("texts.txt", "a b c d", layers=(1,)),
    ]  # fmt: skip
    assert usual == folder("texts.txt", "a b c d") and len({usual, *others}) == 7
    lists = information._folder("icl-colour", random_texts(4), Options())
    assert lists == "drawn-T4"


def test_the_sentences_of_a_run_are_texts(run: RunDirectory, tmp_path: Path) -> None:
    root = str(run.path.parent)
    more = ["--texts", "sentences", "--layers", "1", *SMALL, "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["ie", run.run_id, "--runs-dir", root, *more])
    assert done.exit_code == 0, done.output
    settings = read_result(tmp_path / "out").settings
    assert settings["texts"] == "sentences" and settings["length"] == 8 and settings["facts"]["windows"] >= 80
    model = save_model(tmp_path / "model")
    refused = CliRunner().invoke(app, ["ie", str(model), "--runs-dir", root, "--texts", "sentences", *SMALL])
    assert "of a run's questions" in str(refused.exception)


def test_results_of_one_run_with_other_settings_are_told_apart_in_figures(run: RunDirectory, texts: Path) -> None:
    command = ["ie", run.run_id, "--runs-dir", str(run.path.parent), "--texts", str(texts), "--length", "4"]
    for n in ("160", "170"):
        more = ["--layers", "1", "--n", n, "--seeds", "1", "--dimensions", "4"]
        assert CliRunner().invoke(app, [*command, *more]).exit_code == 0
    names = {row["name"] for c in all_charts(read_folder(run.path.parent)).charts for row in c.rows if "delta" in row}
    assert {f"{run.run_id} ({n} texts" for n in ("160", "170")} <= {name.split(",")[0] for name in names}


def test_a_probe_that_sees_nothing_guesses_among_all_words(run: RunDirectory) -> None:
    """The golds' share of all pairs of words, averaged over validation."""
    spec = run.spec
    examples = load_qa(spec).splits["validation"]
    losses = [2 * np.log(len(e.tokens)) - np.log(len(e.answers)) for e in examples]
    stored = json.loads(run.stats_path.read_text())["probes"]["without_states"]["validation_loss"]
    assert stored == pytest.approx(np.mean(losses))


def test_snapshots_by_command_of_runs_and_models(
    run: RunDirectory, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = run.path.parent
    common = [
        "--texts",
        str(texts),
        "--length",
        "3",
        "--layers",
        "1",
        "--n",
        "160",
        "--seeds",
        "1",
        "--dimensions",
        "4",
    ]
    done = CliRunner().invoke(app, ["ie", run.run_id, "--snapshots", "--runs-dir", str(root), *common])
    assert done.exit_code == 0, done.output
    (file,) = (run.path / CURVE_FILES.folder).rglob(CURVE_FILES.json_file)
    curve = read_curve(file.parent)
    assert [place.name for place in curve.places][-1] == "pretrained" and len(curve.places) > 1
    assert f"From {curve.places[0].name} to pretrained:" in done.output
    drawn = [c for c in all_charts(read_folder(root)).charts if c.name.startswith(CURVE_KIND.name + "_")]
    assert all(not result.usable for result in curve.results), "no snapshots were probed"
    gains = {"gain_linear": {"log_prob": np.log(2) * np.array([1.0, 1.0, 3.0])}, "linear": {"log_prob": np.zeros(3)}}
    probed = SimpleNamespace(weights=curve.places[-1].weights, scores=gains)
    found = SimpleNamespace(clusters=np.array([0, 0, 1]), path_of_training=[probed])
    (run.path / PROBE_FILES.folder).mkdir(parents=True)
    (run.path / PROBE_FILES.folder / PROBE_FILES.json_file).write_text("{}")
    monkeypatch.setattr(information, "read_snapshot_probes", lambda folder: found)
    again = CliRunner().invoke(app, ["ie", run.run_id, "--snapshots", "--runs-dir", str(root), *common])
    assert again.exit_code == 0 and "usable, linear" in again.output
    told = read_curve(file.parent).results
    assert [list(result.usable) for result in told] == [[]] * (len(told) - 1) + [["linear"]]
    assert told[-1].usable["linear"].point == pytest.approx(5 / 3)
    shutil.rmtree(run.path / PROBE_FILES.folder)

    assert len(drawn) == 1 and {row["snapshot"] for row in drawn[0].rows} == {place.name for place in curve.places}
    assert drawn[0].kind.series(drawn[0].rows) and list(drawn[0].kind.tables(drawn[0], ()))

    for seed, step in enumerate((0, 4, 8)):
        save_model(tmp_path / "model" / f"step{step}", seed=seed)
    suspect = Revision("step4", 4, suspect="of another run")
    save_revisions(tmp_path / "runs", Revisions(str(tmp_path / "model"), (suspect,)))
    command = ["ie", str(tmp_path / "model"), "--runs-dir", str(tmp_path / "runs"), *common]
    done = CliRunner().invoke(app, [*command, "--snapshots"])
    assert done.exit_code == 0 and "left out: step4: of another run" in done.output, done.output
    (stored,) = (tmp_path / "runs" / CURVE_FILES.name).rglob(CURVE_FILES.json_file)
    assert [(place.name, place.step) for place in read_curve(stored.parent).places] == [("step0", 0), ("step8", 8)]
    refused = CliRunner().invoke(app, [*command, "--snapshots", "--revision", "step0"])
    assert isinstance(refused.exception, UsageError) and "drop one of the two" in str(refused.exception)


def test_a_published_model_and_what_its_tokenizer_cannot_do(tmp_path: Path, texts: Path) -> None:
    folder = save_model(tmp_path / "model")
    command = ["ie", str(folder), "--runs-dir", str(tmp_path / "runs"), *SMALL]
    done = CliRunner().invoke(app, [*command, "--texts", str(texts), "--length", "6", "--layers", "1"])
    assert done.exit_code == 0, done.output
    (stored,) = (tmp_path / "runs" / FILES.name).rglob(FILES.json_file)
    assert read_result(stored.parent).layers == (1,)
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code and isinstance(refused.exception, UsageError)
    assert "names as one token each" in str(refused.exception)
