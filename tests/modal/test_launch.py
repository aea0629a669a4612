"""Flags of ``modal run`` become a checked request, and the estimate is what the price table says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from emergence.config import CONFIG_NAMES
from emergence.errors import UsageError
from emergence.launch import Request, defaults_of, flags_on_command_line, split_overrides
from emergence.planning import find_gpu, plan_experiment
from emergence.spec import ExperimentSpec

FILE = str(Path(__file__).parents[2] / "pretrain_wikitext_finetune_qasrl_modal.py")


@pytest.fixture(scope="module")
def main() -> Any:
    """The entry point's own function, imported as a container or a test imports it: without side effects."""
    sys.path.insert(0, str(Path(FILE).parent))
    import pretrain_wikitext_finetune_qasrl_modal as module

    return module.main.info.raw_f


def request(main: Any, *words: str) -> Request:
    flags = flags_on_command_line(["modal", "run", FILE, *words], FILE, main)
    assert flags is not None
    return Request.from_flags(defaults_of(main), flags)


@pytest.mark.parametrize(
    "prefix", [("modal", "run"), ("modal", "run", "-d"), ("x/modal/__main__.py", "run", "--detach", "-q")]
)
def test_the_command_line_is_recognised(main: Any, prefix: tuple[str, ...]) -> None:
    flags = flags_on_command_line([*prefix, FILE + "::main", "--finetune-samples", "10", "--no-yes"], FILE, main)
    assert flags is not None and flags["finetune_samples"] == 10 and flags["yes"] is False and flags["seed"] == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["python", "-m", "pytest"],
        ["modal", "run", "other.py"],
        ["modal", "deploy", FILE],
        ["modal", "run", FILE, "--help"],
        ["modal", "run", FILE, "--config-name", "huge"],
        ["modal", "run", FILE, "--seed", "one"],
        ["modal", "run", FILE, "--no-such-flag"],
    ],
)
def test_what_the_client_answers_itself_is_left_to_it(main: Any, argv: list[str]) -> None:
    assert flags_on_command_line(argv, FILE, main) is None


def test_flags_reach_the_spec(main: Any) -> None:
    wanted = ExperimentSpec.from_flags(
        config_name="small", freeze_llm=True, random_baseline=True, seed=3, layout="echo"
    )
    made = request(
        main, "--config-name", "small", "--freeze-llm", "--random-baseline", "--seed", "3", "--layout", "echo"
    )
    assert made.spec == wanted
    careful = request(main, "--on-nan", "rewind").spec
    assert careful == ExperimentSpec.from_flags(set_values=["pretrain.on_nan=rewind"])


def test_every_experiment_flag_of_the_spec_is_a_flag_of_the_entry_point(main: Any) -> None:
    fields = set(ExperimentSpec.__dataclass_fields__) - {"config"}
    assert fields | {"config_name", "set"} <= set(defaults_of(main))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (None, ()),
        ("pretrain.epochs=2", ("pretrain.epochs=2",)),
        ("pretrain.epochs=2,model.n_layers=3", ("pretrain.epochs=2", "model.n_layers=3")),
        ("probe.ridges=[1e-3, 1e-2]; recipe=gpt2", ("probe.ridges=[1e-3, 1e-2]", "recipe=gpt2")),
        ("probe.ridges=[1e-3,1e-2] model.n_heads=2", ("probe.ridges=[1e-3,1e-2]", "model.n_heads=2")),
    ],
)
def test_overrides_are_split_between_keys_only(text: str | None, parts: tuple[str, ...]) -> None:
    assert split_overrides(text) == parts


@pytest.mark.parametrize(
    ("words", "cure"),
    [
        (("--freeze-llm", "--skip-pretrain"), "--pretrained-model-path"),
        (("--gpu", "A10Q"), "did you mean A10"),
        (("--gpu", "A10G:9"), "1 to 4"),
        (("--resume", "X", "--seed", "1"), "drop --seed"),
        (("--set", "pretrain.epoch=1"), "epochs"),
        (("--finetune-samples", "0"), "--finetune-samples"),
    ],
)
def test_a_contradiction_names_its_cure(main: Any, words: tuple[str, ...], cure: str) -> None:
    with pytest.raises(UsageError, match=cure) as caught:
        request(main, *words)
    assert "\n" not in str(caught.value)


def test_max_cost(main: Any) -> None:
    made = request(main, "--config-name", "medium", "--max-cost", "1")
    with pytest.raises(UsageError, match="--max-cost 1"):
        made.plan()
    assert request(main, "--config-name", "tiny", "--max-cost", "1").plan().dollars < 1


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_every_configuration_has_a_plan(name: str) -> None:
    plan = plan_experiment(ExperimentSpec.from_flags(config_name=name))
    assert 0 < plan.hours < 24 and 0 < plan.dollars < 50
    assert plan.pretrain_tokens == plan.spec.config.pretrain.samples_per_epoch * plan.spec.config.model.sequence_length
    assert plan.to_dict()["gpu"] == plan.spec.config.compute.gpu


def test_estimates_go_the_right_way() -> None:
    full = ExperimentSpec.from_flags(config_name="base")
    floor = ExperimentSpec.from_flags(config_name="base", random_baseline=True, freeze_llm=True)
    assert plan_experiment(floor).pretrain_tokens == 0
    assert plan_experiment(floor).dollars < plan_experiment(full).dollars
    one, four = plan_experiment(full, "A10G"), plan_experiment(full, "A10G:4")
    assert one.hours / 4 < four.hours < one.hours


def test_a_plan_counts_the_search() -> None:
    def plan(*sets: str, **flags: Any) -> Any:
        return plan_experiment(ExperimentSpec.from_flags(config_name="tiny", set_values=sets, **flags))

    on, off = plan(), plan("finetune.search=off")
    assert off.search_tokens == 0 and on.finetune_tokens == off.finetune_tokens
    assert 1.9 * on.finetune_tokens < on.search_tokens <= 2 * on.finetune_tokens
    assert on.flop - off.flop == pytest.approx(6.0 * on.search_tokens * on.parameters.non_embedding)
    assert "after a search for its settings that costs 2.0 times as much" in on.text()
    assert "search" not in off.text()
    random = plan(random_baseline=True)  # half the grid
    assert 1.4 * random.finetune_tokens < random.search_tokens <= 1.5 * random.finetune_tokens
    assert plan(random_baseline=True, freeze_llm=True).search_tokens == plan(skip_finetune=True).search_tokens == 0
    few = plan(finetune_samples=10)  # 40 steps an epoch, whatever the number of questions
    assert few.finetune_tokens == 10 * 40 * few.spec.config.finetune.epochs * 45


def test_gpu_names() -> None:
    assert find_gpu("a10g").modal_name == "A10G"
    assert find_gpu("A10").name == "A10G"
    assert find_gpu("H100:2").modal_name == "H100:2"
    assert find_gpu("H100:2").count == 2
