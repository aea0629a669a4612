"""``emergence ie``: which model and texts are meant, where the result goes, and the work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from emergence.commands.subject import folder_name, is_model, of_model, of_run, suspects_of
from emergence.data.records import SPLITS
from emergence.data.sources import load_qa
from emergence.data.token_texts import (
    LISTS,
    SENTENCE_LENGTH,
    SENTENCES,
    CanEncode,
    TokenTexts,
    load_texts,
    texts_of_lines,
)
from emergence.errors import UsageError
from emergence.experiment.facts import WORDS
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import CACHE_FOLDER, RunDirectory, find_run
from emergence.findings.two_by_two import RunScores
from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import FAMILIES, WITH_WORDS
from emergence.measures.information import BITS, usable_information
from emergence.model import Encoder, build_trunk
from emergence.studies.information.curve import FILES as CURVE_FILES
from emergence.studies.information.curve import InformationCurve, Place
from emergence.studies.information.measure import InformationStudy, ModelToMeasure, Options
from emergence.studies.information.result import FILES, InformationResult, LayerUsable
from emergence.studies.information.snapshots import InformationCurveStudy
from emergence.studies.sentence_pairs.score import Precision
from emergence.studies.snapshots.result import FILES as PROBE_FILES
from emergence.studies.snapshots.result import GAIN
from emergence.studies.snapshots.result import read_result as read_snapshot_probes
from emergence.studies.study import StudyFiles
from emergence.studies.trunks import Timeline, TimelinePoint, read_timeline, refuse_without_snapshots, told_progress
from emergence.training.precision import select_device
from emergence.training.recording import TerminalProgress, plain_messages
from emergence.wording import counted

#: Snapshots take a way from somewhere to somewhere.
LEAST_SNAPSHOTS = 2


@dataclass(frozen=True)
class _ToMeasure:
    """A model, where on the way of training it is, and what its probes found."""

    place: Place
    model: ModelToMeasure
    tokenizer: CanEncode
    usable: dict[str, Estimate] = field(default_factory=dict)
    usable_by_layer: dict[str, tuple[LayerUsable, ...]] = field(default_factory=dict)


def measure_information(
    name: str,
    texts: str,
    runs_dir: Path,
    options: Options,
    *,
    length: int | None = None,
    revision: str | None = None,
    snapshots: bool = False,
    out: Path | None = None,
    precision: Precision = "fp32",
    device: str | None = None,
) -> InformationResult | InformationCurve:
    """Information emergence of a run's trunk or a published model, beside its controls; the result is written.

    Args:
        snapshots: Whether every snapshot of its pretraining is measured. Of a model these are its revisions that name a
            step, but for those that ``emergence revisions`` found suspect.

    Raises:
        UsageError: It is neither, or cannot be measured so.
        DataError: There are no such texts, or too few.
    """
    on = select_device(device)
    options = replace(options, with_ksg=find_spec("infomeasure") is not None)
    files = CURVE_FILES if snapshots else FILES
    subject, home, points = _subject(name, runs_dir, revision, snapshots, precision, files)
    read = _texts(texts, points[-1].tokenizer, length, None if is_model(name, runs_dir) else name, runs_dir)

    def study(point: _ToMeasure) -> InformationStudy:
        usable, by_layer = point.usable, point.usable_by_layer
        return InformationStudy(subject, point.model, read, options, device=on, usable=usable, usable_by_layer=by_layer)

    place = out or home / _folder(texts, read, options)
    with plain_messages(), StopSwitch() as should_stop:
        if not snapshots:
            return study(points[0]).run(place, TerminalProgress(), should_stop)
        curve = InformationCurveStudy(subject, [(point.place, study(point)) for point in points])
        return curve.run(place, TerminalProgress(), should_stop)


def _texts(name: str, tokenizer: CanEncode, length: int | None, run: str | None, runs_dir: Path) -> TokenTexts:
    """The texts that are asked for; ``run`` is whose questions have sentences."""
    if name != SENTENCES:
        return load_texts(name, tokenizer, length)
    if run is None:
        raise UsageError(f"--texts {SENTENCES} is of a run's questions: give a file, or one of {', '.join(LISTS)}")
    dataset = load_qa(RunDirectory.open(find_run(run, runs_dir)).spec.as_studied(), runs_dir / CACHE_FOLDER)
    sentences = dict.fromkeys(" ".join(example.tokens) for split in SPLITS for example in dataset.splits[split])
    return texts_of_lines(SENTENCES, list(sentences), tokenizer, length or SENTENCE_LENGTH)


def _folder(asked: str, texts: TokenTexts, options: Options) -> str:
    """A folder for each of what is asked, so that nothing takes the place of a result with other settings.

    Texts of a file are told apart by their content. With the usual settings lists have the name that they always had.
    """
    usual, parts = Options(), [folder_name(texts.name), f"T{texts.length}"]
    if asked not in LISTS:
        parts.append(texts.fingerprint[:8])
    parts += [f"n{options.n}"] if options.n != usual.n else []
    parts += [f"seeds{options.seeds}"] if options.seeds != usual.seeds else []
    parts += [f"d{options.dimensions}"] if options.dimensions != usual.dimensions else []
    parts += [f"layers{'.'.join(map(str, options.layers))}"] if options.layers is not None else []
    return "-".join(parts)


def _subject(
    name: str, runs_dir: Path, revision: str | None, snapshots: bool, precision: Precision, files: StudyFiles
) -> tuple[dict[str, Any], Path, list[_ToMeasure]]:
    """What is measured, the folder of its results, and its models in the order of training."""
    if is_model(name, runs_dir):
        suspects = suspects_of(name, revision, runs_dir, snapshots=snapshots)
        subject, home = of_model(name, revision, precision, files, runs_dir)
        if not snapshots:
            return subject, home, [_published(name, revision, precision)]
        return {**subject, "left_out": suspects}, home, _enough(name, list(_revisions(name, suspects, precision)))
    if revision is not None:
        raise UsageError("--revision is of published models: drop it for a run")
    run, subject, home = of_run(name, "emergence ie", files, runs_dir)
    if snapshots:
        refuse_without_snapshots(run)
        return subject, home, _enough(name, list(_snapshots(run)))
    timeline = read_timeline(run)
    usable, by_layer = _usable(run)
    return subject, home, [replace(_trunk(timeline, timeline.start), usable=usable, usable_by_layer=by_layer)]


def _enough(name: str, points: list[_ToMeasure]) -> list[_ToMeasure]:
    if len(points) < LEAST_SNAPSHOTS:
        there = counted(len(points), "sound snapshot")
        raise UsageError(f"{name} has {there}, and a curve takes {LEAST_SNAPSHOTS} at least")
    last = points[-1].model
    for point in points:
        shape = point.model.tokenizer, point.model.n_layers, point.model.hidden_size
        if shape != (last.tokenizer, last.n_layers, last.hidden_size):
            raise UsageError(f"{name}: {point.place.name} has another shape or tokenizer than {points[-1].place.name}")
    return points


# Runs ---------------------------------------------------------------------------------------------


def _trunk(timeline: Timeline, point: TimelinePoint) -> _ToMeasure:
    """The trunk at one point of a run."""
    source, config, rows = point.source, timeline.model, timeline.vocab_rows

    def twin(seed: int) -> Encoder:
        return build_trunk(config, rows, seed=seed, init="normal")

    fingerprint = timeline.tokenizer.fingerprint
    model = ModelToMeasure(
        source.key, fingerprint, config.n_layers, config.hidden_size, config.sequence_length, source.build, twin
    )
    return _ToMeasure(Place(*told_progress(point), source.key), model, timeline.tokenizer)


def _snapshots(run: RunDirectory) -> Iterator[_ToMeasure]:
    """Every snapshot of a run's pretraining and the trunk at its end, with what ``emergence probe-snapshots`` found."""
    timeline = read_timeline(run)
    usable = _usable_of_snapshots(run)
    twins = f"normal|{timeline.model}|{timeline.vocab_rows}"
    for point in timeline.checkpoints[: timeline.start_index + 1]:
        found = _trunk(timeline, point)
        yield replace(found, model=replace(found.model, twins=twins), usable=usable.get(point.source.key, {}))


def _usable(run: RunDirectory) -> tuple[dict[str, Estimate], dict[str, tuple[LayerUsable, ...]]]:
    """What the probes of a frozen run tell of the answer, in bits: beyond words and positions, and by layer."""
    if not (run.is_finished and run.spec.condition.endswith("frozen")):
        return {}, {}
    scores = RunScores.load(run)
    alone = scores.scores.get(WORDS, {}).get("log_prob")
    found = {}
    for family in FAMILIES:
        added = scores.scores.get(WITH_WORDS["left"].format(family=family), {}).get("log_prob")
        if alone is not None and added is not None:
            found[family] = usable_information(BITS * alone, BITS * added, scores.sentences)
    losses: dict[str, dict[int, float]] = {}
    for fit in scores.result.fits:
        if fit.validation_loss is not None:
            losses.setdefault(fit.family, {})[fit.layer] = fit.validation_loss
    without = scores.result.loss_without_states
    return found, {family: _by_layer(of_layers, without) for family, of_layers in losses.items()}


def _by_layer(losses: dict[int, float], without: float | None) -> tuple[LayerUsable, ...]:
    def bits(before: float | None, loss: float) -> float | None:
        return None if before is None else BITS * (before - loss)

    return tuple(
        LayerUsable(layer, bits(without, loss), bits(losses.get(0), loss)) for layer, loss in sorted(losses.items())
    )


def _usable_of_snapshots(run: RunDirectory) -> dict[str, dict[str, Estimate]]:
    """Digest of a snapshot's weights -> probe family -> bits that its states add to words and positions."""
    folder = run.path / PROBE_FILES.folder
    if not (folder / PROBE_FILES.json_file).is_file():
        return {}
    probes = read_snapshot_probes(folder)
    clusters = [str(cluster) for cluster in probes.clusters]
    return {
        snapshot.weights: {
            name.removeprefix(GAIN): usable_information(
                np.zeros_like(columns["log_prob"]), BITS * columns["log_prob"], clusters
            )
            for name, columns in snapshot.scores.items()
            if name.startswith(GAIN) and "log_prob" in columns
        }
        for snapshot in probes.path_of_training
    }


# Published models ---------------------------------------------------------------------------------


def _published(name: str, revision: str | None, precision: Precision) -> _ToMeasure:
    """A published model, whose weights are loaded when they are wanted."""
    from emergence.model.huggingface import find_model, load_model, random_twin
    from emergence.model.huggingface.loading import load_tokenizer, sizes_of

    files = find_model(name, revision)

    def build() -> Encoder:
        return load_model(name, revision, precision=precision, files=files).encoder

    def twin(seed: int) -> Encoder:
        return random_twin(name, revision, seed=seed, precision=precision, files=files).encoder

    sizes, tokenizer = sizes_of(files), load_tokenizer(files)
    shape = sizes.n_layers, sizes.hidden_size, sizes.max_tokens
    model = ModelToMeasure(files.digest_in(precision), tokenizer.fingerprint, *shape, build, twin)
    told = files.progress
    place = Place(revision or "main", told.get("steps"), told.get("tokens_seen"), model.weights)
    return _ToMeasure(place, model, tokenizer)


def _revisions(name: str, suspects: dict[str, str], precision: Precision) -> Iterator[_ToMeasure]:
    """The revisions of a model that name a step and are not suspect; the first one's twins are those of all."""
    from emergence.model.huggingface.files import list_revisions

    twins = ""
    for revision in (one for one in list_revisions(name) if one not in suspects):
        found = _published(name, revision, precision)
        twins = twins or f"twins of {found.model.weights}"
        yield replace(found, model=replace(found.model, twins=twins))
