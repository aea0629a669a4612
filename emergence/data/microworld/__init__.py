"""A seeded micro-world: text, QA-SRL questions and passage-free questions with gold roles, without a network.

It is the default data source offline, a controlled experiment in its own right, and the fixture of the tests.
``lexicon`` has the words, ``events`` what happens, ``clauses`` and ``grammar`` the sentences, ``story`` the documents,
``questions`` and ``facts`` the two kinds of questions, and ``generate`` the records.
"""

from __future__ import annotations

from emergence.data.microworld.config import MicroWorldConfig
from emergence.data.microworld.facts import generate_nq_like
from emergence.data.microworld.generate import generate_qa, generate_text, gold_role, owner_of, qa_sentences

__all__ = [
    "MicroWorldConfig",
    "generate_nq_like",
    "generate_qa",
    "generate_text",
    "gold_role",
    "owner_of",
    "qa_sentences",
]
