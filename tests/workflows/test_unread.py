"""Settings without effect are refused, and chosen parts that the model lacks are named."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from lipnet.commands.certify import _check_one_task
from lipnet.workflows import unread
from lipnet.workflows.training import check_settings
from lipnet.workflows.unread import CERTIFICATION, PARTS, TRAINING, check_read

CONF = Path(__file__).parents[2] / "lipnet" / "conf"
EXPERIMENTS = sorted(
    str(path.relative_to(CONF / "experiment").with_suffix("")) for path in (CONF / "experiment").rglob("*.yaml")
)


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_module("lipnet.conf", version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.mark.parametrize(
    ("override", "similar"),
    [
        ("+max_epochs=7", "trainer.max_epochs"),
        ("+n_samples=7", "certify.n_samples"),
        ("+radiii=[1]", "radii"),
        ("+ema.decay=0.9", "ema is no setting"),
        ("+paths.logs=here", "paths.logs is no setting"),
        ("+first={second: 1}", "first is no setting"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(override: str, similar: str) -> None:
    with pytest.raises(ValueError, match=similar):
        check_read(composed("train", override), TRAINING, PARTS)


def test_settings_that_only_refer_to_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="one is no setting"):
        check_read(composed("train", "+one=${two}", "+two=${one}"), TRAINING, PARTS)


@pytest.mark.parametrize(
    "overrides",
    [
        ("+width=8", "model.initial_channels=${width}"),
        ("+width=${height}", "+height=8", "model.initial_channels=${width}"),
        ("+paths.mine=here", "data.data_dir=${paths.mine}"),
        ("+paths.mine=here", "paths.data_dir=${.mine}"),
    ],
)
def test_a_setting_that_another_one_refers_to_is_accepted(overrides: tuple[str, ...]) -> None:
    check_read(composed("train", *overrides), TRAINING, PARTS)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_experiment_has_settings_without_effect(experiment: str) -> None:
    check_read(composed("train", f"experiment={experiment}"), TRAINING, PARTS)


def test_a_certification_refuses_a_misspelt_setting() -> None:
    check_read(composed("certify", "attack=pgd", "data=digits", "trainer=ddp_cpu"), CERTIFICATION)
    with pytest.raises(ValueError, match="there is n_samples"):
        check_read(composed("certify", "+n_sample=3"), CERTIFICATION)


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [
        (["model=lipnext", "conv=bro"], "conv=bro has no effect"),
        (["model=lipnext", "activation.beta=1"], "activation.beta=1 has no effect"),
        (["adapter=oft"], "adapter=oft has no effect"),
        (["conv=bro", "activation=maxmin", "head=soc"], None),
        (["model=liresnet", "conv=soc"], None),
        (["model=transferred", "adapter=oft"], None),
    ],
)
def test_a_chosen_part_that_the_model_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], warned: str | None
) -> None:
    monkeypatch.setattr(unread, "_overrides", lambda: overrides)
    config = composed("train", *(each for each in overrides if "beta" not in each))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_read(config, TRAINING, PARTS)
    assert [str(each.message).split(":")[0] for each in caught] == ([] if warned is None else [warned])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+certify.radii=[1]", "would be ignored: set radii"),
        ("+certify.trust=[mine]", "would be ignored: set trust"),
        ("+certify.data_dir=/nonexistent", r"certifies its own data, set data\.data_dir or paths\.data_dir"),
        ("+certify.attack=pgd", "would be ignored: attack the finished run"),
        ("+certify.n_sample=3", "no setting of a certification"),
        ("+certify.overwrite=false", "no setting of a certification"),
        ("+certify.resume=false", "no setting of a certification"),
    ],
)
def test_the_certification_of_a_training_refuses_settings_that_would_be_ignored(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(composed("train", override))
    check_settings(composed("train", "+certify.layers=true"))


@pytest.mark.parametrize(
    "overrides",
    [
        ("compare=[a,b]", "verify=c"),
        ("compare=[a,b]", "attack=pgd"),
        ("verify=c", "attack=pgd"),
        ("verify=c", "report=html"),
        ("compare=[a,b]", "ckpt_path=c"),
        ("compare=[a,b]", "pretrained=digits-quickstart"),
    ],
)
def test_a_command_does_not_leave_out_one_of_two_tasks(overrides: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="give two commands"):
        _check_one_task(composed("certify", *overrides))
    for override in overrides:
        _check_one_task(composed("certify", override))
