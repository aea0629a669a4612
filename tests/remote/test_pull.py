"""Pulling a run: verified, resumable, atomic, never in the way of what is here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from emergence.errors import RunDirectoryError
from emergence.experiment.manifest import MANIFEST_FILE, describe_folder, manifest_text
from emergence.remote.pull import ATTEMPTS, pull_run

FILES = {
    "spec.json": b"{}",
    "tokenizer.json": b"t" * 10,
    "finetune_stats.json": b"s" * 100,
    "toy_llm_unified_pretrained.pth": b"w" * 5000,
    "finetune_epoch_1.pth": b"e" * 3000,
    "checkpoint/finetune_3.pt": b"c" * 2000,
    "empty.txt": b"",
}


class Volume:
    """A folder whose transfers can be made to break."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.breaks: dict[str, int] = {}
        self.reads: list[str] = []

    def sizes(self, folder: str) -> dict[str, int]:
        root = self.folder / folder
        return {p.relative_to(root).as_posix(): p.stat().st_size for p in root.rglob("*") if p.is_file()}

    def read(self, path: str) -> Iterator[bytes]:
        self.reads.append(path)
        data = (self.folder / path).read_bytes()
        for start in range(0, len(data), 1000):
            if self.breaks.get(path, 0) and start:
                self.breaks[path] -= 1
                raise ConnectionResetError("dropped")
            yield data[start : start + 1000]


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    run = tmp_path / "volume" / "RUN"
    for name, data in FILES.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(data)
    (run / MANIFEST_FILE).write_text(manifest_text("RUN", describe_folder(run)))
    return Volume(tmp_path / "volume")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_all(volume: Volume, tmp_path: Path) -> None:
    reported: list[str] = []
    done = pull_run(volume, "RUN/", tmp_path / "runs", report=lambda name, size: reported.append(name))
    assert done.folder == tmp_path / "runs" / "RUN" and done.bytes == sum(map(len, FILES.values()))
    assert {name: (done.folder / name).read_bytes() for name in FILES} == FILES
    assert names(done.folder) == {*FILES, MANIFEST_FILE} and set(reported) == set(FILES)


@pytest.mark.parametrize(
    ("only", "wanted"),
    [
        ("stats", {"spec.json", "tokenizer.json", "finetune_stats.json", "empty.txt"}),
        ("weights", {"spec.json", "tokenizer.json", "toy_llm_unified_pretrained.pth", "finetune_epoch_1.pth"}),
    ],
)
def test_parts(volume: Volume, tmp_path: Path, only: str, wanted: set[str]) -> None:
    done = pull_run(volume, "RUN", tmp_path, only)  # type: ignore[arg-type]
    assert names(done.folder) == wanted | {MANIFEST_FILE}
    assert set(pull_run(volume, "RUN", tmp_path).downloaded) == FILES.keys() - wanted


def test_a_dropped_connection_is_survived(volume: Volume, tmp_path: Path) -> None:
    volume.breaks["RUN/toy_llm_unified_pretrained.pth"] = ATTEMPTS - 1
    done = pull_run(volume, "RUN", tmp_path)
    assert (done.folder / "toy_llm_unified_pretrained.pth").read_bytes() == b"w" * 5000


def test_a_dead_connection_leaves_nothing_half_made_and_can_be_resumed(volume: Volume, tmp_path: Path) -> None:
    volume.breaks["RUN/toy_llm_unified_pretrained.pth"] = 100
    with pytest.raises(RunDirectoryError, match="the same command goes on"):
        pull_run(volume, "RUN", tmp_path)
    assert "toy_llm_unified_pretrained.pth" not in {p.name for p in (tmp_path / "RUN").rglob("*")}
    assert not list((tmp_path / "RUN").rglob("*.tmp"))
    volume.breaks.clear()
    volume.reads.clear()
    done = pull_run(volume, "RUN", tmp_path)
    assert "checkpoint/finetune_3.pt" in done.present
    assert "RUN/checkpoint/finetune_3.pt" not in volume.reads


def test_damage_on_the_way_or_on_the_volume_is_seen(volume: Volume, tmp_path: Path) -> None:
    (volume.folder / "RUN" / "finetune_stats.json").write_bytes(b"S" * 100)
    with pytest.raises(RunDirectoryError, match=r"finetune_stats\.json"):
        pull_run(volume, "RUN", tmp_path)
    assert not (tmp_path / "RUN" / "finetune_stats.json").exists()


def test_never_clobbers(volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "RUN").mkdir()
    (tmp_path / "RUN" / "spec.json").write_text("mine")
    with pytest.raises(RunDirectoryError, match="move it away"):
        pull_run(volume, "RUN", tmp_path)
    assert names(tmp_path / "RUN") == {"spec.json"} and (tmp_path / "RUN" / "spec.json").read_text() == "mine"


def test_unfinished_missing_and_damaged(volume: Volume, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match="no run 'NONE'"):
        pull_run(volume, "NONE", tmp_path)
    manifest = volume.folder / "RUN" / MANIFEST_FILE
    manifest.write_text(json.dumps({"files": {}}))
    with pytest.raises(RunDirectoryError, match="damaged"):
        pull_run(volume, "RUN", tmp_path)
    manifest.unlink()
    with pytest.raises(RunDirectoryError, match="not finished"):
        pull_run(volume, "RUN", tmp_path)
