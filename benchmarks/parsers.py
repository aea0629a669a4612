"""Every parser of the project behind one call: bytes in, and whatever is wrong with what came out.

A parser may refuse its input with an error of :mod:`emergence.errors`, in one line; anything else that
escapes is a defect, and so is a result that breaks the promises of its format (:func:`check_examples`).
JSON that carries a seal is sealed anew after a mutation, so that the checks behind the seal are reached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import samples
from emergence.data.align import normalise
from emergence.data.formats.raw import examples_from_raw
from emergence.data.formats.recognise import is_sentences_file, recognise
from emergence.data.nq import load_nq_path, nq_document
from emergence.data.qa_encoding import word_pieces
from emergence.data.qa_load import load_qa_path
from emergence.data.records import QAExample
from emergence.data.text_files import cut_documents, natural_text, open_text_file
from emergence.errors import EmergenceError
from emergence.experiment.manifest import parse_manifest
from emergence.experiment.result import load_result
from emergence.experiment.run_directory import RunDirectory
from emergence.files import parse_json, parse_json_lines, seal, to_json
from emergence.spec.config import load_config_file
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.matrix import load_matrix
from emergence.sweep.record import load_record


@dataclass(frozen=True)
class Parser:
    """One parser: valid inputs to begin with, and the call; ``suffix`` names the file it is given."""

    name: str
    seeds: Callable[[], Iterable[str | bytes]]
    read: Callable[[Path], object]
    suffix: str = ""


def problem_with(parser: Parser, content: bytes, folder: Path) -> str | None:
    """What is wrong with how ``parser`` takes ``content``; None when it reads it or refuses it properly."""
    path = folder / f"input{parser.suffix}"
    path.write_bytes(content)
    try:
        parser.read(path)
    except EmergenceError as error:
        return None if str(error).isprintable() else f"not one printable line: {error!r:.300}"
    except AssertionError as error:
        return f"broken promise: {error}"
    except BaseException as error:  # a panic of a Rust library is no Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            return f"{type(error).__name__}: {error}"[:300]
        raise
    return None


def check_examples(examples: Iterable[QAExample]) -> None:
    """Every answer is where its example says, and every string can be written."""
    for example in examples:
        assert example.answers, "no answer"
        assert example.question.endswith("?") and len(example.question) > 1, example.question
        spans = [(answer.start, answer.end) for answer in example.answers]
        assert len(set(spans)) == len(spans), f"a span twice: {spans}"
        for answer in example.answers:
            assert 0 <= answer.start < answer.end <= len(example.tokens), f"span outside: {answer}"
            found = _letters(" ".join(example.tokens[answer.start : answer.end]))
            wanted = _letters(answer.text)
            trimmed = answer.alignment.endswith("+trimmed")
            assert found == wanted or (trimmed and wanted.startswith(found)), answer
        assert example.predicate_index is None or 0 <= example.predicate_index < len(example.tokens)
        pieces = word_pieces(example.tokens)
        assert len(pieces) == len(example.tokens) and all(pieces)
        "".join([*pieces, example.question, example.id, example.document_id]).encode()


def _letters(text: str) -> str:
    return "".join(normalise(text).casefold().split())


def _questions(path: Path) -> None:
    entry = recognise(path)
    if entry is not None:
        examples, counts = examples_from_raw(entry.read(path), "train")
        counts.check()
        check_examples(examples)
    else:
        is_sentences_file(path)


def _gold(path: Path) -> None:
    path.with_name("sentences.csv").write_text(samples.SENTENCES)
    _questions(path)


def _folder(path: Path) -> None:
    """A whole data set: the file in the place of its training split beside a sound test split."""
    whole = path.parent / "whole"
    whole.mkdir(exist_ok=True)
    (whole / "train.qa").write_bytes(path.read_bytes())
    (whole / "test.qa").write_text(samples.QASRL)
    for part in load_qa_path(whole).splits.values():
        check_examples(part)


def _pairs(path: Path) -> None:
    for pairs in load_nq_path(path, 0).splits.values():
        for pair in pairs:
            assert nq_document(pair).text.encode()


def _text(path: Path) -> None:
    file = open_text_file(path, path.name)
    characters = 0
    for _, lines in cut_documents(file, 40):
        text = natural_text(lines, file.tokenised)
        assert "\0" not in text
        characters += len(text.encode())
    if file.kind == "text" and not file.tokenised and not path.read_bytes().startswith(b"\x1f\x8b"):
        assert characters <= 2 * path.stat().st_size + 10, "more text than was there"


def _sealed(path: Path) -> dict[str, Any]:
    """The JSON at ``path``, sealed as if this program had written it; the file too."""
    content = parse_json(path.read_text(encoding="utf-8", errors="replace"), path.name)
    sealed = seal(content if isinstance(content, dict) else {"content": content})
    path.write_text(to_json(sealed, indent=2) + "\n")
    return sealed


def _sealed_run(path: Path) -> None:
    run = path.parent / "run"
    run.mkdir(exist_ok=True)
    _sealed(path)
    (run / "spec.json").write_bytes(path.read_bytes())
    RunDirectory.open(run)


def _sealed_stats(path: Path) -> None:
    from emergence.findings.table import build_table

    _sealed(path)
    load_result(path)
    build_table(path)


def _record(path: Path) -> None:
    _sealed(path)
    load_record(path)


def _tokenizer(path: Path) -> None:
    from emergence.data.tokenizer import TextTokenizer

    tokenizer = TextTokenizer.from_json(path.read_text(encoding="utf-8", errors="replace"))
    text = "Dogs eat 3 naïve\u200b meats.\n"
    assert max(tokenizer.encode(text), default=0) < tokenizer.vocab_size


def _matrix(path: Path) -> None:
    load_matrix(path).select()


def _spec(path: Path) -> None:
    spec = ExperimentSpec.from_dict(parse_json(path.read_text(encoding="utf-8", errors="replace"), path.name))
    assert ExperimentSpec.from_dict(spec.to_dict()) == spec


def _spec_json() -> str:
    return json.dumps(ExperimentSpec.from_flags(config_name="debug", data="microworld").to_dict())


def _spec_file() -> str:
    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld")
    identity = {"experiment_id": spec.experiment_id, "pretrain_id": spec.pretrain_id}
    return json.dumps({"run_id": "a", "created": "2026-01-01T00:00:00", **identity, "spec": spec.to_dict()})


def _record_json() -> str:
    from emergence.spec.matrix import Cell
    from emergence.sweep.graph import Graph, build_tasks
    from emergence.sweep.record import Record

    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld")
    tasks = build_tasks([Cell("D-W-F-ALL", spec)])
    return json.dumps(Record("m-1", Path("m-1.json"), "local", 1, "/", Graph(tasks)).to_dict())


def _our_stats() -> str:
    from emergence.experiment.result import RunResult

    spec = ExperimentSpec.from_flags(config_name="debug", data="microworld")
    score = {"point": 0.5, "low": 0.4, "high": 0.6, "method": "bootstrap", "n": 10, "n_clusters": 5, "flags": []}
    scores = {"scores": {"f1_tokens": score, "em": score}}
    found = {"final_validation_f1": 0.5, "test_scores": scores, "validation_scores": scores}
    return json.dumps(RunResult.from_spec(spec, "Run_1", **found, parameters={"total": 10}).to_dict())


def _tokenizer_json() -> str:
    from emergence.data.tokenizer import TextTokenizer

    return TextTokenizer.train([samples.TEXT * 4], 300).to_json()


def _rows(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [samples.parquet(samples.hub_rows()[name]) for name in names]


def _given(*contents: str | bytes) -> Callable[[], tuple[str | bytes, ...]]:
    return lambda: contents


def _manifest(path: Path) -> None:
    for name in parse_manifest(_sealed(path), "MANIFEST.json"):
        assert (path.parent / name).resolve().is_relative_to(path.parent.resolve()), name


def _config() -> list[str]:
    from emergence.spec.config import CONFIG_NAMES, config_path

    return [config_path(name).read_text() for name in CONFIG_NAMES[:2]]


_MANIFEST = json.dumps({"run_id": "a", "files": {"a/b.json": {"bytes": 3, "sha256": "0" * 64}}})

PARSERS = {
    parser.name: parser
    for parser in (
        Parser("qasrl1", _given(samples.QASRL), _questions, ".qa"),
        Parser("splits", _given(samples.QASRL), _folder, ".qa"),
        Parser("bank", _given(samples.BANK, samples.packed(samples.BANK)), _questions, ".jsonl"),
        Parser("gold_csv", _given(samples.GOLD), _gold, ".csv"),
        Parser("squad", _given(samples.SQUAD), _questions, ".json"),
        Parser("qa_parquet", _rows("qasrl1", "bank", "squad"), _questions, ".parquet"),
        Parser("nq", _given(samples.NQ), _pairs, ".jsonl"),
        Parser("nq_parquet", _rows("nq"), _pairs, ".parquet"),
        Parser("text", _given(samples.TEXT, samples.WIKITEXT, samples.packed(samples.TEXT)), _text, ".txt"),
        Parser("text_parquet", _rows("wikitext", "documents"), _text, ".parquet"),
        Parser("config", _config, lambda path: load_config_file(path), ".toml"),
        Parser("matrix", _given(samples.MATRIX), _matrix, ".toml"),
        Parser("spec", lambda: [_spec_json()], _spec, ".json"),
        Parser("run", lambda: [_spec_file()], _sealed_run, ".json"),
        Parser("manifest", _given(_MANIFEST), _manifest, ".json"),
        Parser("record", lambda: [_record_json()], _record, ".json"),
        Parser("stats", _given(json.dumps(samples.STATS)), load_result, ".json"),
        Parser("sealed_stats", lambda: [_our_stats()], _sealed_stats, ".json"),
        Parser("json_lines", _given('{"a": 1}\n{"b": [2.5, null]}\n'), lambda p: parse_json_lines(p.read_bytes(), "x")),
        Parser("tokenizer", lambda: [_tokenizer_json()], _tokenizer, ".json"),
    )
}
