"""Train, validation and test: named by files, completed by document, kept apart.

Questions of one document never stand in two splits. A split that no file names is split off by document. The documents
are ordered by a hash of seed and document id, so the order of files changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath

from emergence.data.formats.raw import DocumentCounts
from emergence.data.records import SPLITS, QADataset, QAExample
from emergence.errors import DataError
from emergence.wording import counted

log = logging.getLogger(__name__)

#: The examples and the filter counts of one split.
SplitPart = tuple[list[QAExample], DocumentCounts]

OTHER_SPLIT = "document_in_other_split"

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
#: Shares of the questions where a split is missing, before they are scaled to the splits concerned.
_SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def split_of_path(relative: PurePath) -> str | None:
    """The split that a file's name tells, or else its nearest folder's in ``relative``. None if none tells one.

    Examples: ``wiki1.dev.qa`` and ``plain_text/validation/0000.parquet`` are validation. A name with words of two
    splits, such as ``train-test.qa``, tells none.
    """
    for part in (relative.name, *(parent.name for parent in relative.parents)):
        words = re.split(r"[^a-z]+", part.lower())
        named = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
        if len(named) == 1:
            return named.pop()
    return None


def complete_splits(parts: Mapping[str, SplitPart], seed: int) -> tuple[dict[str, SplitPart], dict[str, object]]:
    """All of ``SPLITS``, and a report. Missing splits are split off the first present one by document.

    Shares are 80/10/10 of the questions, scaled to the splits concerned. Example: with only the test missing, train
    gives 1/9 of its questions. With fewer documents than splits, the later splits stay empty. The report is ``{}`` if
    nothing was missing.
    """
    missing = [split for split in SPLITS if split not in parts]
    present = [split for split in SPLITS if split in parts]
    if not missing or not present:
        return {split: parts.get(split, ([], DocumentCounts())) for split in SPLITS}, {}
    donor = present[0]
    concerned = [split for split in SPLITS if split in missing or split == donor]
    homes = _assign_documents(parts[donor][0], concerned, seed)
    completed = dict(parts)
    for split in concerned:
        completed[split] = _taken(parts[donor], homes, split, donor)
    shares = {}
    for split in concerned:
        kept = completed[split][0]
        shares[split] = {"documents": len({example.document_id for example in kept}), "questions": len(kept)}
    report: dict[str, object] = {"from": donor, "by": "document", "seed": seed, **shares}
    counts = [
        f"{split} {counted(r['questions'], 'question')} of {counted(r['documents'], 'document')}"
        for split, r in shares.items()
    ]
    log.info("split off from %s by document, seed %d: %s", donor, seed, ", ".join(counts))
    return completed, report


def _assign_documents(examples: list[QAExample], splits: list[str], seed: int) -> dict[str, str]:
    """Each document's split: the small splits are filled to their share first, the first gets the rest."""
    sizes: dict[str, int] = {}
    for example in examples:
        sizes[example.document_id] = sizes.get(example.document_id, 0) + 1
    queue = sorted(sizes, key=lambda document: hashlib.sha256(f"{seed}\x1f{document}".encode()).hexdigest())
    total, scale = len(examples), sum(_SHARES[split] for split in splits)
    homes: dict[str, str] = {}
    for split in splits[1:]:
        target, taken = total * _SHARES[split] / scale, 0
        while len(queue) > 1 and (taken == 0 or taken + sizes[queue[-1]] / 2 <= target):
            document = queue.pop()
            homes[document] = split
            taken += sizes[document]
    homes.update(dict.fromkeys(queue, splits[0]))
    return homes


def _taken(part: SplitPart, homes: Mapping[str, str], split: str, donor: str) -> SplitPart:
    """The examples of the documents whose home is ``split``, moved there, with the drops of these documents.

    Drops of a document without any kept question stay with the donor.
    """
    examples, counts = part
    kept = [replace(example, split=split) for example in examples if homes[example.document_id] == split]
    own = DocumentCounts(total=len(kept), kept=len(kept))
    for document, reasons in counts.by_document.items():
        if homes.get(document, donor) == split:
            for reason, number in reasons.items():
                for _ in range(number):
                    own.skip_in(document, reason)
    own.answers_dropped = {
        document: n for document, n in counts.answers_dropped.items() if homes.get(document, donor) == split
    }
    own.check()
    return kept, own


def separate_documents(parts: Mapping[str, SplitPart]) -> dict[str, SplitPart]:
    """Drop questions about a document that a later split also has, in the order train, validation, test.

    The drops are counted as ``document_in_other_split``. If a sentence is its own document, an equal id over different
    words is no overlap, because some files number their sentences from one.

    Raises:
        DataError: Nothing would remain of a split.
    """
    separated: dict[str, SplitPart] = {}
    taken: set[tuple[str, tuple[str, ...]]] = set()
    for split in reversed([split for split in SPLITS if split in parts]):
        examples, counts = parts[split]
        kept = [example for example in examples if _document_key(example) not in taken]
        for example in examples:
            if _document_key(example) in taken:
                counts.drop_kept_in(example.document_id, OTHER_SPLIT)
        if examples and not kept:
            raise DataError(
                f"every document of the {split} split also stands in one that comes after it (train, dev, test): "
                "give each split documents of its own (of QA-SRL text, sentence ids that differ before the last '_')"
            )
        if len(kept) < len(examples):
            log.warning(
                "%d %s questions dropped: their documents are in a later split", len(examples) - len(kept), split
            )
        separated[split] = (kept, counts)
        taken |= {_document_key(example) for example in kept}
    return {split: separated[split] for split in SPLITS if split in separated}


def _document_key(example: QAExample) -> tuple[str, tuple[str, ...]]:
    return example.document_id, example.tokens if example.document_id == example.sentence_id else ()


def require_splits(dataset: QADataset, *splits: str) -> None:
    """Raise ``DataError`` if one of ``splits`` (default: all) has no question, as after too few documents."""
    empty = [split for split in splits or SPLITS if not dataset.splits.get(split)]
    if empty:
        raise DataError(
            f"{dataset.name} has no question in its {' and '.join(empty)} split: give more documents,"
            " or a file for each split (train, dev, test in its name)"
        )
