"""Information emergence of one model on one set of texts, beside its controls, as JSON and npz; read without torch.

All numbers are in bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from emergence.measures.bootstrap import Estimate
from emergence.measures.information import REFUSED, over_seeds
from emergence.plain import plain
from emergence.studies.study import Arrays, StudyFiles
from emergence.wording import aligned, counted, format_estimate, format_interval

FILES = StudyFiles(
    name="information",
    version=1,
    what="an estimate of information emergence",
    again="run emergence ie again",
    kind="emergence-information",
)

FloatArray = npt.NDArray[np.float64]

MODEL = "model"
#: The controls, and what a model that exceeds one has more than.
CONTROLS = {
    "random": "an untrained network",
    "shuffled": "shuffled text",
    "resampled": "text of the same tokens drawn one by one",
}
CONDITIONS = (MODEL, *CONTROLS)
#: Chance of a false word in the conclusion, over the three controls together.
_FALSE_CLAIMS = 0.05
NOTHING = "nothing beyond the controls"
UNKNOWN = "nothing can be said, because rows were refused"
ONE_SEED = "undetermined: one seed tells nothing of other texts and other untrained networks (--seeds 3)"
FIRST_BLOCK = "nothing can be said of the model: its first block reads the last token alone, whatever the weights"
LEAST_SEEDS = 2
#: Share of the ceiling that is as good as no difference.
NEGLIGIBLE = 0.05
#: What each flag of an estimate means.
FLAG_WORDS = {
    "above_ceiling": "it reads more than its pairs can certify",
    "not_converged": "halves or quarters of the texts give another value, so more texts would move it",
    "se_disagrees": "quarters of the texts vary twice as much as its standard error says",
    "saturated": "the critic is near the most that it can tell",
    REFUSED: "shuffled pairs show information, so it is no number",
}
#: Disjoint parts of the pairs, by which the standard error is checked.
N_QUARTERS = 4


@dataclass(frozen=True, eq=False)
class Parts:
    """ΔIE of S seeds: value and closed standard error (S,), and the value on disjoint quarters of the pairs (S, 4).

    ``of_one``: Whether the model is held against single untrained networks, not against their mean.
    """

    apart: FloatArray
    closed: FloatArray
    quarters: FloatArray
    of_one: bool = False

    def estimate(self, n: int, level: float = 0.95) -> Estimate:
        """The mean over seeds; its error is the closed one or that of the quarters, whichever is larger."""
        varied = self.quarters.std(axis=-1, ddof=1) / math.sqrt(self.quarters.shape[-1])
        return over_seeds(self.apart, np.fmax(self.closed, varied), n, level, of_one=self.of_one)


@dataclass(frozen=True, eq=False)
class Emergence:
    """Estimates of every condition c, seed s and layer l.

    Attributes:
        layers: L blocks.
        values: (C, S, L) information emergence in bits; nan where a row was refused. errors: Its standard errors.
        quarters: (C, S, L, 4) the same on disjoint quarters of the pairs.
    """

    layers: tuple[int, ...]
    values: FloatArray
    errors: FloatArray
    quarters: FloatArray

    @property
    def inner(self) -> list[int]:
        """Places of the blocks after the first; of the first where no other was asked for."""
        return [i for i, block in enumerate(self.layers) if block > 0] or [0]

    @property
    def raw_mean(self) -> float:
        """Mean of the model's own estimates over seeds and :attr:`inner`; nan where one was refused."""
        return float(self.values[0][:, self.inner].mean())

    def raw(self, condition: str, layer: int, n: int) -> Estimate:
        """IE of one condition at one layer."""
        at = CONDITIONS.index(condition)
        return over_seeds(self.values[at, :, layer], self.errors[at, :, layer], n)

    def difference(self, control: str, layer: int | None, n: int, level: float = 0.95) -> Estimate:
        """ΔIE, the model's IE minus a control's, at a layer, or the mean over the blocks after the first.

        What the first block reads is the last token alone, whatever the weights, so it tells of the text only. Against
        random twins the interval asks whether the model could be one more of them.
        """
        return self.parts(control, layer).estimate(n, level)

    def parts(self, control: str, layer: int | None) -> Parts:
        """What :meth:`difference` is made of."""
        at = CONDITIONS.index(control)
        apart = self.values[0] - self.values[at]  # (S, L)
        quarters = self.quarters[0] - self.quarters[at]  # (S, L, 4)
        closed = np.hypot(self.errors[0], self.errors[at])
        if layer is None:
            # The layers are told by the same texts, so their errors do not average out.
            apart, quarters, closed = (part[:, self.inner].mean(axis=1) for part in (apart, quarters, closed))
        else:
            apart, quarters, closed = apart[:, layer], quarters[:, layer], closed[:, layer]
        return Parts(apart, closed, quarters, of_one=control == "random")


def concluded(emergence: Emergence, n: int, ceiling: float, doubts: Sequence[str] = ()) -> tuple[str, tuple[str, ...]]:
    """What the numbers allow one to say in a phrase, and a sentence for every control.

    The mean ΔIE over the blocks after the first decides, by intervals that together err in 5% of cases. "No more" takes
    an interval that ends below a twentieth of the ceiling; what is neither more, less nor no more is undetermined.

    Args:
        n: Pairs. ceiling: Of a pass, in bits. doubts: Flags of the estimates that decide.
    """
    if max(emergence.layers) == 0:
        return FIRST_BLOCK, ()
    told: dict[str, list[str]] = {"more": [], "less": [], "no more": [], "undetermined": []}
    sentences = []
    for control, words in CONTROLS.items():
        found = emergence.difference(control, None, n, 1 - _FALSE_CLAIMS / len(CONTROLS))
        if not math.isfinite(found.point):
            sentences.append(f"Against {words}: no number, because rows were refused.")
            continue
        what = _told(found, NEGLIGIBLE * ceiling)
        told[what].append(words)
        shown = format_interval(found.point, found.lo, found.hi, 2, signed=True)
        sentences.append(
            f"Against {words}: {what} ({shown} bits, mean over blocks after the first, {found.level:.1%} interval)."
        )
    if emergence.values.shape[1] < LEAST_SEEDS:
        return ONE_SEED, tuple(sentences)
    if not any(told.values()):
        return UNKNOWN, tuple(sentences)
    first = " and ".join(f"more than {words}" for words in told["more"])
    less = " and ".join(f"less than {words}" for words in told["less"])
    open_ = "undetermined against " + " and ".join(told["undetermined"]) if told["undetermined"] else ""
    phrase = first or open_ or NOTHING
    phrase += f", but {less}" if less else ""
    phrase += f"; {open_}" if first and open_ else ""
    doubted = f" (by estimates that are flagged: {', '.join(doubts)})" if doubts else ""
    return f"{phrase}{doubted}", tuple(sentences)


def _told(found: Estimate, negligible: float) -> str:
    """What an interval of ΔIE allows one to say; ``negligible``: bits that are as good as none."""
    if found.lo > 0:
        return "more"
    if found.hi < 0:
        return "less"
    return "no more" if found.hi < negligible else "undetermined"


def asked_words(settings: dict[str, Any], layers: Sequence[int]) -> str:
    """``2,000 texts, 1 seed, 32 dimensions, blocks 0 to 3, texts 1234abcd``."""
    return (
        f"{settings['n']:,} texts, {counted(len(settings['seeds']), 'seed')}, {settings['dimensions']} dimensions, "
        f"blocks {layers[0]} to {layers[-1]}, texts {str(settings['fingerprint'])[:8]}"
    )


@dataclass(frozen=True)
class LayerUsable:
    """Usable information about the answer in the states of one layer (0: embeddings), bits a validation question.

    Attributes:
        bits: Beyond a probe that sees nothing; None where an older run does not tell.
        beyond_embeddings: Beyond the same family on the embeddings; None where they were not probed.
    """

    layer: int
    bits: float | None
    beyond_embeddings: float | None


@dataclass(frozen=True, eq=False)
class InformationResult:
    """What a study of one model on one set of texts found.

    Attributes:
        subject: The model: ``name``, ``kind``, and of a run its size, seed and initialisation.
        settings: Texts, T, n, dimensions, noise, seeds.
        layers: Blocks; an estimate is between the states before a block and after it.
        rows: What every cell found, in the order of conditions, seeds, layers.
        emergence: The same as arrays.
        usable: Of a frozen run: probe family -> bits about the answer that states add to words and positions.
        usable_by_layer: Of a frozen run: probe family -> usable information about the answer at every probed layer.
    """

    subject: dict[str, Any]
    settings: dict[str, Any]
    layers: tuple[int, ...]
    rows: tuple[dict[str, Any], ...]
    emergence: Emergence
    usable: dict[str, Estimate]
    usable_by_layer: dict[str, tuple[LayerUsable, ...]] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Pairs of one estimate: half the texts."""
        return int(self.settings["n"]) // 2

    def asked(self) -> str:
        """What was asked, in words, for results that differ in nothing else."""
        return asked_words(self.settings, self.layers)

    @property
    def conclusion(self) -> tuple[str, tuple[str, ...]]:
        inner = [at for i in self.emergence.inner for at in (*self.flags(i), *self.control_flags(i))]
        doubts = sorted({flag.removeprefix("micro_").replace("_", " ") for flag in inner})
        return concluded(self.emergence, self.n, float(self.settings["ceiling"]), doubts)

    def flags(self, layer: int) -> list[str]:
        """Flags of the model's own rows at a layer, whatever the seed; ``refused`` of a control's, too."""
        refused = {REFUSED} & set(self._flags(layer, CONTROLS))
        return sorted(set(self._flags(layer, (MODEL,))) | refused)

    def control_flags(self, layer: int) -> list[str]:
        """Flags of the controls' rows at a layer that the model's own have not."""
        return sorted(set(self._flags(layer, CONTROLS)) - set(self.flags(layer)))

    def _flags(self, layer: int, conditions: Iterable[str]) -> Iterator[str]:
        for row in self.rows:
            if row["layer"] == self.layers[layer] and row["condition"] in conditions:
                yield from row["flags"]

    def to_dict(self) -> dict[str, Any]:
        phrase, sentences = self.conclusion
        return {
            **FILES.header,
            "subject": self.subject,
            "settings": self.settings,
            "unit": "bits",
            "conclusion": phrase,
            "evidence": list(sentences),
            "layers": [self._layer(i) for i in range(len(self.layers))],
            "mean": {name: plain(self.emergence.difference(name, None, self.n)) for name in CONTROLS},
            "usable_information": {family: plain(estimate) for family, estimate in self.usable.items()},
            "usable_by_layer": {
                family: [vars(one) for one in layers] for family, layers in self.usable_by_layer.items()
            },
            "rows": list(self.rows),
        }

    def _layer(self, i: int) -> dict[str, Any]:
        return {
            "layer": self.layers[i],
            "delta": {name: plain(self.emergence.difference(name, i, self.n)) for name in CONTROLS},
            "raw": {name: plain(self.emergence.raw(name, i, self.n)) for name in CONDITIONS},
            "flags": self.flags(i),
            "control_flags": self.control_flags(i),
        }

    def meanings(self) -> list[str]:
        """What the flags mean that are there, and what a difference is no sign of."""
        there = {flag for i in range(len(self.layers)) for flag in (*self.flags(i), *self.control_flags(i))}
        lines = [
            f"{flag.replace('_', ' ')}: {words}"
            for flag, words in FLAG_WORDS.items()
            if {flag, f"micro_{flag}"} & there
        ]
        if any(flag.startswith("micro_") for flag in there):
            lines.append("micro: the same of single tokens")
        if (asked := len(self.settings["seeds"]) * self.settings["n"]) > (
            there_are := self.settings.get("available", asked)
        ):
            lines.append(f"seeds share texts ({there_are:,} for {asked:,}), so intervals over seeds are too short")
        return [
            *lines,
            "An untrained network has information emergence too: a difference alone is no sign of learning.",
        ]

    def arrays(self) -> Arrays:
        emergence = self.emergence
        return {"values": emergence.values, "errors": emergence.errors, "blocks": emergence.quarters}

    def text(self) -> str:
        """For a terminal: the conclusion, ΔIE by layer, and the raw value in brackets."""
        settings = self.settings
        phrase, sentences = self.conclusion
        entropy = settings.get("exact")
        exact = f"; the true one is {entropy:.2f} after the first block, whatever the weights" if entropy else ""
        lines = [
            f"{self.subject['name']} on {settings['texts']}, {settings['length']} tokens: {phrase}",
            *sentences,
            f"Information emergence in bits, gaussian, {settings['n']:,} texts, {settings['dimensions']} dimensions, "
            f"noise {settings['noise']:g} of the RMS, {counted(len(settings['seeds']), 'seed')}, 95% intervals; "
            f"ceiling of a pass {settings['ceiling']:.2f}. A raw value says mostly how much noise was added{exact}.",
            "",
        ]
        table = [["layer", *(f"minus {name}" for name in CONTROLS), "(raw)", ""]]
        for i, layer in enumerate(self.layers):
            apart = (self.emergence.difference(name, i, self.n) for name in CONTROLS)
            raw = self.emergence.raw(MODEL, i, self.n)
            told = ", ".join(self.flags(i)).replace("_", " ")
            if others := ", ".join(self.control_flags(i)).replace("_", " "):
                told += f"{'; ' if told else ''}controls: {others}"
            table.append(
                [str(layer), *(format_estimate(one, signed=True) for one in apart), f"({raw.point:.2f})", told]
            )
        lines += aligned(table)
        lines += self.meanings()
        for family, found in self.usable.items():
            lines.append(
                f"usable information about the answer, beyond words and positions, {family} probe: "
                f"{format_estimate(found, 3, signed=True)} bits a question"
            )
        if self.usable_by_layer:
            lines += ["", *_usable_lines(self.usable_by_layer)]
        return "\n".join(lines)


def _usable_lines(usable: dict[str, tuple[LayerUsable, ...]]) -> list[str]:
    """A line a layer: bits, and in brackets those beyond the embeddings."""
    layers = sorted({one.layer for found in usable.values() for one in found})
    table = [["states of layer", *usable]]
    for layer in layers:
        cells = []
        for found in usable.values():
            one = next((each for each in found if each.layer == layer), LayerUsable(layer, None, None))
            bits = "" if one.bits is None else f"{one.bits:.3f}"
            beyond = "" if one.beyond_embeddings is None else f"({one.beyond_embeddings:+.3f})"
            cells.append(f"{bits} {beyond}".strip())
        table.append([str(layer), *cells])
    what = "usable information about the answer by layer, bits a validation question (beyond the embeddings):"
    return [what, *aligned(table)]


def result_of(
    subject: dict[str, Any],
    settings: dict[str, Any],
    layers: Sequence[int],
    rows: Sequence[dict[str, Any]],
    usable: dict[str, Estimate],
    usable_by_layer: dict[str, tuple[LayerUsable, ...]] | None = None,
) -> InformationResult:
    """The result of rows in the order of conditions, seeds and layers."""
    shape = (len(CONDITIONS), len(settings["seeds"]), len(layers))

    def array(key: str) -> FloatArray:
        return np.array([row["ie"][key] for row in rows], dtype=np.float64).reshape(
            *shape, *([N_QUARTERS] * (key == "blocks"))
        )

    emergence = Emergence(tuple(layers), array("value"), array("se"), array("blocks"))
    by_layer = usable_by_layer or {}
    return InformationResult(subject, settings, tuple(layers), tuple(rows), emergence, usable, by_layer)


def read_result(folder: Any) -> InformationResult:
    """The result in ``folder``. The errors are those of :meth:`StudyFiles.read`."""
    return FILES.read(folder, _from_files)


def _from_files(content: dict[str, Any], arrays: Arrays) -> InformationResult:
    usable = {name: Estimate.from_dict(found) for name, found in content["usable_information"].items()}
    by_layer = {  # which results of older versions lack
        name: tuple(LayerUsable(**one) for one in found) for name, found in content.get("usable_by_layer", {}).items()
    }
    layers = [int(found["layer"]) for found in content["layers"]]
    result = result_of(content["subject"], content["settings"], layers, content["rows"], usable, by_layer)
    if any(not np.array_equal(arrays[name], mine, equal_nan=True) for name, mine in result.arrays().items()):
        raise ValueError("the rows are not those of its arrays")
    result.text()  # reads every number that somebody asks for, so that what is malformed is known here
    return result
