"""Every experiment composes, says how it is run, and builds its model."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torchvision.transforms import v2

from lipnet.data import DATAMODULES, CutMix, FolderImages, MixUp, NpzImages
from lipnet.models import build_model
from lipnet.workflows.training import model_config

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


def count_parameters(config: DictConfig, dataset: str) -> int:
    with torch.device("meta"):
        model = build_model(model_config(config, DATAMODULES[dataset].spec))
    return sum(parameter.numel() for parameter in model.parameters())


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


NETWORK_CHOICES = [
    ["head=lln"],
    ["activation=householder"],
    ["activation=householder2", "head=lln"],
    ["model/pooling=norm", "model.depth=4", "model.stages=2"],
    ["model/pooling=norm", "model.depth=4", "model.stages=2", "head=lln", "activation=maxmin"],
]


@pytest.mark.parametrize("overrides", NETWORK_CHOICES, ids=" ".join)
def test_parts_of_the_network_are_one_override_each(overrides: list[str]) -> None:
    config = configuration("experiment=quickstart", *overrides)
    model = build_model(model_config(config, DATAMODULES["digits"].spec)).eval()
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
    assert model.lipschitz_bound() > 0


@pytest.mark.parametrize("channels", [32, 64, 128])
@pytest.mark.parametrize("depth", [5, 40])
def test_published_sizes_are_overrides(depth: int, channels: int) -> None:
    config = configuration("experiment=gs_soc_4", f"model.depth={depth}", f"model.initial_channels={channels}")
    described = model_config(config, DATAMODULES["cifar100"].spec)
    assert (described["depth"], described["initial_channels"]) == (depth, channels)
    assert "pooling" not in described, "checkpoints of networks without pooling stay what they were"


DATA_CHOICES = {
    "data.loader=workers": {"loader": "workers"},
    "data.loader=memory": {"loader": "memory"},
    "data/mixing=mixup": {"mixing": MixUp},
    "data/mixing=cutmix": {"mixing": CutMix},
    "data/policy=trivial_augment data.loader=workers": {"policy": v2.TrivialAugmentWide},
    "data/policy=rand_augment data.loader=workers": {"policy": v2.RandAugment},
    "data/extra=npz data.extra.path=some.npz data.extra.ratio=0.7": {"extra": NpzImages},
    "data/extra=folder data.extra.path=some": {"extra": FolderImages},
}


@pytest.mark.parametrize("overrides", DATA_CHOICES)
def test_parts_of_the_data_path_are_one_override_each(overrides: str) -> None:
    data = instantiate(configuration("data=cifar100", *overrides.split()).data)
    for name, expected in DATA_CHOICES[overrides].items():
        value = getattr(data, name)
        assert value == expected if isinstance(expected, str) else isinstance(value, expected)


@pytest.mark.parametrize("dataset", sorted(DATAMODULES))
def test_nothing_is_mixed_in_unless_it_is_asked_for(dataset: str) -> None:
    data = instantiate(configuration(f"data={dataset}").data)
    assert (data.policy, data.mixing, data.extra, data.loader) == (None, None, None, "memory")
    assert data.augment


def test_a_policy_in_memory_is_refused_by_name() -> None:
    with pytest.raises(InstantiationException, match=r"use data\.loader=workers"):
        instantiate(configuration("data=cifar100", "data/policy=trivial_augment").data)
