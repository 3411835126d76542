"""Evaluation by plain sums of products, whose rounding has a bound: what certificates are made of."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lipnet.layers.skew_orthogonal import SkewOrthogonal
from lipnet.overrides import override_attributes


@contextmanager
def explicit_products(model: nn.Module) -> Iterator[None]:
    """Within the context, a model's exponentials are computed by their matrices or series with plain products alone.

    No Fourier transforms and no bilinear forms with fewer products: the same function up to rounding, or up to the
    tolerance of the series for a layer with the spectral engine, with the same Lipschitz bound. `Signal` and `Step` of
    `lipnet.functional.rounding_error` bound how far it is from exact arithmetic.

    Args:
        model: in evaluation mode; what its layers do in training is left as it is.

    Example:
        >>> import torch
        >>> from lipnet.layers import SOC
        >>> layer = SOC(4, 4, padding_mode="circular", dtype=torch.float64).eval()
        >>> x = torch.rand(1, 4, 8, 8, dtype=torch.float64)
        >>> with torch.no_grad(), explicit_products(layer):
        ...     explicit = layer(x)
        >>> torch.allclose(explicit, layer(x), atol=1e-4)
        True
    """
    layers = [module for module in model.modules() if isinstance(module, SkewOrthogonal)]
    with override_attributes(layers, "explicit", True):
        yield
