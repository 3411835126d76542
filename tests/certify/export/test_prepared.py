"""The comparison of a written file with the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify.export.prepared import check_result, prepare


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda logits: logits[:1],
            r"for a batch of 2 .* differ from the model's by their shape, \(1, 4\) for \(2, 4\)",
        ),
        (lambda logits: logits + 1e-3, r"a file was not written: for a batch of 1 .* by 1\.0e-03, more than rounding"),
        (lambda logits: logits * float("nan"), "for a batch of 1 .* by nan"),
        (lambda logits: logits * (1 - 1e-3 * (len(logits) > 7)), "for a batch of 32 "),
    ],
)
def test_another_function_is_refused(change: Callable[[Tensor], Tensor], message: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    prepared = prepare(model, (3, 2, 2), "volts", None, None)
    check_result(lambda x: prepared.plain(x) * (1 + 1e-6), prepared, "a file")
    with pytest.raises(ValueError, match=message):
        check_result(lambda x: change(model(x)), prepared, "a file")


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1.0, 1e5])
def test_the_comparison_is_relative_to_the_logits(scale: float) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.mul_(scale)
    prepared = prepare(model, (3, 2, 2), "volts", None, None)
    check_result(lambda x: prepared.plain(x) * (1 + 1e-6), prepared, "a file")
    with pytest.raises(ValueError, match="a file was not written: for a batch of 1"):
        check_result(lambda x: torch.zeros(len(x), 4), prepared, "a file")


def test_logits_that_cancel_may_have_the_rounding_errors_of_their_terms() -> None:
    """The logits are differences of equal features: zeros, up to the rounding errors of the features."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2, bias=False), nn.Linear(2, 1, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[2].weight.copy_(torch.tensor([[1.0, -1.0]]))
    prepared = prepare(model, (3, 2, 2), "volts", None, None)
    for shift, allowed in ((1e-5, True), (3e-5, False)):
        with nullcontext() if allowed else pytest.raises(ValueError, match="a file was not written"):
            check_result(lambda x, shift=shift: model(x) + shift, prepared, "a file")


def test_the_model_is_copied() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)).eval()
    prepared = prepare(model, (3, 2, 2), "volts", None, None)
    with torch.no_grad():
        model[1].weight.zero_()
    assert prepared.model[1].weight.abs().min() > 0  # type: ignore[index, union-attr]
    assert prepared.metadata["lipschitz_bound"] > 0
