"""``docs/speed.md``, made from the JSON of all rows and of :mod:`benchmarks.recipe`.

What was seen besides, once, stands here in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.marks import kind_of_result
from benchmarks.report import Comparison, load_newest, number
from benchmarks.rows import ON_GPU, ROWS
from benchmarks.scaling import told
from emergence.errors import DataError, UsageError
from emergence.files import make_folder, read_json, write_atomic
from emergence.wording import counted

#: The folder of results that the documentation is made of, as the page calls it.
OWN_RESULTS = "benchmarks/results"

#: What a page begins with, whatever version made it.
_FIRST_WORDS = "# Speed\n\nMade by `python -m benchmarks table"

_HEAD = (
    _FIRST_WORDS
    + """ --results {results}`; do not edit. `python -m benchmarks ROW --text DIR --questions DIR`
measures one row (on the built-in micro-world without these flags; seconds to minutes a row, an hour and more the times
to a loss), says what kind of machine it is on, and keeps its figures in `benchmark-results/`. `python -m benchmarks
table` makes a page like this one there.
"""
)

_READING = """
## How to read the tables

**What is measured.** Ours and its peers in turn on one CPU thread, medians of (mostly five) rounds.

- Time is CPU seconds per unit of work, so that other work on the machine counts for little. Two jobs against one are
  told by the clock, and so is a GPU: in pretraining up to 20 updates of each side between two looks at it; ours wait
  for it after every one, as a run does, peers do not.
- Ratios are medians over rounds of the ratio within a round; those of the times to a loss take the updates of the
  median seed.
- Commands find the program compiled, as installed ones do (rows before 28 November 2026 may hold up to 0.4 CPU
  seconds a command of compiling it).
- What `gutenberg` and the questions are stands in [Results](results.md); `wikitext-103` and `valid.txt` are
  validation text of WikiText.

**How sure it is.** Rented machines have neighbours, and figures of one row scatter by a third and more (*from .. to*
in parentheses and in the figures below), of products in bf16 tiles two- to sixfold.

- Five rounds hold the true median between the least and the greatest in 15 cases of 16: where they hold the mark,
  too, the verdict is *undetermined*.
- Ratios that are told without rounds (memory, exponents, bits per byte of one seed) cannot be undetermined.

**Kinds of machine.** Bf16 tiles are Intel's AMX, bf16 vector units AVX-512 BF16; other CPUs, Macs among them, are
measured as float32 only.

- So are Intel's whose tiles a virtual machine keeps from programs: on the one that was at hand, vector units
  multiplied in bf16 half as fast as in float32.
- So is a CPU that has more, with `ONEDNN_MAX_CPU_ISA=AVX512_CORE`: oneDNN, which multiplies in bf16 for PyTorch, is
  *held to* that. In float32 other libraries multiply, with all that the CPU has.

**Marks.** A *mark* is what this project asks of itself: at least (≥) or at most (≤) so much. Marks against peers are
of a kind of machine (`benchmarks/marks.py`), those of memory and of shares of the peak are not.

- The first ones were set with bf16 tiles, on 21 November 2026, which were taken to multiply 4.5 times as fast as
  float32 does (2.3 to 3.6 times were measured since).
- A mark against peers in float32 changes as the gain of bf16 is taken to (2.3 with vector units, 8 on a GPU, 1
  without it), by a rule of 26 November, when rows in float32 had missed the first marks; a GPU, first asked what
  tiles are asked, came under it on 27 November.
- Against the best-tuned peer, which does the same products in the same format, an update has to be no slower on
  machines without tiles.
- Finetuning has to be 50 times as fast where bf16 gains 2 and more, 22 times (50 / 2.3) elsewhere, and the time to a
  loss a quarter of the peer's everywhere.

**Limits.** The *limit* is what would be found if ours took no longer than its matrix products alone, at the speed of
a large one in the same round (of another row of the same day, where a note says so), which scatters as all does. It
tells what is left to gain with the same arithmetic: another number format, optimiser or parser could pass some. Other
rows name theirs in a note. Losses, errors and exponents have none; others without one were measured before it was
taken.
"""

_PEERS = """
## Peers

- **padded predecessor**: `benchmarks/peers/padded.py`, written for this comparison as such trainers are. Separate
  projections, attention matrix written out, float32, every paragraph (headings left out) padded to 512 tokens and
  tokenised in every epoch, AdamW, logits at every position; half as many sequences in an update of pretraining, a
  quarter as many questions (8 for 32) in one of finetuning; the frozen trunk run again in every epoch of a probe. Its
  rate counts real tokens only: in the float32 rows as many as an update holds on average, in the earlier ones with bf16
  those of the paragraphs at hand, so that rounds scatter twofold (the fourth had short ones).
- **Hugging Face GPT-2**: `GPT2LMHeadModel` with random weights on packed text, float32, no dropout.
- **best-tuned GPT-2**: `benchmarks/peers/gpt2.py`. One matrix for query, key and value, fused attention, packed text,
  bf16 where the hardware has it, the whole step compiled (and on a GPU replayed as a CUDA graph, which no stored row
  has yet: theirs was compiled with `reduce-overhead`), fused AdamW. Its rate is fixed where updates are timed; for the
  time to a loss the rate is searched and then, with it, the warm-up: the longest of three was best, and a lower beta1,
  which was not searched, would help it, too (above): against it `tiny` would be 3.6 times as fast with tiles on the
  one seed that tells, not 4.6. Its linear layers begin as PyTorch's do, which was no worse than GPT-2's own beginning
  (`tiny` in float32, seed 0, rate 0.008: 6.292 for 6.304 after its pass). The GPT-2 style recipe of `bits-per-byte` has
  three rates in float32, and two in the earlier rows with bf16, of which the lower was better.
- **pair by pair**: the feature form of debiased CKA as Kornblith et al. published it.
"""

_RECIPE = """
*Optimisers.* A lower beta1 and a momentum that warms up lower the loss in short runs of both sizes, and neither is a
default. Frozen `debug` trunks of the micro-world with as good a loss or better (2.14 and 2.17 nats for 2.18 and 2.19,
two seeds) had a lower linear probe with them (token F1 0.429 and 0.423 for 0.442 and 0.455, standard errors 0.006), and
as good a bilinear one (0.913 and 0.919 for 0.915 and 0.902). What they do in many thousand updates is not known; in
fewer than 300 the momentum stays below its 0.95. To have them: `--set pretrain.adamw_beta1=0.8 --set
pretrain.muon_momentum_warmup=300`. The peer gains from such a beta1, too (tiny, seed 0: 6.248 for 6.296 after its
pass). Half the batch lowered ours by 0.035 (80 updates of tiny); it is the same on both sides here.

*Windows* of 128 tokens in the first 60% of the updates (`--set pretrain.initial_context=128`; Zhu et al. 2025,
SkyLadder, arXiv 2503.15450) are no default either. `tiny` reached the loss above, in float32, after 81, 59 and 76
updates with them for 84, 60 and 76, and an update is a few percent cheaper. After 1,000 updates of `tiny` (books and
QA-SRL Bank, seed 0) the loss was 5.326 for 5.331 nats; linear and bilinear probes of the frozen trunk had F1 0.306 and
0.530 for 0.305 and 0.528 (standard errors 0.01). Frozen `debug` trunks of the micro-world with windows of 32 of their
128 tokens (500 updates, seeds 0 and 1) had 2.201 and 2.187 nats for 2.145 and 2.191, linear probes 0.431 and 0.456 for
0.438 and 0.456, bilinear ones 0.918 and 0.920 for 0.901 and 0.907. But while windows last, the loss on whole sequences
lags (5.645 for 5.601 after 600 of the 1,000 updates) and then falls at once: curves over snapshots, which this program
is for, would have a cliff. Thousands of updates, larger sizes and GPUs were not tried.

Nothing was gained in 80 updates of `tiny` (seed 0, 6.307 without) by capping logits at 15 (6.303), by a second
embedding, of the token before (6.307), or by a longer warm-up (10%: 6.328).
"""

_H100_PAGE = """
## On an H100

Milliseconds of an update (2026-11-27, torch 2.11, bf16, trunk compiled, each change on top of those before):

| | tiny | small | base |
|---|---|---|---|
| 512 rows of the head at once, as before | 11.8 | 27.8 | 134 |
| 8,192 rows (tiny has 4,096) | 9.7 | 16.1 | 95.4 |
| the head's softmax compiled | 9.8 | 13.7 | 93.0 |
| replayed as CUDA graphs | 1.8 | 6.3 | (88.7) |

With the head compiled, 512, 1,024, 2,048, 4,096, 8,192 and 16,384 rows took 22.3, 20.4, 16.8, 13.4, 13.7 and 12.5 ms
of an update of `small` (launched, and so within a millisecond or two); 512, 2,048, 8,192 and 16,384 rows 103, 95.1,
93.0 and 93.2 of one of `base`: more rows than 8,192 gain nothing there and take memory. Launches took 20 microseconds
on that machine, which is why a small model computed a sixth of the time; how much replaying gains depends on the CPU.
`base` and larger are not replayed: little is gained, and a graph holds on to the memory of a pass. Filling new
memory, PyTorch's default of deterministic mode, took 13% of `tiny` and is off. Equal bits cost 2% of `tiny` and
nothing that could be seen of the others; PyTorch's attention had been warned about and went backward in any order
until runs forbade it. What small models miss is time between kernels, a half of it even when replayed; of probes and
finetuning nearly all, launched as they are.

The ratios to the best-tuned GPT-2 above are of two processes of six, see the notes; at 4x256 its rounds scatter to
both sides of ours, so that which is faster is not known."""

_CORRECT = """
## The same results

Beside speed, the default tests hold what is fast against what is plain: the fused loss and its gradients
(`tests/model/test_losses.py`), packed against unpacked and cached against uncached
(`tests/answering/test_fast_paths.py`), all CKA pairs at once against one at a time (`tests/measures/test_cka.py`),
read-outs scored together against one by one (`tests/answering/test_evaluate.py`).
"""


def write_table(results: Path, file: Path, name: str = OWN_RESULTS) -> str:
    """Write the page, which calls the folder of results ``name``; returns what was done, one line."""
    text, n_results = page_of(results, name)
    if file.is_file() and not file.read_text(encoding="utf-8", errors="replace").startswith(_FIRST_WORDS):
        raise UsageError(f"{file}: not a page of these benchmarks, so it is not overwritten: move it away")
    make_folder(file.parent)
    write_atomic(file, text)
    return f"{file}: {counted(n_results, 'result')}"


def page_of(results: Path, name: str = OWN_RESULTS) -> tuple[str, int]:
    """The page of a folder of results, and how many there are."""
    found = load_newest(results)
    if not found:
        raise UsageError(f"{results}: no results: python -m benchmarks ROW makes one")
    changes = results / "campaigns" / "recipe.json"
    if unknown := next((result["row"] for result in found.values() if result["row"] not in (*ROWS, "scaling")), None):
        raise DataError(f"a result of {unknown[:40]!r}, which is no row of this version", results)
    n_results = sum(result["row"] in ROWS for result in found.values())
    try:
        return page(found, read_json(changes, DataError) if changes.is_file() else None, name), n_results
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as reason:
        # Every result was checked, so it is the one file that was not.
        raise DataError(f"no record of the recipe's changes, or damaged ({reason!r})"[:200], changes) from None


def page(
    found: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Any] | None = None, name: str = OWN_RESULTS
) -> str:
    """The page as Markdown, from results by ``row@kind`` and what was found about the recipe.

    Args:
        name: Of the folder of the results.
    """
    order = {name: place for place, name in enumerate(ROWS)}
    rows = sorted((r for r in found.values() if r["row"] in order), key=lambda r: order[r["row"]])
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_kind.setdefault(kind_of_result(row), []).append(row)
    kinds = sorted(by_kind, key=lambda kind: (-len(by_kind[kind]), kind))
    parts = [_HEAD.replace("{results}", name), _summary(by_kind, kinds), _READING]
    parts += [_marks(kind, by_kind[kind]) for kind in kinds]
    if "GPU" not in by_kind:
        parts.append("\nNo row here was measured on a GPU (`--device cuda`).\n")
    parts += [_absent(kind, by_kind[kind]) for kind in kinds]
    parts += [_curves(rows), _recipe(changes) if changes else ""]
    parts += [*(_details(kind, by_kind[kind]) for kind in kinds), _misses(rows), _scaling(found)]
    parts += [_H100_PAGE if name == OWN_RESULTS else "", _PEERS, _CORRECT]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _summary(by_kind: Mapping[str, list[Mapping[str, Any]]], kinds: Sequence[str]) -> str:
    """How many marks each kind of machine meets, and the rows that miss one."""
    lines = ["| kind of machine | marks met | undetermined | missed | rows that miss one |", "|---|---|---|---|---|"]
    for kind in kinds:
        verdicts = [(_verdict(row, c), row["row"]) for row in by_kind[kind] for c in row["comparisons"]]
        counts = [
            str(sum(verdict == wanted for verdict, _ in verdicts)) for wanted in ("met", "undetermined", "missed")
        ]
        missed = dict.fromkeys(f"`{row}`" for verdict, row in verdicts if verdict == "missed")
        lines.append(f"| {' | '.join([_title(kind), *counts, ', '.join(missed)])} |")
    return "\n".join(lines)


def _title(kind: str) -> str:
    return f"{kind[0].upper()}{kind[1:]}"


def _marks(kind: str, rows: list[Mapping[str, Any]]) -> str:
    lines = [f"\n## {_title(kind)}\n"]
    machines: dict[str, list[str]] = {}
    for row in rows:
        machines.setdefault(machine_of(row), []).append(f"`{row['row']}`")
    most = max(machines, key=lambda machine: len(machines[machine]))
    told = [machine if machine == most else f"{machine} ({', '.join(machines[machine])})" for machine in machines]
    lines += [
        f"{'; '.join(sorted(told, key=lambda text: text != most))}.\n",
        "| row | | measured | limit | mark | |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for c in row["comparisons"]:
            sign = "≥" if c["at_least"] else "≤"
            measured, mark = (_value(c[key], c["unit"]) for key in ("value", "mark"))
            if rounds := c.get("rounds"):
                measured += f" ({number(min(rounds))} .. {number(max(rounds))})"
            limit = "" if c.get("limit") is None else _value(c["limit"], c["unit"])
            told = (f"{row['title']}: {c['what']}", measured, limit, f"{sign} {mark}", _verdict(row, c))
            lines.append(f"| `{row['row']}` | {' | '.join(told)} |")
    return "\n".join(lines)


def _absent(kind: str, rows: list[Mapping[str, Any]]) -> str:
    """The rows that nobody measured on a kind of machine, as a line."""
    there = {row["row"] for row in rows}
    missing = [f"`{name}`" for name in ROWS if name not in there and (kind != "GPU" or name in ON_GPU)]
    others = " Rows that compute on the CPU alone are not asked of it." if kind == "GPU" else ""
    return f"\nNot measured with {kind}: {', '.join(missing)}.{others}\n" if missing else ""


def _verdict(row: Mapping[str, Any], comparison: Mapping[str, Any]) -> str:
    """Computed, not read, so that no verdict differs from its numbers. A toy has none."""
    if row.get("toy"):
        return "a toy"
    rounds = comparison.get("rounds", [])
    return Comparison("", comparison["value"], comparison["mark"], comparison["at_least"], rounds=rounds).verdict


def _curves(rows: list[Mapping[str, Any]]) -> str:
    if not any(row["row"].startswith("time-to-loss") for row in rows):
        return ""
    return (
        "\n## Loss against time\n\n"
        "![Held-out loss against seconds, ours and the best-tuned GPT-2](figures/time_to_loss.svg)\n\n"
        "Three seeds each. Of ours the shortest runs are drawn that end at the loss that GPT-2 has after one pass. "
        "Their losses are those of uncompiled runs, which differ from compiled ones in the last digits. "
        "With tiles the updates that ours needs are rounded up to a twenty-fourth of the pass."
    )


def _recipe(found: Mapping[str, Any]) -> str:
    """What settings of the recipe did to the loss, from :mod:`benchmarks.recipe`."""
    runs: dict[tuple[str, int], dict[str, float]] = {}
    for one in found["runs"]:
        runs.setdefault((one["size"], one["updates"]), {})[one["change"]] = one["loss"]
    heads = [f"{size}, {updates} updates" for size, updates in runs]
    lines = [f"| nats per token | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for change in dict.fromkeys(one["change"] for one in found["runs"]):
        cells = []
        for losses in runs.values():
            base = next(iter(losses.values()))
            difference = "" if losses.get(change, base) == base else f" ({losses[change] - base:+.3f})"
            cells.append(f"{losses[change]:.3f}{difference}" if change in losses else "")
        lines.append(f"| {change} | {' | '.join(cells)} |")
    about = f"(`python -m benchmarks.recipe`; {found['data']}, seed {found['seed']}, {found['date']})"
    head = [
        "\n## Settings of the recipe\n",
        f"Held-out loss after equally many updates, differences before rounding {about}.\n",
    ]
    return "\n".join([*head, *lines, _RECIPE])


def _value(value: float, unit: str) -> str:
    text = number(value)
    return f"{text}{unit if unit != 'x' else '×'}"


def machine_of(row: Mapping[str, Any]) -> str:
    """What a row was measured on, and in which number format."""
    about = row["machine"]
    if "gpu" in about:
        return f"{about['gpu']}, {row['precision']}"
    memory = f", {about['memory_gigabytes']} GB" if "memory_gigabytes" in about else ""
    held = f", held to {about['held_to']}" if "held_to" in about else ""
    threads = "one thread" if about.get("threads", 1) == 1 else f"{about['threads']} threads"
    return f"{about['cpu']}{held}, {about['cores']} cores{memory}, {threads} a process, {row['precision']}"


def _details(kind: str, rows: list[Mapping[str, Any]]) -> str:
    lines = [
        f"\n## Figures: {kind}\n",
        "| row | what | median | from .. to | data | date |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        for f in row["figures"]:
            spread = f"{number(min(f['samples']))} .. {number(max(f['samples']))}" if len(f["samples"]) > 1 else ""
            value = f"{number(f['value'])} {f['unit']}"
            lines.append(f"| `{row['row']}` | {f['name']} | {value} | {spread} | {row['data']} | {row['date']} |")
    for text in dict.fromkeys(_versions(row) for row in rows):
        lines.append(f"\nVersions: {text}.")
    notes = [f"- `{row['row']}`: {note}" for row in rows for note in row["notes"]]
    return "\n".join([*lines, *(["", "Notes:", "", *notes] if notes else [])])


def _versions(row: Mapping[str, Any]) -> str:
    """Libraries, and the commit if it was noted."""
    told = [f"{name} {version}" for name, version in row["versions"].items()]
    if commit := row.get("commit"):
        told.append(f"commit {commit[:8]}" + (", modified" if row.get("modified") else ""))
    return ", ".join(told)


def _misses(rows: list[Mapping[str, Any]]) -> str:
    """What takes the time or the memory of the rows that miss a mark, or may."""
    lines = []
    for row in rows:
        verdicts = {_verdict(row, c) for c in row["comparisons"]}
        if "missed" in verdicts or ("undetermined" in verdicts and row["profile"]):
            entries = ", ".join(f"`{e['what']}` {e['share']:.0%}{_calls(e)}" for e in _merged(row["profile"]))
            unknown = f"not looked for ({row['date']})"
            lines.append(f"- `{row['row']}`, {kind_of_result(row)}: {entries or unknown}")
    if not lines:
        return ""
    about = (
        "Own time of ours by `torch.profiler`, where no note of the row says otherwise. Of a GPU `idle` is a share of "
        "the clock, the others are shares of what its kernels took.\n"
    )
    return "\n".join(["\n## Where time and memory go in rows that miss a mark or may\n", about, *lines])


def _merged(profile: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A profile with all that torch compiled as one entry, for its names are digests."""
    merged: dict[str, dict[str, Any]] = {}
    for entry in profile:
        what = "compiled code" if "CompiledFxGraph" in entry["what"] else entry["what"]
        before = merged.get(what, {})
        sums = {key: before.get(key, 0) + entry[key] for key in ("share", "calls") if key in entry}
        merged[what] = {**entry, "what": what, **sums}
    return sorted(merged.values(), key=lambda entry: -entry["share"])


def _calls(entry: Mapping[str, Any]) -> str:
    return f" ({entry['calls']} calls)" if "calls" in entry else ""


def _scaling(found: Mapping[str, Mapping[str, Any]]) -> str:
    scaling = next((result for result in found.values() if result["row"] == "scaling"), None)
    if scaling is None:
        return ""
    lines = ["\n## How costs grow\n", "![Costs against size, logarithmic](figures/scaling.svg)\n",
             "Fitted to CPU seconds = a · size^b on a machine under other load.\n",
             "| cost | grows with | from .. to | exponent b, standard error |", "|---|---|---|---|"]  # fmt: skip
    for curve in scaling["curves"]:
        span = f"{number(min(curve['sizes']))} .. {number(max(curve['sizes']))}"
        lines.append(f"| {curve['cost']} | {curve['grows_with']} | {span} | {told(curve)} |")
    return "\n".join(lines)
