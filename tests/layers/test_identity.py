"""States, digests and differences of models."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal

from lipnet.layers import SOC, LipschitzModule, MaxMin, MaxMinPermuted, Normalize
from lipnet.layers.identity import (
    differing_part,
    model_sha256,
    of_lipnet_or_torch,
    settings_of,
    state_of,
    values_sha256,
)


def make() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Normalize([0.5], 0.25), SOC(1, 4), MaxMin(), nn.Flatten(), nn.Linear(16, 3)).eval()


# What each change is called by `differing_part`, which compares no values of tensors.
CHANGES: dict[str, tuple[Callable[[Any], object], str | None]] = {
    "weight": (lambda model: nn.init.ones_(model[4].weight), None),
    "buffer that is not saved": (lambda model: model[0].mean.fill_(0.75), None),
    "number": (lambda model: setattr(model[0], "std", 0.5), "0.std is 0.5 in place of 0.25"),
    "text": (lambda model: setattr(model[1], "padding_mode", "circular"), "1.padding_mode is 'circular'"),
    "tuple": (lambda model: setattr(model[1], "stride", (1, 2)), "1.stride is (1, 2) in place of (1, 1)"),
    "class": (lambda model: model.__setitem__(2, MaxMinPermuted().eval()), "2 is MaxMinPermuted in place of MaxMin"),
    "more": (lambda model: model.append(nn.ReLU().eval()), "5 is ReLU in place of no module"),
    "less": (lambda model: model.pop(2), "2 is Flatten in place of MaxMin"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_noticed(name: str) -> None:
    model, (change, words) = make(), CHANGES[name]
    state, digest = state_of(model), model_sha256(model)
    change(model)
    assert state_of(model) != state
    assert model_sha256(model) != digest
    found = differing_part(model, make())
    assert found == words if words is None else str(found).startswith(words)


def test_nothing_is_noticed_without_a_change() -> None:
    model = make()
    state, digest = state_of(model), model_sha256(model)
    with torch.no_grad():
        model(torch.rand(2, 1, 2, 2))
    model[1].lipschitz_bound()  # type: ignore[operator]
    assert state_of(model) == state
    assert model_sha256(model) == digest == model_sha256(copy.deepcopy(model)) == model_sha256(make())
    assert differing_part(model.train(), make()) is None


def repeat() -> nn.Sequential:
    first, second, third = (nn.Linear(2, 2) for _ in range(3))
    second.weight = first.weight
    return nn.Sequential(first, second, third, first, nn.ReLU())


# Changes of what occurs twice, which leave the lists of all modules and all tensors as they are.
REPEATED: dict[str, Callable[[Any], object]] = {
    "another repeated module": lambda model: model.__setitem__(3, model[1]),
    "one repetition less": lambda model: model.pop(3),
    "one repetition more": lambda model: model.append(model[2]),
    "tied to another weight": lambda model: setattr(model[1], "weight", model[2].weight),
    "tied bias": lambda model: setattr(model[2], "bias", model[0].bias),
    "class": lambda model: setattr(model[4], "__class__", nn.SiLU),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_change_of_what_occurs_twice_is_noticed(name: str) -> None:
    model = repeat()
    state, digest = state_of(model), model_sha256(model)
    REPEATED[name](model)
    assert state_of(model) != state
    assert model_sha256(model) != digest


VIEWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one row repeated": lambda weight: weight[:1].expand_as(weight),
    "transposed": lambda weight: weight.t(),
    "negative": lambda weight: torch._neg_view(weight),
    "other dtype": lambda weight: weight.view(torch.int32),
}


@pytest.mark.parametrize("name", VIEWS)
def test_another_view_of_the_same_memory_is_noticed(name: str) -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False)).requires_grad_(False)
    state, weight = state_of(model), model[0].weight
    # This leaves identity, version and address as they are.
    weight.data = VIEWS[name](weight.detach())
    assert state_of(model) != state


def test_new_weights_never_pass_for_earlier_ones_by_their_address() -> None:
    model = nn.Sequential(nn.Linear(1024, 1024, bias=False))
    model.load_state_dict({name: value.clone() for name, value in model.state_dict().items()}, assign=True)
    state = state_of(model)
    for _ in range(4):  # allocators reuse the memory of the weights before the last ones
        model.load_state_dict({"0.weight": 2 * model[0].weight.detach()}, assign=True)
        assert state_of(model) != state


def test_a_write_through_data_is_in_the_digest_alone() -> None:
    model = make()
    state, digest = state_of(model), model_sha256(model)
    model[4].weight.data.mul_(2)  # type: ignore[operator, union-attr]
    assert state_of(model) == state
    assert model_sha256(model) != digest


def test_settings_are_plain_values() -> None:
    assert settings_of(nn.ELU(2.0)) == {"alpha": "2.0", "inplace": "False"}
    assert "explicit" not in settings_of(SOC(1, 2))


def plain_bias(model: Any) -> None:
    """Keep the bias as a plain tensor, as torch's pruning does with weights."""
    bias = model[4].bias.detach()
    del model[4].bias
    model[4].bias = bias


def test_plain_tensors_count() -> None:
    model = make()
    plain_bias(model)
    state, digest = state_of(model), model_sha256(model)
    model[4].bias.add_(1)  # type: ignore[operator, union-attr]
    assert state_of(model) != state
    assert model_sha256(model) != digest
    assert str(differing_part(model, make())).startswith("4.bias is torch.Tensor")


def test_private_settings_of_torch_count() -> None:
    """torch pads circularly by a private copy of the padding."""
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular")).eval()
    other = copy.deepcopy(model)
    other[0]._reversed_padding_repeated_twice = [1, 1, 0, 0]  # type: ignore[union-attr, assignment]
    assert settings_of(model[0]) != settings_of(other[0])  # type: ignore[arg-type]
    assert model_sha256(model) != model_sha256(other)
    assert "_reversed_padding_repeated_twice" in str(differing_part(other, model))


class Own(LipschitzModule):
    """A user's module with settings of any kind."""

    def __init__(self, shift: Any) -> None:
        super().__init__()
        self.options = {"shift": shift}
        self._shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self._shift


class Other(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self._shift


@pytest.mark.parametrize("shift", [1.0, torch.ones(2)], ids=["number", "tensor"])
def test_all_attributes_and_the_code_of_your_own_modules_count(shift: Any) -> None:
    one, another, changed = Own(shift), Own(2 * shift), Own(shift)
    changed.options["shift"] = 2 * shift
    assert len({model_sha256(each) for each in (one, another, changed, Other(shift))}) == 4
    assert model_sha256(one) == model_sha256(Own(shift)) == model_sha256(copy.deepcopy(one))
    # Private attributes may be caches: the digest that must not change meanwhile leaves them out.
    assert values_sha256(one) == values_sha256(another)


def test_content_that_cannot_be_compared_is_named() -> None:
    model = nn.Sequential(Own(memoryview(b"a")))
    assert model_sha256(model) == model_sha256(model)
    assert model_sha256(model).endswith(
        "of one process alone, as 0.options has content that cannot be compared with another's"
    )


def test_a_model_from_inference_mode_that_moved_to_another_dtype_has_a_state() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(2, 2))
    model.double()
    state = state_of(model)
    assert state_of(model) == state
    model[0].weight = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    assert state_of(model) != state


class Estimated(nn.Module):
    """A user's module whose settings have the names of lipnet's switches."""

    def __init__(self, explicit: float) -> None:
        super().__init__()
        self.explicit = self.estimated = self.recompute = explicit
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.explicit * self.weight * x


@pytest.mark.parametrize("name", ["explicit", "estimated", "recompute"])
def test_names_of_lipnets_switches_are_settings_of_your_own_modules(name: str) -> None:
    one, other = Estimated(1.0), Estimated(1.0)
    assert model_sha256(one) == model_sha256(other)
    setattr(other, name, 2.0)
    assert model_sha256(one) != model_sha256(other)
    assert values_sha256(one) != values_sha256(other)
    assert name not in settings_of(SOC(1, 2))


class Parametrized(Own):
    def __init__(self, shift: float) -> None:
        super().__init__(shift)
        self.weight = nn.Parameter(torch.ones(1))
        parametrize.register_parametrization(self, "weight", nn.Softplus())


def test_your_own_modules_stay_your_own_behind_a_parametrization() -> None:
    model = Parametrized(1.0)
    assert not of_lipnet_or_torch(model)
    assert of_lipnet_or_torch(orthogonal(nn.Linear(2, 2)))
    assert model_sha256(model) == model_sha256(Parametrized(1.0)) != model_sha256(Parametrized(2.0))
    forged = type("Linear", (nn.Linear,), {"__module__": "torch.nn.modules.linear"})(2, 2)
    assert not of_lipnet_or_torch(forged)
