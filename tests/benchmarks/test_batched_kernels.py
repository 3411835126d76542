"""The benchmark of batched kernels times the same computation both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import batched_kernels
from benchmarks.batched_kernels import main, operand_layers
from benchmarks.layer_list import layer_factory


@pytest.mark.parametrize("name", operand_layers())
def test_a_batched_call_computes_the_operands_of_each_layer(name: str) -> None:
    layers = [layer_factory(name)(4, 4, kernel_size=3) for _ in range(2)]
    weights = [[weight.detach() for weight in layer.weights()] for layer in layers]
    stacked = [torch.stack(each) for each in zip(*weights, strict=True)]
    batched = torch.vmap(lambda *each: layers[0].compute_operands(*each, size=(4, 4)))(*stacked)
    for number, layer in enumerate(layers):
        for one, other in zip(layer.compute_operands(*weights[number], size=(4, 4)), batched, strict=True):
            torch.testing.assert_close(one, other[number])


def test_a_layer_without_operands_is_an_error() -> None:
    with pytest.raises(ValueError, match="layers must compute operands from their weights, got 'soc'"):
        main(["--layers", "soc", "--rounds", "1"])


def test_the_command_writes_what_it_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batched_kernels, "SHAPES", ((4, 4),))
    main(["--layers", "aol", "--rounds", "1", "--output", str(tmp_path / "times.json")])
    figures = json.loads((tmp_path / "times.json").read_text())["layers"]["aol"]["4"]
    assert figures["ratio"] == pytest.approx(figures["batched_ms"] / figures["separate_ms"])
