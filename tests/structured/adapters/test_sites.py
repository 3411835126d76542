"""The selection of weights by targets, and weights that cannot be adapted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lipnet.structured.adapters.sites import Target, all_sites, find_sites

EVERYTHING = [
    "stem.weight",
    "mix.weight",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "head.weight",
]


def chosen(model: nn.Module, *targets: Target, exclude: tuple[Target, ...] = ()) -> list[str]:
    return [site.name for site in find_sites(model, targets or None, exclude)]


def test_without_targets_all_that_can_be_adapted(network: nn.Module) -> None:
    assert [site.name for site in all_sites(network)] == EVERYTHING
    assert chosen(network) == EVERYTHING
    assert [site.parts for site in all_sites(network)] == [1, 1, 3, 1, 1]


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        ((nn.Conv2d,), ["stem.weight", "mix.weight"]),
        # The output projection of attention is a Linear of its own.
        ((nn.Linear,), ["attention.out_proj.weight", "head.weight"]),
        ((nn.MultiheadAttention,), ["attention.in_proj_weight", "attention.out_proj.weight"]),
        (("attention",), ["attention.in_proj_weight", "attention.out_proj.weight"]),
        (("attention.out_proj",), ["attention.out_proj.weight"]),
        (("*m*",), ["stem.weight", "mix.weight"]),
        (("head", nn.Conv2d, "stem"), ["stem.weight", "mix.weight", "head.weight"]),
        ((nn.Module,), EVERYTHING),
        (("*",), EVERYTHING),
    ],
)
def test_names_wildcards_and_types(network: nn.Module, targets: tuple[Target, ...], names: list[str]) -> None:
    assert chosen(network, *targets) == names
    others = [name for name in EVERYTHING if name not in names]
    if others:
        assert chosen(network, exclude=targets) == others


def test_the_model_itself_and_modules_that_occur_twice() -> None:
    assert chosen(nn.Linear(2, 2)) == ["weight"]
    attention = nn.MultiheadAttention(4, 2)
    assert chosen(attention) == ["in_proj_weight", "out_proj.weight"]
    layer = nn.Linear(2, 2)
    assert chosen(nn.Sequential(layer, nn.Sequential(layer))) == ["0.weight"]


def test_attention_with_keys_and_values_of_other_sizes() -> None:
    model = nn.MultiheadAttention(4, 2, kdim=6, vdim=8)
    expected = [("q_proj_weight", 1), ("k_proj_weight", 1), ("v_proj_weight", 1), ("out_proj.weight", 1)]
    assert [(site.name, site.parts) for site in find_sites(model, None, ())] == expected


def test_targets_that_match_nothing_say_what_there_is(network: nn.Module) -> None:
    there_are = "there are stem, mix, attention, attention.out_proj, head"
    kinds = "Linear, Conv2d, Conv1D or MultiheadAttention"
    with pytest.raises(ValueError, match=f"target 'hed' matches no {kinds}; {there_are}"):
        find_sites(network, ["stem", "hed"], [])
    with pytest.raises(ValueError, match="target 'norm' matches no"):
        find_sites(network, None, ["norm"])
    with pytest.raises(ValueError, match=f"is left to adapt; {there_are}"):
        find_sites(network, [], [])
    instance: Any = network.get_submodule("head")
    with pytest.raises(ValueError, match="a target must be the name or the type of modules, got Linear"):
        find_sites(network, [instance], [])
    with pytest.raises(ValueError, match=f"target BatchNorm2d matches no .*; {there_are}"):
        find_sites(network, [nn.BatchNorm2d], [])
    with pytest.raises(ValueError, match=f"no {kinds} is left to adapt; {there_are}"):
        find_sites(network, ["stem"], [nn.Conv2d])
    with pytest.raises(ValueError, match="is left to adapt; there are none"):
        find_sites(nn.ReLU(), None, [])
    with pytest.raises(ValueError, match=r"there are 0, 1, .*, 19 and 5 more"):
        find_sites(nn.Sequential(*(nn.Linear(1, 1) for _ in range(25))), ["x"], [])


def test_weights_that_cannot_be_adapted() -> None:
    with pytest.raises(ValueError, match=r"does not fit weight: a convolution with groups \(4\) is no single matrix"):
        find_sites(nn.Conv2d(4, 4, 3, groups=4), None, [])
    with pytest.raises(ValueError, match="does not fit weight: the weight has no shape before the first forward pass"):
        find_sites(nn.LazyLinear(4), None, [])
    with pytest.raises(ValueError, match=r"does not fit weight: the weight is torch.complex64, not real"):
        find_sites(nn.Linear(2, 2, dtype=torch.complex64), None, [])
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    with pytest.raises(ValueError, match="does not fit weight: the weight is no plain parameter: it is parametrized"):
        find_sites(normed, None, [])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_a_weight_that_a_hook_computes_and_the_names_of_all_that_do_not_fit() -> None:
    model = nn.Sequential(*(nn.utils.weight_norm(nn.Linear(4, 4)) for _ in range(3)), nn.Linear(4, 4))
    with pytest.raises(
        ValueError, match=r"does not fit 0\.weight: .* by a hook; the same or similar for 1\.weight, 2\.weight \("
    ):
        find_sites(model, None, [])
    assert chosen(model, exclude=("[012]",)) == ["3.weight"]
