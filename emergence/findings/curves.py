"""Everything a folder says about emergence along an axis: snapshots, sizes, pretraining data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emergence.files import to_json
from emergence.findings.ablation import ORDER, Ablation, ablate
from emergence.findings.collect import OWN_KIND
from emergence.findings.folder import read_folder
from emergence.findings.revision_curve import revision_probes
from emergence.findings.scale_curve import ScaleCurve, scale_curves
from emergence.findings.snapshot_curve import EmergenceCurve, emergence_curves, read_snapshot_probes
from emergence.measures.bootstrap import N_BOOT
from emergence.measures.thresholds import N_DRAWS
from emergence.plain import plain
from emergence.wording import in_line

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Curves:
    """What :func:`read_curves` found; ``problems``: name and reason of results and snapshot probes that are damaged."""

    snapshots: tuple[EmergenceCurve, ...]
    sizes: tuple[ScaleCurve, ...]
    ablation: Ablation
    order: Ablation
    problems: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return plain({"kind": f"{OWN_KIND}curves", "schema_version": SCHEMA_VERSION, **vars(self)})

    def shown(self, as_json: bool) -> str:
        """JSON, or a paragraph for each curve."""
        if as_json:
            return to_json(self.to_dict(), indent=2)
        parts = [curve.text() for curve in self.snapshots] + [curve.text() for curve in self.sizes]
        parts += [ablation.text() for ablation in (self.ablation, self.order) if ablation.text()]
        parts += [in_line(f"left out: {name}: {reason}") for name, reason in self.problems]
        if not self.snapshots:
            parts.append("no snapshots were probed: emergence probe-snapshots RUN")
        return "\n\n".join(parts)


def read_curves(root: Path, *, n_boot: int = N_BOOT, n_draws: int = N_DRAWS) -> Curves:
    """All curves of the runs and results under ``root``.

    Raises:
        DataError: There is no such folder, or no result or run in it.
    """
    folder = read_folder(root, n_boot=n_boot)
    folder.refuse_if_empty()
    results, problems = read_snapshot_probes([on_disk.run.path for on_disk in folder.runs])
    results += revision_probes(folder.collection.found)
    return Curves(
        snapshots=tuple(emergence_curves(results, n_boot=n_boot, n_draws=n_draws)),
        sizes=tuple(scale_curves(folder.scored, n_draws=n_draws)),
        ablation=ablate(folder.grouping, n_boot=n_boot),
        order=ablate(folder.grouping, ORDER, n_boot=n_boot),
        problems=(
            *((item.name, item.reason) for item in folder.skipped if item.kind in ("damaged", "suspect")),
            *problems,
        ),
    )
