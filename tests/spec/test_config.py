"""Configuration files: every one loads, and every impossible value is refused by file and key."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from emergence.errors import ConfigError
from emergence.plain import plain
from emergence.spec.config import (
    CONFIG_NAMES,
    RECIPES,
    SECTIONS,
    config_from_dict,
    config_path,
    describe_settings,
    load_config,
    load_config_file,
)

PREFIXES = {
    "tiny": "TinyQA_spe200k",
    "small": "SmallQA_spe400k",
    "base": "BaseQA_spe800k",
    "medium": "MediumQA_spe1500k",
}


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_every_config_file_loads_and_survives_json(name: str) -> None:
    config = load_config(name)
    assert config.name == name
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(("name", "prefix"), PREFIXES.items())
def test_run_prefix_is_the_documented_one_and_tells_the_samples_per_epoch(name: str, prefix: str) -> None:
    config = load_config(name)
    assert config.run_prefix == prefix
    assert config.pretrain.samples_per_epoch == int(prefix.split("spe")[1].removesuffix("k")) * 1000


def test_no_file_sets_a_key_that_is_not_a_setting() -> None:
    known = describe_settings()
    for name in CONFIG_NAMES:
        for section, table in tomllib.loads(config_path(name).read_text()).items():
            if isinstance(table, dict):
                assert set(table) <= set(known[section])


def test_every_setting_documents_itself() -> None:
    settings = describe_settings()
    assert set(settings) == set(SECTIONS)
    assert all(text for section in settings.values() for text in section.values())


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("pretrain.epoch=2", ["--set pretrain.epoch=2", "pretrain.epoch", "did you mean pretrain.epochs?"]),
        ("pretrain.epochs=two", ["pretrain.epochs", "whole number", "'two'"]),
        ("pretrain.epochs=2.5", ["pretrain.epochs", "whole number"]),
        ("pretrain.epochs=0", ["pretrain.epochs", "between 1 and"]),
        ("pretrain.epochs=true", ["pretrain.epochs", "whole number"]),
        ("pretrain.adamw_lr=nan", ["pretrain.adamw_lr", "finite"]),
        ("pretrain.adamw_lr=-1", ["pretrain.adamw_lr", "between 0 and"]),
        ("pretrain.optimizer=sgd", ["pretrain.optimizer", "muon, adamw"]),
        ("model.vocab_size=70000", ["model.vocab_size", "65535"]),
        ("model.n_heads=7", ["--set model.n_heads=7: model.n_heads", "must divide"]),
        ("model.qk_norm=1", ["model.qk_norm", "true or false"]),
        ("probe.ridges=0.1", ["probe.ridges", "list"]),
        ("probe.ridges=[]", ["probe.ridges", "list"]),
        ("pretrain.micro_batch_size=3", ["--set pretrain.micro_batch_size=3: ", "must divide"]),
        ("pretrain.warmup_fraction=0.9", ["warmup_fraction", "at most 1"]),
        ("pretrain.initial_context=100", ["--set pretrain.initial_context=100: ", "less than", "512 and divide it"]),
        ("pretrain.initial_context=512", ["--set pretrain.initial_context=512: ", "less than", "512 and divide it"]),
        ("pretrain.initial_context=8", ["must be 16 or more"]),
        ("recipe=gpt3", ["recipe", "modern, gpt2"]),
        ("adamw_beta1=0.8", ["adamw_beta1", "did you mean pretrain.adamw_beta1?"]),
        ("lr=1", ["did you mean finetune.lr or probe.lr?"]),
        ("nonsense.key=1", ["nonsense", "unknown key"]),
        ("epochs", ["SECTION.KEY=VALUE"]),
        ("epochs=3", ["epochs", "unknown key"]),
        ("model=3", ["model", "table"]),
    ],
)
def test_impossible_overrides_name_the_key_and_what_is_allowed(override: str, names: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("tiny", [override])
    message = str(caught.value)
    assert "\n" not in message
    for name in names:
        assert name in message


def test_an_override_changes_one_value_only() -> None:
    plain, changed = load_config("tiny").to_dict(), load_config("tiny", ["pretrain.epochs=3"]).to_dict()
    assert changed["pretrain"]["epochs"] == 3
    changed["pretrain"]["epochs"] = plain["pretrain"]["epochs"]
    assert changed == plain


def test_recipe_sets_defaults_that_single_values_still_override() -> None:
    gpt2 = load_config("tiny", ["recipe=gpt2", "model.activation=relu2"])
    assert (gpt2.model.positions, gpt2.model.norm, gpt2.model.activation) == ("learned", "layernorm", "relu2")
    assert gpt2.pretrain.optimizer == "adamw"


@pytest.mark.parametrize("name", CONFIG_NAMES)
def test_a_recipe_that_is_asked_for_is_the_same_at_every_size(name: str) -> None:
    """What a file sets for its own recipe gives way; what is set beside the recipe does not."""
    found = load_config(name, ["recipe=gpt2"]).to_dict()
    for section, named in RECIPES["gpt2"].items():
        assert {key: found[section][key] for key in named} == named
    assert load_config(name, ["recipe=gpt2", "pretrain.adamw_beta1=0.5"]).pretrain.adamw_beta1 == 0.5
    assert load_config(name, ["recipe=modern"]) == load_config(name)
    with pytest.raises(ConfigError, match=r"needs model\.positions = rotary"):
        load_config(name, ["recipe=gpt2", "pretrain.initial_context=32"])
    with pytest.raises(
        ConfigError, match=r"^--set pretrain\.initial_context=64, --set model\.sequence_length=100: .*add --set"
    ):
        load_config(name, ["pretrain.initial_context=64", "model.sequence_length=100"])


@pytest.mark.parametrize("text", ["name = [", "\x00", 'name = "x"', 'name = "x"\nrun_prefix = "../up"', "model = 3"])
def test_malformed_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_config_file(path)


def test_an_unknown_name_suggests_the_near_one() -> None:
    with pytest.raises(ConfigError, match="did you mean small"):
        load_config("smal")


@pytest.mark.parametrize(("setting", "of"), [("probe.families=mlp", "names"), ("probe.ridges=0.1", "numbers")])
def test_a_list_says_what_it_is_of(setting: str, of: str) -> None:
    with pytest.raises(ConfigError, match=rf"must be a list of {of}, such as \["):
        load_config("debug", [setting])


def test_what_is_done_with_the_plain_form_changes_no_config() -> None:
    config = load_config("debug")
    first = config.to_dict()
    first["probe"]["ridges"].append(99)
    first["model"]["hidden_size"] = 1
    del first["pretrain"]
    assert config.to_dict() == load_config("debug").to_dict() == plain(config)
