"""The stand-in is strict where Modal is: what is not committed is lost, what is not mounted is not there."""

from __future__ import annotations

from pathlib import Path

import modal
import pytest

from tests.remote.standin import StandIn, check_client_version

PACKAGE = """
import os, signal
from pathlib import Path
import modal
ROOT = Path(os.environ.get("EMERGENCE_CONTAINER_ROOT", "/"))
image = modal.Image.debian_slim(python_version="3.11").env({"GREETING": "good day"}).add_local_python_source("toy")
app = modal.App("toy", image=image, include_source=False)
volume = modal.Volume.from_name("v", create_if_missing=True)

@app.function(volumes={"/v": volume}, gpu="A10G", retries=modal.Retries(max_retries=1), single_use_containers=True)
def work(what):
    print(os.environ["GREETING"], "from the container")
    file = ROOT / "v" / "count"
    count = int(file.read_text()) + 1 if file.exists() else 1
    file.write_text(str(count))
    if what == "open":
        with file.open() as handle:
            volume.commit()
    if what != "no commit":
        volume.commit()
    if count == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return count
"""
SCRIPT = """
from toy.remote import app, work

@app.local_entrypoint()
def main(what: str = ""):
    print("result", work.with_options(gpu="H100").spawn(what).get())
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "toy").mkdir(parents=True)
    (folder / "toy" / "__init__.py").touch()
    (folder / "toy" / "remote.py").write_text(PACKAGE)
    (folder / "app.py").write_text(SCRIPT)
    return folder


@pytest.mark.slow
def test_a_lost_container_is_replaced_and_sees_what_was_committed(standin: StandIn, toy: Path) -> None:
    done = standin.modal("run", "app.py", cwd=toy)
    assert done.returncode == 0, done.stderr
    assert "result 2" in done.stdout and "good day from the container" in done.stdout
    assert (standin.volume("v") / "count").read_text() == "2"
    (call,) = standin.calls("work")
    assert call.function.definition.resources.gpu_config.gpu_type == "H100"
    assert len(call.containers) == 2 and not standin.server.unknown


@pytest.mark.slow
def test_without_a_commit_the_work_is_lost(standin: StandIn, toy: Path) -> None:
    standin.rules.most_deaths = 1
    done = standin.modal("run", "app.py", "--what", "no commit", cwd=toy)
    assert done.returncode == 1 and "result" not in done.stdout  # every container begins with 1, and dies of it
    assert len(standin.containers()) > 1
    assert not (standin.volume("v") / "count").exists()


@pytest.mark.slow
def test_an_open_file_forbids_a_commit(standin: StandIn, toy: Path) -> None:
    done = standin.modal("run", "app.py", "--what", "open", cwd=toy)
    assert done.returncode == 1 and "open files preventing the operation" in done.stdout + done.stderr


@pytest.mark.slow
def test_what_is_not_mounted_is_not_there(standin: StandIn, toy: Path) -> None:
    source = (toy / "toy" / "remote.py").read_text()
    (toy / "toy" / "remote.py").write_text(source.replace('.add_local_python_source("toy")', ""))
    done = standin.modal("run", "app.py", cwd=toy)
    assert done.returncode == 1 and "No module named 'toy'" in done.stdout + done.stderr


def test_another_client_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_client_version()
    monkeypatch.setattr(modal, "__version__", "1.7.0")
    with pytest.raises(AssertionError, match=r"written for modal>=1\.6,<1\.7, and modal 1\.7\.0 is installed"):
        check_client_version()


def test_an_unknown_call_is_named(standin: StandIn, toy: Path) -> None:
    done = standin.modal("environment", "create", "other", cwd=toy)
    assert done.returncode == 1 and standin.server.unknown == ["EnvironmentCreate"]
    assert "the stand-in does not know EnvironmentCreate" in done.stderr
