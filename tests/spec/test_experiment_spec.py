"""The spec: flags in, contradictions refused, identity by content."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from emergence.errors import ConfigError, UsageError
from emergence.spec.experiment import ExperimentSpec, _without_cosmetics
from emergence.spec.flags import flag

STORED = [json.loads(line) for line in (Path(__file__).parent / "stored_specs.jsonl").read_text().splitlines()]
WHEN = datetime(2025, 12, 31, 0, 58, 35)


def spec(**flags: Any) -> ExperimentSpec:
    return ExperimentSpec.from_flags(**flags)


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ({}, "TinyQA_spe200k_20251231-005835"),
        ({"config_name": "base", "pretrain_data": "wiki+nq"}, "BaseQA_spe800k_wikinq_20251231-005835"),
        ({"config_name": "tiny", "pretrain_data": "wiki+control"}, "TinyQA_spe200k_wikicontrol_20251231-005835"),
        ({"config_name": "tiny", "pretrain_data": "shuffled"}, "TinyQA_spe200k_shuffled_20251231-005835"),
        ({"random_baseline": True}, "TinyQA_spe200k_random_20251231-005835"),
        (
            {"freeze_llm": True, "skip_pretrain": True, "pretrained_model_path": "w.pth"},
            "TinyQA_spe200k_frozen_20251231-005835",
        ),
        (
            {"config_name": "small", "finetune_samples": 100, "freeze_llm": True, "layout": "echo", "seed": 3},
            "SmallQA_spe400k_n100_frozen_echo_seed3_20251231-005835",
        ),
        ({"finetune_samples": 30, "subset": 2, "snapshot": "064"}, "TinyQA_spe200k_n30_subset2_step64_20251231-005835"),
        ({"snapshot": "3of8"}, "TinyQA_spe200k_3of8_20251231-005835"),
        ({"adapter": "lora-4", "random_baseline": True}, "TinyQA_spe200k_random_lora-4_20251231-005835"),
    ],
)
def test_run_names_add_only_what_differs(flags: dict[str, Any], name: str) -> None:
    assert spec(**flags).run_name(WHEN) == name


@pytest.mark.parametrize(
    ("flags", "cure"),
    [
        ({"freeze_llm": True, "skip_pretrain": True}, "--pretrained-model-path"),
        ({"random_baseline": True, "pretrained_model_path": "w.pth"}, "drop one"),
        ({"skip_pretrain": True, "skip_finetune": True}, "drop one"),
        ({"random_baseline": True, "skip_finetune": True}, "drop one"),
        ({"freeze_llm": True, "skip_finetune": True}, "drop one"),
        ({"pretrained_model_path": "w.pth"}, "--skip-pretrain"),
        ({"finetune_samples": 0}, "--finetune-samples"),
        ({"finetune_samples": -5}, "--finetune-samples"),
        ({"seed": -1}, "--seed"),
        ({"nq_data": "nq.jsonl"}, "wiki\\+nq"),
        ({"layout": "backwards"}, "question-first, echo"),
        ({"data": "web"}, "hub, microworld"),
        ({"pretrain_data": "c4"}, "wiki, wiki\\+nq"),
        ({"adapter": "lora-1", "freeze_llm": True}, "--freeze-llm trains probes: drop one"),
        ({"adapter": "lora-1", "skip_finetune": True}, "--skip-finetune trains nothing: drop one"),
        ({"adapter": "lora-3"}, "none, lora-1, lora-2, lora-4, lora-64, prefix-16"),
        ({"subset": 1}, "--finetune-samples"),
        ({"subset": -1, "finetune_samples": 5}, "--subset must be between 0"),
        ({"snapshot": "0"}, "--snapshot must be last, a step from 1 on"),
        ({"snapshot": "9of8"}, "such as 3of8"),
        ({"snapshot": "first"}, "such as 3of8"),
        ({"snapshot": "64", "random_baseline": True}, "--random-baseline was never pretrained"),
        ({"snapshot": "64", "skip_finetune": True}, "--skip-finetune pretrains alone"),
        ({"snapshot": "64", "model": "org/gpt", "freeze_llm": True}, "--revision"),
        ({"snapshot": "64", "skip_pretrain": True, "pretrained_model_path": "w.pth"}, "names the weights already"),
        ({"snapshot": "3of12"}, "keeps 10 snapshots in log steps: take 3of10, or .*step_snapshots=12"),
        ({"snapshot": "64", "set_values": ["pretrain.step_snapshots=0"]}, "step_snapshots=10"),
    ],
)
def test_contradictions_name_the_flag_that_cures_them(flags: dict[str, Any], cure: str) -> None:
    with pytest.raises(UsageError, match=cure) as caught:
        spec(**flags)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_2x2_conditions() -> None:
    assert spec().condition == "full"
    assert spec(freeze_llm=True).condition == "frozen"
    assert spec(random_baseline=True).condition == "random"
    assert spec(random_baseline=True, freeze_llm=True).condition == "random-frozen"
    assert spec(skip_finetune=True).condition == "pretrain-only"


def test_random_baseline_never_pretrains_with_or_without_the_flag() -> None:
    assert spec(random_baseline=True) == spec(random_baseline=True, skip_pretrain=True)
    assert not spec(random_baseline=True).pretrains


def test_a_spec_survives_json_and_keeps_its_identity() -> None:
    one = spec(freeze_llm=True, finetune_samples=10, set_values=["pretrain.epochs=2"])
    two = ExperimentSpec.from_dict(json.loads(json.dumps(one.to_dict())))
    assert two == one
    assert two.experiment_id == one.experiment_id


def test_snapshots_and_draws_are_experiments_of_their_own_on_one_pretraining() -> None:
    few = {"finetune_samples": 30}
    changes: list[dict[str, Any]] = [{}, {"subset": 1}, {"snapshot": "64"}, {"snapshot": "3of8"}, {"adapter": "lora-1"}]
    specs = [spec(**few, **own) for own in changes]
    assert len({each.experiment_id for each in specs}) == 5 and len({each.pretrain_id for each in specs}) == 1
    assert spec(snapshot="8of8", **few) == spec(**few), "the last of eight is the finished trunk"
    assert spec(snapshot="0064", **few) == specs[2]
    assert spec(freeze_llm=True, skip_pretrain=True, snapshot="64").at_snapshot, "which names the weights to probe"
    assert (
        specs[4].pretraining_alone
        == specs[3].pretraining_alone
        == specs[1].pretraining_alone
        == spec(skip_finetune=True)
    )


def test_identity_follows_content_not_cosmetics() -> None:
    assert spec(set_values=["pretrain.log_every_steps=3", "compute.gpu=H100"]).experiment_id == spec().experiment_id
    assert spec(set_values=["pretrain.adamw_lr=1e-3"]).experiment_id != spec().experiment_id
    assert spec(seed=1).experiment_id != spec().experiment_id


@dataclass(frozen=True, kw_only=True)
class LaterSpec(ExperimentSpec):
    """With a flag that stored specs are too old to hold."""

    depth: int = flag(1, "New.")


@pytest.mark.parametrize("kind", [ExperimentSpec, LaterSpec])
@pytest.mark.parametrize("stored", STORED, ids=lambda stored: stored["ids"][0])
def test_stored_specs_keep_their_identities(stored: dict[str, Any], kind: type[ExperimentSpec]) -> None:
    """A new flag needs nothing for this; a new setting says in ``_ABSENT_MEANS`` what its absence means."""
    old = kind.from_dict(stored["spec"])
    assert [old.experiment_id, old.pretrain_id, old.training_id] == stored["ids"]


def test_a_later_flag_is_part_of_the_identity_where_it_is_given() -> None:
    stored = STORED[0]["spec"]
    one, two = (LaterSpec.from_dict({**stored, "depth": depth}) for depth in (1, 2))
    assert one == LaterSpec.from_dict(stored) == LaterSpec.from_dict(one.to_dict())
    assert one.experiment_id == STORED[0]["ids"][0] != two.experiment_id
    with pytest.raises(ConfigError, match="depth has the impossible value"):
        LaterSpec.from_dict({**stored, "depth": "deep"})


def test_conditions_share_the_pretraining_that_layouts_and_probes_cannot_change() -> None:
    assert spec(freeze_llm=True, layout="echo", finetune_samples=5).pretrain_id == spec().pretrain_id
    for other in (
        {"seed": 1},
        {"pretrain_data": "wiki+nq"},
        {"pretrain_data": "wiki+control"},
        {"pretrain_data": "shuffled"},
        {"set_values": ["model.n_layers=2"]},
        {"data": "microworld"},
    ):
        assert spec(**other).pretrain_id != spec().pretrain_id


@pytest.mark.parametrize(
    "change",
    [
        {"spec_version": 99},
        {"seed": "zero"},
        {"freeze_llm": 1},
        {"finetune_samples": -1},
        {"unknown": True},
        {"config": {"name": "x"}},
        {"config": None},
        {"layout": 3},
    ],
)
def test_a_damaged_stored_spec_is_refused(change: dict[str, Any]) -> None:
    raw = {**spec().to_dict(), **change}
    with pytest.raises(ConfigError, match=r"spec\.json"):
        ExperimentSpec.from_dict(raw, "spec.json")


def test_a_spec_of_another_program_names_what_is_odd_alone() -> None:
    stored = spec().to_dict()
    with pytest.raises(ConfigError, match=r"\(unknown 'depth'\)"):
        ExperimentSpec.from_dict({**stored, "depth": 3})
    del stored["config"]
    with pytest.raises(ConfigError, match=r"\(no 'config'\)"):
        ExperimentSpec.from_dict(stored)


def test_what_to_do_at_a_nan_is_no_other_experiment() -> None:
    careful = spec(set_values=("pretrain.on_nan=rewind",))
    assert careful.config.pretrain.on_nan == "rewind"
    assert (careful.experiment_id, careful.pretrain_id) == (spec().experiment_id, spec().pretrain_id)
    assert spec(on_nan="rewind") == careful and spec(on_nan="stop") == spec()


def test_a_spec_of_before_the_search_does_not_begin_to_search() -> None:
    stored = spec(set_values=("finetune.search=off",)).to_dict()
    for key in ("search", "dropout"):
        del stored["config"]["finetune"][key]
    old = ExperimentSpec.from_dict(json.loads(json.dumps(stored)))
    assert old.config.finetune.search == "off" and spec().config.finetune.search == "on"
    assert old == spec(set_values=("finetune.search=off",))
    assert ExperimentSpec.from_dict(spec().to_dict()).config.finetune.search == "on"


def test_a_spec_of_before_windows_goes_on_without_them() -> None:
    stored = spec(set_values=("pretrain.initial_context=32",)).to_dict()
    for key in ("initial_context", "initial_context_fraction"):
        del stored["config"]["pretrain"][key]
    old = ExperimentSpec.from_dict(json.loads(json.dumps(stored)))
    assert old == spec() and old.config.pretrain.initial_context == 0
    assert old.pretrain_id == spec().pretrain_id != spec(set_values=("pretrain.initial_context=32",)).pretrain_id


def test_without_a_search_the_identity_is_that_of_before_it() -> None:
    off = spec(config_name="debug", data="microworld", set_values=("finetune.search=off",))
    assert not {"search", "dropout"} & set(_without_cosmetics(off.config.to_dict())["finetune"])
    assert off.experiment_id != spec(config_name="debug", data="microworld").experiment_id
    dropped = spec(config_name="debug", data="microworld", set_values=("finetune.search=off", "finetune.dropout=0.1"))
    assert dropped.experiment_id != off.experiment_id
