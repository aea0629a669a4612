"""Flags of ``modal run`` become a checked request, and the estimate is what the price table says."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import UsageError
from emergence.experiment.source_commit import source_commit
from emergence.remote import client as remote_client
from emergence.remote import locks as remote_locks
from emergence.remote.launch import Request, flags_on_command_line, job_of, launch_flags, split_overrides
from emergence.spec.config import CONFIG_NAMES
from emergence.spec.cost import ask_if_dear, find_gpu, plan_experiment
from emergence.spec.experiment import ExperimentSpec
from tests.command_lines import typed

FILE = str(Path(__file__).parents[2] / "pretrain_wikitext_finetune_qasrl_modal.py")


def given(*argv: str) -> dict[str, Any] | None:
    return flags_on_command_line(argv, FILE, launch_flags())


def request(*words: str) -> Request:
    flags = given("modal", "run", FILE, *words)
    assert flags is not None
    return Request.from_flags(flags)


@pytest.mark.parametrize(
    "prefix", [("modal", "run"), ("modal", "run", "-d"), ("x/modal/__main__.py", "run", "--detach", "-q")]
)
def test_the_command_line_is_recognised(prefix: tuple[str, ...]) -> None:
    flags = given(*prefix, FILE + "::main", "--finetune-samples", "10", "--no-yes")
    assert flags is not None and flags["finetune_samples"] == 10 and flags["yes"] is False and flags["seed"] == 0


@pytest.mark.parametrize(
    "argv",
    [
        ["python", "-m", "pytest"],
        ["modal", "run", "other.py"],
        ["modal", "deploy", FILE],
        ["modal", "run", FILE, "--config-name", "huge"],
        ["modal", "run", FILE, "--seed", "one"],
        ["modal", "run", FILE, "--no-such-flag"],
    ],
)
def test_what_the_client_answers_itself_is_left_to_it(argv: list[str]) -> None:
    assert given(*argv) is None


def test_flags_reach_the_spec() -> None:
    wanted = ExperimentSpec.from_flags(
        config_name="small", freeze_llm=True, random_baseline=True, seed=3, layout="echo"
    )
    made = request("--config-name", "small", "--freeze-llm", "--random-baseline", "--seed", "3", "--layout", "echo")
    assert made.spec == wanted
    careful = request("--on-nan", "rewind").spec
    assert careful == ExperimentSpec.from_flags(set_values=["pretrain.on_nan=rewind"])


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_says_what_each_flag_does(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The client's own lists names alone."""
    with pytest.raises(SystemExit) as end:
        given("modal", "run", FILE, "--seed", "1", word)
    text = " ".join(capsys.readouterr().out.split())
    assert not end.value.code and text.startswith(
        "usage: modal run pretrain_wikitext_finetune_qasrl_modal.py [OPTIONS]"
    )
    assert all(each.option in text and each.help in text for each in launch_flags())


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
def test_a_contradiction_names_its_cure(words: tuple[str, ...], cure: str) -> None:
    with pytest.raises(UsageError, match=cure) as caught:
        request(*words)
    assert "\n" not in str(caught.value)


def test_max_cost() -> None:
    made = request("--config-name", "medium", "--max-cost", "1")
    with pytest.raises(UsageError, match="--max-cost 1"):
        made.plan()
    assert request("--config-name", "tiny", "--max-cost", "1").plan().dollars < 1


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
    assert on.flop - off.flop == pytest.approx(6.0 * on.search_tokens * on.non_embedding)
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


# What a launch decides --------------------------------------------------------------------------------------


def test_a_job_is_what_the_containers_read() -> None:
    spec = ExperimentSpec.from_flags(config_name="tiny")
    one, cell = job_of(spec, "RUN", None, fresh=True), job_of(spec, "RUN", "h100:2", max_containers=3)
    compute = spec.config.compute
    assert one == json.loads(json.dumps(one)) == {
        "run_id": "RUN", "spec": spec.to_dict(), "fresh": True, "gpu": find_gpu(compute.gpu).modal_name,
        "cpu": compute.cpu, "memory": int(compute.memory_gigabytes * 1024),
        "timeout": 3600, "dollars_per_hour": plan_experiment(spec).dollars_per_hour, "gpu_gigabytes": 24,
        "source": source_commit(),
    }  # fmt: skip
    two = plan_experiment(spec, "H100:2")
    assert cell == {
        **one,
        "fresh": False,
        "gpu": "H100:2",
        "gpu_gigabytes": 80,
        "max_containers": 3,
        "dollars_per_hour": two.dollars_per_hour,
        "timeout": two.attempt_seconds,
    }


def test_an_attempt_may_take_five_times_its_estimate() -> None:
    plan = plan_experiment(ExperimentSpec.from_flags(config_name="tiny"))
    seconds = {hours: replace(plan, hours=hours).attempt_seconds for hours in (0.1, 0.3, 4.0, 100.0)}
    assert seconds == {0.1: 3600, 0.3: 5400, 4.0: 72_000, 100.0: 86_400}
    assert plan.dollars_per_hour > plan.gpu.dollars_per_hour  # with processors and memory


def test_a_free_name_is_neither_on_the_volume_nor_about_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, asked = ExperimentSpec.from_flags(config_name="debug"), []

    class Locks:
        def get(self, name: str) -> Any:
            asked.append(name)
            return {"holder": "fc-1"} if name.endswith("-2") else None

    monkeypatch.setattr(remote_locks, "locks", Locks())
    name = remote_client.free_name(spec, ())
    assert re.fullmatch(r"DebugQA_\w+_\d{8}-\d{6}", name) and asked == [name]

    class AllTimes:
        """Holds the plain name of a spec at any time."""

        def __contains__(self, name: object) -> bool:
            return not str(name).endswith(("-2", "-3"))

    assert remote_client.free_name(spec, AllTimes())[-2:] == "-3"  # type: ignore[arg-type]


def test_a_costly_launch_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_if_dear(9.0, yes=False)
    ask_if_dear(99.0, yes=True)
    monkeypatch.setattr("sys.stdin", type("Pipe", (), {"isatty": lambda self: False})())
    with pytest.raises(UsageError, match=r"above \$10 and nobody can be asked here: add --yes"):
        ask_if_dear(99.0, yes=False)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    for said in ("y", "YES ", "n", ""):
        monkeypatch.setattr("builtins.input", lambda question, said=said: said)
        if said in ("n", ""):
            with pytest.raises(UsageError, match="not launched"):
                ask_if_dear(99.0, yes=False)
        else:
            ask_if_dear(99.0, yes=False)


def test_plain_python_says_how_the_entry_point_starts() -> None:
    for words in ((), ("--config-name", "tiny")):
        ended = typed(Path(FILE).name, *words)
        assert ended.code == 2 and "modal run" in ended.err and "emergence run" in ended.err and not ended.out
