"""``emergence verify``: check that every kept answer span of a QA-SRL data source decodes to its answer.

Reads each format found at PATH, and recomputes every span from the words of the sentence without the
code that aligned it: the decoded words must be the answer, the predicate must be a word, spans must be
distinct, an answer called unique must occur once, one called nearest must have no nearer twin, no
document may stand in two splits, and the filter counts must add up. Prints examples side by side,
the counts, what was left out and why, and how many sentences later splits share with train. Exit
codes: 0 all well, 1 something is misaligned, 2 the data cannot be used.
"""

from __future__ import annotations

import json
import random
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emergence.commands.before import named
from emergence.errors import UsageError
from emergence.wording import counted, in_line, say

if TYPE_CHECKING:
    from emergence.data.records import Answer, FilterCounts, QADataset, QAExample

ROUTES = ("hub", "microworld")
FINETUNE_DATA = ("qasrl", "qasrl-bank", "squad", "qasrl+squad")
#: Misalignments printed in full; all of them are counted.
MAX_SHOWN = 20


def canonical(text: str, *, spaces: bool = True) -> str:
    """``text`` in NFC, without format characters (zero-width, soft hyphen), white space single or gone."""
    if text.isascii():
        return (" " if spaces else "").join(text.split())
    visible = "".join(char for char in unicodedata.normalize("NFC", text) if unicodedata.category(char) != "Cf")
    return (" " if spaces else "").join(visible.split())


def comparable(text: str, answer: Answer, *, spaces: bool) -> str:
    """``text`` as far as the alignment of ``answer`` promises equality: folded, trimmed or as it stands."""
    text = canonical(text, spaces=spaces)
    if "+casefold" in answer.alignment:
        text = text.casefold()
    if "+trimmed" in answer.alignment:
        while text and (text[-1].isspace() or unicodedata.category(text[-1])[0] == "P"):
            text = text[:-1]
    return text


def span_problems(example: QAExample, answer: Answer) -> Iterator[str]:
    """What is wrong with one answer of ``example``."""
    words = example.tokens
    if not 0 <= answer.start < answer.end <= len(words):
        yield f"span [{answer.start}, {answer.end}) is outside the sentence of {len(words)} words"
        return
    spaces = example.predicate_index is not None  # running text (SQuAD) was cut into words; PTB text came in words
    decoded = comparable(" ".join(words[answer.start : answer.end]), answer, spaces=spaces)
    wanted = comparable(answer.text, answer, spaces=spaces)
    if decoded != wanted or not wanted:
        yield f"span [{answer.start}, {answer.end}) decodes to {decoded!r}, the answer is {wanted!r}"
        return
    if answer.alignment.startswith("given"):
        return
    twins = list(_other_occurrences(example, answer, wanted))
    if answer.alignment.startswith("unique") and twins:
        yield f"answer {answer.text!r} is called unique but also stands at word {twins[0]}"
    if answer.alignment.startswith("nearest"):
        own = _gap(example, answer.start, answer.end)
        nearer = [start for start in twins if _gap(example, start, start + answer.end - answer.start) < own]
        if nearer:
            yield f"answer {answer.text!r} at word {answer.start} stands nearer to the predicate at word {nearer[0]}"


def _other_occurrences(example: QAExample, answer: Answer, wanted: str) -> Iterator[int]:
    length = answer.end - answer.start
    for start in range(len(example.tokens) - length + 1):
        if start != answer.start:
            window = " ".join(example.tokens[start : start + length])
            if len(window) >= len(wanted) and comparable(window, answer, spaces=True) == wanted:
                yield start


def _gap(example: QAExample, start: int, end: int) -> int:
    """Words from the predicate to the nearest word of the span; 0 inside it."""
    predicate = example.predicate_index or 0
    return min(abs(word - predicate) for word in range(start, end))


def example_problems(example: QAExample, split: str) -> list[str]:
    """Everything that is wrong with one kept question, in words."""
    problems = []
    if example.split != split:
        problems.append(f"says split {example.split!r} but stands in {split!r}")
    if not example.question.endswith("?") or len(example.question) < 2:
        problems.append(f"question {example.question!r} is no question")
    index = example.predicate_index
    if index is not None and not (0 <= index < len(example.tokens) and example.tokens[index].strip()):
        problems.append(f"predicate index {index} points at no word of {len(example.tokens)}")
    if not example.answers:
        problems.append("has no answer")
    if len({(answer.start, answer.end) for answer in example.answers}) < len(example.answers):
        problems.append("has the same span twice")
    if not problems:
        problems += [problem for answer in example.answers for problem in span_problems(example, answer)]
    return problems


def dataset_problems(dataset: QADataset) -> list[str]:
    """Everything that is wrong with a data set: its examples, ids, documents and filter counts."""
    problems: list[str] = []
    ids: Counter[str] = Counter()
    homes: dict[tuple[str, tuple[str, ...]], str] = {}
    for split, examples in dataset.splits.items():
        for example in examples:
            ids[example.id] += 1
            problems += [f"{split} {example.id}: {problem}" for problem in example_problems(example, split)]
            # One sentence may be the whole document; files that number sentences anew may then share ids.
            own_words = example.tokens if example.document_id == example.sentence_id else ()
            if homes.setdefault((example.document_id, own_words), split) != split:
                problems.append(f"{split} {example.id}: its document {example.document_id} is also in another split")
        counts = dataset.filtering[split]
        if counts.kept != len(examples) or counts.kept + sum(counts.skipped.values()) != counts.total:
            problems.append(f"{split}: counts do not add up: {counts} for {len(examples)} kept examples")
    return problems + [f"id {name} stands for {n} questions" for name, n in ids.items() if n > 1]


def marked(example: QAExample) -> str:
    """The sentence with its predicate in ``[[...]]``."""
    words = [f"[[{word}]]" if i == example.predicate_index else word for i, word in enumerate(example.tokens)]
    return " ".join(words)


def sample_lines(dataset: QADataset, size: int, seed: int) -> Iterator[str]:
    """``size`` random kept questions: sentence, question, and per answer gold text beside decoded text."""
    everything = [example for examples in dataset.splits.values() for example in examples]
    for example in random.Random(seed).sample(everything, min(size, len(everything))):
        yield f"[{example.split}] {example.id}"
        yield f"  sentence  {marked(example)}"
        yield f"  question  {example.question}"
        for answer in example.answers:
            decoded = " ".join(example.tokens[answer.start : answer.end])
            yield f"  gold      {answer.text}"
            yield f"  decoded   {decoded}   [{answer.start}, {answer.end}) {answer.alignment}, votes {answer.votes}"
        yield ""


def counts_of(counts: FilterCounts) -> dict[str, Any]:
    """Filter counts as plain values, without the check that ``to_dict`` makes: a wrong sum must show."""
    return {"total": counts.total, "kept": counts.kept, "skipped": dict(sorted(counts.skipped.items()))}


def summary(dataset: QADataset, problems: Sequence[str]) -> dict[str, Any]:
    """The counts of one data set as plain JSON values."""
    spans = [answer for examples in dataset.splits.values() for example in examples for answer in example.answers]
    return {
        "name": dataset.name,
        "fingerprint": dataset.fingerprint,
        "filtering": {split: counts_of(counts) for split, counts in dataset.filtering.items()},
        "spans": len(spans),
        "alignment": dict(sorted(Counter(answer.alignment for answer in spans).items())),
        "misaligned": list(problems),
        "sentences_of_train": sentences_of_train(dataset),
        "provenance": dataset.provenance,
    }


def count_lines(dataset: QADataset) -> Iterator[str]:
    """The filter counts of each split as a table whose columns add up."""
    reasons = sorted({reason for counts in dataset.filtering.values() for reason in counts.skipped})
    yield f"{'':24}" + "".join(f"{split:>12}" for split in dataset.filtering)
    rows = [("questions read", [counts.total for counts in dataset.filtering.values()])]
    rows += [(f"- {reason}", [c.skipped.get(reason, 0) for c in dataset.filtering.values()]) for reason in reasons]
    rows += [("= kept", [counts.kept for counts in dataset.filtering.values()])]
    spans = [sum(len(example.answers) for example in dataset.splits[split]) for split in dataset.filtering]
    rows += [("answer spans", spans)]
    for label, numbers in rows:
        yield f"{label:24}" + "".join(f"{number:>12,}" for number in numbers)


def left_out_lines(dataset: QADataset) -> Iterator[str]:
    """A line for every reason why questions were left out, which no span can show."""
    from emergence.data.records import DROP_REASONS

    skipped = sum((Counter(counts.skipped) for counts in dataset.filtering.values()), Counter[str]())
    for reason, n in sorted(skipped.items()):
        yield f"LEFT OUT {counted(n, 'question')}: {DROP_REASONS.get(reason, reason)} ({reason})"


def sentences_of_train(dataset: QADataset) -> dict[str, tuple[int, int]]:
    """Of each later split, how many sentences stand in the training split word for word, and how many there are."""
    train = {example.tokens for example in dataset.splits.get("train", ())}
    later = {
        split: {example.tokens for example in examples}
        for split, examples in dataset.splits.items()
        if split != "train"
    }
    return {split: (len(sentences & train), len(sentences)) for split, sentences in later.items()}


def load(paths: Sequence[Path], data: str, finetune_data: str, seed: int) -> Iterator[QADataset]:
    """The data sets to check, each in turn: every format at every path, or what a route delivers."""
    if data not in ROUTES:
        raise UsageError(f"--data {data}: choose one of {', '.join(ROUTES)}")
    if finetune_data not in FINETUNE_DATA:
        raise UsageError(f"--finetune-data {finetune_data}: choose one of {', '.join(FINETUNE_DATA)}")
    if paths:
        from emergence.data.qa_load import load_every_format

        for path in paths:
            yield from load_every_format(path, seed=seed)
    else:
        from emergence.data.sources import load_qa_route

        yield load_qa_route(data, finetune_data, None, seed)


def report(dataset: QADataset, sample: int, seed: int) -> dict[str, Any]:
    """Print everything about one data set and return its summary."""
    problems = dataset_problems(dataset)
    result = summary(dataset, problems)
    notes = dataset.provenance
    say(in_line(f"== {dataset.name}: {notes.get('path', notes.get('route', ''))} {notes.get('formats', '')}".rstrip()))
    for line in sample_lines(dataset, sample, seed) if not problems else ():
        say(line)
    for line in count_lines(dataset):
        say(line)
    for line in left_out_lines(dataset):
        say(line)
    for split, (n_both, n) in result["sentences_of_train"].items():
        if n_both:
            say(f"SEEN {n_both:,} of {counted(n, 'sentence')} of {split}, word for word in train, too")
    if notes.get("carved"):
        say(f"split off: {json.dumps(notes['carved'])}")
    if any(dict(notes.get("answers_dropped") or {}).values()):  # type: ignore[call-overload]
        say(f"answers lost from kept questions: {json.dumps(notes['answers_dropped'])}")
    say(f"alignment: {', '.join(f'{kind} {n:,}' for kind, n in result['alignment'].items())}")
    for problem in problems[:MAX_SHOWN]:
        say(f"MISALIGNED {problem}")
    say(f"{len(problems)} misaligned of {result['spans']:,} spans\n")
    return result


def verify_command(
    qa_data: Annotated[
        list[Path] | None, typer.Option(help="File or folder to check; repeatable. Default: --data.")
    ] = None,
    data: Annotated[str, typer.Option(help="Without --qa-data: hub or microworld.")] = "hub",
    finetune_data: Annotated[
        str, typer.Option(help="What the hub route loads: " + ", ".join(FINETUNE_DATA) + ".")
    ] = "qasrl",
    sample: Annotated[int, typer.Option(min=0, help="Questions to print side by side, per data set.")] = 8,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write the counts and problems to this file.", parser=named("--json"), metavar="<path>"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="For the sample, and for splits that no file names.")] = 0,
) -> None:
    """Check that every kept answer span decodes to its answer. Exits 1 if one does not, 2 if the data is unusable.

    Questions that are left out, with their reasons, and sentences that stand in several splits are told.
    """
    results = [report(dataset, sample, seed) for dataset in load(qa_data or [], data, finetune_data, seed)]
    misaligned = sum(len(result["misaligned"]) for result in results)
    if json_file is not None:
        write_json(json_file, {"misaligned": misaligned, "datasets": results})
    spans = sum(result["spans"] for result in results)
    forms = (
        " (a folder that holds one in two formats counts it twice)" if len(results) > max(len(qa_data or []), 1) else ""
    )
    say(f"{counted(len(results), 'data set')}{forms}, {counted(spans, 'span')}, {misaligned} misaligned")
    raise typer.Exit(1 if misaligned else 0)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write ``content`` as JSON, or say why the file cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"--json {file}: cannot be written ({exc.strerror})") from exc
