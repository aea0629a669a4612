"""The phases of a run: a trunk, then finetuning or probing. Each can be entered again after a kill.

A phase is done when its file is there: the trunk, or the finetuned model. Within a phase the checkpointer knows how far
it came, and the history is cut back to that point.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emergence.answering.conditional import ConditionalFit, measure_conditional
from emergence.answering.evaluate import choose_max_answer_words
from emergence.answering.features import SpanLogits, predict_finetuned
from emergence.answering.finetune import PHASE as FINETUNE_PHASE
from emergence.answering.finetune_result import FinetuneResult
from emergence.answering.finetune_search import PHASE as SEARCH_PHASE
from emergence.answering.finetune_search import finetune_tuned
from emergence.answering.probe import ProbeReport, predict_probes, probe_all_layers
from emergence.answering.probe_fitting import ProbeFit, span_head
from emergence.answering.probe_loop import PHASE as PROBE_PHASE
from emergence.answering.probe_validity import ProbeValidity, measure_validity
from emergence.answering.stored_heads import HEAD, probe_tensors
from emergence.answering.stored_states import StoredStates
from emergence.answering.word_features import Variant
from emergence.answering.word_scorer import WordScores, word_scores
from emergence.errors import EmergenceError, RunDirectoryError
from emergence.experiment.belonging import FINETUNED, PRETRAINED, RANDOM, history_position, load_own
from emergence.experiment.facts import HEADLINE, own_scorer, words_name
from emergence.experiment.inputs import GivenWeights, Inputs, Questions, layers_of, redraw_as_own
from emergence.experiment.result import current_versions
from emergence.experiment.store import CACHE_FOLDER, RunDirectory
from emergence.files import content_digest, make_folder, read_sealed, seal, sha256_file, write_json_atomic
from emergence.model import Encoder, SpanHead, Trunk, build_trunk
from emergence.model.adapters import add_adapter, plain_weights
from emergence.model.embedding_rows import redraw_unseen
from emergence.model.huggingface import LoadedModel
from emergence.plain import plain
from emergence.spec.experiment import ExperimentSpec, Layout
from emergence.training.checkpoint import WeightsFile, load_into
from emergence.training.context import Context
from emergence.training.distributed import Workers
from emergence.training.identity import IDENTITY_KEY, Identity
from emergence.training.language_model_eval import LanguageModelLoss, evaluate_language_model
from emergence.training.pretrain import pretrain
from emergence.training.published_loss import evaluate_published
from emergence.training.recording import Position

logger = logging.getLogger(__name__)

#: Where a published model's states lie in the cache, in a folder named as their run.
STATES_FOLDER = "states"
#: Where held-out losses of snapshots lie in the cache.
LOSSES_FOLDER = "snapshot_losses"


@dataclass
class Session:
    """What every phase needs: the run, its inputs, and a context.

    Attributes:
        context: Of this process alone. workers: The processes that share pretraining, and nothing else.
    """

    spec: ExperimentSpec
    run: RunDirectory
    inputs: Inputs
    cache_dir: Path
    context: Context
    workers: Workers = field(default_factory=Workers)

    @property
    def identity(self) -> Identity:
        """What every checkpoint and weights file of the run carries."""
        return self.run.identity(self.inputs.tokenizer.fingerprint)

    def begin(self, phase: str, position: Position) -> None:
        """Cut the history back to where ``phase`` began. If there is a checkpoint of the phase, that will do it."""
        if not self.context.checkpointer.has(phase):
            self.context.recorder.rewind(position)

    def weights(
        self,
        trunk: Trunk,
        stage: str,
        head: nn.Module | None = None,
        probes: Sequence[ProbeFit] = (),
        **facts: Any,
    ) -> WeightsFile:
        """A weights file of ``trunk``, its ``head`` and further ``probes`` that can be used without this run."""
        state = plain_weights(trunk) | probe_tensors(probes)
        if head is not None:
            state |= {f"{HEAD}{name}": tensor for name, tensor in head.state_dict().items()}
        metadata = self._metadata(stage, **facts)
        return WeightsFile(state, trunk.config, trunk.vocab_rows, self.inputs.tokenizer.to_json(), metadata)

    def probe_weights(self, head: nn.Module, probes: Sequence[ProbeFit], **facts: Any) -> WeightsFile:
        """A weights file of probes alone, without the published model that they read."""
        state = probe_tensors(probes) | {f"{HEAD}{name}": tensor for name, tensor in head.state_dict().items()}
        metadata = self._metadata(FINETUNED, model=self.inputs.fingerprints["model"], **facts)
        return WeightsFile(state, self.spec.config.model, 1, self.inputs.tokenizer.to_json(), metadata)

    def _metadata(self, stage: str, **facts: Any) -> dict[str, Any]:
        return {
            "stage": stage,
            "run_id": self.run.run_id,
            IDENTITY_KEY: self.identity.to_dict(),
            "pretrain_id": self.spec.pretrain_id if self.spec.pretrains else None,
            "spec": self.spec.to_dict(),
            "data": self.inputs.fingerprints,
            "versions": {key: value for key, value in current_versions().items() if key != "threads"},
            **self.token_counts(),
            **facts,
        }

    def token_counts(self) -> dict[str, Tensor]:
        """How often the trunk's text holds each token, to be stored with the weights; empty if unknown."""
        counts = self.inputs.token_counts
        return {} if counts is None else {"token_counts": torch.from_numpy(counts.astype("int32"))}


# The trunk ----------------------------------------------------------------------------------------


def obtain_trunk(session: Session, matching: GivenWeights | None) -> WeightsFile:
    """The trunk that finetuning starts from. If none was saved before, it is given, matching, random or pretrained.

    Args:
        matching: The very trunk this run would pretrain, from another run.
    """
    if not session.run.trunk_path.is_file():
        given = session.inputs.weights or matching
        if given is not None:
            _take_weights(session, given)
        elif session.spec.random_baseline:
            _draw_random(session)
        else:
            _pretrain(session)
    return load_own(session.run, session.run.trunk_path, session.identity)


def help_pretrain(session: Session, matching: GivenWeights | None) -> None:
    """What every torchrun worker but the first does: its share of pretraining, if there is any. It writes nothing."""
    given = session.inputs.weights or matching
    if given is None and not session.spec.random_baseline and not session.run.trunk_path.is_file():
        _pretrain(session)


def _take_weights(session: Session, given: GivenWeights) -> None:
    session.context.recorder.rewind(0)
    metadata = {**session.token_counts(), **given.file.metadata, "source": given.source, **_history_facts(0)}
    metadata[IDENTITY_KEY] = session.identity.to_dict()
    if session.spec.pretrains:  # found by content: the very trunk that this run would have pretrained
        metadata["pretrain_id"] = session.spec.pretrain_id
    if session.spec.at_snapshot:
        metadata["pretraining"] = _pretraining_so_far(session, given)
    weights = WeightsFile(
        given.file.state_dict, given.file.model, given.file.vocab_rows, given.file.tokenizer_json, metadata
    )
    session.run.save_trunk(weights)
    logger.info("using the pretrained trunk of %s", given.path)


def _pretraining_so_far(session: Session, snapshot: GivenWeights) -> dict[str, Any]:
    """What a result tells of the pretraining up to a snapshot, with its held-out losses if the run reads the text.

    The losses are kept in the cache, because a sweep has many cells on one snapshot.
    """
    facts = {key: snapshot.file.metadata.get(key) for key in ("step", "tokens_seen")}
    so_far = {"snapshot": snapshot.path.stem, "steps": facts["step"], "tokens_seen": facts["tokens_seen"]}
    text = session.inputs.text
    if text is None:
        return so_far
    model = session.spec.config.model
    key = [sha256_file(snapshot.path), text.fingerprint, model.sequence_length, session.context.precision]
    kept = session.cache_dir / LOSSES_FOLDER / f"{content_digest(key)[:24]}.json"
    with contextlib.suppress(RunDirectoryError, KeyError):  # damaged: measured again
        if kept.is_file():
            return so_far | {split: read_sealed(kept)[split] for split in ("validation", "test")}
    trunk = build_trunk(snapshot.file.model, snapshot.file.vocab_rows, seed=0)
    load_into(trunk, snapshot.file.state_dict, snapshot.path)
    losses = _held_out_losses(session, trunk.to(session.context.device))
    try:
        make_folder(kept.parent)
        write_json_atomic(kept, seal(losses))
    except (EmergenceError, OSError) as error:  # they can be measured again
        logger.warning("held-out losses of %s are not kept: %s", snapshot.path, error)
    return so_far | losses


def _draw_random(session: Session) -> None:
    """An ordinary random initialisation: blocks that start as the identity would be a degenerate floor."""
    session.context.recorder.rewind(0)
    spec = session.spec
    trunk = build_trunk(spec.config.model, session.inputs.tokenizer.vocab_rows, seed=spec.seed, init="normal")
    session.run.save_trunk(session.weights(trunk, RANDOM, **_history_facts(0)))


def _pretrain(session: Session) -> None:
    spec, text = session.spec, session.inputs.text
    if text is None:
        raise RuntimeError("pretraining without text")
    session.begin("pretrain", 0)
    trunk = build_trunk(spec.config.model, text.tokenizer.vocab_rows, seed=spec.seed)

    def save_snapshot(name: str, snapshot: Trunk, facts: dict[str, Any]) -> None:
        session.run.save_snapshot(name, session.weights(snapshot, PRETRAINED, name=name, **facts))

    result = pretrain(
        trunk,
        text.train,
        text.validation,
        spec.config.pretrain,
        replace(session.context, workers=session.workers),
        seed=spec.seed,
        save_snapshot=save_snapshot,
        on_nan=spec.config.pretrain.on_nan,
    )
    if not session.workers.is_first:
        return
    facts = _held_out_losses(session, trunk)
    session.context.recorder.log("pretrain_end", steps=result.steps, tokens=result.tokens_seen, **_brief(facts))
    pretraining = {**asdict(result), **facts, "seconds": None, "tokens_per_second": None}
    timing = {"seconds": result.seconds, "tokens_per_second": result.tokens_per_second}
    session.context.recorder.time("pretrain_end", **timing)
    stood = _history_facts(session.context.recorder.position())
    session.run.save_trunk(session.weights(trunk, PRETRAINED, pretraining=pretraining, **stood))


def _history_facts(position: Position) -> dict[str, Any]:
    """Where the history stood when a trunk was saved, as its file says it."""
    if isinstance(position, int):
        return {"history_bytes": position, "history_sha256": None}
    return {"history_bytes": position["bytes"], "history_sha256": position["sha256"]}


def _held_out_losses(session: Session, trunk: Trunk) -> dict[str, Any]:
    """Strided loss on validation and test text (docs/methods.md#bits-per-byte)."""
    text = session.inputs.text
    if text is None:
        return {}
    length, chunk = trunk.config.sequence_length, session.spec.config.pretrain.loss_chunk_rows
    return {
        split: plain(evaluate_language_model(trunk, stream, length, session.context, chunk))
        for split, stream in (("validation", text.validation), ("test", text.test))
    }


def _brief(losses: dict[str, Any]) -> dict[str, float]:
    units = ("nats_per_token", "bits_per_byte")
    return {f"{split}_{unit}": loss[unit] for split, loss in losses.items() for unit in units}


# Finetuning and probing -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """The outcome of finetuning or probing, with logits for every validation and test question.

    Attributes:
        logits: ``validation`` and ``test`` -> read-out -> logits. The read-out ``headline`` is the one reported:
            the finetuned model, or the linear probe at the layer chosen on validation.
        words: What words and positions tell without a language model (R_1), by variant.
        finetuned: The result with all weights trained. probes: The fits on a frozen trunk.
        conditional: What the states add to words and positions, by read-out.
        validity: By probe family; None where it was not measured.
        pairs: Logits of the role-crossed minimal pairs by read-out; those of R_1 as ``words_left``.
    """

    logits: dict[str, dict[str, SpanLogits]]
    max_answer_words: int
    words: dict[str, WordScores]
    finetuned: FinetuneResult | None = None
    probes: ProbeReport | None = None
    headline_layer: int | None = None
    conditional: dict[str, ConditionalFit] | None = None
    validity: dict[str, ProbeValidity] | None = None
    pairs: dict[str, SpanLogits] = field(default_factory=dict)


#: Variants of R_1. One knows what a causal state could know, the other knows the next word too.
VARIANTS: tuple[Variant, ...] = ("left", "both")


def words_alone(session: Session, questions: Questions, max_answer_words: int) -> dict[str, WordScores]:
    """R_1 with and without the next word, fitted to the questions that this run trains on and cached by their content.

    Its logits for the minimal pairs follow those for the test questions. All seeds share one draw, because their gains
    are measured from it. A fit takes seconds, so a request to stop waits for its end.
    """
    test = questions.test if questions.pairs is None else questions.test.joined(questions.pairs)
    return {
        variant: word_scores(
            questions.train,
            questions.validation,
            test,
            variant=variant,
            max_answer_words=max_answer_words,
            cache_dir=session.cache_dir,
        )
        for variant in VARIANTS
    }


def split_pairs(
    words: dict[str, WordScores], questions: Questions, layout: Layout
) -> tuple[dict[str, WordScores], dict[str, SpanLogits]]:
    """The parts of :func:`words_alone`: every R_1 on the test questions, and the layout's own R_1 on the pairs."""
    if questions.pairs is None:
        return words, {}
    n, variant = len(questions.test), own_scorer(layout)
    apart = {name: replace(scores, test=scores.test.rows(slice(0, n))) for name, scores in words.items()}
    return apart, {words_name(variant): words[variant].test.rows(slice(n, None))}


def load_trunk(weights: WeightsFile, session: Session) -> Trunk:
    """The trunk that finetuning and probes start from. Embedding rows that pretraining never saw are drawn anew."""
    trunk = build_trunk(weights.model, weights.vocab_rows, seed=0)
    load_into(trunk, weights.state_dict, session.run.trunk_path)
    counts = weights.metadata.get("token_counts")
    if counts is not None and weights.metadata.get("stage") != RANDOM:
        redraw_unseen(trunk, counts, session.spec.seed)
    return trunk.to(session.context.device)


def finetune_whole(session: Session, weights: WeightsFile, questions: Questions) -> Trained:
    """Find the settings on validation, then train trunk (or its adapter) and head.

    The best epoch's weights are kept and scored. LoRA's products are added to the matrices in what is kept.
    """
    trunk = load_trunk(weights, session)
    add_adapter(trunk, session.spec.adapter, session.spec.seed)
    head = SpanHead(trunk.hidden_size, seed=session.spec.seed)
    max_answer_words = choose_max_answer_words(session.spec.config.finetune.max_answer_words, questions.all_train)
    if not session.context.checkpointer.has(SEARCH_PHASE):
        session.begin(FINETUNE_PHASE, history_position(weights))

    def save_epoch(name: str, trunk: Trunk, head: nn.Module, facts: dict[str, Any]) -> None:
        session.run.save_snapshot(name, session.weights(trunk, FINETUNED, head, name=name, **facts))

    result = finetune_tuned(
        trunk,
        head,
        questions.train,
        questions.validation,
        session.spec.config.finetune,
        session.context,
        seed=session.spec.seed,
        max_answer_words=max_answer_words,
        save_snapshot=save_epoch,
        on_nan=session.spec.config.pretrain.on_nan,
    )
    session.run.save_finetuned(session.weights(trunk, FINETUNED, head, **asdict(result.best)))
    logits = {
        split: {HEADLINE: predict_finetuned(trunk.eval(), head, encoded, session.context)}
        for split, encoded in (("validation", questions.validation), ("test", questions.test))
    }
    words, pairs = split_pairs(words_alone(session, questions, max_answer_words), questions, session.spec.layout)
    if questions.pairs is not None:
        on_pairs = predict_finetuned(trunk, head, questions.pairs, session.context)
        pairs = {HEADLINE: on_pairs, **pairs}
    return Trained(logits, max_answer_words, words, finetuned=result, pairs=pairs)


def probe_frozen(session: Session, weights: WeightsFile, questions: Questions) -> Trained:
    """Fit every probe on the frozen trunk. The linear one at the layer chosen on validation is the headline."""
    trunk = load_trunk(weights, session).eval().requires_grad_(False)
    session.begin(PROBE_PHASE, history_position(weights))
    trained, report = _probe(session, trunk, questions)
    best = report.best("linear")
    saved = session.weights(trunk, FINETUNED, span_head(best), _other_fits(report), **_saved_facts(report))
    session.run.save_finetuned(saved)
    # One fit is the frozen run's only epoch; the guide promises its snapshot.
    session.run.save_snapshot("finetune_epoch_1", saved)
    return trained


def sweep_states(session: Session) -> None:
    """Delete the states of runs that nothing can go on with: those that are finished, or not there any more.

    A cache may serve several folders of runs. Only the cache of the run's own folder is swept, where a name that is not
    there is nobody's.
    """
    runs = session.run.path.parent
    if session.cache_dir.resolve() != (runs / CACHE_FOLDER).resolve():
        return
    states = session.cache_dir / STATES_FOLDER
    for folder in sorted(states.iterdir()) if states.is_dir() else ():
        run = RunDirectory(runs / folder.name, session.spec, "")
        if run.is_finished or not run.path.is_dir():
            logger.info("states of %s are deleted: nothing goes on with that run", folder.name)
            shutil.rmtree(folder, ignore_errors=True)


def probe_published(
    session: Session, published: LoadedModel, questions: Questions
) -> tuple[Trained, LanguageModelLoss]:
    """As :func:`probe_frozen` on a published model, whose states are kept on disk until the last probe is fitted.

    Returns:
        The probes, and the model's loss on the text that all published models are measured on.
    """
    encoder, spec = published.encoder, session.spec
    folder = session.cache_dir / STATES_FOLDER / session.run.run_id
    # The control of what states add reads the embeddings, whatever layers are probed.
    kept = {*layers_of(spec, encoder.n_layers), *([0] if spec.config.probe.conditional else [])}
    states = StoredStates(encoder, folder, sorted(kept), spec.config.probe.features)
    session.begin(PROBE_PHASE, 0)
    loss = evaluate_published(published, session.context)
    redraw_as_own(spec, published)  # after the loss, which is that of the weights as they are
    splits = (questions.train, questions.validation, questions.test)
    states.write([*splits, *([questions.pairs] if questions.pairs else [])], session.context)
    published.release()  # its states are on disk, and the fits need the memory
    trained, report = _probe(session, states, questions)
    best = report.best("linear")
    session.run.save_finetuned(session.probe_weights(span_head(best), _other_fits(report), **_saved_facts(report)))
    states.remove()
    return trained, loss


def _probe(session: Session, trunk: Encoder, questions: Questions) -> tuple[Trained, ProbeReport]:
    """Every probe and what it is measured by, on the states of a frozen trunk."""
    max_answer_words = choose_max_answer_words(session.spec.config.finetune.max_answer_words, questions.all_train)
    report = probe_all_layers(
        trunk,
        questions.train,
        questions.validation,
        session.spec.config.probe,
        session.context,
        seed=session.spec.seed,
        max_answer_words=max_answer_words,
        layers=layers_of(session.spec, trunk.n_layers),
    )
    readouts = named_fits(report)
    logits = {
        split: dict(
            zip(readouts, predict_probes(trunk, list(readouts.values()), encoded, session.context), strict=True)
        )
        for split, encoded in (("validation", questions.validation), ("test", questions.test))
    }
    words, pairs = split_pairs(words_alone(session, questions, max_answer_words), questions, session.spec.layout)
    conditional = _conditional(session, trunk, report, questions, words, max_answer_words)
    for name, fit in conditional.items():
        logits["validation"][name], logits["test"][name] = fit.validation, fit.test
    validity = _validity(session, trunk, report, questions, logits["test"], max_answer_words)
    if questions.pairs is not None:
        chosen = {HEADLINE: report.best("linear")} | {n: fit for n, fit in readouts.items() if n == fit.family}
        on_pairs = predict_probes(trunk, list(chosen.values()), questions.pairs, session.context)
        pairs = dict(zip(chosen, on_pairs, strict=True)) | pairs
    trained = Trained(
        logits,
        max_answer_words,
        words,
        probes=report,
        headline_layer=report.best("linear").layer,
        conditional=conditional,
        validity=validity,
        pairs=pairs,
    )
    return trained, report


def _other_fits(report: ProbeReport) -> list[ProbeFit]:
    """The chosen fit of every family but the linear one."""
    return [fit for name, fit in named_fits(report).items() if name == fit.family]


def _saved_facts(report: ProbeReport) -> dict[str, Any]:
    """What the file of a frozen run's probes says of them."""
    best = report.best("linear")
    layers = {fit.family: fit.layer for fit in _other_fits(report)}
    return {"head_layer": best.layer, "probe_layers": layers, "frozen": True, **_fit_facts(best)}


def _conditional(
    session: Session,
    trunk: Encoder,
    report: ProbeReport,
    questions: Questions,
    words: dict[str, WordScores],
    max_answer_words: int,
) -> dict[str, ConditionalFit]:
    config = session.spec.config.probe
    if not config.conditional:
        return {}
    return measure_conditional(
        trunk,
        report,
        (questions.train, questions.validation, questions.test),
        words,
        config,
        session.context,
        seed=session.spec.seed,
        max_answer_words=max_answer_words,
        main=own_scorer(session.spec.layout),
    )


def _validity(
    session: Session,
    trunk: Encoder,
    report: ProbeReport,
    questions: Questions,
    logits: dict[str, SpanLogits],
    max_answer_words: int,
) -> dict[str, ProbeValidity] | None:
    config = session.spec.config
    if not config.probe.validity or not len(questions.test):
        return None
    return measure_validity(
        trunk,
        report,
        (questions.train, questions.validation, questions.test),
        {"linear": logits[HEADLINE], **logits},
        config.probe,
        config.evaluate,
        session.context,
        seed=session.spec.seed,
        max_answer_words=max_answer_words,
    )


def named_fits(report: ProbeReport) -> dict[str, ProbeFit]:
    """The read-outs that are scored: each family at its chosen layer and at the last, the headline first."""
    fits = {HEADLINE: report.best("linear"), "linear_last": report.last("linear")}
    for family in dict.fromkeys(fit.family for fit in report.fits):
        if family != "linear":
            fits |= {family: report.best(family), f"{family}_last": report.last(family)}
    return fits


def _fit_facts(fit: ProbeFit) -> dict[str, float]:
    return {
        "validation_loss": fit.validation_loss,
        "validation_em": fit.validation_em,
        "validation_f1": fit.validation_f1,
    }
