"""The notebook runs from top to bottom and shows what it promises, on planted runs and (slow) on real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("IPython")
pytest.importorskip("matplotlib")

TESTS = Path(__file__).parent
NOTEBOOK = TESTS.parent / "notebooks" / "read_results.ipynb"
from tests.planted_runs import fake_cka, fake_run  # noqa: E402
from tests.small_runs import run_small, trunk_flags  # noqa: E402


def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_stored_with_the_outputs_of_a_demo_and_ends_in_the_verdict() -> None:
    cells = notebook().cells
    nbformat.validate(notebook())
    assert len({cell.id for cell in cells}) == len(cells)
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), "run from top to bottom"
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type not in ("stream", "display_data")]
    last = "".join(output.text for output in code[-1].outputs if output.output_type == "stream")
    assert last.startswith("debug, microworld\n  verdict  "), last[:80]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5


@pytest.mark.slow
def test_cells_run_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {condition: fake_run(tmp_path, "debug", condition) for condition in ("full", "frozen", "random-frozen")}
    fake_cka(runs["full"])
    monkeypatch.setenv("EMERGENCE_RESULTS", str(tmp_path))
    monkeypatch.setenv("EMERGENCE_DRAWS", "200")
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    namespace: dict[str, Any] = {}
    for cell in notebook().cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{NOTEBOOK.name}:{cell.id}", "exec"), namespace)
    printed = capsys.readouterr().out
    assert "verdict  undetermined" in printed and "run again with this version" in printed
    assert "emergence score     0." in printed and "by the guide" in printed and printed.count("nothing to draw") <= 1
    pictures = [item.data for item in shown if type(item).__name__ == "Image"]
    # The 2x2, probes by layer, two training curves, heatmaps and drift; these runs are older than gains.
    assert len(pictures) == 6 and len(shown) == 7 and all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert "gains: " in printed and notebook().cells[-1].id == "score"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # the kernel's own, in another process' libraries
def test_executed_by_jupyter_on_small_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    runs = tmp_path / "runs"
    full, _ = run_small(runs)
    run_small(runs, freeze_llm=True, **trunk_flags(full))
    run_small(runs, freeze_llm=True, random_baseline=True)
    fake_cka(full)
    monkeypatch.setenv("EMERGENCE_RESULTS", str(runs))
    monkeypatch.setenv("EMERGENCE_DRAWS", "300")
    executed = nbclient.NotebookClient(notebook(), timeout=300, kernel_name="python3").execute()
    outputs = {cell.id: cell.outputs for cell in executed.cells if cell.cell_type == "code"}
    kinds: Callable[[str], set[str]] = lambda name: {kind for o in outputs[name] for kind in o.get("data", {})}  # noqa: E731
    assert all("image/png" in kinds(name) for name in ("grid", "layers", "training", "cka"))
    assert "text/markdown" in kinds("table")
    assert not [o for found in outputs.values() for o in found if o.output_type == "error"]
