"""Nodes that depend on constants alone are computed once; random nodes and those of the input are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from lipnet.layers.export.fold import fold_constants

aten = torch.ops.aten


def folded(compute: Callable[[Tensor, Tensor], Tensor]) -> fx.GraphModule:
    """``compute(x, constant)`` as a functional graph of torch's operators with its constants folded."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.constant = nn.Parameter(torch.arange(1.0, 7.0).view(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return compute(x, self.constant)

    program = torch.export.export(Model().requires_grad_(False), (torch.ones(3),)).run_decompositions({})
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    fold_constants(module)
    module.recompile()
    return module


def targets(module: fx.GraphModule) -> set[object]:
    return {node.target for node in module.graph.nodes if node.op == "call_function"}


def test_what_needs_no_input_is_computed_once() -> None:
    module = folded(lambda x, constant: x * (constant.exp().sum(dim=0) / constant.norm()))
    assert aten.mul.Tensor in targets(module)
    assert targets(module).isdisjoint({aten.exp.default, aten.sum.dim_IntList, aten.div.Tensor})
    constant = torch.arange(1.0, 7.0).view(2, 3)
    torch.testing.assert_close(module(torch.ones(3)), constant.exp().sum(dim=0) / constant.norm())


def test_views_are_left_to_the_run_and_show_what_they_showed() -> None:
    module = folded(lambda x, constant: x + constant.T[:, 0] + constant[1])
    assert list(module.state_dict()) == ["constant"]
    assert torch.equal(module(torch.zeros(3)), torch.tensor([5.0, 7.0, 9.0]))


def test_indices_are_constants_too() -> None:
    module = folded(lambda x, constant: x[constant[0].long() - 1])
    assert [value.dtype for _, value in module.named_buffers()] == [torch.int64]
    assert targets(module).isdisjoint({aten.sub.Tensor, aten._to_copy.default})
    assert torch.equal(module(torch.tensor([4.0, 5.0, 6.0])), torch.tensor([4.0, 5.0, 6.0]))


@pytest.mark.parametrize("random", [torch.rand_like, torch.bernoulli])
def test_random_numbers_stay_random(random: Callable[[Tensor], Tensor]) -> None:
    module = folded(lambda x, constant: x + random(constant / 10).sum(dim=0))
    torch.manual_seed(0)
    assert len({tuple(module(torch.zeros(3)).tolist()) for _ in range(20)}) > 1
