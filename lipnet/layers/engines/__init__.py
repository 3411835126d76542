"""Ways to compute exp(J) x, and the choice between them. docs/notation.md defines the symbols."""

from lipnet.layers.engines.base import Engine
from lipnet.layers.engines.choose import Choice, Situation, choose_engine
from lipnet.layers.engines.dense import DenseEngine
from lipnet.layers.engines.prepared import (
    PreparedWeight,
    Series,
    expected_norm,
    make_series,
    norm_bound,
    prepare_weight,
)
from lipnet.layers.engines.series import ExplicitSeriesEngine, SeriesEngine
from lipnet.layers.engines.spectral import ExplicitSpectralEngine, SpectralEngine

ENGINE_CLASSES: dict[str, type[Engine]] = {
    "series": SeriesEngine,
    "spectral": SpectralEngine,
    "dense": DenseEngine,
}
# For certificates: the same functions up to rounding, as sums of products, whose rounding has a bound.
EXPLICIT_ENGINE_CLASSES: dict[str, type[Engine]] = {
    "series": ExplicitSeriesEngine,
    "spectral": ExplicitSpectralEngine,
    "dense": DenseEngine,
}

__all__ = [
    "ENGINE_CLASSES",
    "EXPLICIT_ENGINE_CLASSES",
    "Choice",
    "DenseEngine",
    "Engine",
    "ExplicitSeriesEngine",
    "ExplicitSpectralEngine",
    "PreparedWeight",
    "Series",
    "SeriesEngine",
    "Situation",
    "SpectralEngine",
    "choose_engine",
    "expected_norm",
    "make_series",
    "norm_bound",
    "prepare_weight",
]
