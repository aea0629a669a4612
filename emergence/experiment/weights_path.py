"""Which file ``--pretrained-model-path`` means, and a helpful error if it means none."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from emergence.errors import EmergenceError, WeightsError
from emergence.experiment.facts import dig
from emergence.experiment.run_directory import SPEC_FILE, is_finetuned_name
from emergence.files import name_within, read_json
from emergence.wording import did_you_mean


def resolve_weights(root: Path, given: str, *, confined: bool) -> Path:
    """See :meth:`emergence.experiment.store.RunStore.resolve_weights`."""
    here = Path(os.path.expanduser(given))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    inside = _written_under(root, root / given)
    if confined and not inside:
        raise WeightsError(f"--pretrained-model-path {given} leads out of {root}: give a path inside it")
    candidates = ([root / given] if inside else []) + ([] if confined else [here])
    try:
        for path in candidates:
            if path.exists() and _leads_out(root, path):
                raise WeightsError(f"--pretrained-model-path {given} is a link out of {root}: copy the file there")
            if path.is_file():
                return path.resolve()
        raise WeightsError(_explain(root, given, candidates))
    except OSError as error:
        raise WeightsError(f"--pretrained-model-path {given[:200]}: {error.strerror or error}") from None


def _written_under(root: Path, path: Path) -> bool:
    """Whether ``path`` lies in ``root`` going by its text, with ``..`` taken away."""
    return Path(os.path.normpath(path.absolute())).is_relative_to(os.path.normpath(root.absolute()))


def _leads_out(root: Path, path: Path) -> bool:
    """Whether what is written as a path into the runs folder is led out of it by a link, which it must not be."""
    return _written_under(root, path) and name_within(path, root) is None


def _explain(root: Path, given: str, candidates: list[Path]) -> str:
    for path in candidates:
        if path.is_dir():
            return f"--pretrained-model-path {given} is a folder: {_choices(root, path, Path(given))}"
        if Path(given).parent != Path() and _weights_in(root, path.parent):
            return f"--pretrained-model-path {given}: no such file: {_choices(root, path.parent, Path(given).parent)}"
    known = [f"{path.name}/{name}" for path in sorted(root.glob("*/")) for name in _weights_in(root, path)]
    hint = did_you_mean(given, known, "--list-saved shows the runs there are", cutoff=0.7)
    return f"--pretrained-model-path {given}: no such file in {root} or here; {hint}"


def _weights_in(root: Path, folder: Path) -> list[str]:
    """Names of weights to start from, none of which would be refused for what it is.

    Those are weights that were finetuned, those of a random run, and links out of the runs folder.
    """
    with contextlib.suppress(EmergenceError):  # where nothing tells whose they are, they may be pretrained
        if dig(read_json(folder / SPEC_FILE), "spec", "random_baseline") is True:
            return []
    return sorted(path.name for path in folder.glob("[!.]*.pth") if _may_start_from(root, path))


def _may_start_from(root: Path, path: Path) -> bool:
    is_file = path.is_file() and path.name.isprintable()
    return is_file and not is_finetuned_name(path.name) and not _leads_out(root, path)


def _choices(root: Path, folder: Path, prefix: Path) -> str:
    names = _weights_in(root, folder)
    # The trunk is what one nearly always wants.
    names.sort(key=lambda name: not name.endswith("_pretrained.pth"))
    if not names:
        return "it holds no pretrained .pth file; --list-saved shows the runs there are"
    shown = ", ".join(str(prefix / name) for name in names[:3])
    return f"give {shown}" + (f" or one of {len(names) - 3} more" if len(names) > 3 else "")
