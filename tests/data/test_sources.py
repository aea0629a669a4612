"""Sources: every route to the same kinds of data, equal budgets, and a second call that reads nothing again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from emergence.data import sources
from emergence.data.records import SPLITS
from emergence.data.sources import load_qa, load_qa_route, prepare_pretraining_data, prepare_tokenizer
from emergence.errors import DataError, UsageError
from emergence.spec.config import MicroworldSettings
from emergence.spec.experiment import MIXES, ExperimentSpec, PretrainData
from tests.data.qa_files import QA

SMALL_WORLD = (
    "model.vocab_size=320",
    "microworld.text_documents=60",
    "microworld.train_documents=4",
    "microworld.validation_documents=2",
    "microworld.test_documents=2",
)


def spec_of(**flags: Any) -> ExperimentSpec:
    return ExperimentSpec.from_flags(config_name="debug", set_values=SMALL_WORLD, **flags)


def write_text(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 30), ("valid", 4), ("test", 4)):
        content = "".join(f" = {split} {i} = \n\nLobster {i} ate the {split} fish.\n\n" for i in range(count))
        (folder / f"{split}.txt").write_text(content)
    return folder


def squad(title: str, count: int) -> dict[str, Any]:
    paragraphs = [
        {
            "context": f"In {year} Ann wrote {title} books.",
            "qas": [
                {"id": f"{title}{year}", "question": "Who wrote?", "answers": [{"text": "Ann", "answer_start": 8}]}
            ],
        }
        for year in range(1900, 1900 + count)
    ]
    return {"data": [{"title": title, "paragraphs": paragraphs}]}


def write_qa(folder: Path, with_squad: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for number, split in enumerate(("train", "dev", "test"), start=1):
        text = QA.replace("WIKI1_77", f"WIKI1_{number}1").replace("WIKI1_78", f"WIKI1_{number}2")
        (folder / f"wiki1.{split}.qa").write_text(text.replace("Rome", f"Town{number}"))
        if with_squad:
            (folder / f"{split}-v1.1.json").write_text(json.dumps(squad(f"T{number}", 3)))
    return folder


# Pretraining text ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that the tests of the micro-world share; the first of them fills it."""
    return tmp_path_factory.mktemp("cache")


def test_the_microworld_in_streams(world_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(data="microworld")
    data = prepare_pretraining_data(spec, world_cache)
    assert data.train.n_documents == 60 and data.tokenizer.vocab_size == 320
    assert data.provenance["route"] == "microworld" and data.provenance["splits"]["train"]["documents"] == 60
    assert data.tokenizer.decode(data.train.tokens[: data.train.document_ends[0]]).endswith(".<|endoftext|>")
    json.dumps(data.provenance)

    monkeypatch.setattr(sources, "generate_text", lambda world: pytest.fail("generated although it is in the cache"))
    again = prepare_pretraining_data(spec, world_cache)
    assert again.fingerprint == data.fingerprint and again.provenance == data.provenance
    assert prepare_tokenizer(spec, world_cache).fingerprint == data.tokenizer.fingerprint


def test_local_text_and_a_second_call_that_reads_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of(pretrain_text=str(write_text(tmp_path / "text")))
    data = prepare_pretraining_data(spec, tmp_path / "cache")
    assert [data.provenance["splits"][split]["documents"] for split in SPLITS] == [30, 4, 4]
    assert data.provenance["route"] == "local" and data.provenance["files"]["train"][0]["name"] == "train.txt"
    with monkeypatch.context() as patch:
        patch.setattr("emergence.data.text.cut_documents", lambda *a: pytest.fail("read although it is in the cache"))
        assert prepare_pretraining_data(spec, tmp_path / "cache").fingerprint == data.fingerprint
    (tmp_path / "text" / "train.txt").write_text("Another text. " * 99)
    assert prepare_pretraining_data(spec, tmp_path / "cache").fingerprint != data.fingerprint


def test_wiki_and_wiki_with_questions_have_the_same_budget(world_cache: Path) -> None:
    plain = prepare_pretraining_data(spec_of(data="microworld"), world_cache)
    spec = spec_of(data="microworld", pretrain_data="wiki+nq")
    mixed = prepare_pretraining_data(spec, world_cache)
    assert mixed.train.n_tokens == plain.train.n_tokens and mixed.tokenizer.fingerprint == plain.tokenizer.fingerprint
    assert mixed.validation.fingerprint == plain.validation.fingerprint
    assert mixed.test.fingerprint == plain.test.fingerprint
    assert mixed.fingerprint != plain.fingerprint and not np.array_equal(mixed.train.tokens, plain.train.tokens)
    nq = mixed.provenance["nq"]
    assert nq["nq_tokens"] + nq["text_tokens"] == plain.train.n_tokens and 0 < nq["nq_share"] <= 0.5
    assert prepare_pretraining_data(spec, world_cache).fingerprint == mixed.fingerprint


def test_the_control_mix_differs_from_wiki_with_questions_in_the_questions_alone(world_cache: Path) -> None:
    plain, asked = (
        prepare_pretraining_data(spec_of(data="microworld", pretrain_data=data), world_cache)
        for data in ("wiki", "wiki+nq")
    )
    spec = spec_of(data="microworld", pretrain_data="wiki+control")
    control = prepare_pretraining_data(spec, world_cache)
    assert len({data.fingerprint for data in (plain, asked, control)}) == 3
    assert (
        control.train.n_tokens == plain.train.n_tokens and control.tokenizer.fingerprint == plain.tokenizer.fingerprint
    )
    assert control.test.fingerprint == plain.test.fingerprint
    assert control.train.document_ends.tolist() == asked.train.document_ends.tolist()
    told = control.provenance["control"]
    assert told["passages"] == told["questions_used"] == asked.provenance["nq"]["questions_used"]
    assert "?" not in control.tokenizer.decode(control.train.tokens) and "nq" not in control.provenance
    assert "?" in asked.tokenizer.decode(asked.train.tokens)
    assert prepare_pretraining_data(spec, world_cache).fingerprint == control.fingerprint


@pytest.mark.parametrize("route", ["microworld", "local", "hub"])
def test_shuffled_text_differs_from_wiki_in_word_order_alone(
    route: str, world_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "fetch", lambda name, cache: (write_text(tmp_path / "hub"), {"route": "stand-in"}))
    flags: dict[str, Any] = {"data": "microworld"} if route == "microworld" else {}
    if route == "local":
        flags = {"pretrain_text": str(write_text(tmp_path / "text"))}
    plain = prepare_pretraining_data(spec_of(**flags), world_cache)
    spec = spec_of(**flags, pretrain_data="shuffled")
    found = prepare_pretraining_data(spec, world_cache)
    assert found.tokenizer.fingerprint == plain.tokenizer.fingerprint and found.train.n_tokens == plain.train.n_tokens
    assert found.validation.fingerprint == plain.validation.fingerprint, "losses are on text in its own order"
    assert found.test.fingerprint == plain.test.fingerprint
    assert found.fingerprint != plain.fingerprint and not np.array_equal(found.train.tokens, plain.train.tokens)
    told = found.provenance["shuffled"]
    assert told["tokens_left_out"] + told["tokens_used_twice"] < 0.2 * plain.train.n_tokens
    assert told["seed"] == sources.SPLIT_SEED and "shuffled" not in plain.provenance
    monkeypatch.setattr(sources, "shuffled_stream", lambda *a: pytest.fail("shuffled although it is in the cache"))
    again = prepare_pretraining_data(dataclasses.replace(spec, seed=3), world_cache)
    assert again.fingerprint == found.fingerprint and again.provenance == found.provenance, "the same for all seeds"


def test_seeds_share_tokenizer_text_and_questions(tmp_path: Path) -> None:
    """None of these files names its splits, so all are split off by a seed, which must not be the run's."""
    content = "".join(f" = Town {i} = \n\nLobster {i} ate {i} fish.\n\n" for i in range(60))
    (tmp_path / "text.txt").write_text(content)
    rows = [{"question": f"who ate fish {i}", "answer": ["Ann"]} for i in range(40)]
    (tmp_path / "nq.validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    titles = [squad(f"T{i}", 2)["data"][0] for i in range(40)]
    (tmp_path / "all.json").write_text(json.dumps({"data": titles}))

    def prints(seed: int, data: PretrainData) -> tuple[str, ...]:
        paths = {"pretrain_text": str(tmp_path / "text.txt"), "qa_data": str(tmp_path / "all.json")}
        nq = {"nq_data": str(tmp_path / "nq.validation.jsonl")} if data in MIXES else {}
        spec = spec_of(**paths, **nq, pretrain_data=data, seed=seed, finetune_data="squad")
        found = prepare_pretraining_data(spec, tmp_path / "cache")
        return found.tokenizer.fingerprint, found.fingerprint, load_qa(spec, tmp_path / "cache").fingerprint

    for data in get_args(PretrainData):
        assert prints(0, data) == prints(3, data), data
    questions = [load_qa_route("hub", "squad", str(tmp_path / "all.json"), seed).fingerprint for seed in (0, 3)]
    assert questions[0] != questions[1], "another split seed would be noticed here"


def test_local_questions_for_pretraining(tmp_path: Path) -> None:
    rows = [{"question": f"who ate fish {i}", "answer": ["Ann"]} for i in range(5)]
    (tmp_path / "nq.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = spec_of(
        pretrain_text=str(write_text(tmp_path / "text")),
        pretrain_data="wiki+nq",
        nq_data=str(tmp_path / "nq.train.jsonl"),
    )
    data = prepare_pretraining_data(spec, tmp_path / "cache")
    text = data.tokenizer.decode(data.train.tokens)
    assert all(f"who ate fish {i}? Ann<|endoftext|>" in text for i in range(5))
    assert data.provenance["nq"]["questions_used"] == 5


def test_a_damaged_tokenizer_in_the_cache_is_trained_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = spec_of(pretrain_text=str(write_text(tmp_path / "text")))
    fingerprint = prepare_tokenizer(spec, tmp_path).fingerprint
    (file,) = (tmp_path / "tokenizers").glob("*/tokenizer.json")
    file.write_bytes(file.read_bytes()[:100])
    assert prepare_tokenizer(spec, tmp_path).fingerprint == fingerprint
    assert len([record for record in caplog.records if record.name == "emergence.data.sources"]) == 1


def test_text_from_the_hub_goes_through_the_local_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"wikitext-103": write_text(tmp_path / "text")}
    monkeypatch.setattr(sources, "fetch", lambda name, cache: (folders[name], {"route": "hub:stand-in"}))
    data = prepare_pretraining_data(spec_of(), tmp_path / "cache")
    assert data.provenance["route"] == "hub" and data.provenance["hub"] == {"route": "hub:stand-in"}
    local = prepare_pretraining_data(spec_of(pretrain_text=str(tmp_path / "text")), tmp_path / "cache")
    assert local.fingerprint == data.fingerprint


# Questions ----------------------------------------------------------------------------------------


def test_questions_of_the_microworld() -> None:
    data = load_qa(spec_of(data="microworld"))
    assert data.name == "microworld" and all(data.splits[split] for split in SPLITS)
    assert load_qa(spec_of(data="microworld")).fingerprint == data.fingerprint
    harder = MicroworldSettings(train_documents=4, validation_documents=2, test_documents=2, seed=1)
    assert load_qa_route("microworld", "qasrl", None, 0, harder).fingerprint != data.fingerprint
    with pytest.raises(UsageError, match="--finetune-data squad"):
        load_qa(spec_of(data="microworld", finetune_data="squad"))


def test_local_questions_replace_any_route(tmp_path: Path) -> None:
    folder = str(write_qa(tmp_path / "qa"))
    for route in ("hub", "microworld"):
        data = load_qa_route(route, "qasrl", folder, 0)
        assert data.name == "qasrl" and [len(data.splits[split]) for split in SPLITS] == [2, 2, 2]


def test_squad_joins_training_alone(tmp_path: Path) -> None:
    folder = str(write_qa(tmp_path / "qa", with_squad=True))
    alone = load_qa_route("hub", "qasrl", folder, 0)
    both = load_qa_route("hub", "qasrl+squad", folder, 0)
    assert both.name == "qasrl+squad" and both.fingerprint != alone.fingerprint
    assert [example.source for example in both.splits["train"]] == ["qasrl"] * 2 + ["squad"] * 3
    assert all(both.splits[split] == alone.splits[split] for split in SPLITS[1:])
    assert both.filtering["train"].kept == 5 and both.filtering["test"] == alone.filtering["test"]
    assert {example.source for example in load_qa_route("hub", "squad", folder, 0).splits["test"]} == {"squad"}


def test_questions_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {"qasrl": write_qa(tmp_path / "qa"), "squad": tmp_path / "squad"}
    folders["squad"].mkdir()
    for split in ("train", "dev", "test"):
        (folders["squad"] / f"{split}.json").write_text(json.dumps(squad(split, 2)))
    monkeypatch.setattr(sources, "fetch", lambda name, cache: (folders[name], {"route": f"hub:{name}"}))
    data = load_qa(spec_of(finetune_data="qasrl+squad"), tmp_path)
    assert len(data.splits["train"]) == 4
    assert data.provenance["qasrl"]["hub"] == {"route": "hub:qasrl"}  # type: ignore[index]


def test_a_split_without_questions_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one.qa").write_text(QA.partition("WIKI1_78")[0])
    with pytest.raises(DataError, match="no question in its validation and test split"):
        load_qa_route("hub", "qasrl", str(tmp_path / "one.qa"), 0)
