"""Evaluation by plain sums of products, for certificates: their rounding error has a bound."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lipnet.layers.operands import OperandLayer
from lipnet.layers.soc import SOC
from lipnet.overrides import override_attributes


@contextmanager
def explicit_products(model: nn.Module) -> Iterator[None]:
    """Evaluate a model's layers by plain sums of products in this context.

    Fourier transforms become products with constant matrices, and algorithms that save products
    (`lipnet.functional.forms`) are off. The function stays the same up to rounding, with the same Lipschitz bound.
    `lipnet.functional.rounding_error` and `lipnet.functional.spectral_products` bound its distance from exact
    arithmetic.

    Args:
        model: in evaluation mode; layers in training mode are not affected.

    Raises:
        RuntimeError: at the end, if a layer's ``explicit`` was changed meanwhile.

    Example:
        >>> import torch
        >>> from lipnet.layers import SOC
        >>> layer = SOC(4, 4, padding_mode="circular", dtype=torch.float64).eval()
        >>> x = torch.rand(1, 4, 8, 8, dtype=torch.float64)
        >>> with torch.no_grad(), explicit_products(layer):
        ...     explicit = layer(x)
        >>> torch.allclose(explicit, layer(x), rtol=0, atol=1e-9)
        True
    """
    layers = [module for module in model.modules() if isinstance(module, (SOC, OperandLayer))]
    with override_attributes(layers, "explicit", True):
        yield
        if not all(layer.explicit for layer in layers):
            raise RuntimeError("a layer's attribute explicit was changed while it had to be True; leave it alone")
