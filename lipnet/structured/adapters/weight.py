"""The parametrization of an adapted weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from lipnet.functional.autocast import without_autocast
from lipnet.structured.bottleneck import Bottleneck
from lipnet.structured.updates import WeightUpdate


class AdaptedWeight(nn.Module):
    """The adapters of one weight, by name. One of them is in use, or none.

    Without one, the base weight passes through unchanged. A convolution's weight (out, in, kh, kw) is updated as the
    matrix (out, in kh kw). The update computes in the wider of its dtype and the weight's, outside autocast, so that
    orthogonal updates stay orthogonal.

    Attributes:
        updates: the updates by name of the adapter.
        active: name of the adapter in use.
        order: names of all parameters of the module, in their order.
        transposed: the weight is stored as (in, out).
    """

    updates: dict[str, WeightUpdate]

    def __init__(self, order: tuple[str, ...] = (), transposed: bool = False) -> None:
        super().__init__()
        self.order, self.transposed = order, transposed
        self.updates = nn.ModuleDict()  # type: ignore[assignment] # torch types its values as any modules
        self.active: str | None = None

    def forward(self, weight: Tensor) -> Tensor:
        update = self.in_use
        if update is None or update.strength == 0 or not update.merges:
            return weight
        matrix = weight.mT if self.transposed else weight.flatten(1)
        with without_autocast(weight.device):
            matrix = matrix.to(torch.promote_types(weight.dtype, next(update.parameters()).dtype))
            if update.strength == 1:
                adapted: Tensor = update(matrix)
            else:
                adapted = torch.func.functional_call(update, update.interpolated(update.strength), (matrix,))
        adapted = adapted.mT if self.transposed else adapted.reshape(weight.shape)
        # Contiguous like the weight of a plain module, as fused kernels expect.
        return adapted.to(weight.dtype).contiguous()

    @property
    def in_use(self) -> WeightUpdate | None:
        """The update of the adapter in use."""
        return None if self.active is None else self.updates[self.active]

    def extra_repr(self) -> str:
        return f"active={self.active!r}"


def sync_output_hook(module: nn.Module, adapted: AdaptedWeight) -> None:
    """Give the module the forward hook that its bottlenecks need, and remove it when there is none left.

    It is a hook because torch's fused transformer layers and `lipnet.certify` look for hooks: the fused layers then
    call the module, and `lipnet.certify` refuses it.
    """
    present = [key for key, hook in module._forward_hooks.items() if hook is _change_output]
    needed = any(not update.merges for update in adapted.updates.values())
    if needed and not present:
        module.register_forward_hook(_change_output)
    if not needed:
        for key in present:
            del module._forward_hooks[key]


def _change_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Apply the bottleneck in use, if any, to the output of a linear layer."""
    adapted = module.get_submodule("parametrizations.weight")[0]  # type: ignore[index]
    update = adapted.in_use
    return update.output(output) if isinstance(update, Bottleneck) else output


def put_on(module: nn.Module, parameter: str, transposed: bool = False) -> AdaptedWeight:
    """Parametrize ``module.parameter`` by an `AdaptedWeight` without adapters."""
    adapted = AdaptedWeight(tuple(module._parameters), transposed)
    is_linear = type(module).forward is nn.Linear.forward
    _unshare_class(module)
    # unsafe=True skips a trial forward pass: shape and dtype stay the same by construction.
    parametrize.register_parametrization(module, parameter, adapted, unsafe=True)
    if is_linear:
        type(module).forward = _adapted_linear
    return adapted


def take_off(module: nn.Module, parameter: str, adapted: AdaptedWeight) -> None:
    """Undo `put_on`: restore the same parameter at its old place among the module's parameters.

    If a module has several adapted weights, take off the one that was put on last first.
    """
    _unshare_class(module)
    parametrize.remove_parametrizations(module, parameter, leave_parametrized=False)
    if vars(type(module)).get("forward") is _adapted_linear:
        del type(module).forward
    # torch appends the parameter. Restore the order, because optimizers store their state in it.
    for name in adapted.order:
        if name in module._parameters:
            module._parameters[name] = module._parameters.pop(name)


def _adapted_linear(module: nn.Linear, x: Tensor) -> Tensor:
    """Compute the forward pass of ``nn.Linear`` with an adapted weight.

    Training multiplies by the structure instead of forming the weight, which is faster and as accurate, but rounds
    differently. Evaluation forms the weight, so that a network computes the same bits before and after merging.
    """
    parametrizations = module.get_submodule("parametrizations.weight")
    assert isinstance(parametrizations, parametrize.ParametrizationList)
    adapted, *on_top = parametrizations
    assert isinstance(adapted, AdaptedWeight)
    update = adapted.in_use
    trains = module.training and torch.is_grad_enabled()
    if update is None or on_top or not trains or update.strength != 1:
        return F.linear(x, module.weight, module.bias)
    return update.linear(x, parametrizations.original, module.bias)


def _unshare_class(module: nn.Module) -> None:
    """Give a parametrized module a class of its own.

    torch makes the class of a parametrized module, with the weights as properties, and copies of the module share it.
    Adding or removing a property for this module must not change the copies.
    """
    if parametrize.is_parametrized(module):
        shared = type(module)
        module.__class__ = type(shared.__name__, shared.__bases__, dict(shared.__dict__))
