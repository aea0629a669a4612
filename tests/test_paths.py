"""Whatever names a path (flags, manifests, archives, records, links), nothing is read or written outside its root."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import emergence.remote.container as container
from emergence.data.hub import HUB_DATA, ArchiveRoute, HubData, HubError, fetch
from emergence.errors import EmergenceError, RunDirectoryError, UsageError
from emergence.experiment.manifest import ManifestEntry, check_file, manifest_text, parse_manifest
from emergence.experiment.store import RunStore, find_run, is_run_id
from emergence.files import name_within, seal, sha256_text, to_json
from emergence.remote.mirror import copy_new_folders, copy_tree
from emergence.remote.pull import pull_run
from emergence.spec.experiment import ExperimentSpec
from emergence.spec.matrix import Cell, matrix_from_dict
from emergence.studies.cka.analyse import AnalysisFlags
from emergence.sweep.graph import build_tasks

#: Names that lead elsewhere, or that a terminal or another system would take for something else.
LEADING_OUT = ("..", "../x", "../../x", "/etc/x", "a/../../x", "./x/../../..", "C:/x", "a\\..\\x", "a\nb", "a\0b",
               "\u202ex", "~/x", "x" * 600)  # fmt: skip


def test_paths_are_compared_in_one_place() -> None:
    """A comparison that follows links on one side only fails where the mount point of a volume is a link."""
    package = Path(container.__file__).parents[1]
    by_text = {"files.py", "experiment/weights_path.py"}  # one resolves both sides, the other compares what was typed
    uses = {p.relative_to(package).as_posix() for p in package.rglob("*.py") if "is_relative_to(" in p.read_text()}
    assert uses == by_text, "compare with emergence.files.name_within"


def test_a_name_within_a_folder_is_found_through_links(tmp_path: Path) -> None:
    (tmp_path / "real" / "run").mkdir(parents=True)
    (tmp_path / "mount").symlink_to(tmp_path / "real")
    (tmp_path / "outside").mkdir()
    (tmp_path / "real" / "out").symlink_to(tmp_path / "outside")
    real, mount = tmp_path / "real", tmp_path / "mount"
    for path, folder in ((mount / "run", mount), (real / "run", mount), (mount / "run", real), (mount / "new", real)):
        assert name_within(path, folder) == path.name
    assert name_within(mount, real) == "."
    assert name_within(mount / "out", mount) is None and name_within(tmp_path / "real2", real) is None


class Volume:
    """A volume whose manifest names ``names``; it serves any path it is asked for."""

    def __init__(self, *names: str) -> None:
        self.asked: list[str] = []
        entries = dict.fromkeys(names, ManifestEntry(1, sha256_text("x")))
        self.manifest = manifest_text("RUN", entries).encode()

    def sizes(self, folder: str) -> dict[str, int]:
        return {"MANIFEST.json": len(self.manifest), "x": 1}

    def read(self, path: str) -> Iterator[bytes]:
        self.asked.append(path)
        yield self.manifest if path.endswith("MANIFEST.json") else b"x"


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def test_a_pull_takes_a_manifest_as_it_was_written_alone(tmp_path: Path) -> None:
    volume = Volume("spec.json")
    for edited in (volume.manifest.replace(b"  ", b" ", 1), b"[" * 100_000, volume.manifest[:-5], b"\xff"):
        volume.manifest = edited
        with pytest.raises(RunDirectoryError, match=r"^RUN/MANIFEST.json: "):
            pull_run(volume, "RUN", tmp_path / "runs")
    assert set(volume.asked) == {"RUN/MANIFEST.json"} and below(tmp_path) == set()


@pytest.mark.parametrize("name", [name for name in LEADING_OUT if name != "~/x"])
def test_manifests_name_nothing_outside(name: str, tmp_path: Path) -> None:
    volume = Volume("spec.json", name)
    with pytest.raises(RunDirectoryError, match="not inside the run directory"):
        pull_run(volume, "RUN", tmp_path / "runs")
    assert volume.asked == ["RUN/MANIFEST.json"] and below(tmp_path) == set()


@pytest.mark.parametrize("entry", [None, [], {"bytes": -1, "sha256": ""}, {"bytes": 1e300, "sha256": ""},
                                   {"bytes": True, "sha256": ""}, {"bytes": 1, "sha256": 3}])  # fmt: skip
def test_manifest_entries_are_sizes_and_digests(entry: Any) -> None:
    raw = json.loads(to_json(seal({"run_id": "RUN", "files": {"a": entry}})))
    with pytest.raises(RunDirectoryError, match="malformed"):
        parse_manifest(raw, "M")


@pytest.mark.parametrize("run_id", [*LEADING_OUT, "", ".", "a/b"])
def test_run_ids_are_one_word(run_id: str, tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs")
    assert not is_run_id(run_id)
    with pytest.raises(RunDirectoryError):
        store.open(run_id)
    with pytest.raises(RunDirectoryError):
        pull_run(Volume("a"), f"{run_id}x/.." if run_id in ("", ".") else run_id, tmp_path / "runs")
    assert below(tmp_path) == set()


@pytest.mark.parametrize("run_id", ["../out", "/etc", "link"])
def test_the_container_analyses_runs_of_the_volume_alone(
    run_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "out")
    monkeypatch.setattr(container, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(container, "MODELS", tmp_path / "runs")
    with pytest.raises(RunDirectoryError, match="cannot be the name of a run"):
        container.run_analysis(AnalysisFlags(model_dir=run_id))
    with pytest.raises(RunDirectoryError, match="cannot be the name of a run"):
        container.copy_of_run(run_id)


@pytest.mark.parametrize("name", ["", "x" * 5000, "no/such", "a\0b"])
def test_named_runs_that_are_none(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find_run(name, tmp_path)
    assert len(str(caught.value)) < 1000


def test_links_that_lead_to_each_other_lie_nowhere(tmp_path: Path) -> None:
    (tmp_path / "sub").symlink_to(tmp_path / "sub")
    assert name_within(tmp_path / "sub" / "x", tmp_path) is None
    assert check_file(tmp_path, "sub/x", ManifestEntry(1, "0")) == "sub/x: a link, which a run directory never holds"


def test_a_pull_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "runs" / "RUN").mkdir(parents=True)
    (tmp_path / "runs" / "RUN" / "analysis").symlink_to(outside)
    with pytest.raises(RunDirectoryError, match="link out of"):
        pull_run(Volume("analysis/x"), "RUN", tmp_path / "runs")
    (tmp_path / "runs" / "LINK").symlink_to(outside)
    with pytest.raises(RunDirectoryError, match="is a link"):
        pull_run(Volume("x"), "LINK", tmp_path / "runs")
    assert below(outside) == set()


def test_copies_take_no_links(tmp_path: Path) -> None:
    secret, source = tmp_path / "secret.txt", tmp_path / "source" / "folder"
    secret.write_text("secret")
    source.mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "link.txt").symlink_to(secret)
    (source / "linked").symlink_to(tmp_path)
    copy_tree(tmp_path / "source", tmp_path / "one")
    copy_new_folders(tmp_path / "source", tmp_path / "two")
    for copy in ("one", "two"):
        assert below(tmp_path / copy) == {"folder", "folder/a.txt"}


def _archive(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, kind, link in (
            ("../../x/orig/train.jsonl.gz", tarfile.REGTYPE, ""),
            ("/etc/x", tarfile.REGTYPE, ""),
            ("qasrl/orig/dev.jsonl.gz", tarfile.SYMTYPE, "/etc/hostname"),
            ("qasrl/orig/test.jsonl.gz", tarfile.LNKTYPE, "/etc/hostname"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, link, 1 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"x"))
    return path


def test_members_of_archives_go_to_their_own_names(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    url = _archive(tmp_path / "served" / "data.tar").as_uri()
    members = {f"/orig/{split}.jsonl.gz": f"{split}.jsonl.gz" for split in ("train", "dev", "test")}
    data = {"bank": HubData((ArchiveRoute(url, members, 1 << 20),), "--qa-data", "files")}
    with pytest.raises(HubError, match=r"lacks /orig/dev\.jsonl\.gz, /orig/test\.jsonl\.gz"):
        fetch("bank", tmp_path / "cache", data=data)
    first = {"bank": HubData((ArchiveRoute(url, {"/orig/train.jsonl.gz": "t.gz"}, 1 << 20),), "--qa-data", "files")}
    folder, _ = fetch("bank", tmp_path / "cache", data=first)
    assert below(folder) == {"t.gz", "route.json"}
    assert below(tmp_path) - below(tmp_path / "cache") <= {"served", "served/data.tar", "cache"} | {
        f"cache/{name}" for name in below(tmp_path / "cache")
    }
    assert all("/" not in name for data in HUB_DATA.values() for r in data.routes for name in getattr(r, "files", {}))


def test_a_planted_note_leads_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "bank"
    folder.mkdir(parents=True)
    (tmp_path / "x").write_text("x")
    facts = {"bytes": 1, "sha256": sha256_text("x")}
    (folder / "route.json").write_text(json.dumps({"files": {"../../x": facts}}))
    with pytest.raises(HubError):
        fetch("bank", tmp_path, data={"bank": HubData((), "--qa-data", "files")})
    assert not folder.exists() and (tmp_path / "x").exists()


@pytest.mark.parametrize("name", [name for name in LEADING_OUT if len(name) < 600])
def test_names_in_matrices_name_no_paths(name: str) -> None:
    cells = [{"size": "debug", "trunk": "random", "train": "frozen"}]
    for raw in ({"name": name, "cells": cells}, {"cells": [{**cells[0], "tag": name}]}):
        with pytest.raises(EmergenceError, match="must be a word"):
            matrix_from_dict(raw, "m.toml", "m")


def test_run_names_follow_the_spec_alone(tmp_path: Path) -> None:
    """Whatever a stored spec is called, the folder made for it is one of the runs folder."""
    good = ExperimentSpec.from_flags(config_name="debug", data="microworld")
    for prefix in ("../x", "/x", "a/b", "", ".", "a b", "é"):
        raw = good.to_dict()
        raw["config"]["run_prefix"] = prefix
        try:
            spec = ExperimentSpec.from_dict(raw)
            path = RunStore(tmp_path).create(spec).path
        except EmergenceError:
            continue
        assert path.resolve().parent == tmp_path.resolve()
    (task,) = (t for t in build_tasks([Cell("../../x", good)]) if not t.is_pretraining)
    assert task.key == good.experiment_id
