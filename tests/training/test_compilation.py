"""Compiled training steps: one graph for each batch size, and the same training as without compilation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from tests.training.runs import assert_same_tensors, figures_of, fit, make_module

compile_of_torch = torch.compile


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The batch's shape in each graph that is compiled; traced as always, and run without the compiler's own code."""
    shapes: list[tuple[Any, ...]] = []

    def backend(graph: Any, inputs: list[Any]) -> Any:
        # The graph's inputs are the images, and what the network holds.
        shapes.append(next(tuple(each.shape) for each in inputs if each.dim() == 4 and each.shape[1:] == (1, 8, 8)))
        return aot_eager(graph, inputs)

    def compiled(function: Callable[..., Any], *, mode: str, **settings: Any) -> Callable[..., Any]:
        assert mode == "default"
        assert settings == {"fullgraph": True, "dynamic": False}
        return compile_of_torch(function, backend=backend, **settings)

    monkeypatch.setattr(torch, "compile", compiled)
    return shapes


@pytest.mark.slow
def test_two_epochs_with_validation_take_one_graph_for_each_size_of_a_batch(
    tiny_config: dict[str, Any], tmp_path: Path, graphs: list[tuple[Any, ...]]
) -> None:
    plain = fit(tiny_config, tmp_path / "plain")
    compiled = fit(tiny_config, tmp_path / "compiled", module=make_module(tiny_config, compile_mode="default"))
    assert graphs == [(64, 1, 8, 8), (15, 1, 8, 8)]
    one, other = compiled.lightning_module.state_dict(), plain.lightning_module.state_dict()
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-2, atol=1e-2)
    for name, value in figures_of(compiled).items():
        assert value == pytest.approx(figures_of(plain)[name], abs=0.02)


@pytest.mark.slow
def test_a_compiled_training_goes_on_where_it_was_cut(
    tiny_config: dict[str, Any], tmp_path: Path, graphs: list[tuple[Any, ...]]
) -> None:
    def module() -> Any:
        return make_module(tiny_config, compile_mode="default")

    whole = fit(tiny_config, tmp_path / "whole", module=module())
    fit(tiny_config, tmp_path / "cut", module=module(), max_epochs=1)
    resumed = fit(tiny_config, tmp_path / "cut", tmp_path / "cut" / "last.ckpt", module=module())
    assert graphs
    assert_same_tensors(resumed.lightning_module.state_dict(), whole.lightning_module.state_dict())


@pytest.mark.slow
def test_a_sweep_in_one_process_compiles_each_training(
    tiny_config: dict[str, Any], tmp_path: Path, graphs: list[tuple[Any, ...]]
) -> None:
    """torch.compile refuses a ninth graph of one function, and a sweep with Hydra's ``-m`` is one process."""
    for channels in (4, 8, 12, 16, 20):
        module = make_module(tiny_config | {"initial_channels": channels}, compile_mode="default")
        fit(tiny_config, tmp_path / str(channels), module=module, max_epochs=1)
    assert len(graphs) == 10


def test_another_mode_is_refused(tiny_config: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"compile must be one of .* or null, got 'fast'"):
        make_module(tiny_config, compile_mode="fast")


@pytest.mark.parametrize("mode", ["reduce-overhead", "max-autotune"])
def test_gradients_are_not_accumulated_in_graphs_of_launches(
    tiny_config: dict[str, Any], tmp_path: Path, mode: str
) -> None:
    module = make_module(tiny_config, compile_mode=mode)
    with pytest.raises(ValueError, match="an accumulation over 2 batches needs: set compile=default"):
        fit(tiny_config, tmp_path, module=module, accumulate_grad_batches=2)
