"""Layers of a certified network with orthogonal adapters: their weights frozen, their bounds kept."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.functional import product_up
from lipnet.layers.base import own_bound
from lipnet.models.lipconvnet import LayerFactory
from lipnet.structured import OrthogonalMap
from lipnet.structured.adapters import certified_map


class Adapted(nn.Sequential):
    """A layer and an orthogonal map beside it, with the children ``layer`` and, if there is a map, ``adapter``.

    What it computes is as Lipschitz as the layer, times the bound of the map, which is 1 up to rounding.
    """

    def lipschitz_bound(self) -> float:
        """The product of the two bounds, rounded up; TypeError after merging, as for every module of torch."""
        return product_up(own_bound(child) for child in self)

    def plain(self, matrix: Tensor) -> nn.Module:
        """The layer of torch that multiplies channels by a matrix (n, n), with the matrix as its weight."""
        return _with_weight(nn.Conv2d, matrix[:, :, None, None], kernel_size=1)


class AdaptedConv(Adapted):
    """A convolution, then an orthogonal 1 x 1 map of its output channels, which starts as the identity.

    Args:
        in_channels, out_channels: of the convolution.
        layer: ``layer(in_channels, out_channels, **options)`` makes it.
        adapter: structure and settings of the map as in `lipnet.structured.adapters.certified_map`; None for no map.
        frozen: whether the convolution itself is left as it is by training.
        options: kernel size, stride and what else ``layer`` takes.

    Shape:
        As the convolution's.

    Raises:
        ValueError: for an adapter that is not orthogonal, or does not fit the channels.

    Example:
        >>> from lipnet.layers import SOC
        >>> layer = AdaptedConv(3, 16, layer=SOC, adapter={"structure": "GSOFT", "block_size": 4}, kernel_size=3)
        >>> [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
        ['adapter.matrix.generators']
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        layer: LayerFactory,
        adapter: Mapping[str, Any] | None,
        frozen: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.add_module("layer", layer(in_channels, out_channels, **options).requires_grad_(not frozen))
        if adapter is not None:
            self.add_module("adapter", certified_map(adapter, out_channels))


class AdaptedHead(Adapted):
    """An orthogonal map of the features, which starts as the identity, then a linear layer.

    The bias is always trained. The weight is trained unless it is frozen and there is a map.

    Args:
        in_features, out_features: of the linear layer.
        layer: ``layer(in_features, out_features)`` makes it.
        adapter, frozen: as in `AdaptedConv`.

    Shape:
        (B, in_features) to (B, out_features).

    Raises:
        ValueError: as `AdaptedConv`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        layer: LayerFactory,
        adapter: Mapping[str, Any] | None,
        frozen: bool = True,
    ) -> None:
        super().__init__()
        if adapter is not None:
            self.add_module("adapter", certified_map(adapter, in_features))
        head = layer(in_features, out_features)
        for name, parameter in head.named_parameters():
            parameter.requires_grad_(adapter is None or not frozen or name == "bias")
        self.add_module("layer", head)

    def plain(self, matrix: Tensor) -> nn.Module:
        """The linear layer that multiplies features by a matrix (n, n), with the matrix as its weight."""
        return _with_weight(nn.Linear, matrix)


def load_base(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Give the layers of an adapted network the weights of the network that it adapts; the adapters stay as they are.

    The head's bias and, if its shape differs, its weight are those of other classes: they are left out, and trained.

    Args:
        model: built with `AdaptedConv` and `AdaptedHead`.
        state: the state dict of the network without adapters.

    Returns:
        The names of the parameters that are not the base's, without those of the adapters.

    Raises:
        ValueError: if a weight of the state has no place in the model.
    """
    inner = {f"{path}." for path, module in model.named_modules() if isinstance(module, Adapted)}
    renamed = {_with_layer(name, inner): value for name, value in state.items()}
    own = model.state_dict()
    surplus = sorted(renamed.keys() - own.keys())
    if surplus:
        raise ValueError(f"the network to start from has weights that this one lacks: {', '.join(surplus)}")
    heads = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, AdaptedHead))
    fitting = {
        name: value
        for name, value in renamed.items()
        if value.shape == own[name].shape and not (name.startswith(heads) and name.endswith("bias"))
    }
    model.load_state_dict(fitting, strict=False)
    missing = {name: value for name, value in model.named_parameters() if name not in fitting}
    for parameter in missing.values():
        parameter.requires_grad_(True)
    return sorted(name for name in missing if ".adapter." not in name)


@torch.no_grad()
def merge_maps(model: nn.Module) -> nn.Module:
    """Replace every orthogonal map of an adapted network by one plain layer, in place: a dense 1 x 1 convolution or a
    linear layer with the same matrix, which computes the same up to rounding and has the same Lipschitz bound up to it.

    Merge in the dtype that is certified: a matrix rounded to float32 is less orthogonal than one in float64.

    Returns:
        The model.
    """
    for module in list(model.modules()):
        adapter = getattr(module, "adapter", None)
        if isinstance(module, Adapted) and isinstance(adapter, OrthogonalMap):
            module.adapter = module.plain(adapter.matrix.to_dense()).train(module.training)
    return model


def _with_weight(kind: Callable[..., nn.Module], weight: Tensor, **options: int) -> nn.Module:
    rows, columns = weight.shape[:2]
    layer = kind(columns, rows, bias=False, device=weight.device, dtype=weight.dtype, **options)
    layer.weight = nn.Parameter(weight)
    return layer


def _with_layer(name: str, inner: set[str]) -> str:
    for prefix in inner:
        if name.startswith(prefix):
            return f"{prefix}layer.{name.removeprefix(prefix)}"
    return name
