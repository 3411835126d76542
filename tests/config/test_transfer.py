"""The experiments of certified transfer compose, and name their commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lipnet.structured.adapters import certified_map

CONF = Path(__file__).parents[2] / "lipnet" / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment" / "transfer").glob("*.yaml"))
ADAPTERS = sorted(path.stem for path in (CONF / "adapter").glob("*.yaml") if path.stem != "none")


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_names_its_command_and_logs_under_its_name(experiment: str) -> None:
    lines = (CONF / "experiment" / "transfer" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# Run: python train.py experiment=transfer/{experiment} ckpt_path=")
    config = compose("train", overrides=[f"experiment=transfer/{experiment}"])
    assert config.task_name == f"transfer/{experiment}"
    assert config.transfer is True


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_fits_a_certified_network(adapter: str) -> None:
    config = compose("train", overrides=["experiment=transfer/halves", f"adapter={adapter}"])
    settings = OmegaConf.to_container(config.model, resolve=True)["adapter"]
    assert certified_map(settings, 64).lipschitz_bound() == pytest.approx(1)


def test_no_adapter_is_a_choice_too() -> None:
    config = compose("train", overrides=["experiment=transfer/halves", "adapter=none", "model.frozen=false"])
    everything = {"adapter": None, "frozen": False, "frozen_head": False}
    assert OmegaConf.to_container(config.model, resolve=True) == everything


def test_the_head_alone_can_be_unfrozen() -> None:
    config = compose("train", overrides=["experiment=transfer/halves", "model.frozen_head=false"])
    assert (config.model.frozen, config.model.frozen_head) == (True, False)


def test_other_experiments_are_no_transfers() -> None:
    config = compose("train", overrides=["experiment=table3/gs_soc_4"])
    assert config.transfer is False
    assert "adapter" not in config
