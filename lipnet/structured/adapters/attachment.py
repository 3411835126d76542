"""Attach adapters to a model, switch between them, scale them, take them off, and merge them into the weights."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import torch
from torch import nn

from lipnet.structured.adapters.config import AdapterConfig, with_settings
from lipnet.structured.adapters.sites import Site, Target, find_sites, matches, names_in_words, refuse
from lipnet.structured.adapters.state import (
    ATTRIBUTE,
    Attachment,
    adapted_sites,
    attached,
    attachment_of,
    base_parameters,
    check_new_name,
    name_or_active,
    own_tensors,
    restore,
    updates_of,
)
from lipnet.structured.adapters.weight import put_on, sync_output_hook, take_off
from lipnet.structured.updates import StackedUpdate, WeightUpdate


def attach(
    model: nn.Module,
    config: AdapterConfig,
    targets: Target | Sequence[Target] | Mapping[Target, Mapping[str, Any]] | None = None,
    *,
    exclude: Target | Sequence[Target] = (),
    name: str = "default",
) -> nn.Module:
    """Attach a new adapter to weights of a model, in place, and use it.

    The model computes exactly what it did before until the adapter is trained, in training mode up to rounding. The
    first adapter freezes the model's own parameters, and only the parameters of the adapter in use require a gradient.
    Parameters that you unfreeze later, such as a new head's, stay unfrozen. Adapters can stand on the weights of
    ``nn.Linear``, of ``nn.Conv2d`` without groups (as matrices (out, in kh kw)), of Hugging Face's ``Conv1D``, and of
    ``nn.MultiheadAttention`` (queries, keys, values and the output projection each separately).

    Args:
        model: any module.
        config: the structure, such as ``GSOFTConfig(block_size=8)``.
        targets: the modules to adapt: names as in ``named_modules()`` with the wildcards ``*`` (also matches dots),
            ``?`` and ``[...]``, or types; None for all modules that can be adapted. The name or type of an attention
            includes its output projection. A mapping gives targets settings of their own, such as
            ``{"mlp.*": {"block_size": 16}, "head": {}}``; if several targets match, later ones override.
        exclude: modules to leave out, chosen in the same way.
        name: letters, digits, - and _.

    Returns:
        The model.

    Raises:
        ValueError: for a target that matches nothing (lists the modules that exist), a weight that the structure does
            not fit or that cannot be adapted, an unknown setting, and a name that is taken or impossible. The model is
            then unchanged.

    Example:
        >>> from lipnet.structured.adapters import GSOFTConfig
        >>> model = attach(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10)), GSOFTConfig(4), targets="0")
        >>> sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        160
    """
    check_new_name(model, name)
    sites = find_sites(model, None if targets is None else _sequence(targets), _sequence(exclude))
    configs = dict.fromkeys(sites, config)
    for target, settings in targets.items() if isinstance(targets, Mapping) else ():
        for site in sites:
            if matches(target, model, site):
                configs[site] = with_settings(configs[site], settings)
    install(model, name, config, configs, build_updates(configs))
    return model


def use(model: nn.Module, name: str | None) -> nn.Module:
    """Switch to another adapter of the model, in place, or to the model without adapters for None.

    Of all adapters' parameters, exactly those of the adapter in use require a gradient. The model's buffers, such as
    the running statistics of batch normalisation, become those that this adapter had when it was last in use.

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
    """Apply an adapter with strength t, in place: t = 0 is exactly the base, t = 1 exactly the adapter.

    Additive structures add t D. Orthogonal ones rotate along a path of orthogonal matrices, by the skew-symmetric t K
    in every block; with ``block_map="exponential"`` these are the powers exp(K)^t. Scales are 1 + t (s - 1). The
    parameters stay as they are: call it again with t = 1 to undo it. `merge` and `save_adapter` keep the strength.

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


def detach(model: nn.Module, name: str | None = None) -> nn.Module:
    """Remove an adapter, in place, or all adapters for None.

    Without its last adapter the model is again what it was, bit for bit: its parameters (the same objects), which of
    them require a gradient, its buffers and its classes. Save an adapter first if you need it later.

    Returns:
        The model.

    Raises:
        ValueError: if there is no adapter, or none of this name, or another parametrization stands on top of one.
    """
    attachment = attachment_of(model)
    names = list(attachment.configs) if name is None else [name]
    for removed in names:
        attachment.check(removed)
    _check_nothing_on_top(model)
    if attachment.active in names:
        use(model, None)
    for removed in names:
        del attachment.configs[removed], attachment.special[removed], attachment.tensors[removed]
        for owners in attachment.along.values():
            owners.discard(removed)
        for site, adapted in adapted_sites(model):
            if removed in adapted.updates:
                del adapted.updates[removed]
                sync_output_hook(site.module, adapted)
    for site, adapted in reversed(adapted_sites(model)):
        if not adapted.updates:
            take_off(site.module, site.parameter, adapted)
    if not attachment.configs:
        for parameter, value in model.named_parameters():
            if parameter in attachment.trainable:
                value.requires_grad_(True)
        delattr(model, ATTRIBUTE)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Merge the adapter in use into the weights, in place, and drop the others. The model is plain torch again.

    In evaluation it computes, bit for bit, what it did with the adapter. The merged weights are new parameters, so that
    other owners of the old ones, such as a tied layer or a copy, keep them. The same parameters require a gradient as
    before the first adapter.

    Returns:
        The model.

    Raises:
        ValueError: if no adapter is in use, if it changes outputs (`BottleneckConfig`) so that no weight computes it,
            or another parametrization stands on top of one.
    """
    attachment = attachment_of(model)
    if attachment.active is None:
        raise ValueError(f"nothing to merge: no adapter is in use; call use() with one of {attachment.names()}")
    unmergeable = [site.name for site, update in updates_of(model, attachment.active) if not update.merges]
    if unmergeable:
        raise ValueError(
            f"a bottleneck is nonlinear, so that no weight computes it: cannot merge {attachment.active!r} into "
            f"{names_in_words(unmergeable)}; keep it attached, and save it with save_adapter()"
        )
    _check_nothing_on_top(model)
    with torch.no_grad():
        merged = {
            site: torch.empty_like(site.original).copy_(getattr(site.module, site.parameter))
            for site, adapted in adapted_sites(model)
            if adapted.active is not None
        }
    tensors = own_tensors(model, attachment.active)
    detach(model)
    for site, weight in merged.items():
        old = getattr(site.module, site.parameter)
        setattr(site.module, site.parameter, nn.Parameter(weight, requires_grad=old.requires_grad))
    restore(model, tensors)
    return model


def build_updates(configs: Mapping[Site, AdapterConfig]) -> dict[Site, WeightUpdate]:
    """Return new updates for weights, on their devices, in their dtype but at least float32.

    Raises:
        ValueError: if configurations do not fit their weights; names the weights.
    """
    updates: dict[Site, WeightUpdate] = {}
    misfits: dict[Site, str | None] = dict.fromkeys(configs)
    for site, config in configs.items():
        weight = site.original.mT if site.transposed else site.original.flatten(1)
        if not config.merges and (reason := site.output_obstacle()) is not None:
            misfits[site] = f"{config}: {reason}"
            continue
        try:
            with torch.device(weight.device):
                parts = [config.build(weight.shape[0] // site.parts, weight.shape[1]) for _ in range(site.parts)]
        except ValueError as error:
            misfits[site] = f"{config}: {error}"
            continue
        update = parts[0] if site.parts == 1 else StackedUpdate(parts)
        updates[site] = update.to(torch.promote_types(weight.dtype, torch.float32))
    refuse(list(misfits), misfits.values())
    return updates


def install(
    model: nn.Module,
    name: str,
    config: AdapterConfig,
    configs: Mapping[Site, AdapterConfig],
    updates: Mapping[Site, WeightUpdate],
) -> None:
    """Put fitting updates on the model as an adapter of this name, and use it."""
    if not attached(model):
        trainable = frozenset(parameter for parameter, value in model.named_parameters() if value.requires_grad)
        setattr(model, ATTRIBUTE, Attachment(trainable))
        model.requires_grad_(False)
    attachment = attachment_of(model)
    for site, update in updates.items():
        adapted = site.adapted or put_on(site.module, site.parameter, site.transposed)
        adapted.updates[name] = update.train(site.module.training)
        sync_output_hook(site.module, adapted)
    base = own_tensors(model, None)
    attachment.configs[name] = config
    attachment.special[name] = {site.name: other for site, other in configs.items() if other != config}
    attachment.tensors[name] = base
    use(model, name)


def _check_nothing_on_top(model: nn.Module) -> None:
    for site, adapted in adapted_sites(model):
        if not site.is_topmost(adapted):
            raise ValueError(f"{site.name} has a parametrization on top of its adapters; remove it first")


def _sequence(targets: Target | Sequence[Target] | Mapping[Target, Mapping[str, Any]]) -> Sequence[Target]:
    return (targets,) if isinstance(targets, str | type) else list(targets)
