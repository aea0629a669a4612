"""Whether the revisions of a published model are what they say (docs/methods.md#revisions), before anything is probed.

Bytes come first: a digest and a few values of every group of tensors. Then the loss on the reference text, for which
each revision is loaded once. What was found is kept beside the runs, so that table, curves and report leave the
suspect ones out and name them.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from emergence.errors import UsageError, WeightsError
from emergence.measures.revision_trend import LEAST_REVISIONS, RevisionFacts, find_suspects
from emergence.model.huggingface import ModelFiles, find_model, load_model
from emergence.model.huggingface.files import progress_of
from emergence.model.huggingface.loading import refuse_if_too_large
from emergence.studies.revisions.record import Revision, Revisions
from emergence.training.context import Context
from emergence.training.published_loss import evaluate_published
from emergence.training.recording import StopRequested

logger = logging.getLogger(__name__)


def examine_revisions(
    model: str,
    names: Sequence[str],
    context: Context,
    *,
    precision: str = "fp32",
    with_loss: bool = True,
    cache_dir: Path | None = None,
    known: Revisions | None = None,
    keep: Callable[[Revisions], None] = lambda so_far: None,
) -> Revisions:
    """Examine revisions of one model, in the order of their steps.

    Args:
        names: Revisions that name a step.
        with_loss: Whether each is loaded for its loss. Bytes alone tell copies and shards of another step.
        known: What an earlier call found. A loss of the same weights is not measured again.
        keep: Called with what is known so far after every loss.

    Raises:
        UsageError: The model cannot be read at all.
        StopRequested: ``should_stop`` was true after a revision.
    """
    files: dict[str, ModelFiles] = {}
    found: dict[str, Revision] = {}
    for name in names:
        step, tokens = (progress_of(name, model).get(key) for key in ("steps", "tokens_seen"))
        found[name] = Revision(name, step or 0, tokens)
        try:
            one = find_model(model, name, cache_dir=cache_dir)
            digest = one.weights_digest
            files[name] = one
            tokens = one.progress.get("tokens_seen")
            found[name] = Revision(name, step or 0, tokens, one.n_values, one.commit, digest)
        except (WeightsError, UsageError) as error:
            found[name] = Revision(name, step or 0, tokens, suspect=f"it cannot be read: {error}")
            continue
        if one.own_export and (wrong := one.own_export.contradiction(one.folder, step)):
            found[name] = replace(found[name], suspect=wrong)
    losses = {r.digest: r for r in (known.revisions if known else ()) if r.loss is not None}
    for name in files if with_loss else ():
        found[name] = _with_loss(found[name], files[name], losses, context, precision)
        keep(_judged(model, found, files))
        if context.should_stop():
            raise StopRequested("stopped while revisions were examined; the same command goes on")
    return _judged(model, found, files)


def _with_loss(
    revision: Revision, files: ModelFiles, losses: dict[str | None, Revision], context: Context, precision: str
) -> Revision:
    """The revision with its loss; suspect if it cannot be loaded."""
    same = losses.get(revision.digest)
    if same is None:
        refuse_if_too_large(files, precision)
        try:
            loaded = load_model(files.name, precision=precision, device=context.device, files=files)
        except (WeightsError, UsageError) as error:
            return replace(revision, suspect=f"it cannot be read: {error}")
        measured = evaluate_published(loaded, context)
        same = replace(revision, loss=measured.nats_per_token, bits_per_byte=measured.bits_per_byte)
        losses[revision.digest] = same
        logger.info("%s: %.3f nats/token", files.label, measured.nats_per_token)
    return replace(revision, loss=same.loss, bits_per_byte=same.bits_per_byte)


def _judged(model: str, found: dict[str, Revision], files: dict[str, ModelFiles]) -> Revisions:
    """Every revision with what is suspect about it."""
    readable = [r for r in found.values() if r.name in files and r.suspect is None]
    facts = [RevisionFacts(r.name, r.step, files[r.name].digests, files[r.name].sketches, r.loss) for r in readable]
    vocabulary = next((int(one.config.get("vocab_size") or 0) for one in files.values()), 0)
    suspects = find_suspects(facts, math.log(max(vocabulary, 2)))
    judged = (replace(r, suspect=r.suspect or suspects.get(r.name)) for r in found.values())
    notes = []
    if len(readable) < LEAST_REVISIONS:
        notes.append(f"a trend takes {LEAST_REVISIONS} revisions: with {len(readable)}, equal bytes alone are seen")
    if not any(r.loss is not None for r in found.values()):
        notes.append("losses were not measured")
    return Revisions(model, tuple(sorted(judged, key=lambda r: (r.step, r.name))), tuple(notes))
