"""A finished run and a verdict in words for a terminal: after `emergence run`, in the demo, in a container's log."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from emergence.experiment.facts import HEADLINE, WORDS, WORDS_BOTH, Scores, Validity
from emergence.experiment.result import RunResult
from emergence.findings.verdict import Verdict
from emergence.measures.bootstrap import Estimate
from emergence.measures.measured_coverage import interval_notes, units_of
from emergence.measures.minimal_sets import CHANCE
from emergence.wording import shown

#: Words for read-outs whose name does not say what they are.
READOUT_WORDS = {
    HEADLINE: "this run, as above",
    WORDS: "words and positions",
    WORDS_BOTH: "words and positions",
}


def describe_verdict(verdict: Verdict) -> str:
    """The outcome and where it holds, and then the sentences that it rests on, each on its own lines."""
    sentences = (textwrap.fill(s, 110, initial_indent="  ", subsequent_indent="    ") for s in verdict.sentences)
    return "\n".join([f"verdict             {verdict.short}", *sentences])


def describe_result(result: RunResult, runs_dir: Path) -> str:
    """The lines that end a run: held-out loss, test scores with intervals, and the run directory."""
    lines = []
    if (pretrained := result.pretrained).snapshot:
        lines.append(f"trunk            {pretrained.snapshot}, {pretrained.tokens_seen or 0:,} tokens of pretraining")
    if loss := result.held_out_loss:
        lines.append(
            f"held-out text    {loss.nats_per_token:.3f} nats/token, {loss.bits_per_byte:.3f} bits/byte, "
            f"perplexity {loss.perplexity:.1f}"
        )
    if result.number_format:
        lines.append(f"number format    {result.number_format}")
    if result.test_scores:
        test = result.scores("test")
        lines.append(f"token F1         {shown(test.estimate('f1_tokens'))}  ({counts_of(test)})")
        lines.append(f"exact match      {shown(test.estimate('em'))}")
        lines += _other_readouts(result)
        lines += _minimal_pairs(result.pairs_right)
        lines += _no_model(result)
        lines += [f"note             {note}" for note in evaluation_notes(test)]
    lines.append(f"run directory    {runs_dir / (result.run_id or '')}")
    return "\n".join(lines)


def counts_of(scores: Scores) -> str:
    """Counts in words, such as ``1,043 test questions, 184 sentences, 16 documents``."""
    return f"{scores.n:,} test questions, {units_of(scores.n_clusters or 0, scores.n_documents)}"


def evaluation_notes(scores: Scores) -> list[str]:
    """Notes on how far the intervals of one run can be trusted."""
    return list(
        interval_notes(
            {"this run": 1},
            n_sentences=scores.n_clusters or 0,
            n_documents=scores.n_documents,
            cluster=scores.cluster,
            widening=scores.widening,
        )
    )


def _other_readouts(result: RunResult) -> list[str]:
    if not result.probes:
        return []
    layer = result.chosen_layers["linear"]
    lines = [f"                 by the linear probe at layer {layer}, chosen on validation"]
    for name, readout in result.readouts.items():
        if name != HEADLINE:
            f1 = shown(readout.estimate("test", "f1_tokens"))
            lines.append(f"  {name.replace('_', ', '):<14} {f1}  (F1, layer {readout.layer})")
    return lines + _validity(result.validities)


def _minimal_pairs(right: Mapping[str, Estimate]) -> list[str]:
    """How often both members of role-crossed pairs are right."""
    if not right:
        return []
    n_pairs = next(iter(right.values())).n
    lines = [f"minimal pairs    both right of {n_pairs:,} role-crossed pairs (guessing {CHANCE:.2f})"]
    return lines + [f"  {READOUT_WORDS.get(name, name):<22} {shown(both)}" for name, both in right.items()]


def _validity(families: Mapping[str, Validity]) -> list[str]:
    """One line for each family: its F1 beyond rote, and how much the states shorten the code of the answers."""
    lines = []
    for family, validity in families.items():
        contrast = f"selectivity {shown(validity.selectivity)}, " if validity.selectivity else ""
        compression = "" if validity.compression is None else f"compression {validity.compression:.2f}"
        lines.append(f"  {family:<14} {contrast}{compression}")
    return lines


def _no_model(result: RunResult) -> list[str]:
    """Scores without a language model: the best rule, and words and positions as a state of this layout knows them."""
    if not result.no_model_floor:
        return []
    name, floor = result.no_model_floor
    lines = [f"no-model floor   {shown(floor)}  (F1, {name.replace('_', ' ')})"]
    if words := result.words_alone:
        lines.append(f"words, positions {shown(words)}  (F1, no language model)")
    return lines
