"""Packed streams: blocks, orders, files that are whole or absent, and equal budgets with questions mixed in."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emergence.data.cache import building, default_cache_dir
from emergence.data.nq import mix_into
from emergence.data.records import TextDoc
from emergence.data.stream import (
    EncodedDocument,
    SequenceOrder,
    TokenStream,
    cached_streams,
    encode_documents,
    epoch_order,
    load_streams,
    write_streams,
)
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import DataError, RunDirectoryError
from tests.fault_injection import counted, failing_at

DOCUMENTS = [TextDoc(str(i), f"Document {i} says naïve things to {i * i} lobsters.") for i in range(20)]
TOKENIZER = TextTokenizer.train([document.text for document in DOCUMENTS], 300)


def encoded() -> Iterator[EncodedDocument]:
    return encode_documents(DOCUMENTS, TOKENIZER)


def test_blocks_overlap_by_the_target_alone() -> None:
    stream = TokenStream.from_tokens(np.arange(1, 34))
    assert stream.n_sequences(8) == 4 and stream.n_sequences(33) == 0 and stream.n_sequences(32) == 1
    block = stream.get([0, 3], 8)
    assert block.dtype == np.int64
    assert block.tolist() == [list(range(1, 10)), list(range(25, 34))]


def test_a_stream_in_memory_shares_out_bytes_exactly() -> None:
    stream = TokenStream.from_tokens([5, 6, 0, 7, 0, 8], n_bytes=100, n_words=7)
    assert stream.document_ends.tolist() == [3, 5, 6]
    assert (stream.n_tokens, stream.n_bytes, stream.n_words, stream.n_documents) == (6, 100, 7, 3)
    assert TokenStream.from_tokens([], n_bytes=0).n_documents == 0


def test_order_is_a_permutation_of_its_own_for_each_pass() -> None:
    first, again, second, other = (epoch_order(50, *key) for key in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert sorted(first.tolist()) == list(range(50))
    assert first.tolist() == again.tolist()
    assert len({tuple(x.tolist()) for x in (first, second, other)}) == 3


def test_training_order_resumes_anywhere() -> None:
    whole = SequenceOrder(7, seed=3).take(0, 40)
    assert sorted(whole[7:14].tolist()) == list(range(7))
    resumed = SequenceOrder(7, seed=3)
    for position in (0, 13, 39):
        assert resumed.take(position, 40 - position).tolist() == whole[position:].tolist()
    with pytest.raises(DataError, match="sequence_length"):
        SequenceOrder(0, seed=3)


# On disk ------------------------------------------------------------------------------------------


def test_written_streams_come_back_with_their_facts(tmp_path: Path) -> None:
    write_streams(tmp_path / "s", {"train": encoded(), "test": list(encoded())[:2]}, lambda: {"note": 1})
    found = load_streams(tmp_path / "s")
    assert found is not None
    streams, provenance = found
    train = streams["train"]
    assert list(streams) == ["train", "test"] and provenance == {"note": 1}
    assert (train.n_documents, train.n_words) == (20, 20 * 8)
    assert train.n_bytes == sum(len(document.text.encode()) for document in DOCUMENTS)
    start, end = train.document_ends[4], train.document_ends[5]
    assert TOKENIZER.decode(train.tokens[start:end]) == DOCUMENTS[5].text + "<|endoftext|>"
    assert train.document_bytes[5] == len(DOCUMENTS[5].text.encode())
    same = TokenStream.from_tokens(train.tokens)
    assert same.fingerprint == train.fingerprint and same.document_ends.tolist() == train.document_ends.tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> Iterator[EncodedDocument]:
        yield from list(encoded())[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_streams(tmp_path / "s", {"train": interrupted()}, dict)
    assert list(tmp_path.iterdir()) == [] and load_streams(tmp_path / "s") is None


def test_what_a_killed_process_left_is_not_used_and_swept_later(tmp_path: Path) -> None:
    left = tmp_path / ".s.abc"
    left.mkdir()
    (left / "train.bin").write_bytes(b"half")
    assert load_streams(tmp_path / "s") is None
    write_streams(tmp_path / "s", {"train": encoded()}, dict)
    assert left.is_dir()  # it may belong to a process that is still running
    os.utime(left, (0, 0))
    with building(tmp_path / "s"):
        pass
    assert not left.exists()


def test_a_full_disk_at_any_write_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with counted() as changes:
        write_streams(tmp_path / "s", {"train": encoded(), "test": encoded()}, dict)
    shutil.rmtree(tmp_path / "s")
    assert changes.count > 20
    for n in range(2, changes.count + 1):  # the first finds the parent folder there
        with failing_at(n, errno.ENOSPC), pytest.raises(RunDirectoryError, match=r"cannot write .*: No space") as said:
            write_streams(tmp_path / "s", {"train": encoded(), "test": encoded()}, dict)
        assert "\n" not in str(said.value) and "make room" in str(said.value)
        assert not list(tmp_path.iterdir())


def test_what_a_library_writes_into_the_cache_may_be_refused_too(tmp_path: Path) -> None:
    said = r"cannot write .*data: No space left .* at least 1,000 bytes"
    with pytest.raises(RunDirectoryError, match=said), building(tmp_path / "data") as temporary:
        (temporary / "train.parquet").write_bytes(bytes(1000))
        raise OSError(errno.ENOSPC, "No space left on device")
    for error in (FileNotFoundError(errno.ENOENT, "gone"), PermissionError(errno.EACCES, "not yours", "/elsewhere/x")):
        with pytest.raises(type(error)), building(tmp_path / "data"):
            raise error  # not about writing here
    assert not list(tmp_path.iterdir())


def test_of_two_processes_one_wins_and_both_can_read(tmp_path: Path) -> None:
    def other_first() -> Iterator[EncodedDocument]:
        write_streams(tmp_path / "s", {"train": encoded()}, lambda: {"by": "other"})
        yield from encoded()

    write_streams(tmp_path / "s", {"train": other_first()}, lambda: {"by": "this"})
    found = load_streams(tmp_path / "s")
    assert found is not None and found[1] == {"by": "other"}
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("damage", ["train.bin", "train.documents.npy", "meta.json"])
def test_damage_is_noticed_and_repaired(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    def write(folder: Path) -> None:
        write_streams(folder, {"train": encoded()}, dict)

    sound, _ = cached_streams(tmp_path / "s", write)
    fingerprint = sound["train"].fingerprint
    file = tmp_path / "s" / damage
    file.write_bytes(file.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        repaired, _ = cached_streams(tmp_path / "s", write)
    assert repaired["train"].fingerprint == fingerprint and len(caplog.records) == 1


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="validation split"):
        write_streams(tmp_path / "s", {"train": encoded(), "validation": []}, dict)
    assert list(tmp_path.iterdir()) == []


def test_the_cache_has_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMERGENCE_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("EMERGENCE_CACHE")
    assert default_cache_dir() == Path.home() / ".cache" / "emergence"


# Mixing in questions ------------------------------------------------------------------------------


def mixed(n_questions: int, seed: int = 0) -> tuple[TokenStream, list[EncodedDocument], dict[str, Any]]:
    base = TokenStream.from_tokens(np.concatenate([document.ids for document in encoded()]))
    questions = list(
        encode_documents((TextDoc(f"q{i}", f"who ate lobster {i}? Ann") for i in range(n_questions)), TOKENIZER)
    )
    report: dict[str, Any] = {}
    return base, list(mix_into(base, questions, TOKENIZER, seed, report)), report


def test_questions_take_the_place_of_text_within_the_same_budget() -> None:
    base, documents, report = mixed(6)
    texts = [TOKENIZER.decode(document.ids) for document in documents]
    assert sum(len(document.ids) for document in documents) == base.n_tokens
    asked = [number for number, text in enumerate(texts) if text.startswith("who ate")]
    assert len(asked) == 6 and len(set(np.diff(asked))) > 1  # spread out, not in a row
    kept = [text for text in texts if text.startswith("Document")]
    originals = [document.text + "<|endoftext|>" for document in DOCUMENTS]
    assert kept[:-1] == originals[: len(kept) - 1] and originals[len(kept) - 1].startswith(kept[-1])
    assert report["questions_used"] == 6 and report["text_tokens"] + report["nq_tokens"] == base.n_tokens
    assert report["nq_tokens"] == sum(
        len(document.ids) for document, text in zip(documents, texts, strict=True) if "who ate" in text
    )


def test_mixing_is_seeded() -> None:
    streams = [np.concatenate([document.ids for document in mixed(6, seed)[1]]).tolist() for seed in (0, 0, 1)]
    assert streams[0] == streams[1] != streams[2]


def test_questions_never_take_more_than_half() -> None:
    base, documents, report = mixed(500)
    assert sum(len(document.ids) for document in documents) == base.n_tokens
    assert 0.4 < report["nq_share"] <= 0.5 and report["questions_given"] == 500


def test_no_questions_change_nothing() -> None:
    base, documents, report = mixed(0)
    assert np.concatenate([document.ids for document in documents]).tolist() == base.tokens.tolist()
    assert report["nq_share"] == 0
