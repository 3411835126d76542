"""The devices of a certification, by name or by a group of the training's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lipnet.workflows.devices import device_of, devices_of_command, devices_of_trainer


@pytest.fixture
def _no_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)


@pytest.mark.parametrize(
    ("trainer", "devices"),
    [
        ({"accelerator": "cpu", "devices": 2, "strategy": {"process_group_backend": "gloo"}}, ["cpu", "cpu"]),
        ({"accelerator": "cpu", "devices": 1}, ["cpu"]),
        ({"accelerator": "cpu", "devices": "3"}, ["cpu"] * 3),
        ({"accelerator": "auto", "devices": "auto"}, ["cpu"]),
        ({}, ["cpu"]),
    ],
    ids=str,
)
@pytest.mark.usefixtures("_no_accelerator")
def test_devices_are_as_many_as_the_trainers(trainer: dict[str, Any], devices: list[str]) -> None:
    assert devices_of_trainer(trainer) == devices


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"accelerator": "cpu", "devices": 0}, r"trainer\.devices=0 of cpu must be available"),
        ({"accelerator": "cpu", "devices": -1}, r"trainer\.devices=-1 of cpu must be available"),
        ({"accelerator": "gpu", "devices": 2}, r"trainer\.accelerator=gpu is not available on this machine"),
        ({"accelerator": "abacus"}, r"trainer\.accelerator=abacus is not available"),
        ({"accelerator": "cpu", "num_nodes": 2}, r"one machine, got trainer\.num_nodes=2: start it"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("_no_accelerator")
def test_devices_that_are_not_there_are_refused(trainer: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        devices_of_trainer(trainer)


@pytest.mark.usefixtures("_no_accelerator")
def test_auto_is_the_cpu_where_there_is_no_accelerator() -> None:
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'cuda' is not available"):
        device_of("cuda")


@pytest.mark.parametrize(("name", "there"), [("cuda", True), ("cuda:1", True), ("cuda:2", False), ("mps", False)])
def test_a_device_must_be_on_the_machine(monkeypatch: pytest.MonkeyPatch, name: str, there: bool) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    if there:
        assert device_of(name) == torch.device(name)
    else:
        with pytest.raises(ValueError, match=f"device '{name}' is not available on this machine"):
            device_of(name)


def test_a_command_names_a_device_or_a_group() -> None:
    two = {"accelerator": "cpu", "devices": 2}
    assert devices_of_command("cuda:1", None) == "cuda:1"
    assert devices_of_command("auto", two) == ["cpu", "cpu"]
    with pytest.raises(ValueError, match=r"brings its devices with it: leave out device=cpu"):
        devices_of_command("cpu", two)
