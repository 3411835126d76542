"""Explanations of models: a row for each module, suggestions for those without a rule, and no exception."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lipnet.certify import Rule, explain, lipschitz_bound, rounding_bounds, rule
from lipnet.certify.explain import _SUGGESTIONS
from lipnet.layers import LipschitzModule, MaxMin, NormalizedLinear, Residual
from lipnet.models import LipConvNet
from lipnet.structured.adapters import GSOFTConfig, attach


def plain_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(128, 5)
    )


def test_a_model_with_rules_is_explained_with_its_bounds_and_shares_of_the_rounding() -> None:
    model = plain_network().double().eval()
    explanation = explain(model, (3, 8, 8))
    assert explanation.certifiable
    assert explanation.lipschitz == lipschitz_bound(model)
    assert explanation.rounding == rounding_bounds(model, (3, 8, 8)).logits
    assert [each.path for each in explanation.modules] == list("012345")
    assert [each.bound for each in explanation.modules] == [lipschitz_bound(module) for module in model]
    shares = [each.rounding for each in explanation.modules]
    assert sum(shares) == pytest.approx(explanation.rounding, rel=1e-5)
    assert all(type(share) is float for share in shares)


def test_without_an_image_shape_the_rounding_is_bounded_or_not() -> None:
    class Silent(LipschitzModule):
        def forward(self, x: Tensor) -> Tensor:
            return x / 3

        def lipschitz_bound(self) -> float:
            return 1 / 3

    explanation = explain(nn.Sequential(MaxMin(), Silent()))
    assert [each.rounding for each in explanation.modules] == [True, False]
    assert [each.rule for each in explanation.modules] == ["own", "own"]
    assert "rounding_step" in explanation.modules[1].suggestion
    assert not explanation.certifiable


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Softmax(1), "leave it out"),
        (nn.LayerNorm(4), "BatchNorm2d"),
        (nn.GroupNorm(2, 2), "BatchNorm2d"),
        (nn.Mish(), "MaxMin"),
        (nn.Dropout2d(), "nn.Dropout"),
        (nn.AdaptiveMaxPool2d(2), "stride = kernel_size"),
        (nn.ReflectionPad2d(1), "ZeroPad2d"),
        (nn.Conv1d(2, 2, 3), "SOC1d"),
        (nn.MultiheadAttention(4, 2), "no bound"),
        (nn.PairwiseDistance(), "LipschitzModule"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_module_without_a_rule_has_a_suggestion_instead_of_an_error(module: nn.Module, words: str) -> None:
    explanation = explain(nn.Sequential(nn.ReLU(), module))
    row = explanation.modules[1]
    assert (row.rule, row.bound, row.rounding, row.kind) == ("none", None, False, type(module).__name__)
    assert words in row.suggestion
    assert explanation.lipschitz is None
    assert not explanation.certifiable


def test_all_classes_with_a_suggestion_exist() -> None:
    assert [name for name in _SUGGESTIONS if not hasattr(nn, name)] == []


def test_settings_without_a_rule_give_their_reason() -> None:
    explanation = explain(nn.Sequential(nn.Upsample(scale_factor=2), nn.Flatten(start_dim=0)))
    assert "scale_factor=(2, 2)" in explanation.modules[0].suggestion
    assert "start_dim 0" in explanation.modules[1].suggestion


class Skip(nn.Module):
    """A block that adds its input, as torchvision writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.norm = nn.InstanceNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.conv(x))


def test_the_parts_of_a_module_without_a_rule_follow_it() -> None:
    explanation = explain(nn.Sequential(Skip(), nn.ReLU()))
    assert [(each.path, each.rule) for each in explanation.modules] == [
        ("0", "none"),
        ("0.conv", "rule"),
        ("0.norm", "none"),
        ("1", "rule"),
    ]
    assert "lipnet.layers.Residual" in explanation.modules[0].suggestion


def test_the_parts_of_a_block_that_combines_them_follow_it_only_if_one_is_at_fault() -> None:
    good, bad = Residual(nn.ReLU()), Residual(nn.Sequential(nn.Mish()))
    assert [each.path for each in explain(nn.Sequential(good)).modules] == ["0"]
    assert [each.path for each in explain(nn.Sequential(bad)).modules] == ["0", "0.body.0"]


def test_a_model_in_training_mode_is_explained_as_in_evaluation_and_left_as_it_was() -> None:
    model = plain_network()
    model[1].eval()
    explanation = explain(model)
    assert explanation.certifiable
    assert [module.training for module in model] == [True, False, True, True, True, True]
    assert model.training


def test_hooks_and_in_place_modules_are_problems() -> None:
    hooked = nn.Sequential(nn.ReLU())
    hooked[0].register_forward_hook(lambda *arguments: None)
    assert "has forward hooks" in explain(hooked).modules[0].suggestion
    shared = nn.Sequential(Residual(nn.ReLU(inplace=True)))
    assert "works in place" in " ".join(explain(shared).problems)
    assert not explain(shared).certifiable


def test_a_model_that_cannot_run_on_images_of_this_shape_is_a_problem() -> None:
    explanation = explain(plain_network().double(), (3, 9, 30))
    assert len(explanation.problems) == 1
    assert "cannot be multiplied" in explanation.problems[0]
    assert explanation.lipschitz is not None
    assert "must be float64" in explain(plain_network(), (3, 8, 8)).problems[0]


def test_weights_that_are_not_finite_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    assert "finite" in explain(model).modules[0].suggestion


def test_a_bound_that_fails_is_a_row() -> None:
    class Failing(LipschitzModule):
        def forward(self, x: Tensor) -> Tensor:
            return x

        def lipschitz_bound(self) -> float:
            raise RuntimeError("the decomposition did not converge")

    explanation = explain(nn.Sequential(nn.ReLU(), Failing()))
    assert [each.bound for each in explanation.modules] == [1.0, None]
    assert explanation.modules[1].suggestion == "the decomposition did not converge"
    assert not explanation.certifiable


def test_parametrized_modules_are_one_row() -> None:
    explanation = explain(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))))
    assert [(each.kind, each.rule) for each in explanation.modules] == [("ParametrizedLinear", "rule")]


def test_a_parametrized_module_has_a_bound_on_its_rounding_only_if_its_rule_has() -> None:
    class Own(nn.Linear):
        pass

    @rule(Own)
    class OwnRule(Rule):
        def lipschitz(self, module: Own) -> float:
            return 3.0

    model = nn.Sequential(parametrizations.weight_norm(Own(3, 3))).double().eval()
    assert [(each.bound, each.rounding) for each in explain(model).modules] == [(3.0, False)]
    with pytest.raises(TypeError, match=r"0 \(ParametrizedOwn\) has no rule for its rounding"):
        rounding_bounds(model, (3,))


def test_adapters_are_to_be_merged() -> None:
    model = attach(nn.Sequential(nn.Linear(8, 8)), GSOFTConfig(block_size=4))
    row = explain(model).modules[0]
    assert row.bound is None
    assert row.suggestion.startswith("merge adapters with lipnet.structured.adapters.merge(model)")


def test_a_global_average_has_a_smaller_bound_if_it_states_the_size() -> None:
    row = explain(nn.Sequential(nn.AdaptiveAvgPool2d(1))).modules[0]
    assert row.bound == 1
    assert "AvgPool2d(s)" in row.suggestion
    assert lipschitz_bound(nn.AvgPool2d(8).eval()) == 1 / 8


def test_the_table_shows_every_module_the_bound_and_the_problems() -> None:
    text = str(explain(nn.Sequential(plain_network(), nn.Softmax(1))))
    for word in ("0.0", "Conv2d", "BatchNorm2d", "Softmax", "leave it out", "no bound"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 120
    assert "Problem: " in str(explain(plain_network(), (3, 8, 8)))


def test_a_lipconvnet_is_certifiable() -> None:
    model = LipConvNet(4, depth=2, stages=2, initial_channels=4, in_channels=1, image_size=8, head=NormalizedLinear)
    explanation = explain(model.double(), (1, 8, 8))
    assert explanation.certifiable
    assert explanation.lipschitz == pytest.approx(lipschitz_bound(model.eval()), rel=1e-12)
