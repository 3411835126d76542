"""Models from plain configurations, and forbidden targets."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipnet.layers import GSSOC, SOC, MaxMinPermuted, SOCLinear
from lipnet.models import LipConvNet, build_model
from lipnet.models.build import with_defaults

NETWORK: dict[str, Any] = {
    "_target_": "lipnet.models.LipConvNet",
    "num_classes": 3,
    "depth": 4,
    "stages": 2,
    "initial_channels": 4,
    "in_channels": 1,
    "image_size": 8,
    "mean": [0.5],
    "std": 0.25,
    "conv": {"_target_": "lipnet.layers.GSSOC", "_partial_": True, "groups": [2, None]},
    "activation": {"_target_": "lipnet.layers.MaxMinPermuted", "_partial_": True},
}

REFUSED = [
    "os.system",
    "torch.hub.load",
    "builtins.eval",
    "eval",
    "",
    "subprocess.Popen",
    "torch.nn.functional.relu",
    "torch.nn.init.normal_",
    "torch.nn.modules.module.torch.hub.load",
    "torch.nn.modules.module.torch.nn.Linear",
    "torch.nn.modules.module.torch",
    "torch.nn.parallel.data_parallel.chain.from_iterable",
    "torch.nn.Parameter",
    "torch.nn",
    "torch.nn.",
    "torch.nn..Linear",
    "torch.nn.Nonexistent",
    "torch.nn.nonexistent.Linear",
    "torch.nnx.Linear",
    "torch.optim.SGD",
    "lipnet",
    "lipnet.files.os.system",
    "lipnet.files.atomic_write",
    "lipnet.models.build.import_module",
    "lipnet.models.build_model",
    "lipnet_evil.Model",
    " torch.nn.Linear",
    "torch.nn.Linear.__init__",
    "torch.nn.Linear.__class__",
]


def test_the_network_of_a_configuration() -> None:
    model = build_model(NETWORK)
    assert isinstance(model, LipConvNet)
    assert isinstance(model.stage1[0], GSSOC)
    assert isinstance(model.stage1[1], MaxMinPermuted)
    assert isinstance(model.head, SOCLinear)
    assert model(torch.rand(2, 1, 8, 8)).shape == (2, 3)
    same = LipConvNet(
        3,
        depth=4,
        stages=2,
        initial_channels=4,
        in_channels=1,
        image_size=8,
        conv=partial(GSSOC, groups=(2, None)),
        activation=MaxMinPermuted,
        mean=[0.5],
        std=0.25,
    )
    assert repr(model) == repr(same)


def test_a_configuration_is_not_changed() -> None:
    before = repr(NETWORK)
    build_model(NETWORK)
    assert repr(NETWORK) == before


def test_modules_of_torch_and_nested_ones() -> None:
    layer = build_model({"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3})
    assert isinstance(layer, nn.Linear)
    activation = {"_target_": "torch.nn.modules.activation.ReLU", "_partial_": False}
    encoder = build_model({"_target_": "torch.nn.ModuleDict", "modules": {"a": activation, "b": activation}})
    assert [type(module) for module in encoder.values()] == [nn.ReLU, nn.ReLU]
    modules = [{"_target_": "lipnet.layers.SOC", "in_channels": 2, "out_channels": 2}, activation]
    assert [type(module) for module in build_model({"_target_": "torch.nn.ModuleList", "modules": modules})] == [
        SOC,
        nn.ReLU,
    ]


@pytest.mark.parametrize("target", REFUSED)
def test_targets_outside_the_allowed_modules_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"lipnet\.\* and torch\.nn\.\* modules alone, got _target_ ") as caught:
        build_model({"_target_": target})
    assert repr(target) in str(caught.value)


@pytest.mark.parametrize("target", [None, 3, nn.Linear, ["torch.nn.Linear"], {"_target_": "torch.nn.Linear"}])
def test_targets_that_are_no_text_are_refused(target: Any) -> None:
    with pytest.raises(ValueError, match="modules alone, got _target_"):
        build_model({"_target_": target, "in_features": 2, "out_features": 3})


def test_a_module_from_elsewhere_is_refused_under_an_allowed_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Foreign(nn.Module):
        """A class that lipnet might import from another library."""

    monkeypatch.setattr("lipnet.layers.Foreign", Foreign, raising=False)
    with pytest.raises(ValueError, match=r"modules alone, got _target_ 'lipnet\.layers\.Foreign'"):
        build_model({"_target_": "lipnet.layers.Foreign"})


def nested(target: str, where: str) -> dict[str, Any]:
    """A configuration with this target somewhere inside, after allowed ones."""
    refused = {"_target_": target}
    places: dict[str, dict[str, Any]] = {
        "argument": {"zz": refused},
        "partial argument": {"zz": {**refused, "_partial_": True}},
        "list": {"zz": [1, [refused]]},
        "tuple": {"zz": (1, refused)},
        "mapping": {"zz": {"deep": {"deeper": refused}}},
        "argument of a partial": {"zz": {**NETWORK["conv"], "zz": refused}},
    }
    return {**NETWORK, "aa": {"_target_": "lipnet.models.LipConvNet"}, **places[where]}


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "torch.nn.functional.relu"])
@pytest.mark.parametrize("where", ["argument", "partial argument", "list", "tuple", "mapping", "argument of a partial"])
def test_everything_is_checked_before_anything_is_called(
    where: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    monkeypatch.setattr(LipConvNet, "__init__", lambda self, **arguments: made.append(arguments))
    monkeypatch.setattr("os.system", made.append)
    with pytest.raises(ValueError, match=f"got _target_ '{target}'"):
        build_model(nested(target, where))
    assert made == []


def test_a_refused_command_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got _target_ 'os\.system'"):
        build_model({"_target_": "os.system", "command": f"touch {tmp_path / 'run'}"})
    with pytest.raises(ValueError, match=r"got _target_ 'os\.system'"):
        build_model({**NETWORK, "conv": {"_target_": "os.system", "command": f"touch {tmp_path / 'run'}"}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "config", [{}, {"num_classes": 3}, {"_target_": "torch.nn.ReLU", "_partial_": True}, {"a": NETWORK}]
)
def test_a_configuration_must_make_a_module(config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="needs a _target_ that is not _partial_, got"):
        build_model(config)


def test_a_trusted_package_may_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package.py").write_text(
        "from torch import nn\nclass Net(nn.Linear): pass\ndef make(): return Net(1, 1)\nSOC = nn.Conv2d\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = {"_target_": "my_package.Net", "in_features": 2, "out_features": 3}
    assert type(build_model(config, trust=("my_package",))).__name__ == "Net"
    assert build_model(NETWORK, trust=("my_package",)).head is not None
    for trust in ((), ("my",), ("my_package.other",), ("other",)):
        with pytest.raises(ValueError, match=r"modules alone, got _target_ 'my_package\.Net'; trust="):
            build_model(config, trust=trust)
    for target in ("my_package.make", "my_package.nn", "os.system"):
        with pytest.raises(ValueError, match=f"my_package.* modules alone, got _target_ '{target}'"):
            build_model({"_target_": target}, trust=("my_package",))


def test_trust_is_a_sequence_of_names() -> None:
    with pytest.raises(ValueError, match="trust must be a sequence of package names, got the string 'os'"):
        build_model(NETWORK, trust="os")


def deep(levels: int) -> dict[str, Any]:
    config: dict[str, Any] = {"_target_": "torch.nn.ReLU"}
    for _ in range(levels):
        config = {"inner": config}
    return config


def test_a_deeply_nested_configuration_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="nested at most 100 levels deep"):
        build_model(deep(100_000))
    circle: dict[str, Any] = {"_target_": "torch.nn.ReLU"}
    circle["inner"] = [circle]
    with pytest.raises(ValueError, match="nested at most 100 levels deep"):
        build_model(circle)


def test_a_configuration_that_multiplies_is_refused() -> None:
    """Ten references to ten references to ...: a small file, and 10^60 nodes."""
    node: Any = 1
    for _ in range(60):
        node = [node] * 10
    with pytest.raises(ValueError, match="at most 100000 nodes"):
        build_model({"_target_": "torch.nn.ReLU", "inner": node})


def test_a_configuration_is_given_the_defaults_that_another_one_states() -> None:
    other = {**NETWORK, "mirror": True, "conv": {**NETWORK["conv"], "paired": False}, "unknown": 1}
    expected = {**NETWORK, "mirror": False, "conv": {**NETWORK["conv"], "paired": True}}
    assert with_defaults(NETWORK, other) == expected
    assert with_defaults(NETWORK, {**other, "_target_": "lipnet.models.LipNeXt"})["conv"] == expected["conv"]
    assert "mirror" not in with_defaults(NETWORK, {**other, "_target_": "lipnet.models.LipNeXt"})
    assert "mirror" not in NETWORK
    with pytest.raises(ValueError, match=r"trust=\.\.\. adds packages of your own"):
        with_defaults({"_target_": "os.system"}, {"_target_": "os.system", "command": "x"})
