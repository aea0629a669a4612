"""Small valid inputs of every format the project reads, for the malformed, fuzzing and property campaigns."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

QASRL = (
    "WIKI1_77\t1\nRome was built by many people , and many people left .\n2\tbuilt\t3\n"
    "who\t_\t_\tbuilt\tsomething\t_\t_\t?\tmany people\n"
    'what\twas\t""\tbuilt\t_\tby\tsomeone\t?\tRome ### nonsense\n'
    "why\tmight not\tsomething\tbe built\t_\t_\t_\t?\t\n\n"
    "WIKI1_78\t1\nIt rained .\n1\trained\t1\nwhat\t_\t_\trained\t_\t_\t_\t?\tsnow\n\n"
)
GOLD = (
    "qasrl_id,verb_idx,verb,question,answer_range,answer,is_redundant\n"
    "Wiki1k:wikinews:1:0:1,1,eat,What eats something?,0:1~!~2:3,Dogs~!~meat,False\n"
    'Wiki1k:wikinews:1:0:1,1,eat,"What, then, eats something?",0:1,Dogs,True\n'
)
SENTENCES = "qasrl_id,tokens\nWiki1k:wikinews:1:0:1,Dogs eat meat .\n"
_SLOTS = {"wh": "what", "aux": "_", "subj": "_", "verb": "presentSingular3rd", "obj": "something", "prep": "_",
          "obj2": "_"}  # fmt: skip
_LABEL = {
    "questionString": "What eats something?",
    "questionSources": ["turk-1"],
    "isPassive": False,
    "answerJudgments": [
        {"sourceId": "w1", "isValid": True, "spans": [[0, 1], [2, 3]]},
        {"sourceId": "w2", "isValid": True, "spans": [[0, 1]]},
        {"sourceId": "w3", "isValid": False},
    ],
    "questionSlots": _SLOTS,
}
_FORMS = {"stem": "eat", "presentSingular3rd": "eats", "past": "ate", "pastParticiple": "eaten"}


def bank_row(number: int = 1) -> dict[str, Any]:
    """One sentence of the QA-SRL Bank, with one verb and one question."""
    verb = {"verbIndex": 1, "verbInflectedForms": _FORMS, "questionLabels": {"What eats something?": _LABEL}}
    return {
        "sentenceId": f"TQA:T_{number:04d}_1",
        "sentenceTokens": ["Dogs", "eat", "meat", "."],
        "verbEntries": {"1": verb},
    }


BANK = "".join(json.dumps(bank_row(n)) + "\n" for n in range(2))
SQUAD = json.dumps(
    {
        "version": "1.1",
        "data": [
            {
                "title": "Dogs",
                "paragraphs": [
                    {
                        "context": "Dogs eat meat; don't they? 3.5 of 4 do.",
                        "qas": [
                            {"id": "1", "question": "Who eats?", "answers": [{"text": "Dogs", "answer_start": 0}]},
                            {"id": "2", "question": "How many?", "answers": [{"text": "3.5", "answer_start": 27}]},
                            {"id": "3", "question": "Why?", "is_impossible": True, "answers": []},
                        ],
                    }
                ],
            }
        ],
    }
)
NQ = '{"question": "who wrote it", "answer": ["me", "I"]}\n{"question": "when?", "answer": ["1999"]}\n'
TEXT = 'A short text. It has sentences!\n\nAnd two paragraphs,\r\nwith lines of "all" kinds (and marks).\n' * 3
WIKITEXT = (
    ' \n = Homarus gammarus = \n \n Homarus gammarus , the " European lobster " , weighs 0 @.@ 7 – 2 @.@ 2 kg .\n'
    " \n = = Description = = \n \n It 's 60 @-@ 100 cm ( 24 – 39 in ) ; the lobsters ' claws .\n"
)
MATRIX = (
    'name = "m"\nseeds = [0, 1]\ndata = "microworld"\nset.pretrain.epochs = 2\n\n[[cells]]\nsize = ["debug", "tiny"]\n'
    'trunk = ["wiki", "random"]\ntrain = ["full", "frozen"]\nsamples = ["all", 10]\n\n[[cells]]\nsize = "debug"\n'
    'trunk = "wiki+nq"\ntag = "lr"\nset.finetune.lr = [1e-4, 1e-3]\n'
)
#: The keys the experiment guide documents, alone.
STATS = {
    "config_name": "TinyQA",
    "finetune_epochs": 3,
    "best_validation_loss": 1.5,
    "final_validation_accuracy": 0.4,
    "final_validation_f1": 0.5,
    "freeze_llm": False,
    "random_baseline": False,
    "finetune_samples_limit": None,
    "qasrl_train_filtering": {"total_raw_examples": 10, "valid_examples": 9, "skipped_ambiguous_span": 1},
}


def parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
    return buffer.getvalue()


def hub_rows() -> dict[str, list[dict[str, Any]]]:
    """Rows in the columns of the hub's copies, by data set."""
    slots = ["who", "_", "_", "built", "something", "_", "_", "?"]
    row = {"sentence": "Rome was built by many people .", "sent_id": "W_1", "predicate_idx": 2, "predicate": "built"}
    qasrl = row | {"question": slots, "answers": ["many people"]}
    squad = {"id": "1", "title": "t", "context": "Dogs eat meat.", "question": "Who eats?"}
    return {
        "qasrl1": [qasrl],
        "bank": [qasrl | {"question": slots[:7], "answer_ranges": [[4, 6]]}],
        "squad": [squad | {"answers": {"text": ["Dogs"], "answer_start": [0]}}],
        "nq": [{"question": "who wrote it", "answer": ["me"]}],
        "wikitext": [{"text": line} for line in WIKITEXT.splitlines(keepends=True)],
        "documents": [{"text": TEXT}, {"text": ""}, {"text": "One more."}],
    }


def packed(text: str) -> bytes:
    """Gzipped, the same bytes at every call."""
    return gzip.compress(text.encode(), mtime=0)
