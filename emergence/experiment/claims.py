"""What a result claims, computed again from what the run holds: predictions, data, spec and trunk.

Computed again are the means of test questions and how many have a part in them, over all, over predicates, by role and
by voice, and the rows' exact match, F1, overlap, texts and chance of argument selection. Of intervals it is asked that
they are ones and hold their means, of scores that they can be ones. All that the spec decides is compared with it. What
would take the model, the training questions or the draws of a bootstrap is taken as it stands: each question's
log-probability, expected F1 and argument selection, other scores, the widths of intervals, and scores on validation, of
fits and of minimal pairs.
A manifest says that files are as they were when it was written, and a seal that a file agrees with itself. Neither
says that the numbers follow from the answers. Standard library alone, so that a laptop without numpy can check a run
it fetched.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from emergence.data.align import normalise, plain_marks
from emergence.errors import RunDirectoryError
from emergence.experiment.facts import HEADLINE, RULE, WORDS, WORDS_BOTH, dig
from emergence.experiment.manifest import MANIFEST_FILE, ManifestEntry, read_manifest
from emergence.experiment.prediction_rows import column, odd_row
from emergence.experiment.result import RunResult, facts_of_spec, load_result
from emergence.experiment.run_directory import (
    CHECKPOINT_FOLDER,
    DATA_FILE,
    PREDICTIONS_FILE,
    SPEC_FILE,
    TRUNK_FILE,
    RunDirectory,
)
from emergence.files import read_sealed
from emergence.plain import plain
from emergence.spec.experiment import PRETRAIN_ONLY, ExperimentSpec

#: Scores of a row of the predictions whose means a result claims.
ROW_SCORES = ("f1_tokens", "em", "argument_selection", "log_prob", "expected_f1")
#: What every result with test questions claims.
_ALWAYS = ((HEADLINE, "f1_tokens"), (HEADLINE, "em"))
#: Means are stored in full. Sums in another order differ in the last digits.
_CLOSE = 1e-6

Rows = Sequence[Mapping[str, Any]]
Columns = Mapping[str, Mapping[str, Any]]


def check_claims(run: RunDirectory, result: RunResult) -> list[str]:
    """What ``result`` says that the other files of ``run`` do not bear out, a line each.

    Raises:
        EmergenceError: One of those files cannot be read.
    """
    entries = read_manifest(run.path) if (run.path / MANIFEST_FILE).exists() else {}
    problems = [*_of_spec(run, result), *_of_phases(run.spec, result), *_of_lineage(run, result, entries)]
    problems += [*_within(result), *_of_intervals(result)]
    if (run.path / DATA_FILE).exists() and plain(run.read_data()) != result.data:
        problems.append(f"its data are not those of {DATA_FILE}")
    if (run.path / PREDICTIONS_FILE).exists():
        rows = run.read_predictions()
        if result.test_scores is None:
            return [*problems, f"it has no test scores, but {PREDICTIONS_FILE} has {len(rows):,} answers"]
        if odd := odd_row(rows):
            return [*problems, f"{PREDICTIONS_FILE} is not in this program's format ({odd})"]
        problems += [*_of_rows(rows, result), *_of_spans(rows), *_of_texts(rows), *_of_choices(rows)]
    elif result.test_scores is None and run.spec.condition != PRETRAIN_ONLY:
        problems.append("it has no test scores, though questions were put to it")
    elif result.test_scores is not None and entries and PREDICTIONS_FILE not in entries:
        problems.append(f"it has test scores, but the run has no {PREDICTIONS_FILE}")
    return problems


def other_run(run: RunDirectory, result: RunResult) -> str | None:
    """What shows that ``result`` is not of ``run`` but of another run or an edited spec; None where nothing does."""
    # A finished run may have been renamed at any time. Beside checkpoints a result of another name came from elsewhere.
    if result.run_id != run.run_id and run.begun_as is not None and (run.path / CHECKPOINT_FOLDER).is_dir():
        return f"its run_id is {_shown(result.run_id)}, that of {SPEC_FILE} {_shown(run.begun_as)}"
    return other_spec(run.spec, run.experiment_id, result)


def other_spec(spec: ExperimentSpec, experiment_id: str, result: RunResult) -> str | None:
    """What shows that ``result`` is not of the run with this ``spec`` and id; None where nothing does."""
    pairs = {"seed": (result.seed, spec.seed), "experiment_id": (result.experiment_id, experiment_id)}
    for name, (claimed, own) in pairs.items():
        if claimed != own:
            return f"its {name} is {_shown(claimed)}, that of {SPEC_FILE} {_shown(own)}"
    # The identity leaves out what cannot change a result, and a resumed run may have it otherwise.
    if ExperimentSpec.from_dict(result.spec or {}, "its spec").experiment_id != spec.experiment_id:
        return f"its spec is not the one in {SPEC_FILE}"
    return None


def own_result(run: RunDirectory) -> RunResult:
    """The result of a finished run.

    Raises:
        RunDirectoryError: It is damaged, or of another run.
        DataError: It is no result.
    """
    result = load_result(run.stats_path)
    if problem := other_run(run, result):
        raise RunDirectoryError(f"{run.stats_path} is not of this run: {problem}")
    return result


def checked_result(run: RunDirectory) -> RunResult:
    """The result of a finished run, once all that it claims follows from the run's other files.

    Raises:
        RunDirectoryError: It is damaged, of another run, or claims what does not follow.
        DataError: It is no result.
    """
    result = own_result(run)
    if problems := check_claims(run, result):
        whole = f": `emergence verify-run {run.path}` names all {len(problems)}" if len(problems) > 1 else ""
        raise RunDirectoryError(f"{run.stats_path} does not follow from the run's files: {problems[0]}{whole}")
    return result


def check_means(means: Mapping[str, Mapping[str, float]], result: RunResult) -> Iterator[str]:
    """What the means of test questions in ``result`` say that the scores of single questions do not give.

    Args:
        means: Read-out or baseline -> score -> mean over the questions that have one, nan where none has.
        result: What claims the means.
    """
    in_rows = {name for of_part in _named_in_rows(result).values() for name in of_part}
    for name, stored in _stored_scores(result).items():
        if name not in means and name in in_rows:
            yield f"{PREDICTIONS_FILE} has no scores of {name}"
        for score in ROW_SCORES if name in means else ():
            claimed, mean = dig(stored, score, "point"), means[name].get(score, math.nan)
            if claimed is None and (name, score) not in _ALWAYS:
                continue
            if not _is(claimed, mean):
                of = "" if name == HEADLINE else f" of {name}"
                yield f"its {score}{of} is {_shown(claimed)}, but {PREDICTIONS_FILE} gives {_shown(mean)}"


def check_counts(counts: Mapping[str, int | None], result: RunResult) -> Iterator[str]:
    """What the counts of test questions in ``result`` (``n``, ``n_clusters``, ``n_documents``) contradict."""
    for name, count in counts.items():
        claimed = dig(result.test_scores, name)
        if None not in (claimed, count) and claimed != count:
            yield f"its {name} of test questions is {_shown(claimed)}, but {PREDICTIONS_FILE} has {count}"
    kept = dig(result.data, "filtering", "test", "valid_examples")
    if kept is not None and kept != counts["n"]:
        yield f"it kept {_shown(kept)} test questions, but {PREDICTIONS_FILE} has {counts['n']}"


def _of_rows(rows: Rows, result: RunResult) -> Iterator[str]:
    """The means and counts of the rows of ``predictions.jsonl``."""
    try:
        columns = {HEADLINE: _columns(rows)}
        for part, of_part in _named_in_rows(result).items():
            columns |= {name: _columns([row[part][name] for row in rows]) for name in of_part}
        documents = {(row["source"], row.get("document_id")) for row in rows}
        counts = {
            "n": len(rows),
            "n_clusters": len({(row["source"], row["sentence_id"]) for row in rows}),
            "n_documents": None if any(document is None for _, document in documents) else len(documents),
        }
        means = {name: {score: _mean(of) for score, of in scores.items()} for name, scores in columns.items()}
        yield from (*check_counts(counts, result), *check_means(means, result), *_of_groups(rows, result))
        yield from (*_of_parts(rows, columns, result), *_of_ranges(rows, columns), *_of_overlap(rows, result))
        yield from (*_of_names(rows, result), *_of_documents(rows, result))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as reason:
        yield f"{PREDICTIONS_FILE} is not in this program's format ({reason!r})"


def _of_names(rows: Rows, result: RunResult) -> Iterator[str]:
    """Read-outs and baselines of the rows that the result does not know. All rows have the names of the first."""
    known = {**_named_in_rows(result), "baselines": dig(result.test_scores, "baselines") or {}}
    for part, names in known.items():
        for name in (rows[0].get(part) or {}) if rows else ():
            if name not in names:
                yield f"{PREDICTIONS_FILE} has scores of {name[:40]}, of which the result says nothing"


def _of_documents(rows: Rows, result: RunResult) -> Iterator[str]:
    """A line where rows lost their documents. Those of an earlier version have no key for it."""
    lost = sum(row.get("document_id", "") is None for row in rows)
    if lost and (lost < len(rows) or dig(result.test_scores, "n_documents") is not None):
        yield f"{lost} rows of {PREDICTIONS_FILE} do not tell their document"


def _of_groups(rows: Rows, result: RunResult) -> Iterator[str]:
    """The means over predicates and by group. Rows of an earlier version do not tell every group."""
    by_predicate: dict[object, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_predicate.setdefault((row["source"], row["sentence_id"], row.get("predicate_index")), []).append(row)
    of_predicates = [{score: _mean(_columns(group)[score]) for score in ROW_SCORES} for group in by_predicate.values()]
    groups = {"the mean over predicates": (_columns(of_predicates), dig(result.test_scores, "macro") or {})}
    for kind, label_of in _GROUPS.items():
        for label, stored in (dig(result.test_scores, "by", kind) or {}).items():
            if all(kind in row or kind == "voice" for row in rows):
                members = [row for row in rows if label_of(row) == label]
                groups[f"{kind} {label}"] = (_columns(members), stored)
    for name, (columns, stored) in groups.items():
        for score in ROW_SCORES:
            claimed, mean = dig(stored, score, "point"), _mean(columns[score])
            if claimed is not None and not _is(claimed, mean):
                yield f"its {score} of {name} is {_shown(claimed)}, but {PREDICTIONS_FILE} gives {_shown(mean)}"
            n, present = dig(stored, score, "n"), len(_present(columns[score]))
            if n is not None and n != present:
                yield f"its {score} of {name} is of {n} values, but {PREDICTIONS_FILE} has {present}"


def _of_parts(rows: Rows, columns: Columns, result: RunResult) -> Iterator[str]:
    """How many questions and clusters have a part in each mean over all questions."""
    by_document = dig(result.test_scores, "cluster") == "document"
    units = [(row["source"], row.get("document_id") if by_document else row["sentence_id"]) for row in rows]
    for name, stored in _stored_scores(result).items():
        for score in ROW_SCORES if name in columns else ():
            values = columns[name].get(score, ())
            of = [unit for unit, value in zip(units, values, strict=False) if _is_present(value)]
            for key, noun, count in (("n", "values", len(of)), ("n_clusters", "units", len(set(of)))):
                claimed = dig(stored, score, key)
                if claimed is not None and of and claimed != count:
                    yield f"its {score} of {name} is of {claimed} {noun}, but {PREDICTIONS_FILE} has {count}"


def _of_ranges(rows: Rows, columns: Columns) -> Iterator[str]:
    """A line about the first score of a row that no answer can have."""
    for name, of_name in columns.items():
        for score, values in of_name.items():
            low, high = (-math.inf, 0.0) if score == "log_prob" else (0.0, 1.0)
            for row, value in zip(rows, values, strict=False):
                if _is_present(value) and not low - _CLOSE <= value <= high + _CLOSE:
                    where = f"{PREDICTIONS_FILE}: {str(row['id'])[:80]}"
                    yield f"{where}: a {score} of {name} is {_shown(value)}, which no answer can have"
                    return


def _of_overlap(rows: Rows, result: RunResult) -> Iterator[str]:
    """The mean overlap (intersection over union) of answers and their best golds, which rows do not store."""
    claimed = dig(result.test_scores, "scores", "iou", "point")
    if claimed is None:
        return
    overlaps = []
    for row in rows:
        start, end = row["prediction"]
        shared = [(max(0, min(end, last) - max(start, first)), first, last) for first, last in row["golds"]]
        overlaps.append(max(n / (end - start + last - first - n) for n, first, last in shared))
    if not _is(claimed, _mean(overlaps)):
        yield f"its iou is {_shown(claimed)}, but {PREDICTIONS_FILE} gives {_shown(_mean(overlaps))}"


def _is_present(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _present(values: Sequence[Any]) -> list[float]:
    return [float(value) for value in values if _is_present(value)]


def _mean(values: Sequence[Any]) -> float:
    present = _present(values)
    return math.fsum(present) / len(present) if present else math.nan


#: Breakdown to the label of a row.
_GROUPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "role": lambda row: str(row["role"]),
    "asked_role": lambda row: str(row["asked_role"]),
    "voice": lambda row: {True: "passive", False: "active"}.get(row["passive"], "unknown"),
}


def _named_in_rows(result: RunResult) -> dict[str, list[str]]:
    """Read-outs and baselines whose scores every row holds, since the result has their means.

    What a result claims decides which names there must be: rows that lack a name would leave its mean unchecked.
    """
    baselines = dig(result.test_scores, "baselines") or {}
    # Rows hold those of R_1 and the rule beside it since there is R_1; other rules never.
    of_rows = (WORDS, WORDS_BOTH, RULE) if WORDS in baselines or WORDS_BOTH in baselines else ()
    readouts = [*(dig(result.probes, "readouts") or {}), *(dig(result.probes, "conditional") or {})]
    return {
        "readouts": [name for name in readouts if name != HEADLINE],
        "baselines": [name for name in of_rows if name in baselines],
    }


def _columns(rows: Rows) -> dict[str, list[Any]]:
    return {score: column(rows, score) for score in ROW_SCORES}


def _stored_scores(result: RunResult) -> dict[str, Any]:
    """Test scores by the name of the read-out or baseline."""
    probes = {part: dig(result.probes, part) or {} for part in ("readouts", "conditional")}
    of_probes = {name: dig(stored, "test") for part in probes.values() for name, stored in part.items()}
    return {**of_probes, **(dig(result.test_scores, "baselines") or {}), HEADLINE: dig(result.test_scores, "scores")}


def _of_spans(rows: Rows) -> Iterator[str]:
    """A line about the rows whose exact match or token F1 does not follow from their spans, if there are any."""
    wrong: list[str] = []
    for row in rows:
        try:
            exact, f1 = score_span(row["prediction"], row["golds"])
            if not (_is(row["em"], exact) and _is(row["f1_tokens"], f1)):
                wrong.append(
                    f"{row['id']}: EM {_shown(row['em'])}, F1 {_shown(row['f1_tokens'])}, not {exact}, {f1:.6g}"
                )
        except (KeyError, TypeError, ValueError) as reason:
            wrong.append(f"{row.get('id')}: {reason!r}")
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        yield f"scores in {PREDICTIONS_FILE} do not follow from the spans: {wrong[0]}{more}"


def _of_texts(rows: Rows) -> Iterator[str]:
    """A line about the first row whose words do not have what it says of them."""
    for row in rows:
        try:
            words, (start, end), place = row["words"], row["prediction"], row.get("predicate_index")
            texts = {"prediction_text": " ".join(words[start:end])}
            texts |= {} if place is None else {"predicate": " ".join(words[place : place + 1])}
            problem = next((f"its {k} is not what its words say" for k, v in texts.items() if row.get(k, v) != v), None)
            if problem is None and any(last > len(words) for _, last in row["golds"]):
                problem = "a gold ends beyond its words"
            golds = zip(row["golds"], row.get("gold_texts", ()), strict=False)
            if problem is None and any(_letters(" ".join(words[a:b])) != _letters(text) for (a, b), text in golds):
                problem = "its gold_texts are not what its words say"
        except (KeyError, TypeError, ValueError):
            continue  # such rows are refused where their scores are computed again
        if problem:
            yield f"{PREDICTIONS_FILE}: {str(row['id'])[:80]}: {problem}"
            return


def _letters(text: str) -> str:
    """What text and words of a gold share. Data sets write answers with other spaces, case and marks than sentences."""
    joined = "".join(plain_marks(normalise(text)).casefold().split())
    while joined and unicodedata.category(joined[-1]).startswith("P"):
        joined = joined[:-1]
    return joined


def _of_choices(rows: Rows) -> Iterator[str]:
    """A line about the first row whose chance of argument selection is not what the golds of its predicate give.

    A question chooses between its own golds and the other arguments of its predicate, merged where they overlap
    (docs/methods.md). Without another argument it has neither the score nor its chance.
    """
    if not all({"predicate_index", "golds"} <= row.keys() for row in rows):  # of an earlier version
        return
    about: dict[object, set[tuple[int, int]]] = {}
    for row in rows:
        about.setdefault(_predicate_of(row), set()).update((a, b) for a, b in row["golds"])
    for row in rows:
        n_others, reach = 0, 0
        for start, end in sorted(about[_predicate_of(row)]) if row["predicate_index"] is not None else ():
            if not any(start < last and first < end for first, last in row["golds"]):
                n_others, reach = n_others + (start >= reach), max(reach, end)
        chance = 1 / (n_others + 1) if n_others else None
        told, where = row.get("argument_chance", chance), f"{PREDICTIONS_FILE}: {str(row['id'])[:80]}"
        if told != chance if None in (told, chance) else not _is(told, chance or 0.0):
            yield f"{where}: its argument_chance is {_shown(told)}, but its golds give {_shown(chance)}"
            return
        scores = {HEADLINE: row, **row.get("readouts", {})}
        scores |= {name: of for name, of in row.get("baselines", {}).items() if "argument_selection" in of}
        for name, of in scores.items():
            selection = of.get("argument_selection", chance and 1.0)
            if selection not in (None, 0, 1) or (selection is None) != (chance is None):
                has = "other arguments" if chance else "no other argument"
                yield f"{where}: its argument_selection of {name} is {_shown(selection)}, with {has} to choose from"
                return


def _predicate_of(row: Mapping[str, Any]) -> tuple[object, ...]:
    return row["source"], row["sentence_id"], row.get("predicate_index")


def score_span(prediction: Sequence[int], golds: Sequence[Sequence[int]]) -> tuple[float, float]:
    """Exact match and token F1 of one span against the best of its golds; spans are ``[start, end)`` in words.

    Raises:
        ValueError, TypeError: Something is no span.
    """
    start, end = prediction
    best = 0.0
    for first, last in (prediction, *golds):
        if not 0 <= first < last:
            raise ValueError(f"[{first}, {last}) is no span of words")
    for gold_start, gold_end in golds:
        shared = max(0, min(end, gold_end) - max(start, gold_start))
        best = max(best, 2 * shared / (end - start + gold_end - gold_start))
    return float([start, end] in [list(gold) for gold in golds]), best


def _of_spec(run: RunDirectory, result: RunResult) -> Iterator[str]:
    if problem := other_run(run, result):
        yield problem
    for name, value in facts_of_spec(run.spec).items():
        claimed = getattr(result, name)
        if claimed != value and name != "seed":  # which `other_run` has asked
            yield f"its {name} is {_shown(claimed)}, that of {SPEC_FILE} {value}"
    if (run.path / MANIFEST_FILE).exists():
        sealed = read_sealed(run.path / MANIFEST_FILE).get("run_id")
        if result.run_id != sealed:
            yield f"its run_id is {_shown(result.run_id)}, that of {MANIFEST_FILE} {_shown(sealed)}"
    if run.spec.at_snapshot and run.spec.snapshot.isdecimal():
        steps = dig(result.pretraining, "steps")
        if steps != int(run.spec.snapshot):
            yield f"its trunk is of step {_shown(steps)}, that of {SPEC_FILE} of step {run.spec.snapshot}"


def _of_phases(spec: ExperimentSpec, result: RunResult) -> Iterator[str]:
    """What a result tells of phases that a run of its condition does not have, or not of those that it has."""
    epochs, most = result.finetune_epochs, spec.config.finetune.epochs
    if spec.condition == PRETRAIN_ONLY:
        fits, wanted = epochs is None, "none, since it only pretrained"
    elif spec.freeze_llm:
        fits, wanted = epochs == 1, "1, since its probes are fitted once"
    else:
        fits, wanted = epochs is not None and 1 <= epochs <= most, f"1 to {most}"
    if not fits:
        yield f"its finetune_epochs is {_shown(epochs)}, where {wanted} belongs"
    if (result.probes is not None) != spec.freeze_llm:
        yield f"it has {'no ' * spec.freeze_llm}probes, though it is {spec.condition}"
    is_random = spec.random_baseline and spec.model is None
    if is_random and result.pretraining is not None:
        yield "it tells of a pretraining, though its trunk is random"


def _of_lineage(run: RunDirectory, result: RunResult, entries: Mapping[str, ManifestEntry]) -> Iterator[str]:
    """What a result says of where its trunk came from, against spec, weights and itself."""
    spec, lineage = run.spec, result.lineage
    if lineage is None:
        yield "it has no lineage: it does not say where its trunk is from"
        return
    source, sha256 = dig(lineage, "source"), dig(lineage, "trunk_sha256")
    trunk = entries.get(TRUNK_FILE)
    if spec.model is None and trunk is not None and sha256 != trunk.sha256:
        yield f"it was computed from another {TRUNK_FILE}"
    if spec.model is not None and sha256 != result.fingerprint("model"):
        yield "it was computed from another model than its data say"
    takes = spec.model is not None or spec.at_snapshot or not (spec.pretrains or spec.random_baseline)
    if (source is None and takes) or (source is not None and spec.random_baseline and spec.model is None):
        yield f"its lineage.source is {_shown(source)}, though its trunk is {'given' if takes else 'its own'}"
    stage, is_given = dig(lineage, "stage"), source is not None
    if stage != spec.initialisation and not (stage is None and is_given):
        yield f"its lineage.stage is {_shown(stage)}, though its trunk is {spec.initialisation}"
    if spec.model is None and ("trunk_from_another_run" in result.flags) != is_given:
        flag = "lacks the flag of" if is_given else "has a flag of"
        yield f"it {flag} a trunk from another run, and its lineage says otherwise"
    yield from _of_lineage_ids(run, result)


def _of_lineage_ids(run: RunDirectory, result: RunResult) -> Iterator[str]:
    """Ids of the run and of the pretraining that a trunk came from."""
    spec, source = run.spec, dig(result.lineage, "source")
    claimed = dig(result.lineage, "run_id")
    if spec.model is not None:
        own: tuple[Any, ...] = (None,)
    elif source is not None:
        own = (dig(source, "run_id"),)
    else:
        own = (result.run_id, run.begun_as)
    if claimed not in own:
        yield f"its lineage.run_id is {_shown(claimed)}, where {_shown(own[0])} belongs"
    claimed = dig(result.lineage, "pretrain_id")
    if spec.random_baseline:
        ids: tuple[Any, ...] = (None,)
    elif spec.model is None and not spec.pretrains:
        ids = (dig(source, "pretrain_id"),)
    else:  # a spec of an earlier version has the id that was written when the run began
        ids = (spec.pretrain_id, read_sealed(run.path / SPEC_FILE).get("pretrain_id"))
    if claimed not in ids:
        yield f"its lineage.pretrain_id is {_shown(claimed)}, where {_shown(ids[0])} belongs"


def _within(result: RunResult) -> Iterator[str]:
    """What is said twice in a result, and must be the same."""
    for name, score in (("final_validation_f1", "f1_tokens"), ("final_validation_accuracy", "em")):
        point = dig(result.validation_scores, "scores", score, "point")
        if point is not None and not _is(getattr(result, name), point):
            yield f"its {name} is {_shown(getattr(result, name))}, but its validation scores say {_shown(point)}"
    for score in ("f1_tokens", "em"):
        probe = dig(result.probes, "readouts", HEADLINE, "test", score, "point")
        point = dig(result.test_scores, "scores", score, "point")
        if probe is not None and point is not None and not _is(probe, point):
            yield f"its {score} of the headline's probe is {_shown(probe)}, but its test scores say {_shown(point)}"
    train = dig(result.data, "filtering", "train")
    if train is not None and result.qasrl_train_filtering not in (None, train):
        yield "its qasrl_train_filtering is not that of its data"
    for split, counts in result.question_counts.items():
        skipped = sum(n for reason, n in counts.items() if reason.startswith("skipped_"))
        total, kept = counts.get("total_raw_examples"), counts.get("valid_examples")
        if total is not None and kept is not None and kept + skipped != total:
            yield f"of its {total} {split} questions {kept} are kept and {skipped} skipped"


def _of_intervals(result: RunResult) -> Iterator[str]:
    """A line about the first interval that is none, or does not hold its mean."""
    for place, each in _intervals("", vars(result)):  # of a file, and so of JSON's own types already
        low, point, high = each["lo"], each["point"], each["hi"]
        if None in (low, point, high):
            continue
        slack = _CLOSE * max(1.0, abs(point))
        if not (low - slack <= point <= high + slack):
            yield f"the interval of {place} is {_shown(low)} to {_shown(high)}, without its mean {_shown(point)}"
            return
        n, units = each.get("n"), each.get("n_clusters")
        if n is not None and units is not None and n < units:
            yield f"the interval of {place} is of {n} values from {units} units"
            return


def _intervals(place: str, content: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Everything that is stored as a mean with its interval, with where it stands."""
    if isinstance(content, Mapping):
        if {"point", "lo", "hi"} <= content.keys():
            yield place, content
            return
        for name, inner in content.items():
            yield from _intervals(f"{place}.{name}".strip("."), inner)


def _is(claimed: Any, value: float) -> bool:
    return (
        isinstance(claimed, int | float)
        and not isinstance(claimed, bool)
        and math.isclose(claimed, value, rel_tol=_CLOSE, abs_tol=_CLOSE)
    )


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)[:40]
