"""The parametrization that stands on an adapted weight."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from lipnet.functional.autocast import without_autocast
from lipnet.structured.updates import WeightUpdate


class AdaptedWeight(nn.Module):
    """The adapters of one weight by their names, of which one is in use, or none.

    With none the weight of the base comes through as it is. A convolution's weight (out, in, kh, kw) is updated as the
    matrix (out, in kh kw). The update is computed in the wider of its dtype and the weight's, outside autocast, so that
    an orthogonal one stays orthogonal.

    Attributes:
        updates: by name.
        active: the name of the adapter in use.
        order: the names of all parameters of the module, in their order.
    """

    def __init__(self, order: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.order = order
        self.updates = nn.ModuleDict()
        self.active: str | None = None

    def forward(self, weight: Tensor) -> Tensor:
        update = self.in_use
        if update is None:
            return weight
        with without_autocast(weight.device):
            dtype = torch.promote_types(weight.dtype, next(update.parameters()).dtype)
            adapted: Tensor = update(weight.flatten(1).to(dtype))
        # Contiguous, as the weight of a plain module is: fused kernels read it as such.
        return adapted.to(weight.dtype).reshape(weight.shape).contiguous()

    @property
    def in_use(self) -> WeightUpdate | None:
        """The update of the adapter in use."""
        update = None if self.active is None else self.updates[self.active]
        assert update is None or isinstance(update, WeightUpdate)
        return update

    def named_updates(self) -> Iterator[tuple[str, WeightUpdate]]:
        for name, update in self.updates.items():
            assert isinstance(update, WeightUpdate)
            yield name, update

    def extra_repr(self) -> str:
        return f"active={self.active!r}"


def put_on(module: nn.Module, parameter: str) -> AdaptedWeight:
    """Make ``module.parameter`` a weight with adapters, of which there are none yet."""
    adapted = AdaptedWeight(order=tuple(module._parameters))
    is_linear = type(module).forward is nn.Linear.forward
    _give_class_of_its_own(module)
    # unsafe leaves out a trial run of the forward pass; shape and dtype stay by construction.
    parametrize.register_parametrization(module, parameter, adapted, unsafe=True)
    if is_linear:
        type(module).forward = _adapted_linear
    return adapted


def take_off(module: nn.Module, parameter: str, adapted: AdaptedWeight) -> None:
    """Undo `put_on`: the same parameter, as it was and at its place among the module's others.

    Of several weights of a module the last one put on must be the first to be taken off.
    """
    _give_class_of_its_own(module)
    parametrize.remove_parametrizations(module, parameter, leave_parametrized=False)
    if vars(type(module)).get("forward") is _adapted_linear:
        del type(module).forward
    # torch appends it. The order is that of model.parameters(), by which optimisers' states are stored.
    for name in adapted.order:
        if name in module._parameters:
            module._parameters[name] = module._parameters.pop(name)


def _adapted_linear(module: nn.Linear, x: Tensor) -> Tensor:
    """The forward pass of ``nn.Linear`` with an adapted weight.

    Training multiplies by the structure instead of forming the weight, which is faster, as exact, and rounds otherwise.
    Everywhere else the weight is formed, so that a network computes the same before and after merging, bit for bit.
    """
    parametrizations = module.get_submodule("parametrizations.weight")
    assert isinstance(parametrizations, parametrize.ParametrizationList)
    adapted, *on_top = parametrizations
    assert isinstance(adapted, AdaptedWeight)
    update = adapted.in_use
    if update is None or on_top or not (module.training and torch.is_grad_enabled()):
        return F.linear(x, module.weight, module.bias)
    return update.linear(x, parametrizations.original, module.bias)


def _give_class_of_its_own(module: nn.Module) -> None:
    """Copy the class that torch made for a parametrized module.

    Its properties are those of the parametrized weights, and copies of a module share it: to add or remove one for
    this module alone, the class must be this module's alone.
    """
    if parametrize.is_parametrized(module):
        shared = type(module)
        module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
