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
from lipnet.models.checkpoint import read_checkpoint
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


@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 1e-3), (1e6, 1e-2), (1e-8, 1e-2)])
def test_the_format_of_16_bits_suits_every_group(scale: float, tolerance: float) -> None:
    layer = seeded(SOC, 4, 4, groups=2)
    with torch.no_grad():
        layer.weight[2:] *= scale
    x = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = layer(x)
    layer.load_state_dict(compact_weights(layer, layer.state_dict()))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=tolerance)


def test_weights_that_would_overflow_stay_as_they_are() -> None:
    layer = seeded(SOC, 4, 4).float()
    with torch.no_grad():
        layer.weight.fill_(3e38).view(-1)[::2] *= -1
    assert torch.equal(compact_weights(layer, layer.state_dict())["weight"], layer.weight)


class Tied(nn.Module):
    """Two modules with one weight, the parameter of the first."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        second.weight = first.weight


class OwnSOC(SOC):
    """Might use its weight in another way."""


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (Tied(SOC(8, 8, groups=2), SOC(8, 8, groups=2)), True),
        # 2 and 1 active groups
        (Tied(SOC(8, 8, groups=2), SOC(8, 4, groups=2)), False),
        (Tied(nn.Conv2d(8, 8, 3), SOC(8, 8)), False),
        (Tied(SOC(8, 8), nn.Conv2d(8, 8, 3)), False),
        (OwnSOC(8, 8), False),
    ],
)
def test_a_weight_that_is_used_in_several_ways_stays_as_it_is(model: nn.Module, changes: bool) -> None:
    state = model.state_dict()
    compact = compact_weights(model, state)
    assert {name for name in state if not torch.equal(compact[name], state[name])} == (
        {"first.weight", "second.weight"} if changes else set()
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_of_other_dtypes_become_smaller_and_keep_their_dtype(
    tmp_path: Path,
    tiny_model: nn.Module,
    tiny_config: dict[str, Any],
    digits_dataset: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    model = tiny_model.to(dtype)
    for name in ("whole", "compact"):
        save_pretrained(model, tmp_path / name, tiny_config, digits_dataset, compact=name == "compact")
    whole, compact = ((tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "compact"))
    assert compact < whole
    # Whatever the defaults are where it is read.
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device("meta"):
            state = read_checkpoint(tmp_path / "compact" / WEIGHTS)[0]["state_dict"]
        assert all(value.device.type == "cpu" for value in state.values())
        assert next(load_pretrained(tmp_path / "compact").parameters()).dtype == dtype
    finally:
        torch.set_default_dtype(before)


def test_reading_takes_little_more_memory_than_the_tensor(tmp_path: Path) -> None:
    """A mask of the whole tensor, and its indices, would take several times as much."""
    count = 2**22
    tensors = {
        "w/values": torch.ones(count // 16, dtype=torch.float16),
        "w/runs": torch.tensor([count - count // 16, count // 16], dtype=torch.int32),
    }
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        unpack(tensors, {"w": {"dtype": "float32", "shape": [count]}})
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert allocated < 1.2 * 4 * count


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
        (torch.cat([values(0.5), values(0.0)]).double(), True),
        (torch.cat([values(0.1), values(0.0)]).half(), True),
        (torch.cat([values(0.1), values(0.0)]).bfloat16(), True),
        (values(0.1).half(), False),  # no shorter
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
    assert torch.equal(state["a"].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))


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
        ({"w": torch.ones(1)}, {}, "it holds w twice, packed and as it is"),
        ({}, {"shape": [600, 10]}, "must have a value for 16 places, got fewer"),
        ({}, {"shape": [2, 299]}, "must fill its shape"),
        ({}, {"shape": [2, -300]}, "must be positive integers"),
        ({}, {"shape": "ab"}, "must be positive integers"),
        ({}, {"dtype": "int64"}, "must be of float64, float32, float16, bfloat16, from 16 bits, got int64"),
        ({}, {"device": "cuda"}, "its packed tensors are not complete"),
        ({"w/runs": torch.tensor([100, 301, 199])}, {}, "packed tensors must be of"),
        ({"w/runs": torch.tensor([100, 301, 199], dtype=torch.int32)}, {}, "must fill its shape .* with 300 values"),
        ({"w/runs": torch.tensor([-100, 500, 200], dtype=torch.int32)}, {}, "must fill its shape"),
        ({"w/runs": torch.tensor([[100, 300, 200]], dtype=torch.int32)}, {}, "must be one-dimensional"),
        ({"w/runs": torch.tensor([], dtype=torch.int32)}, {}, "must fill its shape"),
        ({"w/values": torch.ones(300)}, {}, "packed tensors must be of"),
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
