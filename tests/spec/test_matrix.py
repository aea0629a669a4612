"""Matrix files: the guide's cells, what a file may say, and how what it may not is refused."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import ConfigError, UsageError
from emergence.spec.config import config_path
from emergence.spec.matrix import MATRICES, Matrix, load_matrix, matrix_from_dict, matrix_path

#: The guide's "Full Experimental Matrix".
GUIDE = [
    *("T-WN-F-ALL", "T-WN-Z-ALL", "T-W-F-ALL", "T-W-Z-ALL", "S-WN-F-ALL", "S-WN-Z-ALL", "S-W-F-ALL", "S-W-Z-ALL"),
    *("B-WN-F-ALL", "B-WN-Z-ALL", "B-WN-F-100", "B-WN-Z-100", "B-W-F-ALL", "B-W-Z-ALL"),
    *("M-WN-F-ALL", "M-WN-Z-ALL", "M-W-F-ALL", "M-W-Z-ALL"),
]


def matrix(text: str) -> Matrix:
    return matrix_from_dict(tomllib.loads(text), "m.toml", "m")


@pytest.fixture(scope="module")
def guide() -> Matrix:
    return load_matrix(config_path("matrix"))


def test_the_guides_eighteen_cells_are_there_and_are_what_they_are_called(guide: Matrix) -> None:
    assert len(GUIDE) == 18 and set(GUIDE) <= set(guide.cells)
    sizes = {"T": "tiny", "S": "small", "B": "base", "M": "medium"}
    for cell in guide.select(GUIDE):
        size, trunk, trained, samples = cell.name.split("-")
        assert cell.spec.config.name == sizes[size]
        assert cell.spec.pretrain_data == {"WN": "wiki+nq", "W": "wiki"}[trunk] and not cell.spec.random_baseline
        assert cell.spec.freeze_llm == (trained == "Z")
        assert cell.spec.finetune_samples == (None if samples == "ALL" else int(samples))


def test_every_score_has_its_floor_and_ceiling(guide: Matrix) -> None:
    """Whatever is probed frozen is there trained whole and on a random trunk, at the same number of questions."""
    for name in guide.cells:
        size, _, _, samples = name.split("-")
        assert {f"{size}-R-Z-{samples}", f"{size}-R-F-{samples}", name.replace("-Z-", "-F-")} <= set(guide.cells)
    assert {f"{size}-WS-{how}-ALL" for size in "TS" for how in "FZ"} <= set(guide.cells), "and a row without word order"
    few = {name.rpartition("-")[2] for name in guide.cells if name.startswith("B-W-Z-")}
    assert few == {"10", "50", "100", "500", "2000", "5000", "ALL"}


def test_the_debug_matrix_has_at_least_24_cells() -> None:
    cells = load_matrix(matrix_path("matrix-debug")).select()
    assert len(cells) >= 24 and len({cell.spec.experiment_id for cell in cells}) == len(cells)
    assert all(cell.spec.data == "microworld" for cell in cells)


@pytest.mark.parametrize("name", ["matrix-law", "matrix-law-debug"])
def test_a_laws_matrix_has_what_a_law_takes(name: str) -> None:
    """At least five amounts over two decades, six checkpoints and two draws, on one pretraining."""
    cells = load_matrix(matrix_path(name)).select()
    specs = [cell.spec for cell in cells]
    assert len(cells) == len({spec.experiment_id for spec in specs}) == 8 * (6 * 2 + 1)
    assert len({spec.pretrain_id for spec in specs}) == 1 and len({spec.snapshot for spec in specs}) == 8
    amounts = {spec.finetune_samples for spec in specs}
    assert amounts == {10, 30, 100, 300, 1000, 3000, None}
    assert {spec.subset for spec in specs if spec.finetune_samples} == {1, 2}
    assert tuple(sorted(path.stem for path in config_path("matrix").parent.glob("matrix*.toml"))) == MATRICES


def test_patterns_and_seeds_choose(guide: Matrix) -> None:
    assert len(guide.select(["T-*"])) == 8 and len(guide.select(["T-*", "S-W-*"], seeds=3)) == 30
    assert [c.label for c in guide.select(["T-W-F-*"], seeds=2)] == ["T-W-F-ALL.0", "T-W-F-ALL.1"]
    with pytest.raises(UsageError, match=re.escape("--only T-X-* fits none")):
        guide.select(["T-W-*", "T-X-*"])
    with pytest.raises(UsageError, match="--seeds"):
        guide.select(seeds=0)


def test_equal_content_is_the_experiment_of_the_single_command(guide: Matrix) -> None:
    from emergence.spec.experiment import ExperimentSpec

    (cell,) = guide.select(["T-W-Z-ALL"], data={"pretrain_text": "t"}, set_values=["pretrain.batch_size=4"])
    alone = ExperimentSpec.from_flags(config_name="tiny", pretrain_text="t", set_values=["pretrain.batch_size=4"])
    assert cell.spec.pretrain_id == alone.pretrain_id
    frozen = ExperimentSpec.from_flags(
        config_name="tiny", pretrain_text="t", freeze_llm=True, set_values=["pretrain.batch_size=4"]
    )
    assert cell.spec.experiment_id == frozen.experiment_id


def test_any_config_field_is_an_axis() -> None:
    found = matrix(
        """
        [set.pretrain]
        epochs = 2
        [[cells]]
        size = "tiny"
        trunk = "wiki"
        train = "full"
        layout = ["question-first", "echo"]
        set.finetune.lr = [1e-4, 1e-3]
        set.probe.ridges = [[0.1, 1.0]]
        """
    )
    assert list(found.cells) == [
        "T-W-F-ALL-finetune.lr=0.0001",
        "T-W-F-ALL-finetune.lr=0.001",
        "T-W-F-ALL-echo-finetune.lr=0.0001",
        "T-W-F-ALL-echo-finetune.lr=0.001",
    ]
    cells = found.select(set_values=["finetune.epochs=5"])
    assert [c.spec.config.finetune.lr for c in cells] == [1e-4, 1e-3, 1e-4, 1e-3]
    assert {(c.spec.config.pretrain.epochs, c.spec.config.finetune.epochs) for c in cells} == {(2, 5)}
    assert {c.spec.config.probe.ridges for c in cells} == {(0.1, 1.0)}
    assert len({c.spec.experiment_id for c in cells}) == 4 and len({c.spec.pretrain_id for c in cells}) == 1


def test_nq_data_goes_to_the_cells_that_read_it() -> None:
    found = matrix(
        'nq_data = "nq.jsonl"\n[[cells]]\nsize = "tiny"\ntrunk = ["wiki", "wiki+nq", "wiki+control"]\ntrain = "full"'
    )
    assert list(found.cells) == ["T-W-F-ALL", "T-WN-F-ALL", "T-WC-F-ALL"]
    assert [c.spec.nq_data for c in found.select()] == [None, "nq.jsonl", "nq.jsonl"]
    assert [c.spec.nq_data for c in found.select(data={"nq_data": "other"})] == [None, "other", "other"]


def test_published_models_and_their_revisions_are_axes() -> None:
    """One random twin stands for all revisions; what the file says of pretraining is not meant for published models."""
    found = matrix(
        """
        pretrain_text = "t"
        [set.pretrain]
        epochs = 2
        [set.probe]
        layers = "0,1"
        [[cells]]
        model = ["org/gpt-1.5", "org/neox"]
        revision = ["step0", "step512"]
        samples = [100, "all"]
        [[cells]]
        model = "org/alone"
        trunk = "published"
        layout = "echo"
        """
    )
    of_one = [f"{trunk}-Z-{samples}" for samples in ("100", "ALL") for trunk in ("step0", "step512", "R")]
    wanted = {f"{model}-{cell}" for model in ("gpt-1-5", "neox") for cell in of_one}
    assert set(found.cells) == wanted | {"alone-P-Z-ALL-echo"}
    cells = found.select(set_values=["pretrain.batch_size=4", "probe.epochs=3"])
    assert {(c.spec.model, c.spec.revision) for c in cells if c.spec.random_baseline} == {
        ("org/gpt-1.5", None), ("org/neox", None)
    }  # fmt: skip
    assert all(c.spec.freeze_llm and c.spec.pretrain_text is None for c in cells)
    assert {(c.spec.config.probe.layers, c.spec.config.probe.epochs) for c in cells} == {("0,1", 3)}
    assert len({c.spec.experiment_id for c in cells}) == len(cells) == 13


def test_snapshots_and_draws_are_axes() -> None:
    """What means nothing for a cell is left out of it: snapshots of a random trunk, draws of all questions."""
    found = matrix(
        """
        [[cells]]
        size = "tiny"
        trunk = ["wiki", "random"]
        train = "full"
        samples = [10, "all"]
        snapshot = "log8"
        subset = [1, 2]
        adapter = "none"
        """
    )
    at = ["", *(f"-{k}of8" for k in range(1, 8))]
    ours = {f"T-W-F-{n}{s}{d}" for s in at for n, ds in (("10", ("-subset1", "-subset2")), ("ALL", ("",))) for d in ds}
    assert set(found.cells) == ours | {"T-R-F-10-subset1", "T-R-F-10-subset2", "T-R-F-ALL"}
    cells = found.select()
    assert len({c.spec.experiment_id for c in cells}) == len(cells) == 27
    assert len({c.spec.pretrain_id for c in cells if not c.spec.random_baseline}) == 1
    adapted = matrix(CELLS + "trunk = 'random'\nadapter = ['none', 'lora-1', 'prefix-16']")
    assert list(adapted.cells) == ["T-R-F-ALL", "T-R-F-ALL-lora-1", "T-R-F-ALL-prefix-16", "T-R-Z-ALL"]
    steps = matrix(CELLS + "trunk = 'wiki'\ntrain = 'full'\nsnapshot = [64, '512']")
    assert list(steps.cells) == ["T-W-F-ALL-step64", "T-W-F-ALL-step512"]


CELLS = '[[cells]]\nsize = "tiny"\n'
MODEL = '[[cells]]\nmodel = "org/gpt"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "a matrix needs [[cells]]"),
        ("cels = 1", "unknown key 'cels'; did you mean cells?"),
        ("seeds = 3\n" + CELLS, "seeds must be a list"),
        ("seeds = [0, 0]\n" + CELLS, "a seed twice"),
        ('name = "a/b"\n' + CELLS, "name must be a word"),
        ('data = "disk"\n' + CELLS, "data must be one of hub, microworld, not 'disk'"),
        ("qa_data = 3\n" + CELLS, "qa_data must be a path"),
        ("[[cells]]\ntrain = 'full'", "[[cells]] number 1 lacks size"),
        ("[[cells]]\nsize = 'tini'", "size must be one of debug, tiny, small"),
        ("[[cells]]\nsize = []", "size is an empty list"),
        (
            CELLS + "snapshot = 'log1'",
            "'3of8', or 'log8' for eight, not 'log1'",
        ),
        (CELLS + "snapshot = true", "snapshot must be 'last'"),
        (CELLS + "adapter = 'lora-3'", "adapter must be one of none, lora-1"),
        (MODEL + "adapter = 'lora-1'", "a published model has its own weights, which stay: drop adapter"),
        (CELLS + "subset = -1", "subset must be a whole number from 0"),
        (MODEL + "snapshot = 'last'", "a published model has its own snapshots, its revisions: drop snapshot"),
        (
            CELLS + "trunk = 'wikinq'",
            "trunk must be one of wiki+nq, wiki, wiki+control, shuffled, random, not 'wikinq'",
        ),
        (CELLS + "train = true", "train must be one of full, frozen, not True"),
        (CELLS + "samples = 0", "samples must be 'all' or a whole number"),
        (CELLS + "sample = 10", "unknown key 'sample'; did you mean samples?"),
        (CELLS + "set.finetun.lr = 1", "set.finetun: write set.SECTION.KEY"),
        (CELLS + "set.finetune.lrr = 1", "unknown key 'lrr'; did you mean lr?"),
        (CELLS + "set.finetune.lr = []", "set.finetune.lr is an empty list"),
        (CELLS + "tag = 'a b'", "tag must be a word"),
        (CELLS + CELLS + "set.finetune.lr = 1e-5", "another cell is called T-W-F-ALL"),
        (MODEL + "size = 'tiny'", "a published model has its own size: drop size, or model"),
        (MODEL + "train = ['frozen', 'full']", "train of a published model must be frozen, not 'full'"),
        (MODEL + "trunk = 'wiki'", "trunk of a published model must be published or random, not 'wiki'"),
        (MODEL + "revision = 3", "revision must be a name, not 3"),
        (CELLS + "revision = 'step1'", "revision is of a published model"),
        ("[set.finetune]\nlr = [1e-3, 1e-4]\n" + CELLS, "an axis belongs in a [[cells]] table"),
    ],
)
def test_what_a_matrix_may_not_say_names_file_and_key(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        matrix(text)
    assert str(caught.value).startswith("m.toml: ") and says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "flags", "says"),
    [
        (CELLS + "set.finetune.lr = 'fast'", {}, "finetune.lr must be a number"),
        (CELLS, {"set_values": ["finetune.lrr=1"]}, "did you mean finetune.lr?"),
        (CELLS + "set.model.n_heads = [3]", {}, "must divide model.hidden_size"),
    ],
)
def test_values_are_checked_with_the_cell(text: str, flags: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape("m.toml: cell T-W-F-ALL: ")) as caught:
        matrix(text).select(**flags)
    assert says in str(caught.value)


def test_a_matrix_is_found_by_name_or_path(tmp_path: Path) -> None:
    assert load_matrix(matrix_path("matrix")).name == "matrix"
    file = tmp_path / "mine.toml"
    file.write_text(CELLS)
    assert load_matrix(matrix_path(str(file))).name == "mine"
    with pytest.raises(ConfigError, match="no matrix 'matrx'"):
        matrix_path("matrx")
    with pytest.raises(ConfigError, match=r"none\.toml: not a readable TOML file"):
        load_matrix(tmp_path / "none.toml")
