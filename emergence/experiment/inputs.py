"""All that an experiment reads, found and checked before anything is written."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emergence.answering.few_shot import few_shot_indices
from emergence.data.minimal_sets import minimal_pairs
from emergence.data.overlap import sentences_in_stream
from emergence.data.qa_encoding import (
    FEWEST_OF_A_MARK,
    EncodedQA,
    IntArray,
    Marks,
    MarkTokens,
    encode_qa,
    mark_tokens,
)
from emergence.data.records import SPLITS, FilterCounts, QADataset
from emergence.data.sources import PretrainingData, load_qa, prepare_pretraining_data, prepare_tokenizer
from emergence.data.tokenizer import TextTokenizer
from emergence.errors import ConfigError, DataError, UsageError, WeightsError, require_packages
from emergence.experiment.belonging import FINETUNED, RANDOM, check_beside, load_own
from emergence.experiment.facts import dig
from emergence.experiment.store import RunDirectory, RunStore
from emergence.files import content_digest
from emergence.model.huggingface import (
    HuggingFaceTokenizer,
    LoadedModel,
    ModelFiles,
    find_model,
    load_model,
    random_twin,
)
from emergence.model.huggingface.loading import load_tokenizer, sizes_of
from emergence.model.huggingface.own_export import redraw_unseen_rows
from emergence.spec.adapters import lora_rank
from emergence.spec.config import CONFIG_NAMES, load_config
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.pretraining_snapshot import choose_step, spaced_among
from emergence.training.checkpoint import WeightsFile, check_matches, check_trunk, load_weights

logger = logging.getLogger(__name__)

#: Settings of ``pretrain`` that a run uses after pretraining, too, or that make no other experiment
#: (:data:`emergence.spec.published.STILL_SET` is what a published model uses: it is never finetuned, and its head
#: computes in chunks of its own).
_NOT_OF_WEIGHTS = ("precision", "on_nan", "loss_chunk_rows", "log_every_steps", "checkpoint_every_steps")


@dataclass(frozen=True)
class GivenWeights:
    """Weights to start from instead of pretraining."""

    file: WeightsFile
    path: Path

    @property
    def source(self) -> dict[str, Any]:
        """Where the weights come from, for the lineage."""
        known = {key: self.file.metadata.get(key) for key in ("run_id", "pretrain_id")}
        return {"path": str(self.path), **known}


@dataclass(frozen=True)
class Questions:
    """Encoded questions by split, the training ones cut to the few-shot limit.

    Attributes:
        train: Questions to train on. all_train: All training questions, for what must not depend on the limit.
        filtering: By split, how many questions were read, kept and dropped, from raw to encoded ones.
        marks: The tokens that separate question and sentence and mark the predicate.
        pairs: Role-crossed minimal pairs; None where there are none.
    """

    train: EncodedQA
    all_train: EncodedQA
    validation: EncodedQA
    test: EncodedQA
    filtering: dict[str, FilterCounts]
    marks: MarkTokens
    pairs: EncodedQA | None = None


@dataclass(frozen=True)
class Inputs:
    """What :func:`read_inputs` found.

    Attributes:
        tokenizer: The source's own, or the one inside the given weights.
        text: Packed pretraining streams; None unless the run pretrains.
        dataset: Questions as loaded; None with ``--skip-finetune``.
        questions: The same, encoded.
        weights: The trunk to start from; None to pretrain or to start at random.
        token_counts: (V,) how often the trunk's text holds each token; None where that is unknown.
        published: The published model to probe, or its random twin; None for a trunk of this program.
    """

    tokenizer: TextTokenizer | HuggingFaceTokenizer
    text: PretrainingData | None
    dataset: QADataset | None
    questions: Questions | None
    weights: GivenWeights | None
    token_counts: IntArray | None = None
    published: LoadedModel | None = None

    @property
    def fingerprints(self) -> dict[str, str | None]:
        """Identities of the data. ``data.json`` records them, and resuming compares them."""
        return {
            "tokenizer": self.tokenizer.fingerprint,
            "text": self.text.fingerprint if self.text else None,
            "questions": self.dataset.fingerprint if self.dataset else None,
            **({"model": model_digest(self.published)} if self.published else {}),
        }

    def facts(self) -> dict[str, Any]:
        """What else ``data.json`` tells of the data."""
        facts: dict[str, Any] = {}
        if self.text:
            facts["text"] = self.text.provenance
        if self.dataset and self.questions:
            facts["questions"] = {"name": self.dataset.name, **self.dataset.provenance}
            facts["filtering"] = {split: counts.to_dict() for split, counts in self.questions.filtering.items()}
            facts["marks"] = self.questions.marks.to_dict()
        if self.published:
            facts["model"] = self.published.facts()
        if self.text and self.questions and isinstance(self.tokenizer, TextTokenizer):
            sentences = {example.tokens for example in self.questions.test.examples}
            facts["overlap"] = {
                "test_sentences": len(sentences),
                "test_sentences_in_pretraining_text": sentences_in_stream(sentences, self.text.train, self.tokenizer),
            }
        return facts


#: Reads the questions of a spec, with the folder of derived data.
LoadQuestions = Callable[[ExperimentSpec, Path | None], QADataset]


def read_inputs(
    spec: ExperimentSpec,
    store: RunStore,
    cache_dir: Path,
    device: torch.device = torch.device("cpu"),
    load_questions: LoadQuestions = load_qa,
) -> Inputs:
    """Find, read and check everything that ``spec`` needs. Nothing is written outside ``cache_dir``.

    Args:
        device: Where a published model is put.
        load_questions: :func:`~emergence.data.sources.load_qa`, or what need not read them again.

    Raises:
        DataError: Data is missing, empty or malformed. The message names file and line.
        WeightsError: Weights are missing, foreign, or of another size.
        UsageError: The few-shot limit exceeds the data.
    """
    if lora_rank(spec.adapter):
        require_packages(f"--adapter {spec.adapter}", "peft")
    if spec.model:
        return _read_published(spec, spec.model, cache_dir, device, load_questions)
    weights = None if spec.at_snapshot else _given_weights(spec, store, cache_dir)
    dataset = None if spec.skip_finetune else load_questions(spec, cache_dir)
    text = prepare_pretraining_data(spec, cache_dir) if spec.pretrains else None
    if spec.at_snapshot:
        weights = _snapshot_weights(spec, store, text.fingerprint if text else None)
    counts = _token_counts(spec, weights, text, cache_dir)
    if weights:
        tokenizer = TextTokenizer.from_json(weights.file.tokenizer_json, str(weights.path))
    else:
        tokenizer = text.tokenizer if text else prepare_tokenizer(spec, cache_dir)
    limit = spec.config.model.sequence_length
    questions = encode_questions(spec, dataset, tokenizer, limit, counts) if dataset else None
    if questions and spec.trunk_stays and questions.marks.unseen:
        logger.warning(
            "the text holds %s hardly ever (fewer than %d times), so a frozen trunk can hardly read it as a mark",
            " and ".join(map(repr, questions.marks.unseen)), FEWEST_OF_A_MARK,
        )  # fmt: skip
    return Inputs(tokenizer, text, dataset, questions, weights, counts)


def _read_published(
    spec: ExperimentSpec, name: str, cache_dir: Path, device: torch.device, load_questions: LoadQuestions
) -> Inputs:
    """The questions, encoded for a published model or its random twin, which has the same tokenizer.

    Questions come first: what is wrong with them need not wait for the weights.
    """
    files = find_model(name, spec.revision)
    dataset = load_questions(spec, cache_dir)
    loaded = open_published(spec, files, device)
    encoder = loaded.encoder
    _refuse_layers_beyond(spec, files, encoder.n_layers)
    counts = files.own_export.token_counts if files.own_export else None
    questions = encode_questions(spec, dataset, loaded.tokenizer, encoder.max_tokens, counts)
    return Inputs(loaded.tokenizer, None, dataset, questions, None, counts, published=loaded)


def check_published(spec: ExperimentSpec, cache_dir: Path) -> ModelFiles:
    """Find and check all that a run of a published model reads, but for the weights in memory. Returns its files.

    Raises:
        UsageError, WeightsError, DataError: What :func:`read_inputs` would say.
    """
    files = find_model(spec.model or "", spec.revision)
    dataset, sizes = load_qa(spec, cache_dir), sizes_of(files)
    _refuse_layers_beyond(spec, files, sizes.n_layers)
    counts = files.own_export.token_counts if files.own_export else None
    encode_questions(spec, dataset, load_tokenizer(files), sizes.max_tokens, counts)
    return files


def _refuse_layers_beyond(spec: ExperimentSpec, files: ModelFiles, n_layers: int) -> None:
    if (last := max(layers_of(spec, n_layers))) > n_layers:
        raise UsageError(f"--layers {last}: the layers of {files.label} are 0 (embeddings) to {n_layers}")


def open_published(spec: ExperimentSpec, files: ModelFiles, device: torch.device) -> LoadedModel:
    """The published model of ``spec`` or its random twin.

    Raises:
        UsageError: It cannot be read, or memory does not suffice.
        WeightsError: Its weights are damaged.
    """
    precision = spec.config.probe.weights
    if spec.random_baseline:
        return random_twin(files.name, seed=spec.seed, precision=precision, device=device, files=files)
    return load_model(files.name, precision=precision, device=device, files=files)


def redraw_as_own(spec: ExperimentSpec, loaded: LoadedModel) -> None:
    """Of an exported trunk draw the embedding rows that pretraining never saw, as for probes of the run itself."""
    own = loaded.files.own_export
    if own is not None and own.token_counts is not None and loaded.files.progress.get("steps") and loaded.seed is None:
        redraw_unseen_rows(loaded.encoder.model, own.token_counts, spec.seed)


def layers_of(spec: ExperimentSpec, n_layers: int) -> tuple[int, ...]:
    """The levels of states that a frozen run probes, of a trunk with ``n_layers`` blocks."""
    chosen = spec.config.probe.layers
    return tuple(range(n_layers + 1)) if chosen == "all" else tuple(sorted({int(n) for n in chosen.split(",")}))


def model_digest(loaded: LoadedModel) -> str:
    """Identity of a published model's weights, by their bytes; of a random twin by its architecture and seed."""
    if loaded.seed is None:
        return loaded.files.weights_digest
    facts = loaded.facts()
    return content_digest([*(facts[key] for key in ("class", "parameters", "random_seed", "hidden_size", "n_layers"))])


def refuse_other_weights(run: RunDirectory) -> None:
    """Refuse a finished run of a published model in whose place other weights are now: its numbers are not theirs.

    Raises:
        UsageError: They are others. What is no longer there contradicts nothing.
    """
    spec = run.spec
    if spec.model is None or spec.random_baseline:
        return
    try:
        files = find_model(spec.model, spec.revision)
        same = files.weights_digest == run.read_data()["fingerprints"].get("model")
    except (UsageError, WeightsError, KeyError):
        return
    if not same:
        raise UsageError(
            f"{files.label} has other weights now than when {run.run_id} probed it: move that run away, or name "
            "another --runs-dir, to probe these"
        )


def _token_counts(
    spec: ExperimentSpec, weights: GivenWeights | None, text: PretrainingData | None, cache_dir: Path
) -> IntArray | None:
    """How often the trunk's text holds each token: as its weights record it, else as it is counted in the text.

    Only a trunk that stays needs the counts, to choose its marks. A random trunk reads those of its pretrained twin, so
    the twin's text is counted. Weights of an earlier version hold no counts. Their text is counted if it is at hand.
    """
    if weights is not None and (counts := weights.file.metadata.get("token_counts")) is not None:
        return _checked_counts(counts, weights)
    if weights is not None and (spec.pretrain_text or spec.data == "microworld"):
        text = prepare_pretraining_data(spec, cache_dir)
        of_weights = dig(weights.file.metadata, "data", "text")
        return text.token_counts if text.fingerprint == of_weights else None
    if text is None and spec.random_baseline and spec.trunk_stays:
        text = prepare_pretraining_data(spec, cache_dir)
    return None if text is None else text.token_counts


def _checked_counts(counts: object, weights: GivenWeights) -> IntArray:
    """Token counts as weights bring them.

    Raises:
        WeightsError: They are not one count for each row of the embedding.
    """
    array = np.asarray(counts)
    if array.ndim != 1 or array.dtype.kind not in "iu" or len(array) != weights.file.vocab_rows:
        raise WeightsError(f"{weights.path}: its token counts are not one whole number for each of its tokens")
    if array.min(initial=0) < 0 or not array.any():
        raise WeightsError(f"{weights.path}: its token counts are not those of a text")
    return array.astype(np.int64)


def encode_questions(
    spec: ExperimentSpec,
    dataset: QADataset,
    tokenizer: TextTokenizer | HuggingFaceTokenizer,
    limit: int,
    token_counts: IntArray | None = None,
) -> Questions:
    """Encode every split in the spec's layout and take the few-shot subset.

    Args:
        limit: Longest sequence that the trunk takes, in tokens.
        token_counts: Counts in the trunk's text, by which a frozen trunk's marks are chosen.

    Raises:
        DataError: A split is left without questions.
        UsageError: The few-shot limit exceeds the data.
    """
    encoded: dict[str, EncodedQA] = {}
    filtering: dict[str, FilterCounts] = {}
    for split in SPLITS:
        examples = dataset.splits[split]
        encoded[split], dropped = encode_qa(examples, tokenizer, spec.layout, limit, marks_of(spec), token_counts)
        filtering[split] = FilterCounts.merge([dataset.filtering[split]])
        for reason, count in dropped.items():
            filtering[split].drop_kept(reason, count)
        if filtering[split].kept < filtering[split].total:
            logger.info("%s: %s", split, filtering[split].in_words())
        if not len(encoded[split]):
            cure = f": raise it with --set model.sequence_length={4 * limit}" if spec.model is None else ""
            what = "model.sequence_length =" if spec.model is None else "the model's context of"
            raise DataError(f"no {split} question fits {what} {limit} in the {spec.layout} layout{cure}")
    subset = few_shot_indices(len(encoded["train"]), spec.finetune_samples, spec.seed, spec.subset)
    train = encoded["train"] if spec.finetune_samples is None else encoded["train"].subset(subset)
    marks = mark_tokens(tokenizer, marks_of(spec), token_counts)
    pairs = _minimal_pairs(spec, dataset, tokenizer, limit, token_counts)
    return Questions(train, encoded["train"], encoded["validation"], encoded["test"], filtering, marks, pairs)


def _minimal_pairs(
    spec: ExperimentSpec,
    dataset: QADataset,
    tokenizer: TextTokenizer | HuggingFaceTokenizer,
    limit: int,
    token_counts: IntArray | None,
) -> EncodedQA | None:
    wanted = spec.config.evaluate.minimal_pairs
    members = minimal_pairs(dataset, n_pairs=wanted) if wanted else []
    encoded, _ = encode_qa(members, tokenizer, spec.layout, limit, marks_of(spec), token_counts)
    return encoded if len(encoded) else None


def marks_of(spec: ExperimentSpec) -> Marks:
    """Which marks a run uses: those of the text where the embedding stays, tokens of their own where it is trained."""
    marks = spec.config.finetune.marks
    if marks == "auto":
        return "text" if spec.trunk_stays else "special"
    return marks


def find_matching_trunk(spec: ExperimentSpec, store: RunStore, inputs: Inputs) -> GivenWeights | None:
    """The trunk of another run with the settings, seed and text of this run's pretraining; None if there is none.

    Texts are compared by content, so the text may have another path. Example: ``texts/`` for ``/home/me/texts``.
    """
    if inputs.text is None or inputs.weights is not None:
        return None
    text = inputs.text.fingerprint
    finders = (partial(store.find_pretrained, spec.pretrain_id), partial(store.find_pretrained_on, text, spec))
    for find in finders:
        run = find()
        if run is None:
            continue
        try:
            weights = load_own(run, run.trunk_path)
            check_trunk(weights, run.trunk_path)
        except WeightsError as error:
            logger.warning("not using the trunk of %s: %s", run.run_id, error)
            continue
        if dig(weights.metadata, "data", "text") == text:
            return GivenWeights(weights, run.trunk_path)
    return None


def refuse_changed_text(store: RunStore, trunk: str | None, text: str | None) -> None:
    """Refuse a sweep's cell if its pretraining text has changed since the trunk that it takes was trained.

    Such a cell would pretrain another trunk and look as if it shared the trunk of the other cells.

    Args:
        trunk: The run whose trunk it takes; None for none.
        text: Fingerprint of the cell's pretraining text; None for none.

    Raises:
        UsageError: The text has changed. The message names the run.
    """
    text_of_trunk = store.open(trunk).text_fingerprint if trunk else None
    if text_of_trunk is not None and text is not None and text_of_trunk != text:
        raise UsageError(
            f"the pretraining text is not what {trunk} was trained on: restore it, "
            "or give the new text a name of its own"
        )


def _given_weights(spec: ExperimentSpec, store: RunStore, cache_dir: Path) -> GivenWeights | None:
    if not spec.skip_pretrain or spec.random_baseline:
        return None
    if spec.pretrained_model_path:
        path = store.resolve_weights(spec.pretrained_model_path)
    else:
        run = store.find_pretrained(spec.pretrain_id) or _pretrained_on_same_text(spec, store, cache_dir)
        if run is None:
            raise WeightsError(
                f"--skip-pretrain found no run in {store.root} with this pretraining "
                "(same size, data, settings, seed): drop --skip-pretrain to pretrain, "
                "or add --pretrained-model-path RUN/toy_llm_unified_pretrained.pth"
            )
        path = run.trunk_path
    weights = load_weights(path)
    check_matches(weights, spec.config.model, path)
    check_beside(path, weights)
    _refuse_other_stages(weights.metadata, path)
    check_trunk(weights, path)
    if spec.pretrained_model_path and (unused := _unused_settings(spec, weights)):
        logger.warning(
            "--set %s trains nothing: these weights were pretrained with %s. "
            "The run counts as another experiment: drop it",
            *unused,
        )
    return GivenWeights(weights, path)


def _unused_settings(spec: ExperimentSpec, weights: WeightsFile) -> tuple[str, str] | None:
    """The settings of pretraining that ``spec`` changes and given weights do not have, and what those have; or None.

    A value that the size has by itself is not taken for one that was asked for.
    """
    name = spec.config.name
    try:
        trained = ExperimentSpec.from_dict(dig(weights.metadata, "spec")).config.pretrain
    except ConfigError:  # of another version, or none of this program's
        return None
    if name not in CONFIG_NAMES:
        return None
    usual = load_config(name, [f"recipe={spec.config.recipe}"]).pretrain
    asked = {
        key: value
        for key, value in dataclasses.asdict(spec.config.pretrain).items()
        if key not in _NOT_OF_WEIGHTS and value not in (getattr(usual, key), getattr(trained, key))
    }
    return (_as_set(asked), _as_set({key: getattr(trained, key) for key in asked})) if asked else None


def _as_set(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"pretrain.{key}={value}" for key, value in settings.items())


def _snapshot_weights(spec: ExperimentSpec, store: RunStore, text: str | None) -> GivenWeights:
    """The snapshot that ``spec`` starts from, of a run that has done its pretraining.

    Args:
        text: Fingerprint of the text that the run reads; None with ``--skip-pretrain``.

    Raises:
        WeightsError: No run kept it. The message says how to make it.
    """
    run = store.find_snapshots(spec, text)
    if run is None:
        raise WeightsError(
            f"--snapshot {spec.snapshot}: no run in {store.root} has done this pretraining and kept snapshots: make it "
            "with the same command, --skip-finetune in place of --snapshot"
        )
    steps = run.pretraining_steps()
    step = choose_step(list(steps), spec.snapshot)
    if step is None:
        kept = sorted(step for step in steps if step)
        instead = f", or {spacing}" if (spacing := spaced_among(spec.snapshot, len(kept))) else ""
        names = ", ".join(map(str, kept))
        raise WeightsError(f"--snapshot {spec.snapshot}: {run.run_id} kept steps {names}: choose from them{instead}")
    weights = load_own(run, steps[step])
    check_trunk(weights, steps[step])
    return GivenWeights(weights, steps[step])


def _pretrained_on_same_text(spec: ExperimentSpec, store: RunStore, cache_dir: Path) -> RunDirectory | None:
    """A run that pretrained on the same text under another name. The text is read only if a run could match."""
    if not any(run.spec.training_id == spec.training_id and run.trunk_path.is_file() for run in store.runs()):
        return None
    return store.find_pretrained_on(prepare_pretraining_data(spec, cache_dir).fingerprint, spec)


def _refuse_other_stages(metadata: Mapping[str, Any], path: Path) -> None:
    """Only a pretrained trunk may stand where a pretrained trunk is claimed."""
    stage = metadata.get("stage")
    if stage == RANDOM:
        raise WeightsError(f"{path} holds the random weights of a --random-baseline run: give a pretrained run's")
    if stage == FINETUNED:
        raise WeightsError(
            f"{path} has been finetuned on questions, so probing it would not tell what pretraining taught: "
            "give toy_llm_unified_pretrained.pth or a pretrain_* snapshot"
        )
