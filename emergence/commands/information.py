"""``emergence ie``: which model and texts are meant, where the result goes, and the work."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from emergence.commands.subject import folder_name, is_model, of_model, of_run
from emergence.data.token_texts import CanEncode, load_texts
from emergence.errors import UsageError
from emergence.experiment.facts import WORDS
from emergence.experiment.stop_switch import StopSwitch
from emergence.experiment.store import RunDirectory
from emergence.findings.two_by_two import RunScores
from emergence.measures.bootstrap import Estimate
from emergence.measures.conditional import FAMILIES, WITH_WORDS
from emergence.measures.information import BITS, usable_information
from emergence.model import Encoder, build_trunk
from emergence.studies.information.measure import InformationStudy, ModelToMeasure, Options
from emergence.studies.information.result import FILES, InformationResult
from emergence.studies.sentence_pairs.score import Precision
from emergence.studies.trunks import read_timeline
from emergence.training.precision import select_device
from emergence.training.recording import TerminalProgress, plain_messages


def measure_information(
    name: str,
    texts: str,
    runs_dir: Path,
    options: Options,
    *,
    length: int | None = None,
    revision: str | None = None,
    out: Path | None = None,
    precision: Precision = "fp32",
    device: str | None = None,
) -> InformationResult:
    """Information emergence of a run's trunk or a published model, beside its controls; the result is written.

    Raises:
        UsageError: It is neither, or cannot be measured so.
        DataError: There are no such texts, or too few.
    """
    on = select_device(device)
    usable: dict[str, Estimate] = {}
    if is_model(name, runs_dir):
        model, tokenizer = _published(name, revision, precision)
        subject, home = of_model(name, revision, precision, FILES, runs_dir)
    else:
        if revision is not None:
            raise UsageError("--revision is of published models: drop it for a run")
        run, subject, home = of_run(name, "emergence ie", FILES, runs_dir)
        (model, tokenizer), usable = _trunk(run), _usable(run)
    read = load_texts(texts, tokenizer, length)
    with_ksg = find_spec("infomeasure") is not None
    study = InformationStudy(subject, model, read, replace(options, with_ksg=with_ksg), device=on, usable=usable)
    with plain_messages(), StopSwitch() as should_stop:
        return study.run(out or home / f"{folder_name(read.name)}-T{read.length}", TerminalProgress(), should_stop)


def _trunk(run: RunDirectory) -> tuple[ModelToMeasure, CanEncode]:
    """The trunk that a run starts finetuning from."""
    timeline = read_timeline(run)
    source, config, rows = timeline.start.source, timeline.model, timeline.vocab_rows

    def twin(seed: int) -> Encoder:
        return build_trunk(config, rows, seed=seed, init="normal")

    fingerprint = timeline.tokenizer.fingerprint
    model = ModelToMeasure(
        source.key, fingerprint, config.n_layers, config.hidden_size, config.sequence_length, source.build, twin
    )
    return model, timeline.tokenizer


def _published(name: str, revision: str | None, precision: Precision) -> tuple[ModelToMeasure, CanEncode]:
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
    return ModelToMeasure(files.digest_in(precision), tokenizer.fingerprint, *shape, build, twin), tokenizer


def _usable(run: RunDirectory) -> dict[str, Estimate]:
    """Probe family -> bits about the answer that states add to words and positions; empty for runs without probes."""
    if not (run.is_finished and run.spec.condition.endswith("frozen")):
        return {}
    scores = RunScores.load(run)
    without = scores.scores.get(WORDS, {}).get("log_prob")
    found = {}
    for family in FAMILIES:
        added = scores.scores.get(WITH_WORDS["left"].format(family=family), {}).get("log_prob")
        if without is not None and added is not None:
            found[family] = usable_information(BITS * without, BITS * added, scores.sentences)
    return found
