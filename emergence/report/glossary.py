"""The report's terms in one line each, by the section of ``docs/methods.md`` that defines them in full."""

from __future__ import annotations

#: Anchor of the section -> term and one line.
GLOSSARY: dict[str, tuple[str, str]] = {
    "emergence-score": (
        "Emergence score",
        "(frozen - floor) / (full - floor) of test token F1: the share of what training on the questions gains over "
        "the floor that a probe already reads off the frozen pretrained trunk. Not clipped; not meaningful where full "
        "hardly exceeds the floor. The from-scratch score has another floor, a random trunk trained whole.",
    ),
    "reading": (
        "The guide's scale",
        "words for an emergence score by the user guide that this program was specified by: strong from 0.75 up, "
        "partial between 0.25 and 0.75, none up to 0.25, where the whole interval lies there, else undetermined. Its "
        "gate: full finetuning must reach 0.20 F1 and what needs no language model. It does not decide the verdict.",
    ),
    "verdict": (
        "Verdict",
        "whether the frozen states add to what words and positions tell without a language model, and more than a "
        "random twin's states add, by token F1 and by argument selection, corrected for all comparisons; and where: at "
        "the token, or not routed to it.",
    ),
    "token-f1": (
        "Token F1",
        "harmonic mean of precision and recall between the words of the predicted span and of the gold span, the best "
        "over all gold spans, averaged over questions.",
    ),
    "asked-role": (
        "Asked role",
        "the semantic role of the argument that a question asks for (agent, patient, recipient, place, time, manner, "
        "cause, instrument, other), read off the question's slots and voice; a wh-word does not tell it.",
    ),
    "exact-match": (
        "Exact match (EM)",
        "share of questions whose predicted span is one of the gold spans, word for word.",
    ),
    "intervals": (
        "Intervals",
        "bootstrap over sentences (questions of one sentence are not independent), and over training seeds where there "
        "are several; the cells of a 2x2 are resampled together, so differences are paired.",
    ),
    "probes": (
        "Probes",
        "read-outs trained on the states of a frozen trunk. Linear: one layer on each word's own state (the headline). "
        "Bilinear: compares the question's states with each word's. MLP: one hidden layer.",
    ),
    "selectivity": (
        "Selectivity",
        "F1 of a probe minus its F1 on a control task with arbitrary answers, which can only be memorised: near 0 "
        "means that the probe itself did the work.",
    ),
    "mdl": (
        "MDL, compression",
        "minimum description length by online coding: bits of a uniform code over bits of the probe's code for the "
        "same answers; 1 means nothing learned, more is better.",
    ),
    "no-model-floor": (
        "No-model floor",
        "the best F1 of rules that use no model: the whole sentence, words by the predicate, a wh-word's usual place.",
    ),
    "temporal-cka": (
        "Temporal CKA",
        "centred kernel alignment of a layer's states between checkpoints, 1 for the same geometry; debiased, and read "
        "against random trunks and other null comparisons.",
    ),
    "answers-from-a-prompt": (
        "Answers from a prompt",
        "the spans that the language model alone finds likeliest after k training questions with answers and the "
        "question: raw by log-probability, PMI less that without the questions. Nothing is trained, unlike a frozen "
        "probe, which has seen every label.",
    ),
    "minimal-pairs": (
        "Minimal pairs",
        "pairs of sentences of the same words whose agent and patient changed places, with the same question and the "
        "answers crossed: a pair counts if both answers are right. Guessing gives a quarter, any reader that ignores "
        "the order of words none; what position alone tells is not excluded.",
    ),
    "sentence-pairs": (
        "Sentence pairs",
        "share of pairs of sentences, one good and one bad, whose good one the language model finds likelier: by all "
        "its tokens (with BOS) or by all but the first. Role-crossed pairs have the same words with agent and patient "
        "exchanged, each active and passive, so that words and word pairs are right in half of them.",
    ),
    "information-emergence": (
        "Information emergence",
        "mutual information between the states before and after a block at the end of a text, minus the mean of that "
        "for its tokens alone; its true value is an entropy of the text, whatever the weights, so the difference from "
        "a control (random twin, shuffled tokens, resampled tokens) is what is told.",
    ),
    "units": (
        "Units",
        "MLP neurons and attention heads. A unit is selective for a role if its activation is higher (or lower) at "
        "words of that role than at other argument words; it is chosen on training and validation sentences and "
        "confirmed on test ones. Cutting a unit puts its mean in its place. How few units carry a role is counted in "
        "three ways, and a verdict takes the agreement of all three in three seeds.",
    ),
    "bits-per-byte": (
        "Nats per token, bits per byte",
        "cross-entropy of the next token on held-out text; per byte it does not depend on the tokenizer.",
    ),
    "data-ablation": (
        "Data ablation",
        "text with questions in it (wiki+nq) against text without (wiki) and against the control mix (wiki+control), "
        "which has passages of plain text, as many and as long, in place of the questions; equal tokens for all.",
    ),
    "shuffled-text": (
        "Shuffled text",
        "a trunk pretrained on the same text with the words of each sentence in random order, equal tokens: it knows "
        "which words go together and nothing of their order. A role score that it reaches, too, shows no syntax.",
    ),
    "metric-mirage": (
        "Verdict on a curve",
        "emergent: two continuous scores break at one place in three seeds. Artefact: only a discrete score breaks, it "
        "follows from a continuous one, and a break of that one is excluded. No break shown: nothing breaks, and the "
        "largest break that the data exclude is stated; gradual if that is below 10% of the rise. Seed mixture: seeds "
        "are of two kinds. Else undetermined.",
    ),
    "emergence-law": (
        "Emergence law",
        "where in the pretraining loss a score begins to rise (the elbow), as a function of the number of training "
        "questions; carried down to a few shots it predicts the loss at which the task emerges without finetuning, "
        "with an interval that is calibrated on sweeps drawn from the fitted law.",
    ),
    "filtering": ("Filtering", "questions dropped before training or scoring, counted by reason; the reasons add up."),
    "cost": ("Cost", "wall-clock seconds of a run's own phases, added up over interruptions."),
}
