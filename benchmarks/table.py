"""``docs/speed.md``: the table of all rows, made from their JSON and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import load_newest, number
from benchmarks.rows import ROWS
from benchmarks.scaling import told
from emergence.files import write_atomic

_HEAD = """# Speed

Made by `python -m benchmarks table` from `benchmarks/results/*.json`; do not edit. One row is measured with
`python -m benchmarks ROW`: ours and its peers in turn on one CPU thread, medians, CPU seconds per unit of work, so
that other work on the machine falls on all alike. Ratios are medians over rounds of the ratio within a round.

The marks were set on a machine with bf16 matrix units, which multiply four times as fast as float32 does
(460 against 102 GFLOP/s, one thread). Without them ours (`precision = "auto"`) and the best-tuned peer both run in
float32, do the same matrix products at the same speed, and only the rest of the work can tell them apart: at the
default vocabulary the output head is 80% of an update's arithmetic at 2x128 and 53% at 4x256, in any exact program.
"""

_PEERS = """
## Peers

- **padded predecessor**: `benchmarks/peers/padded.py`. Separate projections, attention matrix written out, float32,
  every paragraph (headings left out) padded to 512 tokens and tokenised in every epoch, AdamW, logits at every
  position; the frozen trunk run again in every epoch of a probe. Its rate counts real tokens only.
- **Hugging Face GPT-2**: `GPT2LMHeadModel` with random weights on packed text, float32, no dropout.
- **best-tuned GPT-2**: `benchmarks/peers/gpt2.py`. One matrix for query, key and value, fused attention, packed text,
  bf16 where the hardware has it, the whole step compiled, fused AdamW.
- **pair by pair**: the feature form of debiased CKA as Kornblith et al. published it.
"""

_CORRECT = """
## The same results

Beside speed, the default tests hold what is fast against what is plain: the fused loss and its gradients
(`tests/model/test_losses.py`), packed against unpacked and cached against uncached
(`tests/answering/test_fast_paths.py`), all CKA pairs at once against one at a time (`tests/measures/test_cka.py`).
"""


def write_table(results: Path, file: Path) -> str:
    """Write the page; returns what was done, one line."""
    found = load_newest(results)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, page(found))
    return f"{file.name}: {len(found)} rows"


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page as Markdown, from results by ``row@device``."""
    order = {name: place for place, name in enumerate(ROWS)}
    rows = sorted((r for r in found.values() if r["row"] in order), key=lambda r: (r["device"], order[r["row"]]))
    parts = [_HEAD]
    for device in dict.fromkeys(row["device"] for row in rows):
        parts.append(_device_table([row for row in rows if row["device"] == device]))
    if not any(row["device"] == "cuda" for row in rows):
        parts.append(
            "\nNo row was measured on a GPU yet. The code of the GPU rows (`--device cuda`) has only ever "
            "run on a CPU.\n"
        )
    missing = [name for name in ROWS if not any(row["row"] == name for row in rows)]
    if missing:
        parts.append(f"\nNot measured yet: {', '.join(f'`{name}`' for name in missing)}.\n")
    parts += [_details(rows), _misses(rows), _scaling(found), _PEERS, _CORRECT]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def _device_table(rows: list[Mapping[str, Any]]) -> str:
    lines = [f"\n## {_machine(rows[0])}\n", "| | measured | mark | |", "|---|---|---|---|"]
    for row in rows:
        for c in row["comparisons"]:
            sign = "≥" if c["at_least"] else "≤"
            measured, mark = (f"{_value(c[key], c['unit'])}" for key in ("value", "mark"))
            lines.append(
                f"| {row['title']}: {c['what']} | {measured} | {sign} {mark} | {'met' if c['met'] else 'missed'} |"
            )
    return "\n".join(lines)  # fmt: skip


def _value(value: float, unit: str) -> str:
    text = number(value)
    return f"{text}{unit if unit != 'x' else '×'}"


def _machine(row: Mapping[str, Any]) -> str:
    about = row["machine"]
    if "gpu" in about:
        return f"{about['gpu']}, {row['precision']}"
    return f"{about['cpu']}, {about['cores']} cores of which one thread is used, {row['precision']}"


def _details(rows: list[Mapping[str, Any]]) -> str:
    lines = ["\n## Figures\n", "| row | what | median | from .. to | data | date |", "|---|---|---|---|---|---|"]
    for row in rows:
        for f in row["figures"]:
            spread = f"{number(min(f['samples']))} .. {number(max(f['samples']))}" if len(f["samples"]) > 1 else ""
            value = f"{number(f['value'])} {f['unit']}"
            lines.append(f"| `{row['row']}` | {f['name']} | {value} | {spread} | {row['data']} | {row['date']} |")
    for text in dict.fromkeys(_versions(row) for row in rows):
        lines.append(f"\nVersions: {text}.")
    notes = [f"- `{row['row']}`: {note}" for row in rows for note in row["notes"]]
    return "\n".join([*lines, "", "Notes:", "", *notes])


def _versions(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in row["versions"].items())


def _misses(rows: list[Mapping[str, Any]]) -> str:
    """Where the time goes in the rows that miss a mark, by the profiler."""
    lines = []
    for row in rows:
        if row["profile"] and not all(c["met"] for c in row["comparisons"]):
            entries = ", ".join(f"`{e['what']}` {e['share']:.0%} ({e['calls']} calls)" for e in row["profile"])
            lines.append(f"- `{row['row']}`: {entries}")
    if not lines:
        return ""
    return "\n".join(
        ["\n## Where the time goes in rows that miss a mark\n", "Own time of ours by `torch.profiler`.\n", *lines]
    )


def _scaling(found: Mapping[str, Mapping[str, Any]]) -> str:
    scaling = found.get("scaling@cpu")
    if scaling is None:
        return ""
    lines = ["\n## How costs grow\n", "![Costs against size, logarithmic](figures/scaling.svg)\n",
             "Fitted to CPU seconds = a · size^b on a machine under other load.\n",
             "| cost | grows with | from .. to | exponent b, standard error |", "|---|---|---|---|"]  # fmt: skip
    for curve in scaling["curves"]:
        span = f"{number(min(curve['sizes']))} .. {number(max(curve['sizes']))}"
        lines.append(f"| {curve['cost']} | {curve['grows_with']} | {span} | {told(curve)} |")
    return "\n".join(lines)
