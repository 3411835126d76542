"""Layers of a certified network with orthogonal adapters that keep their Lipschitz bounds."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lipnet.functional.autocast import without_autocast
from lipnet.models.parts import LayerFactory, LipschitzSequential
from lipnet.structured import OrthogonalMap
from lipnet.structured.adapters import certified_map, has_input_map


class Adapted(LipschitzSequential):
    """A layer (child ``layer``) with optional orthogonal maps of its inputs and outputs.

    A convolution has the maps ``input_adapter`` before it and ``adapter`` after it, a head has ``adapter`` before it.
    The Lipschitz bound is the product of the bounds of the layer and the maps; a map's bound is 1 up to rounding.
    """


class AdaptedConv(Adapted):
    """A convolution followed by an orthogonal 1 x 1 map of its output channels, which starts as the identity.

    Double GSOFT has a second map, of the input channels, unless these are fewer than the channels of a block, as in the
    first convolution.

    Args:
        in_channels, out_channels: channels of the convolution.
        layer: ``layer(in_channels, out_channels, **options)`` makes the convolution.
        adapter: structure and settings of the maps as in `lipnet.structured.adapters.certified_map`; None for no map.
        frozen: do not train the convolution itself.
        options: kernel size, stride and other arguments of ``layer``.

    Shape:
        The same as for the convolution.

    Raises:
        ValueError: the adapter is not orthogonal, or does not fit the channels.

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
        if adapter is not None and has_input_map(adapter, in_channels):
            self.add_module("input_adapter", certified_map(adapter, in_channels))
        self.add_module("layer", layer(in_channels, out_channels, **options).requires_grad_(not frozen))
        if adapter is not None:
            self.add_module("adapter", certified_map(adapter, out_channels))


class AdaptedHead(Adapted):
    """An orthogonal map of the features, which starts as the identity, followed by a linear layer.

    There is no map of the logits, even for Double GSOFT, because it would mix the classes. The bias is always trained.
    The weight is trained unless it is frozen, there is a map, and the base's weight has the same shape.

    Args:
        in_features, out_features: features of the linear layer.
        layer: ``layer(in_features, out_features)`` makes the linear layer.
        adapter, frozen: as in `AdaptedConv`.
        base_out_features: ``out_features`` of the base's head, whose weight `load_base` loads if the shapes are equal;
            None for the same number.

    Shape:
        (B, in_features) to (B, out_features).

    Raises:
        ValueError: as for `AdaptedConv`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        layer: LayerFactory,
        adapter: Mapping[str, Any] | None,
        frozen: bool = True,
        base_out_features: int | None = None,
    ) -> None:
        super().__init__()
        if adapter is not None:
            self.add_module("adapter", certified_map(adapter, in_features))
        head = layer(in_features, out_features)
        with torch.device("meta"):
            base = head if base_out_features is None else layer(in_features, base_out_features)
        shapes = {name: parameter.shape for name, parameter in base.named_parameters() if name != "bias"}
        for name, parameter in head.named_parameters():
            loaded = parameter.shape == shapes.get(name)
            parameter.requires_grad_(adapter is None or not frozen or not loaded)
        self.add_module("layer", head)


def load_base(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load the weights of a network into its adapted version, without changing the adapters.

    The head's bias, and its weight if the shape differs, belong to other classes and are not loaded.

    Args:
        model: built with `AdaptedConv` and `AdaptedHead`.
        state: state dict of the network without adapters.

    Returns:
        The names of the parameters that were not loaded, except the adapters' parameters.

    Raises:
        ValueError: a weight of the state has no place in the model, or a frozen one of the model is not in the state.
    """
    inner = [f"{path}." for path, module in model.named_modules() if isinstance(module, Adapted)]
    renamed = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in inner if name.startswith(prefix)), None)
        renamed[name if prefix is None else f"{prefix}layer.{name.removeprefix(prefix)}"] = value
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
    missing = {name: value for name, value in model.named_parameters() if name not in fitting}
    # Unfreezing them here would be lost on resuming: a checkpoint's description builds the model without this function.
    frozen = sorted(name for name, value in missing.items() if not value.requires_grad)
    if frozen:
        raise ValueError(
            f"frozen weights must be those of the network to start from, got none of the same shape for "
            f"{', '.join(frozen)}: state base_out_features of AdaptedHead"
        )
    model.load_state_dict(fitting, strict=False)
    return sorted(name for name in missing if not {"adapter", "input_adapter"} & set(name.split(".")))


@torch.no_grad()
def merge_maps(model: nn.Module) -> nn.Module:
    """Replace every orthogonal map of an adapted network, in place, by a plain layer with the same matrix.

    The plain layer is a dense 1 x 1 convolution, or a linear layer before the head. Its output and its Lipschitz bound
    are the same up to rounding. Merge in the dtype in which you certify: a matrix rounded to float32 is less orthogonal
    than one in float64.

    Returns:
        The model.
    """
    for module in list(model.modules()):
        for name in ("input_adapter", "adapter") if isinstance(module, Adapted) else ():
            adapter = getattr(module, name, None)
            if not isinstance(adapter, OrthogonalMap):
                continue
            with without_autocast(next(adapter.parameters()).device):
                matrix = adapter.matrix.to_dense()
            kind = nn.Linear if isinstance(module, AdaptedHead) else partial(nn.Conv2d, kernel_size=1)
            plain: nn.Linear | nn.Conv2d = kind(len(matrix), len(matrix), bias=False, device="meta")
            plain.weight = nn.Parameter(matrix.reshape(plain.weight.shape))
            setattr(module, name, plain.train(module.training))
    return model
