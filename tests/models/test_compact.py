"""Compact weights: the same function up to rounding, a fraction of the space, and nothing lost in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import lipschitz_bound, read_summary
from lipnet.layers import GSSOC, SOC, SOCLinear, SOCTranspose
from lipnet.models import CheckpointError, build_model, load_checkpoint, load_pretrained, save_pretrained
from lipnet.models.compact import compact_weights, is_compact, pack, unpack
from lipnet.models.pretrained import WEIGHTS
from lipnet.tensor_file import parse_tensor_file, tensor_file_bytes
from lipnet.workflows import certify_checkpoint


def seeded(make: type[nn.Module], *args: Any, **settings: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make(*args, **settings).double().eval()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (seeded(SOC, 4, 8, 3, stride=2, padding_mode="circular"), (2, 4, 8, 8)),
        # Of 4 groups, 2 are computed.
        (seeded(GSSOC, 4, 16, 3, stride=2, groups=(8, 2)), (2, 4, 8, 8)),
        (seeded(SOCTranspose, 8, 2, 3, stride=2), (2, 8, 4, 4)),
        (seeded(SOCLinear, 12, 7), (2, 12)),
    ],
)
def test_a_layer_computes_the_same_up_to_rounding_to_16_bits(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = layer(x)
    assert not is_compact(layer)
    layer.load_state_dict(compact_weights(layer, layer.state_dict()))
    assert is_compact(layer)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=2e-3)
    assert lipschitz_bound(layer) <= 1 + 1e-9
    for name, weight in layer.state_dict().items():
        if name.endswith("weight"):
            assert int((weight != 0).sum()) <= weight.numel() / 2


def test_other_weights_stay_as_they_are(tiny_model: nn.Module) -> None:
    state = tiny_model.state_dict()
    filters = {f"{name}.weight" for name, module in tiny_model.named_modules() if isinstance(module, SOC)}
    for name, value in compact_weights(tiny_model, state).items():
        assert torch.equal(value, state[name]) != (name in filters), name


@pytest.mark.parametrize("scale", [1.0, 1e6, 1e-12])
def test_the_format_of_16_bits_is_the_closer_one(scale: float) -> None:
    layer = seeded(SOC, 4, 4)
    with torch.no_grad():
        layer.weight *= scale
    x = torch.rand(1, 4, 6, 6, dtype=torch.float64)
    expected = layer(x)
    layer.load_state_dict(compact_weights(layer, layer.state_dict()))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-3 if scale == 1 else 1e-2)


def test_a_compact_network_is_a_fraction_of_the_size(tmp_path: Path, digits_dataset: dict[str, Any]) -> None:
    config = {"_target_": "lipnet.models.LipConvNet", "depth": 5, "initial_channels": 16, "image_size": 32}
    model = build_model(config).eval()
    save_pretrained(model, tmp_path / "whole", config, digits_dataset)
    save_pretrained(model, tmp_path / "compact", config, digits_dataset, compact=True)
    whole, compact = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "compact"))
    assert compact < whole / 3
    loaded = load_pretrained(tmp_path / "compact")
    x = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(loaded(x), model(x), rtol=0, atol=1e-2)
    expected = compact_weights(model, model.state_dict())
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())

    save_pretrained(load_checkpoint(tmp_path / "compact" / WEIGHTS), tmp_path / "again", compact=True)
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "compact" / WEIGHTS).read_bytes()


def test_a_summary_of_other_weights_is_refused(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certify_checkpoint(tiny_checkpoint, tmp_path / "run", n_samples=10)
    summary = read_summary(tmp_path / "run" / "summary.json")
    with pytest.raises(ValueError, match="summary must be of this checkpoint: weights_sha256"):
        save_pretrained(load_checkpoint(tiny_checkpoint), tmp_path / "small", summary=summary, compact=True)
    assert not (tmp_path / "small").exists()


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers).repeat(100)


@pytest.mark.parametrize(
    ("tensor", "packed"),
    [
        (values(0.0, 0.5).view(4, 50), False),  # too many runs
        (torch.cat([values(0.0), values(0.5)]), True),
        (torch.cat([values(-0.0), values(0.5), values(0.0)]), True),
        (torch.cat([values(1e30), values(0.0)]).bfloat16().float(), True),
        (torch.cat([values(0.1), values(0.0)]), False),  # needs 24 bits
        (values(float("nan"), 0.0), False),
        (values(0.5), True),
        (torch.cat([values(0.5), torch.zeros(10_000)]), False),  # too few values
        (torch.zeros(1000), False),
        (torch.cat([values(0.5), values(0.0)]).double(), False),
        (torch.arange(1000), False),
        (torch.tensor(0.5), False),
        (torch.zeros(0, 3), False),
    ],
)
def test_packing_loses_nothing(tensor: Tensor, packed: bool) -> None:
    tensors, description = pack({"a": tensor, "b": torch.ones(2, 1)})
    assert ("a" in description) == packed
    state = unpack(tensors, description)
    assert list(state) == ["a", "b"]
    assert (state["a"].dtype, state["a"].shape) == (tensor.dtype, tensor.shape)
    assert state["a"].numpy().tobytes() == tensor.numpy().tobytes()


def test_names_that_are_taken_are_not_packed() -> None:
    state = {"a": torch.cat([values(0.0), values(0.5)]), "a/values": torch.ones(3)}
    tensors, description = pack(state)
    assert "a" not in description
    assert all(torch.equal(value, state[name]) for name, value in unpack(tensors, description).items())


SHAPE = [2, 300]
FITTING = {"w/values": torch.ones(300, dtype=torch.float16), "w/runs": torch.tensor([100, 300, 200], dtype=torch.int32)}


@pytest.mark.parametrize(
    ("tensors", "facts", "message"),
    [
        ({}, {"shape": [600, 10]}, "must have a value for 16 places, got fewer"),
        ({}, {"shape": [2, 299]}, "the runs of a packed tensor .* must fill it"),
        ({}, {"shape": [2, -300]}, "must be positive integers"),
        ({}, {"shape": "ab"}, "must be positive integers"),
        ({}, {"dtype": "float64"}, "must be float32 from 16 bits"),
        ({}, {"device": "cuda"}, "its packed tensors are not complete"),
        ({"w/runs": torch.tensor([100, 301, 199])}, {}, "must be float32 from 16 bits"),
        ({"w/runs": torch.tensor([100, 301, 199], dtype=torch.int32)}, {}, "must hold its 300 values"),
        ({"w/runs": torch.tensor([-100, 500, 200], dtype=torch.int32)}, {}, "must fill it"),
        ({"w/runs": torch.tensor([[100, 300, 200]], dtype=torch.int32)}, {}, "must be one-dimensional"),
        ({"w/runs": torch.tensor([], dtype=torch.int32)}, {}, "must fill it"),
        ({"w/values": torch.ones(300)}, {}, "must be float32 from 16 bits"),
        ({"w/values": torch.ones(1, 300).half()}, {}, "must be one-dimensional"),
    ],
)
def test_damaged_packed_tensors_are_refused(tensors: dict[str, Tensor], facts: dict[str, Any], message: str) -> None:
    description = {"w": {"dtype": "float32", "shape": SHAPE, **facts}}
    with pytest.raises(ValueError, match=message):
        unpack({**FITTING, **tensors}, description)


@pytest.mark.parametrize("packed", [["w"], {"w": None}, {"features": {"dtype": "float32", "shape": [1]}}, 3])
def test_a_file_with_a_wrong_description_is_refused(
    tmp_path: Path, tiny_config: dict[str, Any], digits_dataset: dict[str, Any], tiny_model: nn.Module, packed: Any
) -> None:
    save_pretrained(tiny_model, tmp_path / "whole", tiny_config, digits_dataset)
    content = parse_tensor_file((tmp_path / "whole" / WEIGHTS).read_bytes(), "lipnet")
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(tensor_file_bytes(content.tensors, {**content.description, "packed": packed}, "lipnet"))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint: its packed tensors are not complete"):
        load_checkpoint(path)
