"""Text, questions and passage-free questions from a :class:`MicroWorldConfig`.

A hash of its text, independent of seed and sizes, gives every sentence to one split, and a draft that belongs elsewhere
is thrown away. So no test sentence is ever in the training questions or in the text for pretraining, and growing one
split leaves the others as they were.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from zlib import crc32

from emergence.data.microworld.config import MicroWorldConfig
from emergence.data.microworld.events import Draws
from emergence.data.microworld.grammar import Sentence
from emergence.data.microworld.questions import ask
from emergence.data.microworld.story import Accept, Story
from emergence.data.records import SPLITS, Answer, FilterCounts, QADataset, QAExample, TextDoc

#: Part of fingerprints and provenance. Raise it when the same config gives other sentences.
GENERATOR_VERSION = 1
#: Of every eight sentences, train owns six, validation one and test one.
_OWNERS = ("train",) * 6 + ("validation", "test")
#: Spawn key of each stream of random numbers.
_TEXT_STREAMS = {"train": 0, "validation": 1, "test": 2}
_QA_STREAMS = {"train": 3, "validation": 4, "test": 5}


def owner_of(sentence: str) -> str:
    """The only split in which this sentence may occur."""
    return _OWNERS[crc32(sentence.encode()) % len(_OWNERS)]


def _accepts(split: str) -> Accept:
    return lambda sentence: owner_of(sentence) == split


def generate_text(config: MicroWorldConfig) -> dict[str, list[TextDoc]]:
    """Documents for pretraining, by split. They are running text without questions or roles."""
    sizes = (config.n_documents, config.n_validation_documents, config.n_test_documents)
    return {
        split: [
            TextDoc(f"microworld-text-{split}-{index:06d}", " ".join(sentence.text for sentence in sentences))
            for index, sentences in enumerate(_documents(config, split, size, for_questions=False))
        ]
        for split, size in zip(SPLITS, sizes, strict=True)
    }


def qa_sentences(config: MicroWorldConfig, split: str) -> list[list[Sentence]]:
    """The sentences behind the questions of one split, with their frames and constructions, by document."""
    return list(_documents(config, split, _qa_sizes(config)[split], for_questions=True))


def generate_qa(config: MicroWorldConfig) -> QADataset:
    """QA-SRL questions with gold spans, by split. No two splits share a document or a sentence."""
    digest = hashlib.sha256()
    splits: dict[str, list[QAExample]] = {}
    filtering: dict[str, FilterCounts] = {}
    constructions: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        documents = _documents(config, split, _qa_sizes(config)[split], for_questions=True)
        counter: Counter[str] = Counter()
        examples: list[QAExample] = []
        for index, sentences in enumerate(documents):
            draws = Draws(config.seed, 10 + _QA_STREAMS[split], index)
            for position, sentence in enumerate(sentences):
                counter.update(sentence.constructions)
                examples.extend(_examples(sentence, split, index, position, draws))
        for example in examples:
            digest.update(_content(example))
        splits[split] = examples
        filtering[split] = FilterCounts(total=len(examples), kept=len(examples))
        constructions[split] = dict(sorted(counter.items()))
    provenance = {
        "route": "microworld",
        "generator_version": GENERATOR_VERSION,
        "config": asdict(config),
        "sentences_by_construction": constructions,
    }
    return QADataset("microworld", splits, filtering, digest.hexdigest(), provenance)


def gold_role(example: QAExample) -> str:
    """The role that a question of :func:`generate_qa` asks for. The grammar writes it at the end of the id."""
    return example.id.rpartition("-")[2]


def _qa_sizes(config: MicroWorldConfig) -> dict[str, int]:
    return {
        "train": config.n_qa_train_documents,
        "validation": config.n_qa_validation_documents,
        "test": config.n_qa_test_documents,
    }


def _documents(config: MicroWorldConfig, split: str, size: int, for_questions: bool) -> Iterator[list[Sentence]]:
    stream = (_QA_STREAMS if for_questions else _TEXT_STREAMS)[split]
    held_out = frozenset() if for_questions and split == "test" else frozenset(config.held_out)
    accept = _accepts(split)
    for index in range(size):
        story = Story(Draws(config.seed, stream, index), config.difficulty, not for_questions, held_out)
        yield story.tell(config.sentences_per_document, accept)


def _examples(sentence: Sentence, split: str, document: int, position: int, draws: Draws) -> Iterator[QAExample]:
    document_id = f"microworld-qa-{split}-{document:06d}"
    sentence_id = f"{document_id}-{position:02d}"
    tokens = tuple(sentence.tokens)
    for frame in sentence.frames:
        for question in ask(frame, draws):
            yield QAExample(
                id=f"{sentence_id}-{frame.index}-{question.role}",
                source="microworld",
                split=split,
                document_id=document_id,
                sentence_id=sentence_id,
                tokens=tokens,
                predicate_index=frame.index,
                question=question.text,
                slots=question.slots,
                answers=tuple(Answer(" ".join(tokens[a:b]), a, b, "given") for a, b in question.answers),
                is_passive=question.is_passive,
            )


def _content(example: QAExample) -> bytes:
    spans = [(answer.start, answer.end) for answer in example.answers]
    return json.dumps([example.id, example.tokens, example.predicate_index, example.slots, spans]).encode() + b"\n"
