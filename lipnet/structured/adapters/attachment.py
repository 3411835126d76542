"""Attach adapters to a model, take them off, and merge them into the weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lipnet.structured.adapters.config import with_settings
from lipnet.structured.adapters.config_base import AdapterConfig
from lipnet.structured.adapters.sites import Site, Target, find_sites, matches, names_in_words, refuse
from lipnet.structured.adapters.state import (
    ATTRIBUTE,
    Attachment,
    adapted_sites,
    attached,
    attachment_of,
    check_new_name,
    own_tensors,
    restore,
    updates_of,
)
from lipnet.structured.adapters.switching import use
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

    Until the adapter is trained, the model computes exactly what it did before; in training mode, up to rounding. The
    first adapter freezes the model's own parameters. Of all adapters, only the one in use has parameters that require a
    gradient. Parameters that you unfreeze later, such as a new head's, stay unfrozen. These weights can have adapters:

    - ``nn.Linear``, and Hugging Face's ``Conv1D``;
    - ``nn.Conv2d`` without groups, as a matrix (out, in kh kw);
    - ``nn.MultiheadAttention``, with separate updates for queries, keys, values and the output projection.

    Args:
        model: any module.
        config: the structure, such as ``GSOFTConfig(block_size=8)``.
        targets: the modules to adapt: names as in ``named_modules()`` with the wildcards ``*`` (also matches dots),
            ``?`` and ``[...]``, or types; None for all modules that can be adapted. The name or type of an attention
            includes its output projection. A mapping gives targets settings of their own, such as
            ``{"mlp.*": {"block_size": 16}, "head": {}}``; if several targets match a weight, later ones override.
        exclude: modules to leave out, chosen in the same way.
        name: letters, digits, - and _.

    Returns:
        The model.

    Raises:
        ValueError: for a target that matches nothing (lists the modules that exist), a weight that cannot be adapted
            or does not fit the structure, an unknown setting, and a name that is taken or invalid. The model is then
            unchanged.

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


def detach(model: nn.Module, name: str | None = None) -> nn.Module:
    """Remove an adapter, in place, or all adapters for None.

    Without its last adapter the model is again what it was, bit for bit: its parameters (the same objects), which of
    them require a gradient, its buffers and its classes. Parameters outside the adapter that you trained keep their
    values. Save an adapter first if you need it later.

    Returns:
        The model.

    Raises:
        ValueError: if there is no adapter, or none of this name, or if another parametrization is on top of one.
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
            value.requires_grad_(attachment.required_grad.get(parameter, value.requires_grad))
        delattr(model, ATTRIBUTE)
    return model


def merge(model: nn.Module) -> nn.Module:
    """Merge the adapter in use into the weights, in place, and drop the others. The model is plain torch again.

    In evaluation it computes, bit for bit, what it did with the adapter. The merged weights are new parameters: other
    owners of the old ones, such as a tied layer or a copy, keep the old ones. Exactly the parameters that required a
    gradient before the first adapter require one again.

    Returns:
        The model.

    Raises:
        ValueError: if no adapter is in use, if it changes outputs (`BottleneckConfig`) and so cannot be a weight, or if
            another parametrization is on top of one.
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
    # An adapter file may hold a weight that is adapted, too. Its other owners keep it, and the merged one replaces it.
    restore(model, tensors)
    for site, weight in merged.items():
        old = getattr(site.module, site.parameter)
        setattr(site.module, site.parameter, nn.Parameter(weight, requires_grad=old.requires_grad))
    return model


def build_updates(configs: Mapping[Site, AdapterConfig]) -> dict[Site, WeightUpdate]:
    """Return new updates for weights, on their devices, in their dtypes but at least float32.

    Raises:
        ValueError: if configurations do not fit their weights; names these weights.
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
    """Put the updates on their sites as an adapter of this name, and use it."""
    if not attached(model):
        required_grad = {parameter: value.requires_grad for parameter, value in model.named_parameters()}
        setattr(model, ATTRIBUTE, Attachment(required_grad))
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
