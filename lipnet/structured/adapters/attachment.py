"""Attach adapters to a model, switch between them, and take them off or bake them in."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from lipnet.structured.adapters.config import AdapterConfig
from lipnet.structured.adapters.sites import Site, Target, find_sites, refuse
from lipnet.structured.adapters.state import (
    adapted_sites,
    attached,
    attachment_of,
    check_attached,
    check_new_name,
    copied_buffers,
    forget,
    names_of,
    remember,
    restore_buffers,
)
from lipnet.structured.adapters.weight import put_on, take_off
from lipnet.structured.updates import StackedUpdate, WeightUpdate


def attach(
    model: nn.Module,
    config: AdapterConfig,
    targets: Target | Sequence[Target] | None = None,
    *,
    exclude: Target | Sequence[Target] = (),
    name: str = "default",
) -> nn.Module:
    """Attach a new adapter to weights of a model, in place, and use it.

    The model computes exactly what it did until the adapter is trained, in training mode up to rounding. Its own
    parameters are frozen at the first adapter, and only those of the adapter in use require a gradient; parameters that
    you unfreeze later, such as a new head's, stay as you leave them. The weights of ``nn.Linear``, of ``nn.Conv2d``
    without groups (as matrices (out, in kh kw)) and of ``nn.MultiheadAttention`` (queries, keys, values and the output
    projection each on its own) can be adapted.

    Args:
        model: any module.
        config: the structure, such as ``GSOFTConfig(block_size=8)``.
        targets: which modules: names as in ``named_modules()`` with the wildcards ``*`` (dots too), ``?`` and
            ``[...]``, or types; with None, all that can be adapted. A name or type of an attention stands for its
            output projection too.
        exclude: which of them not, in the same way.
        name: letters, digits, - and _.

    Returns:
        The model.

    Raises:
        ValueError: for a target that matches nothing (says what there is), a weight that the structure does not fit or
            that cannot be adapted, a name that is taken or impossible. The model is then as it was.

    Example:
        >>> from lipnet.structured.adapters import GSOFTConfig
        >>> model = attach(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)), GSOFTConfig(4), targets="0")
        >>> sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        160
    """
    check_new_name(model, name)
    sites = find_sites(model, None if targets is None else _several(targets), _several(exclude))
    install(model, name, config, build_updates(config, sites))
    return model


def use(model: nn.Module, name: str | None) -> nn.Module:
    """Switch to another adapter of the model, in place, or with None to the model without one.

    Exactly the parameters of the adapter in use require a gradient, of all adapters. The model's buffers, such as the
    running statistics of batch normalisation, are those that this adapter had when it was last in use.

    Returns:
        The model.

    Raises:
        ValueError: if there is no adapter of this name.
    """
    attachment = attachment_of(model)
    if name is not None:
        check_attached(attachment, name)
    attachment.buffers[attachment.active] = copied_buffers(model)
    restore_buffers(model, attachment.buffers.pop(name))
    attachment.active = name
    for _, adapted in adapted_sites(model):
        adapted.active = name if name is not None and name in adapted.updates else None
        for other, update in adapted.named_updates():
            update.requires_grad_(other == name)
    return model


def detach(model: nn.Module, name: str | None = None) -> nn.Module:
    """Remove an adapter, in place, or with None all of them. With the last one the model is again what it was, bit for
    bit: its parameters (the same objects), which of them require a gradient, its buffers and its classes.

    An optimiser that has the adapter's parameters keeps them; the adapter that is removed was not saved.

    Returns:
        The model.

    Raises:
        ValueError: if there is no adapter, or none of this name, or something else was put on top of an adapter.
    """
    attachment = attachment_of(model)
    names = list(attachment.configs) if name is None else [name]
    for removed in names:
        check_attached(attachment, removed)
    _check_nothing_on_top(model)
    if attachment.active in names:
        use(model, None)
    for removed in names:
        del attachment.configs[removed], attachment.buffers[removed]
        for _, adapted in adapted_sites(model):
            if removed in adapted.updates:
                del adapted.updates[removed]
    for site, adapted in reversed(adapted_sites(model)):
        if not adapted.updates:
            take_off(site.module, site.parameter, adapted)
    if not attachment.configs:
        forget(model)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Bake the adapter in use into the weights, in place; the others are dropped. The model is of plain torch again.

    In evaluation it computes, bit for bit, what it did with the adapter. The adapted weights are new parameters, so
    that whatever shares the old ones, such as a tied layer or a copy, keeps them. Which parameters require a gradient
    is as before the first adapter.

    Returns:
        The model.

    Raises:
        ValueError: if no adapter is in use, or something else was put on top of an adapter.
    """
    attachment = attachment_of(model)
    if attachment.active is None:
        raise ValueError(f"nothing to merge: no adapter is in use; call use() with one of {names_of(attachment)}")
    _check_nothing_on_top(model)
    with torch.no_grad():
        merged = {
            site: torch.empty_like(site.original).copy_(getattr(site.module, site.parameter))
            for site, adapted in adapted_sites(model)
            if adapted.active is not None
        }
    buffers = copied_buffers(model)
    detach(model)
    for site, weight in merged.items():
        old = getattr(site.module, site.parameter)
        setattr(site.module, site.parameter, nn.Parameter(weight, requires_grad=old.requires_grad))
    restore_buffers(model, buffers)
    return model


def build_updates(config: AdapterConfig, sites: Sequence[Site]) -> dict[Site, WeightUpdate]:
    """New updates for the weights, on their devices, of their dtype but at least float32.

    Raises:
        ValueError: names the weights that the configuration does not fit.
    """
    updates, misfits = {}, {}
    for site in sites:
        try:
            updates[site] = _build_update(config, site)
        except ValueError as error:
            misfits[site.name] = f"{config}: {error}"
    refuse(misfits)
    return updates


def install(model: nn.Module, name: str, config: AdapterConfig, updates: Mapping[Site, WeightUpdate]) -> None:
    """Put updates that fit on the model, as an adapter of this name, and use it."""
    if not attached(model):
        remember(model)
        model.requires_grad_(False)
    attachment = attachment_of(model)
    for site, update in updates.items():
        adapted = site.adapted or put_on(site.module, site.parameter)
        adapted.updates[name] = update.train(site.module.training)
    base = attachment.buffers[None] if attachment.active is not None else copied_buffers(model)
    attachment.configs[name] = config
    attachment.buffers[name] = base
    use(model, name)


def _build_update(config: AdapterConfig, site: Site) -> WeightUpdate:
    weight = site.original
    rows, columns = weight.flatten(1).shape
    with torch.device(weight.device):
        updates = [config.build(rows // site.parts, columns) for _ in range(site.parts)]
    update = updates[0] if site.parts == 1 else StackedUpdate(updates)
    return update.to(torch.promote_types(weight.dtype, torch.float32))


def _check_nothing_on_top(model: nn.Module) -> None:
    for site, adapted in adapted_sites(model):
        if not site.is_topmost(adapted):
            raise ValueError(f"{site.name} has a parametrization on top of its adapters; remove it first")


def _several(targets: Target | Sequence[Target]) -> Sequence[Target]:
    return (targets,) if isinstance(targets, str | type) else targets
