"""The rooms of ARCHITECTURE.md and the direction of their imports, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "emergence"

#: A room imports rooms of an earlier line only.
ORDER = (
    ("environment", "errors", "plain", "wording"),
    ("measures",),
    ("files",),
    ("spec",),
    ("model", "data"),
    ("training",),
    ("answering",),
    ("experiment",),
    ("studies",),
    ("findings",),
    ("report",),
    ("export",),
    ("sweep",),
    ("remote",),
    ("api",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
RANKS = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}

ENTRY_POINTS = ["pretrain_wikitext_finetune_qasrl_modal.py", "temporal_cka_analysis.py"]
#: What must import on a laptop that has only what launching to Modal takes.
LIGHT_MODULES = [
    "emergence.errors", "emergence.files", "emergence.spec.config", "emergence.spec.cost", "emergence.spec.experiment",
    "emergence.spec.matrix", "emergence.spec.memory", "emergence.spec.model_size", "emergence.cli",
    "emergence.commands.sweep",
    "emergence.remote.app", "emergence.remote.refusals", "emergence.remote.sweep",
    "emergence.experiment.listing", "emergence.experiment.result", "emergence.experiment.store",
    "emergence.experiment.verification",
]  # fmt: skip
HEAVY = ("torch", "numpy", "scipy", "sklearn", "datasets", "tokenizers", "matplotlib", "transformers", "pyarrow")
PICKLES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
#: Every Python file of the project.
FOLDERS = ("emergence", "scripts", "tests", "benchmarks", "docs", ".ci")
ALL_FILES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
PACKAGE_FILES = sorted(PACKAGE.rglob("*.py"))


@dataclass(frozen=True)
class Source:
    """What the tests here ask of a file, without its tree: the trees of all files slow down every later test.

    Attributes:
        imported: Full names of everything it imports, anywhere in it.
        at_import: What of it is imported as soon as the file is.
        allow_pickle: Line of a call with that argument, and the argument.
        loads: Calls of ``torch.load``: their ``weights_only``.
    """

    imported: frozenset[str]
    at_import: frozenset[str]
    allow_pickle: tuple[tuple[int, str], ...]
    loads: tuple[str, ...]


@cache
def source(path: Path) -> Source:
    imported, at_import, allow_pickle, loads = set(), set(), [], []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative imports hide the room"
                names = {f"{node.module}.{name}" for name in names}
            imported |= names
            at_import |= names if node.col_offset == 0 else set()
        elif isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if "allow_pickle" in keywords:
                allow_pickle.append((node.lineno, ast.unparse(keywords["allow_pickle"])))
            is_load = isinstance(node.func, ast.Attribute) and node.func.attr == "load"
            if is_load and ast.unparse(node.func) == "torch.load":
                loads.append(ast.unparse(keywords["weights_only"]))
    return Source(frozenset(imported), frozenset(at_import), tuple(allow_pickle), tuple(loads))


def imported(path: Path) -> frozenset[str]:
    return source(path).imported


def libraries(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rank(room: str) -> int:
    assert room in RANKS, f"emergence/{room} has no room: give it one here and in ARCHITECTURE.md"
    return RANKS[room]


def test_every_room_is_there() -> None:
    assert set(RANKS) == {room_of(path) for path in PACKAGE_FILES} - {"__init__"}


@pytest.mark.parametrize("path", PACKAGE_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_downwards(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not any(name.startswith("emergence") for name in imported(path))
        return
    for name in imported(path):
        parts = name.split(".")
        if parts[0] != "emergence" or parts[1] in (room, "__version__"):
            continue
        assert rank(parts[1]) < rank(room), f"{path.relative_to(ROOT)} imports {name}: not a lower room"


#: Modules of ``remote`` that import modal.
KNOW_MODAL = ("app", "cache_claims", "calls", "client", "locks", "runner", "sweep")


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("modal", {*(f"emergence/remote/{name}.py" for name in KNOW_MODAL), *ENTRY_POINTS}),
        ("matplotlib", {"emergence/report/charts/drawing.py"}),
        ("datasets", {"emergence/data/hub.py"}),
        ("difflib", {"emergence/wording.py"}),
        ("orjson", {"emergence/files.py"}),
    ],
)
def test_one_place_knows_each_of_these_libraries(library: str, allowed: set[str]) -> None:
    files = [path for path in ALL_FILES if not {"tests", "benchmarks"} & set(path.relative_to(ROOT).parts)]
    users = {path.relative_to(ROOT).as_posix() for path in files if library in libraries(path)}
    assert users <= allowed


def test_drawing_alone_needs_matplotlib() -> None:
    """It is imported when something is drawn: neither ``--help`` nor the words of the report wait for it."""
    at_import = {name for path in PACKAGE_FILES for name in source(path).at_import}
    assert not {name for name in at_import if name.split(".")[0] == "matplotlib"}


def test_measures_are_pure() -> None:
    for path in PACKAGE_FILES:
        if room_of(path) == "measures":
            outside = libraries(path) - set(sys.stdlib_module_names)
            assert outside <= {"numpy", "scipy", "sklearn", "infomeasure", "emergence"}, path


def test_nothing_is_unpickled() -> None:
    """No pickle in any form, one ``torch.load`` in the whole project, with ``weights_only=True``."""
    loads = []
    for path in ALL_FILES:
        unsafe = libraries(path) & PICKLES
        assert not unsafe, f"{path.relative_to(ROOT)} imports {unsafe}"
        assert not {name for name in imported(path) if name in ("torch.load", "numpy.load")}
        for line, allowed in source(path).allow_pickle:
            assert allowed == "False", f"{path.relative_to(ROOT)}:{line}"
        loads += [(path, weights_only) for weights_only in source(path).loads]
    assert loads == [(PACKAGE / "model" / "tensor_files.py", "True")]


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
def test_launching_needs_no_heavy_library(entry_point: str) -> None:
    """In a process where the heavy libraries cannot be imported, everything a launch needs still imports."""
    targets = [*LIGHT_MODULES, Path(entry_point).stem]
    program = f"""
import importlib, importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ImportError(name + " is not needed to launch")
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(ROOT)!r})
for target in {targets!r}:
    importlib.import_module(target)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
