"""Switch between the adapters of a model, and scale them."""

from math import isfinite

from torch import nn

from lipnet.structured.adapters.state import (
    adapted_sites,
    attachment_of,
    base_parameters,
    name_or_active,
    own_tensors,
    restore,
    updates_of,
)


def use(model: nn.Module, name: str | None) -> nn.Module:
    """Switch to another adapter of the model, in place, or to the model without adapters for None.

    Of all adapters, only the one in use then has parameters that require a gradient. The model's buffers, such as the
    running statistics of batch normalisation, get the values that they had when this adapter was last in use.

    Returns:
        The model.

    Raises:
        ValueError: if there is no adapter of this name.
    """
    attachment = attachment_of(model)
    if name is not None:
        attachment.check(name)
    attachment.tensors[attachment.active] = own_tensors(model, attachment.active)
    restore(model, attachment.tensors.pop(name))
    attachment.active = name
    for _, adapted in adapted_sites(model):
        adapted.active = name if name is not None and name in adapted.updates else None
        for other, update in adapted.updates.items():
            update.requires_grad_(other == name)
    parameters = base_parameters(model)
    for key, owners in attachment.along.items():
        parameters[key].requires_grad_(name in owners)
    return model


def scale_adapter(model: nn.Module, strength: float, name: str | None = None) -> nn.Module:
    """Apply an adapter with strength t, in place: t = 0 gives exactly the base's weights, t = 1 exactly the adapter's.

    Additive structures add t D. Orthogonal structures use t K in every block, so all matrices on the path are
    orthogonal; with ``block_map="exponential"`` the blocks are the powers exp(K)^t. Scales are 1 + t (s - 1). The
    parameters do not change, and t = 1 undoes the scaling. `merge` and `save_adapter` keep the strength.

    Only weights with an adapter have a strength. A head that is trained beside the adapter and the running means of
    batch normalisation stay as they are; ``use(model, None)`` restores all of the base.

    Args:
        model: a model with adapters.
        strength: t, any finite number. Values outside [0, 1] extrapolate.
        name: the adapter; the one in use by default.

    Returns:
        The model.

    Raises:
        ValueError: if there is no such adapter, or t is not finite.
    """
    name = name_or_active(model, name)
    if not isfinite(strength):
        raise ValueError(f"strength must be finite, got {strength}")
    for _, update in updates_of(model, name):
        update.strength = float(strength)
    return model
