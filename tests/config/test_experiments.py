"""Every experiment and every choice of a group composes, with the settings of its own file."""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torchvision.transforms import v2

from lipnet.data import DATAMODULES, FolderImages, NpzImages
from lipnet.layers import GSSOC, SOC, ChannelShuffle, MaxMin, MaxMinPermuted
from lipnet.layers.soc import SCALINGS
from lipnet.models import build_model
from lipnet.training import (
    EMMA,
    AnnealedEMMA,
    CertificateRegularization,
    ExponentialMovingAverage,
    LogitAnnealing,
    MulticlassHinge,
    OffsetCrossEntropy,
    OneCycle,
    PerStepSchedule,
)
from lipnet.training.losses import LipschitzLoss
from lipnet.workflows.folders import LAST
from lipnet.workflows.training import make_trainer, model_config
from tests.settings import PUBLISHED

CONF = Path(__file__).parents[2] / "lipnet" / "conf"
FOLDER = CONF / "experiment"
EXPERIMENTS = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))
# Trainable parameters on CIFAR-100, as counted in the published code.
PARAMETERS = {
    "table3/soc": 24_066_020,
    "table3/gs_soc_4": 6_805_988,
    "table3/gs_soc_4_1": 8_905_060,
    "table3/gs_soc_4_2": 7_857_508,
    "table3/gs_soc_4_4": 7_333_732,
}


@cache
def configuration(*overrides: str, name: str = "train") -> DictConfig:
    """Compose a configuration, once for all tests: they only read it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def network(config: DictConfig, dataset: str = "cifar100") -> torch.nn.Module:
    """Build the configuration's network on the meta device, which needs no memory for the weights."""
    with torch.device("meta"):
        return build_model(model_config(config, DATAMODULES[dataset].spec))


def count_parameters(config: DictConfig, dataset: str) -> int:
    return sum(parameter.numel() for parameter in network(config, dataset).parameters())


def files_of(group: str) -> list[Path]:
    return sorted((CONF / group).glob("*.yaml"))


def with_settings(config: Any, settings: Any) -> Any:
    """Return plain containers with these settings, interpolations unresolved."""
    return OmegaConf.to_container(OmegaConf.merge(config, settings))


def layer_options() -> dict[str, Any]:
    """Return the keyword options of every skew-orthogonal layer, with their defaults."""
    parameters = inspect.signature(SOC.__init__).parameters.values()
    options = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    return {name: value for name, value in options.items() if name not in {"device", "dtype"}}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_the_first_line_is_the_command(experiment: str) -> None:
    lines = (FOLDER / f"{experiment}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"  # Hydra reads this one
    assert lines[1].startswith(f"# Run: python train.py experiment={experiment}")


@pytest.mark.cover(0)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_logs_under_its_own_name(experiment: str) -> None:
    assert configuration(f"experiment={experiment}").task_name == experiment


@pytest.mark.parametrize(("experiment", "expected"), PARAMETERS.items())
def test_parameters_of_the_published_rows(experiment: str, expected: int) -> None:
    assert count_parameters(configuration(f"experiment={experiment}"), "cifar100") == expected


def test_the_best_recipe_is_no_larger_than_the_published_network() -> None:
    assert count_parameters(configuration("experiment=best/cifar100"), "cifar100") < PARAMETERS["table3/soc"]


@pytest.mark.parametrize("experiment", ["speedrun/cifar100", "cpu/cifar100", "cpu/cifar100_narrow"])
def test_experiments_in_a_given_time_end_with_it(experiment: str) -> None:
    config = configuration(f"experiment={experiment}")
    assert config.trainer.max_epochs == -1
    assert config.trainer.max_time is not None
    schedule = instantiate(config.scheduler)
    assert isinstance(schedule, OneCycle)
    assert schedule.over == "time"


def columns_of(model: torch.nn.Module) -> tuple[set[bool], set[type[torch.nn.Module]], int]:
    """Return the properties by which the paper's columns differ: pairing, activation and number of parameters."""
    modules = list(model.modules())
    paired = {module.paired for module in modules if isinstance(module, ChannelShuffle)}
    activations = {type(module) for module in modules if isinstance(module, MaxMin | MaxMinPermuted)}
    return paired, activations, sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], ({True}, {MaxMinPermuted}, PARAMETERS["table3/gs_soc_4"])),
        (["conv.paired=false"], ({False}, {MaxMinPermuted}, PARAMETERS["table3/gs_soc_4"])),
        (["activation=maxmin"], ({True}, {MaxMin}, PARAMETERS["table3/gs_soc_4"])),
        (["activation=maxmin", "conv.paired=false"], ({False}, {MaxMin}, PARAMETERS["table3/gs_soc_4"])),
        (["conv.groups=[4,4]"], ({True}, {MaxMinPermuted}, PARAMETERS["table3/gs_soc_4_4"])),
    ],
)
def test_the_other_columns_are_overrides(overrides: list[str], expected: Any) -> None:
    assert columns_of(network(configuration("experiment=table3/gs_soc_4", *overrides))) == expected


@pytest.mark.parametrize("conv", ["soc", "gs_soc"])
def test_every_option_of_the_layers_is_listed_with_its_default(conv: str) -> None:
    config = configuration(f"conv={conv}", "head=soc")
    listed = {name: config.conv[name] for name in layer_options()}
    assert listed == layer_options()
    assert {name: config.head[name] for name in layer_options()} == layer_options()


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [
        ("table3/soc", ["conv=soc_published"]),
        ("table3/gs_soc_4", ["conv=gs_soc_published"]),
        ("table3/gs_soc_4_4", ["conv=gs_soc_published", "conv.paired=false"]),
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
    assert any(isinstance(layer, GSSOC) for layer in published.modules()) == ("gs_soc" in experiment)


def test_options_of_the_convolutions_reach_every_layer() -> None:
    options = {"engine": "series", "train_tolerance": 0.01, "eval_tolerance": 1e-7, "recompute": True}
    config = configuration("experiment=table3/gs_soc_4_4", *(f"conv.{name}={value}" for name, value in options.items()))
    layers = [layer for layer in network(config).modules() if isinstance(layer, SOC)]
    assert len(layers) == 31  # two a layer, and the head
    for layer in layers:
        assert {name: getattr(layer, name) for name in options} == options


GROUPS = {"data", "conv", "activation", "head", "loss", "optimizer", "scheduler", "logger", "debug"}


@pytest.mark.cover(0)
@pytest.mark.parametrize(
    ("group", "choice"), [(path.parent.name, path.stem) for group in sorted(GROUPS) for path in files_of(group)]
)
def test_every_choice_composes_to_the_settings_of_its_file(group: str, choice: str) -> None:
    composed = configuration("experiment=quickstart", f"{group}={choice}")
    assert composed.task_name == "quickstart"
    written = OmegaConf.load(CONF / group / f"{choice}.yaml")
    inherits = written.pop("defaults", None) is not None
    found = OmegaConf.to_container(composed if group == "debug" else composed[group])
    expected = OmegaConf.to_container(written)
    assert with_settings(found, expected) == found
    assert inherits or group == "debug" or found == expected, "settings of another choice are left"


@pytest.mark.parametrize("trainer", [path.stem for path in files_of("trainer")])
def test_every_trainer_is_lightnings(trainer: str) -> None:
    config = configuration(f"trainer={trainer}").trainer
    assert config._target_ == "lightning.Trainer"
    assert config.use_distributed_sampler is False


@pytest.mark.cover(0)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "nadam"])
@pytest.mark.parametrize("scheduler", [path.stem for path in files_of("scheduler")])
def test_optimizers_and_schedules_are_made(optimizer: str, scheduler: str) -> None:
    settings = configuration(f"optimizer={optimizer}").optimizer
    made = instantiate(settings)([torch.nn.Parameter(torch.zeros(1))])
    make = instantiate(configuration(f"scheduler={scheduler}").scheduler)
    assert type(made) is {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "nadam": torch.optim.NAdam}[optimizer]
    done = [0.0]
    if isinstance(make, PerStepSchedule) and make.over == "time":
        schedule = make(made, lambda: done[0])
    else:
        schedule = make(made, 1000) if isinstance(make, PerStepSchedule) else make(made)
    rates = []
    for step in range(1000):
        done[0] = (step + 1) / 1000
        rates.append(made.param_groups[0]["lr"])
        made.step()
        schedule.step()
    assert max(rates) == pytest.approx(settings.lr, rel=1e-3)


# The class of each loss, and a setting of it with another value than its default.
LOSSES = {
    "annealed_emma": (AnnealedEMMA, "beta", 3.0),
    "certificate_regularization": (CertificateRegularization, "gamma", 0.25),
    "cross_entropy": (torch.nn.CrossEntropyLoss, "label_smoothing", 0.1),
    "emma": (EMMA, "first", 0.2),
    "logit_annealing": (LogitAnnealing, "beta", 3.0),
    "multiclass_hinge": (MulticlassHinge, "radius", "1/2"),
    "offset_cross_entropy": (OffsetCrossEntropy, "temperature", 0.5),
}


def test_every_loss_is_listed() -> None:
    assert [path.stem for path in files_of("loss")] == sorted(LOSSES)


@pytest.mark.cover(0)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_made_with_their_settings(loss: str) -> None:
    kind, name, value = LOSSES[loss]
    # An experiment with another loss, so that the choice cannot be the default.
    experiment = "table3/gs_soc_4" if loss != "cross_entropy" else "best/cifar100"
    logits = torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    values = []
    for overrides in ([], [f"loss.{name}={value}"]):
        made = instantiate(configuration(f"experiment={experiment}", f"loss={loss}", *overrides).loss)
        assert type(made) is kind
        made = made.for_network(3.7) if isinstance(made, LipschitzLoss) else made
        # Correct predictions: one loss subtracts their certified radius.
        values.append(made(logits, logits.argmax(dim=1)))
    usual, changed = values
    assert bool(usual.isfinite() & changed.isfinite())
    assert usual != changed, f"loss.{name} has no effect"


def test_published_losses() -> None:
    offset = configuration("loss=offset_cross_entropy").loss
    annealing = configuration("loss=logit_annealing").loss
    assert (offset.radius, offset.temperature, offset.lipschitz_constant) == ("36/255", 0.25, None)
    assert (annealing.offset, annealing.temperature, annealing.beta) == (2.0, 0.75, 5.0)


def test_the_average_joins_the_callbacks() -> None:
    config = configuration("callbacks=[default,ema]", "callbacks.ema.decay=0.99", "paths.output_dir=run")
    made = instantiate(config.callbacks.ema)
    assert isinstance(made, ExponentialMovingAverage)
    assert made.decay == 0.99
    assert {"best_checkpoint", "last_checkpoint", "ema"} <= set(config.callbacks)


def test_a_run_resumes_from_the_last_checkpoint() -> None:
    config = configuration("callbacks.last_checkpoint.stop_after_minutes=9", "paths.output_dir=run")
    made = instantiate(config.callbacks.last_checkpoint)
    assert made.path == Path("run") / LAST
    assert made.stop_after_minutes == 9
    names = list(config.callbacks)
    assert names.index("best_checkpoint") < names.index("last_checkpoint"), "it stores the state of best_checkpoint"


@pytest.mark.parametrize("override", ["trainer.precision=bf16-mixed", "trainer.max_time=00:00:09:00"])
def test_precision_and_time_are_overrides(override: str) -> None:
    name, value = override.split("=")
    assert str(configuration(override).trainer[name.removeprefix("trainer.")]) == value


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_automatic_precision_is_bfloat16_where_that_is_fast(
    fast: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lipnet.workflows.training.multiplies_bfloat16_fast", lambda device: fast)
    config = configuration("trainer=cpu", "trainer.precision=auto", "logger=[]", "callbacks=[]")
    assert make_trainer(config).precision == precision


def test_the_published_schedule() -> None:
    config = configuration("experiment=table3/gs_soc_4")
    made = instantiate(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    schedule = instantiate(config.scheduler)(made)
    assert (made.defaults["lr"], made.defaults["momentum"], made.defaults["weight_decay"]) == (0.1, 0.9, 5e-4)
    assert sorted(schedule.milestones) == [100, 150]
    assert config.trainer.max_epochs == 200
    assert config.data.batch_size == 128


@pytest.mark.cover(0)
@pytest.mark.parametrize("dataset", sorted(DATAMODULES))
def test_one_seed_for_a_run(dataset: str) -> None:
    assert configuration(f"data={dataset}", "seed=7").data.seed == 7
    assert configuration(f"data={dataset}", "ckpt_path=x", "seed=7", name="certify").data.seed == 7


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
    config = configuration("experiment=table3/gs_soc_4", f"model.depth={depth}", f"model.initial_channels={channels}")
    described = model_config(config, DATAMODULES["cifar100"].spec)
    assert (described["depth"], described["initial_channels"]) == (depth, channels)
    assert "pooling" not in described, "checkpoints of networks without pooling do not change"


DATA_CHOICES = {
    "data.loader=workers": {"loader": "workers"},
    "data.loader=memory": {"loader": "memory"},
    "data/mixing=mixup": {"mixing": v2.MixUp},
    "data/mixing=cutmix": {"mixing": v2.CutMix},
    "data/policy=trivial_augment data.loader=workers": {"policy": v2.TrivialAugmentWide},
    "data/policy=rand_augment data.loader=workers": {"policy": v2.RandAugment},
    "data/extra=npz data.extra.path=some.npz data.extra.ratio=0.7": {"extra": NpzImages},
    "data/extra=folder data.extra.path=some": {"extra": FolderImages},
}


@pytest.mark.cover(0)
@pytest.mark.parametrize("overrides", DATA_CHOICES)
def test_parts_of_the_data_path_are_one_override_each(overrides: str) -> None:
    data = instantiate(configuration("data=cifar100", *overrides.split()).data)
    for name, expected in DATA_CHOICES[overrides].items():
        value = getattr(data, name)
        assert value == expected if isinstance(expected, str) else isinstance(value, expected)


@pytest.mark.cover(0)
@pytest.mark.parametrize("dataset", sorted(DATAMODULES))
def test_policy_mixing_and_extra_images_are_off_by_default(dataset: str) -> None:
    data = instantiate(configuration(f"data={dataset}").data)
    assert (data.policy, data.mixing, data.extra, data.loader) == (None, None, None, "memory")
    assert data.augment


def test_a_policy_in_memory_is_refused_by_name() -> None:
    with pytest.raises(InstantiationException, match=r"use data\.loader=workers"):
        instantiate(configuration("data=cifar100", "data/policy=trivial_augment").data)
