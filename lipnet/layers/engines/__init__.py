"""Ways to compute exp(J) x, and the choice between them."""

from lipnet.layers.engines.base import Engine, PreparedWeight, Series, make_series, norm_bound, prepare_weight
from lipnet.layers.engines.choose import Choice, Situation, choose_engine
from lipnet.layers.engines.dense import DenseEngine
from lipnet.layers.engines.series import ExplicitSeriesEngine, SeriesEngine
from lipnet.layers.engines.spectral import SpectralEngine

ENGINE_CLASSES: dict[str, type[Engine]] = {
    "series": SeriesEngine,
    "spectral": SpectralEngine,
    "dense": DenseEngine,
}
# For certificates: Fourier transforms have no rounding bound, so the series replaces them.
EXPLICIT_ENGINE_CLASSES: dict[str, type[Engine]] = {
    "series": ExplicitSeriesEngine,
    "spectral": ExplicitSeriesEngine,
    "dense": DenseEngine,
}

__all__ = [
    "ENGINE_CLASSES",
    "EXPLICIT_ENGINE_CLASSES",
    "Choice",
    "DenseEngine",
    "Engine",
    "ExplicitSeriesEngine",
    "PreparedWeight",
    "Series",
    "SeriesEngine",
    "Situation",
    "SpectralEngine",
    "choose_engine",
    "make_series",
    "norm_bound",
    "prepare_weight",
]
