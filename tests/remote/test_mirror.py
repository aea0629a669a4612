"""What the volume shows at any moment is a state a run can resume from."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path

import modal
import pytest

from emergence.remote.mirror import VolumeMirror, copy_file, copy_new_folders, copy_tree


class Volume:
    """A folder whose commits are remembered with what they made visible."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.failures = folder, 0
        self.error: Exception = RuntimeError("volume busy")
        self.commits: list[dict[str, str]] = []
        folder.mkdir()

    def commit(self) -> None:
        if self.failures:
            self.failures -= 1
            raise self.error
        self.commits.append(contents(self.folder))


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def local(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "checkpoint").mkdir(parents=True)
    return folder


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path / "volume")


def wait_for(condition: object, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def test_publishes_changes_and_deletions(local: Path, volume: Volume) -> None:
    mirror = VolumeMirror(local, volume.folder / "run", volume.commit, min_seconds=3600)
    (local / "a").write_text("1")
    (local / "checkpoint" / "1.pt").write_text("one")
    assert mirror.publish() == 2
    assert mirror.publish() == 0 and len(volume.commits) == 1  # nothing new, so no commit
    (local / "checkpoint" / "2.pt").write_text("two")
    (local / "checkpoint" / "1.pt").unlink()
    mirror.publish()
    assert "run/checkpoint/1.pt" in contents(volume.folder)  # its successor may have been missed: not yet
    mirror.publish()
    assert "run/checkpoint/1.pt" not in contents(volume.folder)
    (local / "checkpoint" / "2.pt").rename(local / "checkpoint" / "3.pt")
    mirror.close()
    assert contents(volume.folder) == {"run/a": "1", "run/checkpoint/3.pt": "two"}


def test_half_written_files_are_not_published_and_not_left(local: Path, volume: Volume) -> None:
    (local / ".a.123.tmp").write_text("half")
    (volume.folder / "run").mkdir()
    (volume.folder / "run" / ".b.tmp").write_text("half, by a killed container")
    mirror = VolumeMirror(local, volume.folder / "run", volume.commit)
    mirror.close()
    assert contents(volume.folder) == {}


def test_checkpoints_and_weights_come_first_and_the_result_last(
    local: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    import emergence.remote.mirror as module

    original = module.copy_file

    def noted(source: Path, target: Path) -> None:
        order.append(source.name)
        original(source, target)

    monkeypatch.setattr(module, "copy_file", noted)
    for name in ("finetune_stats.json", "MANIFEST.json", "history.jsonl", "checkpoint/9.pt", "spec.json", "trunk.pth"):
        (local / name).write_text("x")
    VolumeMirror(local, volume.folder / "run", volume.commit).close()
    assert order == ["9.pt", "trunk.pth", "history.jsonl", "spec.json", "MANIFEST.json", "finetune_stats.json"]


def test_requests_do_not_wait_and_are_rate_limited(local: Path, volume: Volume) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow_commit() -> None:
        entered.set()
        assert leave.wait(10)
        volume.commit()

    (local / "a").write_text("1")
    mirror = VolumeMirror(local, volume.folder / "run", slow_commit, min_seconds=3600)
    mirror.request()
    assert entered.wait(10)  # the commit hangs in its own thread, this one goes on
    leave.set()
    wait_for(lambda: mirror.publications == 1)
    (local / "a").write_text("22")
    mirror.request()
    time.sleep(0.05)
    assert mirror.publications == 1  # an hour between publications
    mirror.hurry()  # unless it is urgent
    wait_for(lambda: mirror.publications == 2)
    mirror.close()


def test_a_failing_commit_is_tried_again(
    local: Path, volume: Volume, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (local / "a").write_text("1")
    volume.failures = 1
    mirror = VolumeMirror(local, volume.folder / "run", volume.commit, min_seconds=3600)
    mirror.request()
    wait_for(lambda: "could not publish" in caplog.text)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    volume.failures, volume.error = 5, modal.exception.ServiceError("unavailable")  # not a RuntimeError
    mirror.close()
    assert volume.commits == [{"run/a": "1"}]


def test_a_volume_that_stays_broken_is_reported(local: Path, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    (local / "a").write_text("1")
    volume.failures = 100
    mirror = VolumeMirror(local, volume.folder / "run", volume.commit)
    with pytest.raises(RuntimeError, match="volume busy"):
        mirror.close()


def test_a_folder_that_is_another_writers_is_not_touched(local: Path, volume: Volume) -> None:
    (local / "a").write_text("1")
    (volume.folder / "run").mkdir()
    (volume.folder / "run" / "theirs").write_text("2")
    mine = True
    mirror = VolumeMirror(local, volume.folder / "run", volume.commit, 3600, may_publish=lambda: mine)
    mirror.publish()
    (local / "b").write_text("later")
    (volume.folder / "run" / "theirs").write_text("2")
    mine, commits = False, len(volume.commits)
    mirror.close()
    mine = True
    assert mirror.publish() == 0 and mirror.forbidden, "lost is lost"
    assert set(contents(volume.folder)) == {"run/a", "run/theirs"} and len(volume.commits) == commits


def test_nothing_is_published_again_after_restoring(local: Path, volume: Volume, tmp_path: Path) -> None:
    (local / "a").write_text("1")
    VolumeMirror(local, volume.folder / "run", volume.commit).close()
    restored = tmp_path / "elsewhere"
    assert copy_tree(volume.folder / "run", restored) == 1
    again = VolumeMirror(restored, volume.folder / "run", volume.commit)
    again.adopt()
    (restored / "b").write_text("2")
    assert again.publish() == 1
    again.close()


def test_cache_folders_are_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, other = tmp_path / "cache", tmp_path / "other"
    for name in ("streams/abc/tokens", "streams/abc/meta", "tokenizer/t.json", "streams/.abd.xyz/half"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text(name)
    import emergence.remote.mirror as module

    original = module.copy_file

    def killed(source: Path, target: Path) -> None:
        if source.name == "tokens":
            raise KeyboardInterrupt
        original(source, target)

    monkeypatch.setattr(module, "copy_file", killed)
    with pytest.raises(KeyboardInterrupt):
        copy_new_folders(cache, other)
    assert not (other / "streams" / "abc").exists()
    monkeypatch.setattr(module, "copy_file", original)
    assert copy_new_folders(cache, other) > 0
    assert set(contents(other)) == {"streams/abc/tokens", "streams/abc/meta", "tokenizer/t.json"}
    assert copy_new_folders(cache, other) == 0


def test_a_file_that_goes_away_while_it_is_copied_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run prunes its older checkpoints while the mirror copies them."""
    source = tmp_path / "000001-finetune.pth"
    source.write_bytes(b"weights")
    before = shutil.copyfile

    def copy_and_lose(a: Path, b: Path) -> None:
        before(a, b)
        source.unlink()

    monkeypatch.setattr(shutil, "copyfile", copy_and_lose)
    with pytest.raises(FileNotFoundError):
        copy_file(source, tmp_path / "volume" / source.name)
    assert not list((tmp_path / "volume").iterdir())
