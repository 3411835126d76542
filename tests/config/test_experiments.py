"""Every experiment composes, says how it is run, and builds its model."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from lipnet.data import DATAMODULES
from lipnet.layers import GSSOC, SOC
from lipnet.layers.scaling import SCALINGS
from lipnet.layers.skew_orthogonal import SkewOrthogonal
from lipnet.models import build_model
from lipnet.workflows.training import model_config
from tests.settings import PUBLISHED

CONF = Path(__file__).parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
# Trainable parameters on CIFAR-100: theory of the published code, counted there.
PARAMETERS = {
    "soc": 24_066_020,
    "gs_soc_4": 6_805_988,
    "gs_soc_4_1": 8_905_060,
    "gs_soc_4_2": 7_857_508,
    "gs_soc_4_4": 7_333_732,
}


@pytest.fixture(autouse=True)
def hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def configuration(*overrides: str) -> DictConfig:
    return compose("train", overrides=list(overrides))


def network(config: DictConfig, dataset: str = "cifar100") -> torch.nn.Module:
    """The configuration's network, without memory for its weights."""
    with torch.device("meta"):
        return build_model(model_config(config, DATAMODULES[dataset].spec))


def count_parameters(config: DictConfig, dataset: str) -> int:
    return sum(parameter.numel() for parameter in network(config, dataset).parameters())


def layer_options() -> dict[str, Any]:
    """The keyword options that every skew-orthogonal layer takes, with their defaults."""
    parameters = inspect.signature(SkewOrthogonal.__init__).parameters.values()
    options = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    return {name: value for name, value in options.items() if name not in {"device", "dtype"}}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_first_line_says_how_to_run_it(experiment: str) -> None:
    lines = (CONF / "experiment" / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"  # Hydra reads this one
    assert lines[1].startswith(f"# Run: python train.py experiment={experiment}")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_logs_under_its_own_name(experiment: str) -> None:
    assert configuration(f"experiment={experiment}").task_name == experiment


@pytest.mark.parametrize(("experiment", "expected"), PARAMETERS.items())
def test_parameters_of_the_published_rows(experiment: str, expected: int) -> None:
    assert count_parameters(configuration(f"experiment={experiment}"), "cifar100") == expected


@pytest.mark.parametrize("overrides", [["conv.paired=false"], ["activation=maxmin"], ["conv.groups=[4,4]"]])
def test_the_other_columns_are_overrides(overrides: list[str]) -> None:
    assert count_parameters(configuration("experiment=gs_soc_4", *overrides), "cifar100") > 6_000_000


@pytest.mark.parametrize("conv", ["soc", "gs_soc"])
def test_every_option_of_the_layers_is_listed_with_its_default(conv: str) -> None:
    config = configuration(f"conv={conv}")
    listed = {name: config.conv[name] for name in layer_options()}
    assert listed == layer_options()
    assert {name: config.head[name] for name in layer_options()} == layer_options()


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [
        ("soc", ["conv=soc_published"]),
        ("gs_soc_4", ["conv=gs_soc_published"]),
        ("gs_soc_4_4", ["conv=gs_soc_published", "conv.paired=false"]),
    ],
)
def test_the_published_layer_is_one_override(experiment: str, overrides: list[str]) -> None:
    usual, published = (network(configuration(f"experiment={experiment}", *more)) for more in ([], overrides))
    assert sum(isinstance(layer, SOC) for layer in published.modules()) >= 16
    for layer in published.modules():
        if isinstance(layer, SOC):
            options = {**layer_options(), **PUBLISHED}
            scaling = options.pop("scaling")
            assert type(layer.scaling) is SCALINGS[scaling]
            assert {name: getattr(layer, name) for name in options} == options
    assert [each.shape for each in usual.parameters()] == [each.shape for each in published.parameters()]
    assert any(isinstance(layer, GSSOC) for layer in published.modules()) == experiment.startswith("gs_soc")


def test_options_of_the_convolutions_reach_every_layer() -> None:
    options = {"engine": "series", "train_tolerance": 0.01, "eval_tolerance": 1e-7, "recompute": True}
    config = configuration("experiment=gs_soc_4_4", *(f"conv.{name}={value}" for name, value in options.items()))
    layers = [layer for layer in network(config).modules() if isinstance(layer, SOC)]
    assert len(layers) == 31  # two a layer, and the head
    for layer in layers:
        assert {name: getattr(layer, name) for name in options} == options


@pytest.mark.parametrize(
    ("group", "choice"),
    [
        (folder.name, path.stem)
        for folder in sorted(CONF.iterdir())
        if folder.name in {"data", "conv", "activation", "head", "loss", "optimizer", "scheduler", "logger", "debug"}
        for path in sorted(folder.glob("*.yaml"))
    ],
)
def test_every_choice_composes(group: str, choice: str) -> None:
    composed = configuration("experiment=quickstart", f"{group}={choice}")
    assert composed.task_name == "quickstart"


@pytest.mark.parametrize("trainer", sorted(path.stem for path in (CONF / "trainer").glob("*.yaml")))
def test_every_trainer_is_lightnings(trainer: str) -> None:
    config = configuration(f"trainer={trainer}").trainer
    assert config._target_ == "lightning.Trainer"
    assert config.use_distributed_sampler is False


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("scheduler", ["steps", "cosine", "constant"])
def test_optimizers_and_schedules_are_made(optimizer: str, scheduler: str) -> None:
    config = configuration(f"optimizer={optimizer}", f"scheduler={scheduler}")
    made = instantiate(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    schedule = instantiate(config.scheduler)(made)
    assert schedule.get_last_lr()[0] == pytest.approx(config.optimizer.lr)


def test_the_published_schedule() -> None:
    config = configuration("experiment=gs_soc_4")
    made = instantiate(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    schedule = instantiate(config.scheduler)(made)
    assert (made.defaults["lr"], made.defaults["momentum"], made.defaults["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert sorted(schedule.milestones) == [100, 150]
    assert config.trainer.max_epochs == 200
    assert config.data.batch_size == 128


@pytest.mark.parametrize("dataset", sorted(DATAMODULES))
def test_one_seed_for_a_run(dataset: str) -> None:
    assert configuration(f"data={dataset}", "seed=7").data.seed == 7
    assert compose("certify", overrides=[f"data={dataset}", "ckpt_path=x", "seed=7"]).data.seed == 7
