"""State of a model with adapters: which adapters it has, and what it was without them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lipnet.structured.adapters.config_base import AdapterConfig
from lipnet.structured.adapters.sites import Site, all_sites
from lipnet.structured.adapters.weight import AdaptedWeight
from lipnet.structured.updates import WeightUpdate

ATTRIBUTE = "lipnet_adapters"


@dataclass
class Attachment:
    """The adapters of a model.

    Attributes:
        required_grad: whether the model's own parameters required a gradient before the first adapter, by name.
        configs: configurations by name of the adapter, in the order of attachment.
        special: for each adapter, the configurations of weights that have another one, by name of the weight.
        active: name of the adapter in use; None for the base.
        tensors: the own tensors (see `own_tensors`) of each adapter that is not in use, and of the base under None.
        along: names of parameters outside the adapters that came from an adapter file, each with the names of the
            adapters that train it.
    """

    required_grad: dict[str, bool]
    configs: dict[str, AdapterConfig] = field(default_factory=dict)
    special: dict[str, dict[str, AdapterConfig]] = field(default_factory=dict)
    active: str | None = None
    tensors: dict[str | None, dict[str, Tensor]] = field(default_factory=dict)
    along: dict[str, set[str]] = field(default_factory=dict)

    def names(self) -> str:
        """Return the adapters' names for a message."""
        return ", ".join(map(repr, self.configs))

    def check(self, name: str) -> None:
        """Raise ValueError if there is no adapter of this name."""
        if name not in self.configs:
            raise ValueError(f"there is no adapter {name!r}, only {self.names()}")


def attached(model: nn.Module) -> dict[str, AdapterConfig]:
    """Return the adapters of a model by name; empty if it has none."""
    attachment = getattr(model, ATTRIBUTE, None)
    return dict(attachment.configs) if isinstance(attachment, Attachment) else {}


def attachment_of(model: nn.Module) -> Attachment:
    """Return the state of the model's adapters.

    Raises:
        ValueError: if it has none.
    """
    attachment = getattr(model, ATTRIBUTE, None)
    if not isinstance(attachment, Attachment):
        raise ValueError(f"{type(model).__name__} has no adapters of its own{_elsewhere(model)}; call attach() first")
    return attachment


def adapted_sites(model: nn.Module) -> list[tuple[Site, AdaptedWeight]]:
    """Return the weights with adapters."""
    return [(site, site.adapted) for site in all_sites(model) if site.adapted is not None]


def updates_of(model: nn.Module, name: str) -> list[tuple[Site, WeightUpdate]]:
    """Return the weights that an adapter updates, with its updates."""
    return [(site, adapted.updates[name]) for site, adapted in adapted_sites(model) if name in adapted.updates]


def name_or_active(model: nn.Module, name: str | None) -> str:
    """Return the name, or for None the name of the adapter in use.

    Raises:
        ValueError: if there is no such adapter, or none is in use.
    """
    attachment = attachment_of(model)
    name = attachment.active if name is None else name
    if name is None:
        raise ValueError(f"no adapter is in use; name one of {attachment.names()}")
    attachment.check(name)
    return name


def check_new_name(model: nn.Module, name: str) -> None:
    """Raise ValueError unless an adapter of this name can be attached to the model."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"the name of an adapter must consist of letters, digits, - and _, got {name!r}")
    if hasattr(nn.ModuleDict(), name):
        raise ValueError(f"the name {name!r} means something else to modules of torch; choose another")
    if name in attached(model):
        raise ValueError(f"an adapter {name!r} is attached already; detach it, or choose another name")
    if not attached(model) and adapted_sites(model):
        raise ValueError(f"{type(model).__name__} has no adapters of its own{_elsewhere(model)}; attach others there")


def base_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters outside the adapters, by their names in the model without adapters."""
    of_adapters = {id(value) for _, adapted in adapted_sites(model) for value in adapted.parameters()}
    return {
        re.sub(r"parametrizations\.(\w+)\.original$", r"\1", name): value
        for name, value in model.named_parameters()
        if id(value) not in of_adapters
    }


def own_tensors(model: nn.Module, name: str | None) -> dict[str, Tensor]:
    """Return the own tensors of an adapter, or of the base for None. For the one in use, they are copies.

    Each adapter has its own buffers, because training changes running statistics even if all parameters are frozen,
    and its own values of the parameters that came with an adapter file. Only buffers in the state dict count.
    """
    attachment = attachment_of(model)
    if name != attachment.active:
        return attachment.tensors[name]
    stored, parameters = model.state_dict(), base_parameters(model)
    tensors = {key: buffer for key, buffer in model.named_buffers() if key in stored}
    tensors |= {key: parameters[key] for key in attachment.along}
    return {key: value.detach().clone() for key, value in tensors.items()}


@torch.no_grad()
def restore(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite the model's buffers and parameters of these names, if it still has them."""
    present = dict(model.named_buffers()) | base_parameters(model)
    for name in tensors.keys() & present.keys():
        present[name].copy_(tensors[name])


def _elsewhere(model: nn.Module) -> str:
    """Return a hint for a message: which other module the adapters were attached to."""
    inside = [path for path, module in model.named_modules() if path and attached(module)]
    if inside:
        return f", its module {inside[0]} has"
    return ", a model that contains it has" if adapted_sites(model) else ""
