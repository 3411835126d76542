"""Attaching, switching, detaching and merging adapters."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipnet.certify import lipschitz_bound
from lipnet.structured.adapters import (
    AdapterConfig,
    GSOFTConfig,
    LoRAConfig,
    OFTConfig,
    attach,
    attached,
    describe,
    detach,
    merge,
    use,
)
from tests.structured.adapters.helpers import classes, logits, same, snapshot, train


def trainable(model: nn.Module) -> list[str]:
    return [name for name, value in model.named_parameters() if value.requires_grad]


def test_the_model_begins_as_it_was_and_only_the_adapter_trains(
    network: nn.Module, images: Tensor, config: AdapterConfig
) -> None:
    before = logits(network, images)
    assert attach(network, config) is network
    assert torch.equal(logits(network, images), before)
    assert trainable(network)
    assert all(".updates.default." in name for name in trainable(network))


def test_training_changes_the_adapter_alone(network: nn.Module, images: Tensor, config: AdapterConfig) -> None:
    before = logits(network, images)
    base = {name: value.detach().clone() for name, value in network.named_parameters()}
    train(attach(network, config))
    assert not torch.allclose(logits(network, images), before)
    for site in ("stem", "mix", "head"):
        parametrizations = network.get_submodule(f"{site}.parametrizations.weight")
        assert torch.equal(parametrizations.get_parameter("original"), base[f"{site}.weight"])
    assert torch.equal(network.get_parameter("head.bias"), base["head.bias"])


def test_every_update_is_reached_by_the_gradient(network: nn.Module, config: AdapterConfig) -> None:
    train(attach(network, config), steps=2)
    values = [value for _, value in network.named_parameters() if value.requires_grad]
    assert all(value.grad is not None and bool(value.grad.any()) for value in values)


@pytest.mark.parametrize("mode", [True, False])
def test_detach_restores_every_bit_object_flag_and_class(
    network: nn.Module, images: Tensor, config: AdapterConfig, mode: bool
) -> None:
    network.get_parameter("stem.bias").requires_grad_(False)
    before, kinds, outputs = snapshot(network), classes(network), logits(network, images)
    keys = list(network.state_dict())
    train(attach(network, config)).train(mode)
    assert detach(network) is network
    assert same(before, snapshot(network))
    assert list(network.state_dict()) == keys
    assert classes(network) == kinds
    assert attached(network) == {}
    assert vars(network).keys() == vars(type(network)()).keys()
    assert torch.equal(logits(network, images), outputs)


def test_merge_gives_a_plain_model_with_the_same_outputs(
    network: nn.Module, images: Tensor, config: AdapterConfig
) -> None:
    plain, flags, kinds = copy.deepcopy(network), snapshot(network), classes(network)
    train(attach(network, config))
    expected = logits(network, images)
    assert merge(network) is network
    assert torch.equal(logits(network, images), expected)
    assert [(name, flag) for name, _, flag, _ in snapshot(network)] == [(name, flag) for name, _, flag, _ in flags]
    assert classes(network) == kinds
    assert attached(network) == {}
    plain.load_state_dict(network.state_dict())
    assert torch.equal(logits(plain, images), expected)
    buffer = io.BytesIO()
    torch.save(network, buffer)
    buffer.seek(0)
    assert torch.equal(logits(torch.load(buffer, weights_only=False), images), expected)


def test_weights_are_updated_as_matrices_and_the_thirds_of_attention_each_on_its_own(network: nn.Module) -> None:
    originals = {name: value.detach().double().numpy() for name, value in network.named_parameters()}
    train(attach(network, GSOFTConfig(4, scale=False)))
    for name in ("stem.weight", "mix.weight", "head.weight", "attention.out_proj.weight"):
        path, _, _ = name.rpartition(".")
        weight, original = network.get_submodule(path).weight, originals[name]
        update = network.get_submodule(f"{path}.parametrizations.weight.0.updates.default")
        q = update.get_submodule("input").to_dense().detach().double().numpy()
        expected = (original.reshape(len(original), -1) @ q.T).reshape(original.shape)
        np.testing.assert_allclose(weight.detach().double().numpy(), expected, atol=1e-5)
        assert not np.allclose(expected, original, atol=1e-3)
    updates = network.get_submodule("attention.parametrizations.in_proj_weight.0.updates.default.parts")
    thirds = np.split(originals["attention.in_proj_weight"], 3)
    rotations = [update.get_submodule("input").to_dense().detach().double().numpy() for update in updates.children()]
    expected = np.concatenate([third @ q.T for third, q in zip(thirds, rotations, strict=True)])
    attention = network.get_submodule("attention")
    np.testing.assert_allclose(attention.in_proj_weight.detach().double().numpy(), expected, atol=1e-5)
    assert not np.allclose(rotations[0], rotations[1], atol=1e-3)


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        attended: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return attended


@pytest.mark.parametrize("kernel", ["_native_multi_head_attention", "_transformer_encoder_layer_fwd"])
def test_the_fused_kernels_of_attention_see_the_adapted_weights(
    images: Tensor, config: AdapterConfig, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = {
        "_native_multi_head_attention": SelfAttention,
        "_transformer_encoder_layer_fwd": partial(nn.TransformerEncoderLayer, 8, 2, 16, dropout=0.0, batch_first=True),
    }
    layer, tokens = layers[kernel](), images[:, :, :, 0]
    fused = Mock(wraps=getattr(torch, kernel))
    monkeypatch.setattr(torch, kernel, fused)
    attach(layer, config)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    slow = layer.train()(tokens).detach()
    fused.assert_not_called()
    fast = logits(layer, tokens)
    fused.assert_called_once()
    np.testing.assert_allclose(fast.numpy(), slow.numpy(), atol=1e-5)
    with torch.no_grad():
        use(layer, None)
        assert not torch.allclose(logits(layer, tokens), fast, atol=1e-2)


def test_the_cache_of_torch_computes_every_weight_once_a_pass(network: nn.Module, images: Tensor) -> None:
    train(attach(network, GSOFTConfig(4)))
    expected = logits(network, images)
    update = network.get_submodule("attention.parametrizations.in_proj_weight.0.updates.default")
    calls: list[object] = []
    update.register_forward_hook(lambda *_: calls.append(None))
    with parametrize.cached():
        assert torch.equal(logits(network, images), expected)
    assert len(calls) == 1


def test_several_adapters_switched_at_run_time(network: nn.Module, images: Tensor) -> None:
    before, base = snapshot(network), logits(network, images)
    train(attach(network, LoRAConfig(2), name="a"))
    with_a = logits(network, images)
    train(attach(network, GSOFTConfig(4), ["stem", "attention"], name="b"), rate=0.2)
    with_b = logits(network, images)
    assert list(attached(network)) == ["a", "b"]
    for _ in range(2):
        assert torch.equal(logits(use(network, None), images), base)
        assert trainable(network) == []
        assert torch.equal(logits(use(network, "a"), images), with_a)
        assert all(".updates.a." in name for name in trainable(network))
        assert torch.equal(logits(use(network, "b"), images), with_b)
        assert torch.equal(logits(use(network, "b"), images), with_b)
        assert all(".updates.b." in name for name in trainable(network))
    detach(network, "b")
    assert torch.equal(logits(network, images), base)
    assert torch.equal(logits(use(network, "a"), images), with_a)
    detach(network, "a")
    assert same(before, snapshot(network))


def test_detaching_another_adapter_leaves_the_one_in_use(network: nn.Module, images: Tensor) -> None:
    train(attach(network, LoRAConfig(2), name="a"))
    train(attach(network, OFTConfig(4), "head", name="b"))
    with_b = logits(network, images)
    detach(network, "a")
    assert torch.equal(logits(network, images), with_b)
    assert not parametrize.is_parametrized(network.get_submodule("stem"))
    assert parametrize.is_parametrized(network.get_submodule("head"))


def test_merging_keeps_the_adapter_in_use(network: nn.Module, images: Tensor) -> None:
    train(attach(network, LoRAConfig(2), name="a"))
    with_a = logits(network, images)
    train(attach(network, OFTConfig(4), name="b"))
    merge(use(network, "a"))
    assert torch.equal(logits(network, images), with_a)
    assert not any(parametrize.is_parametrized(module) for module in network.modules())


def test_running_statistics_belong_to_the_adapter_that_they_were_made_with(network: nn.Module) -> None:
    norm = network.get_submodule("norm")

    def statistics() -> list[float]:
        return [*norm.get_buffer("running_mean").tolist(), float(norm.get_buffer("num_batches_tracked"))]

    base = statistics()
    train(attach(network, LoRAConfig(2), name="a"))
    of_a = statistics()
    assert of_a != base
    attach(network, OFTConfig(4), name="b")
    assert statistics() == base
    train(network)
    of_b = statistics()
    use(network, "a")
    assert statistics() == of_a
    use(network, "b")
    assert statistics() == of_b
    use(network, None)
    assert statistics() == base
    merge(use(network, "a"))
    assert statistics() == of_a


def test_a_new_head_that_is_trained_along(network: nn.Module, images: Tensor) -> None:
    attach(network, LoRAConfig(2), exclude="head")
    network.get_submodule("head").requires_grad_(True)
    before = network.get_parameter("head.weight").detach().clone()
    train(network)
    assert not torch.equal(network.get_parameter("head.weight"), before)
    attach(network, GSOFTConfig(4), exclude="head", name="second")
    assert network.get_parameter("head.weight").requires_grad


@pytest.mark.parametrize("end", [detach, merge])
def test_parameters_that_were_frozen_before_the_adapter_are_frozen_after_it(
    network: nn.Module, end: Callable[[nn.Module], nn.Module]
) -> None:
    """A head is unfrozen along with an adapter. A later module is none of the parameters of before."""
    network.requires_grad_(False)
    attach(network, LoRAConfig(2), exclude="head")
    network.get_submodule("head").requires_grad_(True)
    network.add_module("later", nn.Linear(2, 2))
    end(network)
    assert trainable(network) == ["later.weight", "later.bias"]


def test_a_copy_is_independent_of_its_original(network: nn.Module, images: Tensor) -> None:
    before = snapshot(network)
    train(attach(network, GSOFTConfig(4)))
    expected = logits(network, images)
    duplicate = copy.deepcopy(network)
    assert torch.equal(logits(duplicate, images), expected)
    train(duplicate)
    assert not torch.equal(logits(duplicate, images), expected)
    merge(duplicate)
    assert torch.equal(logits(network, images), expected)
    another = detach(copy.deepcopy(network))
    assert not torch.equal(logits(another, images), expected)
    third = attach(copy.deepcopy(network), LoRAConfig(2), name="third")
    assert list(attached(third)) == ["default", "third"]
    assert torch.equal(logits(network, images), expected)
    detach(network)
    assert same(before, snapshot(network))
    assert torch.equal(logits(use(third, "default"), images), expected)


def test_a_copy_of_attention_with_several_weights_is_independent() -> None:
    model = attach(nn.MultiheadAttention(4, 2, kdim=6, vdim=8), LoRAConfig(2))
    duplicate = copy.deepcopy(model)
    names = list(nn.MultiheadAttention(4, 2, kdim=6, vdim=8).state_dict())
    assert list(detach(duplicate).state_dict()) == names
    for parameter in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        assert getattr(model, parameter).requires_grad
    assert list(merge(model).state_dict()) == names


def test_a_state_dict_carries_the_adapters(network: nn.Module, images: Tensor) -> None:
    other = copy.deepcopy(network)
    train(attach(network, GSOFTConfig(4)))
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    buffer.seek(0)
    attach(other, GSOFTConfig(4)).load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(logits(other, images), logits(network, images))


def test_weights_that_two_layers_share_stay_shared_and_safe() -> None:
    first, second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    model, x = nn.Sequential(first, second).eval(), torch.randn(3, 8)
    shared = first.weight
    attach(model, LoRAConfig(2), "1")
    with torch.no_grad():
        model.get_parameter("1.parametrizations.weight.0.updates.default.B").normal_()
    expected, before = model(x).detach(), shared.detach().clone()
    duplicate = copy.deepcopy(model)
    merge(model)
    assert torch.equal(model(x).detach(), expected)
    assert first.weight is shared
    assert torch.equal(shared, before)
    detach(duplicate)
    assert duplicate[0].weight is duplicate[1].weight


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(network: nn.Module, images: Tensor, dtype: torch.dtype, config: AdapterConfig) -> None:
    attach(network.to(dtype), config)
    wide = torch.promote_types(dtype, torch.float32)
    assert all(value.dtype == wide for value in network.parameters() if value.requires_grad)
    with torch.no_grad():
        for value in network.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))
    expected = logits(network, images.to(dtype))
    assert expected.dtype == dtype
    merge(network)
    assert torch.equal(logits(network, images.to(dtype)), expected)
    assert {value.dtype for value in network.parameters()} == {dtype}


def test_autocast_leaves_the_weights_alone(network: nn.Module, config: AdapterConfig) -> None:
    train(attach(network, config))
    weight = network.get_submodule("stem").weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network.get_submodule("stem").weight, weight)


def test_the_memory_format_of_a_convolution_stays(network: nn.Module, images: Tensor) -> None:
    network.to(memory_format=torch.channels_last)
    merge(attach(network, LoRAConfig(2)))
    assert network.get_parameter("stem.weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_it_can_be_compiled(network: nn.Module, images: Tensor) -> None:
    train(attach(network, GSOFTConfig(4), exclude="attention"))
    compiled = torch.compile(network, backend="eager")
    np.testing.assert_allclose(compiled(images).detach().numpy(), network(images).detach().numpy(), atol=1e-6)


def test_certification_wants_adapters_merged_first() -> None:
    model = attach(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), GSOFTConfig(4, scale=False)).eval()
    with pytest.raises(
        ValueError, match=r"is parametrized in a way that no rule covers; merge adapters with .*merge\(model\)"
    ):
        lipschitz_bound(model)
    assert lipschitz_bound(merge(model)) > 0


def test_an_orthogonal_adapter_keeps_the_norm_of_every_weight(network: nn.Module) -> None:
    norms = [torch.linalg.svdvals(value.detach().flatten(1)) for value in (network.stem.weight, network.head.weight)]
    train(attach(network, GSOFTConfig(4, scale=False)), rate=0.5)
    adapted = [torch.linalg.svdvals(value.detach().flatten(1)) for value in (network.stem.weight, network.head.weight)]
    for before, after in zip(norms, adapted, strict=True):
        np.testing.assert_allclose(after.numpy(), before.numpy(), rtol=1e-5)


def refused(model: nn.Module) -> tuple[object, ...]:
    return snapshot(model), classes(model), attached(model), sorted(vars(model))


@pytest.mark.parametrize(
    ("config", "targets", "name", "message"),
    [
        (
            GSOFTConfig(5),
            None,
            "default",
            r"fit stem\.weight: GSOFTConfig\(.*features must be divisible by 5 .*72",
        ),
        (
            OFTConfig(3),
            None,
            "default",
            r"fit mix\.weight: .* got 16; the same .* attention\.in_proj_weight, ",
        ),
        (LoRAConfig(2), "heads.*", "default", r"target 'heads\.\*' matches no .*; there are stem, mix, attention,"),
        (LoRAConfig(2), None, "a.b", r"letters, digits, - and _, got 'a\.b'"),
        (LoRAConfig(2), None, "", "letters, digits, - and _, got ''"),
        (LoRAConfig(2), None, "train", "the name 'train' means something else to modules of torch"),
        (LoRAConfig(2), None, "taken", "an adapter 'taken' is attached already"),
    ],
)
@pytest.mark.parametrize("with_adapter", [False, True])
def test_refusals_leave_the_model_as_it_was(
    network: nn.Module, config: AdapterConfig, targets: str | None, name: str, message: str, with_adapter: bool
) -> None:
    if with_adapter or name == "taken":
        attach(network, LoRAConfig(3), "mix", name="taken")
    (before, *rest), outputs = refused(network), network(torch.zeros(1, 8, 8, 8))
    with pytest.raises(ValueError, match=message):
        attach(network, config, targets, name=name)
    after, *rest_after = refused(network)
    assert same(before, after)
    assert rest == rest_after
    assert torch.equal(network(torch.zeros(1, 8, 8, 8)), outputs)


def test_models_without_an_adapter_are_refused(network: nn.Module) -> None:
    for act in (merge, detach, lambda model: use(model, None)):
        with pytest.raises(ValueError, match="Network has no adapters of its own; call attach"):
            act(network)
    attach(network, LoRAConfig(2), name="a")
    with pytest.raises(ValueError, match="there is no adapter 'b', only 'a'"):
        use(network, "b")
    with pytest.raises(ValueError, match="there is no adapter 'b', only 'a'"):
        detach(network, "b")
    use(network, None)
    before = snapshot(network)
    with pytest.raises(ValueError, match=r"nothing to merge: no adapter is in use; call use\(\) with one of 'a'"):
        merge(network)
    assert same(before, snapshot(network))


def test_adapters_of_another_model_are_pointed_at() -> None:
    inner = nn.Sequential(nn.Linear(4, 4))
    outer = nn.Sequential(inner, nn.Linear(4, 4))
    attach(inner, LoRAConfig(2))
    with pytest.raises(ValueError, match="no adapters of its own, its module 0 has; attach others there"):
        attach(outer, LoRAConfig(2), name="b")
    with pytest.raises(ValueError, match="no adapters of its own, its module 0 has"):
        merge(outer)
    detach(inner)
    attach(outer, LoRAConfig(2))
    with pytest.raises(ValueError, match="no adapters of its own, a model that contains it has"):
        detach(inner)


class Double(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_a_parametrization_on_top_is_refused(network: nn.Module) -> None:
    attach(network, LoRAConfig(2))
    parametrize.register_parametrization(network.get_submodule("head"), "weight", Double())
    before = snapshot(network)
    for act in (merge, detach):
        with pytest.raises(ValueError, match=r"head\.weight has a parametrization on top of its adapters"):
            act(network)
        assert same(before, snapshot(network))


def test_a_parametrization_of_another_weight_of_the_module_stays(network: nn.Module) -> None:
    head = network.get_submodule("head")
    parametrize.register_parametrization(head, "bias", Double())
    bias = head.bias.detach().clone()
    duplicate = copy.deepcopy(network)
    merge(attach(network, LoRAConfig(2), "head"))
    detach(attach(duplicate, LoRAConfig(2), "head"))
    for model in (network, duplicate):
        assert torch.equal(model.get_submodule("head").bias, bias)
        assert "weight" in model.get_submodule("head")._parameters


def test_targets_can_have_settings_of_their_own(network: nn.Module) -> None:
    targets = {"*": {}, nn.Conv2d: {"block_size": 2}, "stem": {"scale": False, "blocks": 9}}
    attach(network, GSOFTConfig(4), targets, exclude="attention")
    generators = {
        site: network.get_submodule(f"{site}.parametrizations.weight.0.updates.default.input").generators.shape
        for site in ("stem", "mix", "head")
    }
    assert generators == {"stem": (2, 9, 8, 8), "mix": (2, 8, 2, 2), "head": (2, 2, 4, 4)}
    assert network.get_submodule("stem.parametrizations.weight.0.updates.default").scale is None
    assert attached(network) == {"default": GSOFTConfig(4)}
    assert "mix.weight: GSOFTConfig(block_size=2" in describe(network)
    with pytest.raises(ValueError, match=r"settings must be those of GSOFTConfig, got \{'rank': 2\}"):
        attach(network, GSOFTConfig(4), {"head": {"rank": 2}}, name="other")
