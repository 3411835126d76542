"""What a model with adapters remembers: which it has, which is in use, and how the model was without them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lipnet.structured.adapters.config import AdapterConfig
from lipnet.structured.adapters.sites import Site, all_sites
from lipnet.structured.adapters.weight import AdaptedWeight
from lipnet.structured.updates import WeightUpdate

_ATTRIBUTE = "lipnet_adapters"


@dataclass
class Attachment:
    """What a model with adapters remembers.

    Attributes:
        configs: the adapters by name, in the order in which they were attached.
        active: the name of the one in use, None for the base.
        trainable: names of the base's parameters that required a gradient before.
        buffers: the model's buffers for each adapter that is not in use, and for the base under None. Running
            statistics go on with every training step: those of one adapter are none of another's, nor the base's.
    """

    trainable: frozenset[str]
    configs: dict[str, AdapterConfig] = field(default_factory=dict)
    active: str | None = None
    buffers: dict[str | None, dict[str, Tensor]] = field(default_factory=dict)


def remember(model: nn.Module) -> None:
    """Begin the memory of a model that has no adapters yet."""
    trainable = frozenset(parameter for parameter, value in model.named_parameters() if value.requires_grad)
    setattr(model, _ATTRIBUTE, Attachment(trainable))


def forget(model: nn.Module) -> None:
    """Let the parameters require a gradient that did so before, and end the memory."""
    trainable = attachment_of(model).trainable
    for parameter, value in model.named_parameters():
        if parameter in trainable:
            value.requires_grad_(True)
    delattr(model, _ATTRIBUTE)


def attached(model: nn.Module) -> dict[str, AdapterConfig]:
    """The adapters of a model by name; empty if it has none."""
    attachment = getattr(model, _ATTRIBUTE, None)
    return dict(attachment.configs) if isinstance(attachment, Attachment) else {}


def attachment_of(model: nn.Module) -> Attachment:
    """What the model remembers of its adapters.

    Raises:
        ValueError: if it has none.
    """
    attachment = getattr(model, _ATTRIBUTE, None)
    if not isinstance(attachment, Attachment):
        raise ValueError(f"{type(model).__name__} has no adapters of its own{_elsewhere(model)}; call attach() first")
    return attachment


def adapted_sites(model: nn.Module) -> list[tuple[Site, AdaptedWeight]]:
    """The weights with adapters."""
    return [(site, site.adapted) for site in all_sites(model) if site.adapted is not None]


def updates_of(model: nn.Module, name: str) -> list[tuple[Site, WeightUpdate]]:
    """The weights that an adapter updates, with its updates."""
    return [
        (site, update)
        for site, adapted in adapted_sites(model)
        for other, update in adapted.named_updates()
        if other == name
    ]


def adapter_in_question(model: nn.Module, name: str | None) -> str:
    """The name, or without one that of the adapter in use.

    Raises:
        ValueError: if there is no such adapter, or none is in use.
    """
    attachment = attachment_of(model)
    if name is None and attachment.active is None:
        raise ValueError(f"no adapter is in use; name one of {names_of(attachment)}")
    name = attachment.active if name is None else name
    assert name is not None
    check_attached(attachment, name)
    return name


def check_attached(attachment: Attachment, name: str) -> None:
    """Raise ValueError unless there is an adapter of this name."""
    if name not in attachment.configs:
        raise ValueError(f"there is no adapter {name!r}, only {names_of(attachment)}")


def check_new_name(model: nn.Module, name: str) -> None:
    """Raise ValueError unless an adapter of this name can be attached to the model."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"the name of an adapter consists of letters, digits, - and _, got {name!r}")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"the name {name!r} means something else to modules of torch; choose another")
    if name in attached(model):
        raise ValueError(f"an adapter {name!r} is attached already; detach it, or choose another name")
    if not attached(model) and adapted_sites(model):
        raise ValueError(f"{type(model).__name__} has no adapters of its own{_elsewhere(model)}; attach others there")


def buffers_of(model: nn.Module, name: str | None) -> dict[str, Tensor]:
    """The buffers of the model as they are with an adapter in use, or with None."""
    attachment = attachment_of(model)
    return copied_buffers(model) if name == attachment.active else attachment.buffers[name]


def copied_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the buffers that belong to the state dict."""
    stored = model.state_dict()
    return {name: buffer.detach().clone() for name, buffer in model.named_buffers() if name in stored}


@torch.no_grad()
def restore_buffers(model: nn.Module, buffers: Mapping[str, Tensor]) -> None:
    """Overwrite the model's buffers of these names, as far as it still has them."""
    present = dict(model.named_buffers())
    for name in buffers.keys() & present.keys():
        present[name].copy_(buffers[name])


def names_of(attachment: Attachment) -> str:
    """The adapters' names for a message."""
    return ", ".join(map(repr, attachment.configs))


def _elsewhere(model: nn.Module) -> str:
    """Where the adapters are, if it was another model that they were attached to."""
    inside = [path for path, module in model.named_modules() if path and attached(module)]
    if inside:
        return f", its module {inside[0]} has"
    return ", a model that contains it has" if adapted_sites(model) else ""
