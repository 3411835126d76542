"""Adapted networks: they start as their base, stay certified when trained, and merge."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import certify, lipschitz_bound
from lipnet.layers import GSSOC, SOC, SOCLinear
from lipnet.models import AdaptedConv, AdaptedHead, build_model, load_base, merge_maps
from lipnet.structured import OrthogonalMap
from tests.oracles import dense_jacobian, spectral_norm

GSOFT = {"structure": "GSOFT", "block_size": 4}
DOUBLE = {"structure": "DoubleGSOFT", "block_size": 4}
STRUCTURES: list[dict[str, Any]] = [
    GSOFT,
    {"structure": "OFT", "block_size": 8},
    {"structure": "BOFT", "block_size": 4, "factors": 2},
    DOUBLE,
]


def adapted_config(
    base: dict[str, Any], adapter: dict[str, Any] | None, frozen: bool = True, classes: int = 10
) -> dict[str, Any]:
    wrapped = {"_partial_": True, "adapter": adapter, "frozen": frozen}
    head = {"_target_": "lipnet.layers.SOCLinear", "_partial_": True}
    return {
        **base,
        "num_classes": classes,
        "conv": {"_target_": "lipnet.models.AdaptedConv", **wrapped, "layer": base["conv"]},
        "head": {"_target_": "lipnet.models.AdaptedHead", **wrapped, "layer": head},
    }


def adapted(base: nn.Module, config: dict[str, Any], *arguments: Any, **options: Any) -> nn.Module:
    model = build_model(adapted_config(config, *arguments, **options))
    load_base(model, base.state_dict())
    return model.to(next(base.parameters()).dtype).eval()


def disturb(model: nn.Module, scale: float = 0.5) -> nn.Module:
    """Move all trained parameters away from their initial values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.cover(0)
@pytest.mark.parametrize("adapter", STRUCTURES, ids=lambda adapter: adapter["structure"])
def test_it_starts_with_the_features_of_its_base(
    trained_model: nn.Module, tiny_config: dict[str, Any], digits: tuple[Tensor, Tensor], adapter: dict[str, Any]
) -> None:
    model = adapted(trained_model, tiny_config, adapter)
    with torch.no_grad():
        model.get_parameter("head.layer.bias").copy_(trained_model.get_parameter("head.bias"))
    images = digits[0][:8]
    # Matrices that are kept are shrunk by the bound on their rounding, which depends on their size.
    torch.testing.assert_close(model(images), trained_model(images), rtol=1e-9, atol=1e-9)
    assert lipschitz_bound(model) == pytest.approx(lipschitz_bound(trained_model), rel=1e-12)


def test_what_is_trained(tiny_model: nn.Module, tiny_config: dict[str, Any]) -> None:
    def trained(**settings: Any) -> set[str]:
        model = adapted(tiny_model, tiny_config, **settings)
        return {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    by_adapter = trained(adapter=GSOFT)
    assert {name for name in by_adapter if "generators" not in name} == {"head.layer.bias"}
    assert len(by_adapter) == 3 + 1 + 1
    assert trained(adapter=None) == {"head.layer.weight", "head.layer.bias"}
    model = adapted(tiny_model, tiny_config, None, False)
    assert trained(adapter=None, frozen=False) == {name for name, _ in model.named_parameters()}


def test_double_gsoft_maps_the_inputs_of_convolutions_too(tiny_model: nn.Module, tiny_config: dict[str, Any]) -> None:
    model = adapted(tiny_model, tiny_config, DOUBLE)
    maps = {name: module.matrix.features for name, module in model.named_modules() if isinstance(module, OrthogonalMap)}
    assert maps == {
        "stage1.0.adapter": 16,
        "stage2.0.input_adapter": 16,
        "stage2.0.adapter": 32,
        "stage3.0.input_adapter": 32,
        "stage3.0.adapter": 64,
        "head.adapter": 64,
    }, "blocks do not divide the channels of the image"
    before = load_base(build_model(adapted_config(tiny_config, DOUBLE)), tiny_model.state_dict())
    assert before == ["head.layer.bias"]


@pytest.mark.parametrize(
    ("head", "classes", "trained"),
    [
        ("NormalizedLinear", 4, True),
        ("NormalizedLinear", 10, False),
        # Its weight is square, of the size of the features, for any number of classes up to theirs.
        ("SOCLinear", 4, False),
    ],
)
def test_a_head_of_another_shape_is_trained_in_every_copy_that_its_description_builds(
    tiny_config: dict[str, Any], head: str, classes: int, trained: bool
) -> None:
    layer = {"_target_": f"lipnet.layers.{head}", "_partial_": True}
    base = build_model({**tiny_config, "head": layer, "num_classes": classes})
    config = adapted_config(tiny_config, GSOFT)
    config["head"] |= {"layer": layer, "base_out_features": classes}
    model, resumed = build_model(config), build_model(config)
    missing = load_base(model, base.state_dict())
    assert ("head.layer.weight" in missing) == trained
    for each in (model, resumed):
        assert each.get_parameter("head.layer.weight").requires_grad == trained
        assert each.get_parameter("head.layer.bias").requires_grad
        assert not each.get_parameter("stage1.0.layer.spatial.weight").requires_grad


def test_a_frozen_weight_that_the_base_lacks_is_refused(tiny_model: nn.Module, tiny_config: dict[str, Any]) -> None:
    model = build_model(adapted_config(tiny_config, GSOFT, classes=100))
    with pytest.raises(ValueError, match=r"no.* of the same shape for head\.layer\.weight: state base_out_features"):
        load_base(model, tiny_model.state_dict())


def test_weights_without_a_place_are_refused(tiny_config: dict[str, Any]) -> None:
    model = build_model(adapted_config(tiny_config, GSOFT))
    with pytest.raises(ValueError, match=r"has weights that this one lacks: stage9\.0\.weight"):
        load_base(model, {"stage9.0.weight": torch.zeros(1)})


def test_training_keeps_the_bound_and_the_frozen_weights(
    trained_model: nn.Module, tiny_config: dict[str, Any], digits: tuple[Tensor, Tensor]
) -> None:
    """Train on other labels with steps that are far too large."""
    model = adapted(trained_model, tiny_config, GSOFT).float()
    images, labels = digits[0].float(), 9 - digits[1]
    before = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("spatial.weight")}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    losses = []
    model.train()
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    model.double().eval()
    assert all(torch.equal(model.state_dict()[name].float(), value) for name, value in before.items())
    assert lipschitz_bound(model) == pytest.approx(lipschitz_bound(trained_model), rel=1e-12)
    jacobian = dense_jacobian(model, digits[0][:1])
    assert spectral_norm(jacobian.reshape(10, -1)) <= lipschitz_bound(model) * (1 + 1e-9)


@pytest.mark.parametrize("adapter", STRUCTURES, ids=lambda adapter: adapter["structure"])
def test_a_merged_network_has_the_same_certificates(
    trained_model: nn.Module, tiny_config: dict[str, Any], digits: tuple[Tensor, Tensor], adapter: dict[str, Any]
) -> None:
    model = disturb(adapted(trained_model, tiny_config, adapter), 0.1)
    images, labels = digits[0][:100], digits[1][:100]
    attached = certify(model, images, labels)
    merged = merge_maps(copy.deepcopy(model))
    assert not any(isinstance(module, OrthogonalMap) for module in merged.modules())
    assert not merged.training
    with pytest.raises(TypeError, match=r"Conv2d does not bound itself"):
        merged.lipschitz_bound()
    certificates = certify(merged, images, labels)
    assert torch.equal(certificates.prediction, attached.prediction)
    assert bool(attached.radius.any())
    torch.testing.assert_close(certificates.radius, attached.radius, rtol=1e-8, atol=1e-12)


def test_a_merge_within_autocast_keeps_the_precision_of_the_maps() -> None:
    layer = disturb(AdaptedConv(8, 8, layer=SOC, adapter=GSOFT, kernel_size=3), 0.1).eval()
    x = torch.rand(2, 8, 4, 4)
    expected = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        merge_maps(layer)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"structure": "LoRA"}, r"\{'structure': 'LoRA'\} may change the norms.*OFT, BOFT, GSOFT and DoubleGSOFT"),
        ({"structure": "Circulant"}, "may change the norms"),
        ({**DOUBLE, "scale": True}, "may change the norms"),
        ({**DOUBLE, "transpose": False}, "transpose must be left out, as a map has one side only, got False"),
        ({**GSOFT, "scale": True}, "may change the norms"),
        ({**GSOFT, "side": "output"}, "side must be left out, as a map has one side only, got 'output'"),
        ({"structure": "GSOFT", "block_size": 5}, "features must be divisible by 5"),
        ({"structure": "house"}, "structure must be one of"),
    ],
)
def test_adapters_that_keep_no_certificate_are_refused(adapter: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptedConv(4, 16, layer=SOC, adapter=adapter)
    with pytest.raises(ValueError, match=message):
        AdaptedHead(16, 4, layer=SOCLinear, adapter=adapter)


def test_options_reach_the_layer() -> None:
    layer = AdaptedConv(4, 16, layer=GSSOC, adapter=GSOFT, kernel_size=3, stride=2, groups=(2, None))
    assert layer(torch.zeros(1, 4, 8, 8)).shape == (1, 16, 4, 4)
    assert layer.layer.spatial.groups == 2
