"""lipschitz_bound() of whole layers: never below the norm of their dense Jacobians, in evaluation and in training."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lipnet.layers import GSSOC, SOC, SOC1d, SOCLinear, SOCTranspose
from tests.oracles import dense_jacobian, spectral_norm
from tests.properties.cases import Fill, Record, drawn, examples, few_and_all, kinds, scales, seeds

EXAMPLES, WEIGHTS = 100, 5
# Each layer with its settings and the size of its input.
LAYERS: dict[str, tuple[type[nn.Module], dict[str, Any], tuple[int, ...]]] = {
    "series": (SOC, {"in_channels": 3, "out_channels": 4, "engine": "series"}, (3, 4, 3)),
    "published with five terms": (
        SOC,
        {"in_channels": 2, "out_channels": 4, "series": "taylor", "scaling": "reshaped", "eval_terms": 5},
        (2, 3, 3),
    ),
    "few terms": (
        SOC,
        {"in_channels": 4, "out_channels": 4, "engine": "series", "eval_terms": 2},
        (4, 3, 3),
    ),
    "strided groups": (SOC, {"in_channels": 2, "out_channels": 8, "stride": 2, "groups": 2}, (2, 4, 4)),
    "circular": (SOC, {"in_channels": 4, "out_channels": 3, "padding_mode": "circular"}, (4, 3, 4)),
    "spectral": (
        SOC,
        {"in_channels": 2, "out_channels": 3, "padding_mode": "circular", "engine": "spectral"},
        (2, 4, 4),
    ),
    "wide kernel": (SOC, {"in_channels": 2, "out_channels": 2, "kernel_size": 5, "engine": "series"}, (2, 4, 4)),
    "grouped and shuffled": (GSSOC, {"in_channels": 4, "out_channels": 8, "groups": (2, 1)}, (4, 3, 3)),
    "sequences": (SOC1d, {"in_channels": 3, "out_channels": 4, "kernel_size": 5}, (3, 6)),
    "transposed": (SOCTranspose, {"in_channels": 4, "out_channels": 2, "stride": 2}, (4, 2, 2)),
    "head": (SOCLinear, {"in_features": 6, "out_features": 3}, (6,)),
}


def jacobian_norm(layer: nn.Module, size: tuple[int, ...]) -> float:
    point: Tensor = torch.full((1, *size), 0.5, dtype=torch.float64)
    return spectral_norm(dense_jacobian(layer, point))


@few_and_all
def test_layers(share: float, record_property: Record) -> None:
    cases = 0

    @examples(share * EXAMPLES)
    @given(seeds, kinds, scales, st.sampled_from(sorted(LAYERS)), st.booleans())
    def check(seed: int, kind: Fill, scale: float, name: str, training: bool) -> None:
        nonlocal cases
        make, settings, size = LAYERS[name]
        generator = torch.Generator().manual_seed(seed)
        layer = make(**settings, dtype=torch.float64).train(training)
        for _ in range(WEIGHTS):
            with torch.no_grad():
                for parameter in layer.parameters():
                    if parameter.dim() == 4:
                        parameter.copy_(scale * drawn(kind, tuple(parameter.shape), generator))
            bound = layer.lipschitz_bound()  # type: ignore[operator]
            # Room for the rounding of the layer itself and of the singular values.
            assert jacobian_norm(layer, size) <= bound * (1 + 1e-12)
            cases += 1

    check()
    record_property("cases", cases)
    assert cases >= share * EXAMPLES * WEIGHTS
