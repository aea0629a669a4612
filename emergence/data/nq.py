"""NQ-open questions for ``--pretrain-data wiki+nq`` and its control: read, written as text, mixed into the stream.

A pair becomes one short document: the question as it is, a question mark, the first answer. An example is ``who wrote
he ain't heavy he's my brother lyrics? Bobby Scott``. The documents are put between those of the text at seeded places,
and the stream is cut to the length it has without them. So ``wiki`` and ``wiki+nq`` train on the same number of tokens
and differ only in what a part of them says (docs/methods.md#data-ablation). ``wiki+control`` has passages of plain text
of the same lengths at the same places (:mod:`emergence.data.control_mix`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from emergence.data.control_mix import control_passages
from emergence.data.file_search import files_at, without_copies
from emergence.data.formats.parquet import MAGIC, open_parquet, parquet_rows
from emergence.data.formats.textfile import head, json_value, refuse_odd_characters, text_lines
from emergence.data.records import SPLITS, QAPair, TextDoc
from emergence.data.splits import split_of_path
from emergence.data.stream import EncodedDocument, TokenStream, cut_to_budget
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import DataError
from emergence.files import sha256_file
from emergence.wording import counted

log = logging.getLogger(__name__)

#: Change it when the same pairs and the same text give another stream.
NQ_VERSION = 1
#: Questions take at most this share of the stream. If they would take more, a seeded part of them is used.
MOST_NQ_SHARE = 0.5
_CARVE_SHARE = 0.05
_CARVE_STREAM, _MIX_STREAM = 0x0C01, 0x0C02
_SUFFIXES = (".jsonl", ".json", ".parquet", ".jsonl.gz")


@dataclass(frozen=True)
class NQData:
    """Pairs by split, the identity of their content, and where they come from."""

    splits: dict[str, list[QAPair]]
    fingerprint: str
    provenance: dict[str, Any]


def load_nq_path(path: str | Path, seed: int) -> NQData:
    """Read NQ-open from a ``.jsonl`` or parquet file, or a folder of them.

    Rows hold ``question`` (a string) and ``answer`` (a list of strings). File names tell the splits. Without a file
    for training, the seed divides the first split there is: 90 % become training, 5 % validation and 5 % test.

    Raises:
        DataError: The path holds no NQ-open data, or a row is malformed; the message has its line.
    """
    root = Path(path)
    by_split: dict[str, list[Path]] = {}
    files = _files(root)
    answered = [file for file in files if file == root or _has_answers(file)]
    places = {file: PurePath(file.name) if file == root else file.relative_to(root) for file in answered}
    kept, copies = without_copies((split_of_path(place) or "train", file) for file, place in places.items())
    for split, file in kept:
        by_split.setdefault(split, []).append(file)
    if not by_split:
        raise DataError("holds no NQ-open data with answers: looked for .jsonl and .parquet files", root)
    pairs = {split: _read_all(by_split[split], split) for split in SPLITS if split in by_split}
    provenance: dict[str, Any] = {
        "route": "local",
        "path": str(root),
        "files": {
            split: [{"name": file.name, "sha256": sha256_file(file)} for file in files]
            for split, files in by_split.items()
        },
        "left_aside_without_answers": [file.name for file in files if file not in answered],
        "left_aside_copies": [file.name for file in copies],
    }
    if "train" not in pairs:
        donor = next(iter(pairs))
        pairs = _carve(pairs[donor], seed)
        provenance["carved"] = {"from": donor, "by": "question", "seed": seed}
    provenance["pairs"] = {split: len(rows) for split, rows in pairs.items()}
    return NQData(pairs, _fingerprint(pairs), provenance)


def nq_document(pair: QAPair) -> TextDoc:
    """A pair as a document of running text."""
    question = pair.question.strip().rstrip("?").rstrip()
    return TextDoc(pair.id, f"{question}? {pair.answers[0].strip()}")


def mix_into(
    base: TokenStream,
    documents: Iterable[EncodedDocument],
    tokenizer: TextTokenizer,
    seed: int,
    report: dict[str, Any],
    *,
    control: bool = False,
) -> Iterator[EncodedDocument]:
    """The documents of ``base`` with others between them, cut to exactly ``base.n_tokens`` tokens.

    Args:
        base: The text alone. Its length is the budget.
        documents: Encoded documents to mix in, each ending with ``<|endoftext|>``.
        tokenizer: The tokenizer of both.
        seed: Decides the order and the places, and which documents are used if all would exceed ``MOST_NQ_SHARE``.
        report: Receives the numbers of questions and of tokens of each kind.
        control: Mix in passages of ``base`` instead of the documents, of the same lengths at the same places.
    """
    encoded = list(documents)
    rng = np.random.default_rng([_MIX_STREAM, seed])
    order = rng.permutation(len(encoded))
    sizes = np.array([len(encoded[i].ids) for i in order], dtype=np.int64)
    used = order[np.cumsum(sizes) <= MOST_NQ_SHARE * base.n_tokens]
    budget = base.n_tokens
    nq_tokens = int(sizes[: len(used)].sum())
    report |= {
        "questions_given": len(encoded),
        "questions_used": len(used),
        "nq_tokens": nq_tokens,
        "text_tokens": budget - nq_tokens,
        "nq_share": nq_tokens / budget,
    }
    mixed_in = [encoded[i] for i in used]
    if control and mixed_in:
        mixed_in = control_passages(base, [len(document.ids) for document in mixed_in], tokenizer, report)
    yield from cut_to_budget(_interleave(base, mixed_in, rng), budget, tokenizer)


def _interleave(
    base: TokenStream, documents: list[EncodedDocument], rng: np.random.Generator
) -> Iterator[EncodedDocument]:
    """Put ``documents`` at random places between those of ``base``.

    Every token of the text is an equally probable place. This spreads them evenly, however unequal its documents are.
    """
    budget_end = base.n_tokens - sum(len(document.ids) for document in documents)
    places = np.sort(rng.integers(0, max(1, budget_end), size=len(documents)))
    before = np.searchsorted(base.document_ends, places, side="right")  # (n,) document that each place falls into
    starts = np.concatenate([[0], base.document_ends[:-1]])
    following = 0
    for number, (start, end) in enumerate(zip(starts, base.document_ends, strict=True)):
        while following < len(documents) and before[following] == number:
            yield documents[following]
            following += 1
        ids = np.asarray(base.tokens[start:end])
        yield EncodedDocument(ids, int(base.document_bytes[number]), int(base.document_words[number]))


# Reading ------------------------------------------------------------------------------------------


def _files(root: Path) -> list[Path]:
    every_file = files_at(root, "--nq-data")
    if every_file == [root]:
        return every_file
    files = [file for file in every_file if file.name.lower().endswith(_SUFFIXES)]
    files = [file for file in files if head(file, 4).startswith(MAGIC) or not file.name.lower().endswith(".json")]
    if not files:
        raise DataError("holds no NQ-open data: looked for .jsonl and .parquet files", root)
    return files


def _has_answers(path: Path) -> bool:
    """Whether a file of questions has answers to them; a release may ship its test questions without any."""
    if head(path, 4).startswith(MAGIC):
        names = set(open_parquet(path).schema_arrow.names)
    else:
        _, row = next(_json_rows(path), (0, None))
        names = set(row) if isinstance(row, Mapping) else set()
    has_answers = "question" not in names or "answer" in names
    if not has_answers:
        log.info("%s: its questions have no answers, left aside", path)
    return has_answers


def _read_all(files: Sequence[Path], split: str) -> list[QAPair]:
    """The pairs of a split's files. What a file before has already, a sample beside the whole say, counts once."""
    pairs: list[QAPair] = []
    known: set[tuple[str, tuple[str, ...]]] = set()
    for file in files:
        rows = _read(file, split)
        new = [pair for pair in rows if (pair.question, pair.answers) not in known]
        if len(new) < len(rows):
            n = len(rows) - len(new)
            log.info("%s: %d of %d pairs stand in another file of the split, left aside", file, n, len(rows))
        known |= {(pair.question, pair.answers) for pair in new}
        pairs += new
    return pairs


def _read(path: Path, split: str) -> list[QAPair]:
    rows = _parquet_rows(path) if head(path, 4).startswith(MAGIC) else _json_rows(path)
    read = [_pair(row, f"{split}-{number:06d}", path, number) for number, row in rows]
    pairs = [pair for pair in read if pair.answers]
    if len(pairs) < len(read):
        log.info("%s: %s without an answer left aside", path, counted(len(read) - len(pairs), "question"))
    if not pairs:
        raise DataError("the file has no rows", path)
    return pairs


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    columns = ("question", "answer")
    for number, row in enumerate(parquet_rows(open_parquet(path, columns), path, columns), start=1):
        refuse_odd_characters(row, path, number)
        yield number, row


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in text_lines(path):
        if line.strip():
            yield number, json_value(line, path, number)


def _pair(row: Any, identity: str, path: Path, number: int) -> QAPair:
    question, answers = (row.get("question"), row.get("answer")) if isinstance(row, Mapping) else (None, None)
    if isinstance(answers, str):
        answers = [answers]
    if not isinstance(question, str) or not question.strip():
        raise DataError('is no NQ-open row: "question" must be a string', path, number)
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise DataError('is no NQ-open row: "answer" must be a list of strings', path, number)
    return QAPair(f"nq-{identity}", question, tuple(answer for answer in answers if answer.strip()))


def _carve(pairs: list[QAPair], seed: int) -> dict[str, list[QAPair]]:
    order = np.random.default_rng([_CARVE_STREAM, seed]).permutation(len(pairs)).tolist()
    n_out = round(len(pairs) * _CARVE_SHARE)
    parts = {"validation": order[:n_out], "test": order[n_out : 2 * n_out], "train": order[2 * n_out :]}
    return {split: [pairs[i] for i in sorted(parts[split])] for split in SPLITS}


def _fingerprint(pairs: Mapping[str, list[QAPair]]) -> str:
    digest = hashlib.sha256()
    for split, rows in pairs.items():
        for pair in rows:
            digest.update(json.dumps([split, pair.question, pair.answers]).encode() + b"\n")
    return digest.hexdigest()
