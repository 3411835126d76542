"""Adapter files: what they hold, what they restore, and what is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lipnet.structured.adapters import (
    AdapterConfig,
    GSOFTConfig,
    LoRAConfig,
    OFTConfig,
    attach,
    attached,
    detach,
    load_adapter,
    save_adapter,
    use,
)
from tests.structured.adapters.helpers import classes, logits, same, snapshot, train


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["lipnet_adapter"])
        return {key: file.get_tensor(key) for key in file.keys()}, description  # noqa: SIM118 (no mapping)


def write(path: Path, tensors: dict[str, Tensor], description: Any) -> None:
    save_file(tensors, path, {"lipnet_adapter": json.dumps(description)})


@pytest.mark.cover(0)
def test_a_saved_adapter_restores_every_bit(
    tmp_path: Path, network: nn.Module, images: Tensor, config: AdapterConfig
) -> None:
    fresh, path = copy.deepcopy(network), tmp_path / "folder" / "adapter.safetensors"
    train(attach(network, config, name="trained"))
    expected, before = logits(network, images), snapshot(network)
    save_adapter(network, path)
    assert same(before, snapshot(network))
    assert [file.name for file in path.parent.iterdir()] == ["adapter.safetensors"]
    base = snapshot(fresh)
    assert load_adapter(fresh, path) is fresh
    assert attached(fresh) == {"trained": config}
    assert torch.equal(logits(fresh, images), expected)
    train(fresh)
    detach(fresh)
    assert same(base, snapshot(fresh))


def test_the_file_holds_upper_triangles_statistics_and_the_description(tmp_path: Path, network: nn.Module) -> None:
    train(attach(network, GSOFTConfig(4), ["mix", "attention"]))
    save_adapter(network, tmp_path / "a")
    tensors, description = read(tmp_path / "a")
    assert {key: tuple(value.shape) for key, value in tensors.items()} == {
        "weight:mix.weight:scale": (8,),
        "weight:mix.weight:input.generators": (2, 4, 6),
        **{f"weight:attention.in_proj_weight:parts.{i}.scale": (8,) for i in range(3)},
        **{f"weight:attention.in_proj_weight:parts.{i}.input.generators": (2, 2, 6) for i in range(3)},
        "weight:attention.out_proj.weight:scale": (8,),
        "weight:attention.out_proj.weight:input.generators": (2, 2, 6),
        "buffer:norm.running_mean": (16,),
        "buffer:norm.running_var": (16,),
        "buffer:norm.num_batches_tracked": (),
    }
    assert description == {
        "format": 1,
        "name": "default",
        "config": {"structure": "GSOFT", "block_size": 4, "scale": True, "block_map": "cayley", "side": "input"},
        "weights": {
            "mix.weight": [8, 16, 1, 1],
            "attention.in_proj_weight": [24, 8],
            "attention.out_proj.weight": [8, 8],
        },
    }


def test_one_of_several_adapters_in_use_or_not(tmp_path: Path, network: nn.Module, images: Tensor) -> None:
    fresh = copy.deepcopy(network)
    train(attach(network, LoRAConfig(2), name="a"))
    with_a = logits(network, images)
    train(attach(network, OFTConfig(4), name="b"))
    with_b = logits(network, images)
    save_adapter(network, tmp_path / "a", "a")
    save_adapter(use(network, None), tmp_path / "b", "b")
    load_adapter(fresh, tmp_path / "a")
    load_adapter(fresh, tmp_path / "b", name="c")
    assert list(attached(fresh)) == ["a", "c"]
    assert torch.equal(logits(fresh, images), with_b)
    assert torch.equal(logits(use(fresh, "a"), images), with_a)


def test_an_adapter_for_a_model_of_another_dtype(tmp_path: Path, network: nn.Module, images: Tensor) -> None:
    fresh = copy.deepcopy(network).double()
    train(attach(network, GSOFTConfig(4)))
    save_adapter(network, tmp_path / "a")
    load_adapter(fresh, tmp_path / "a")
    assert torch.allclose(logits(fresh, images.double()).float(), logits(network, images), atol=1e-4)


def test_a_failed_save_leaves_the_file_that_was_there(
    tmp_path: Path, network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach(network, GSOFTConfig(4))
    save_adapter(network, tmp_path / "a")
    before = (tmp_path / "a").read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("lipnet.files.os.fsync", full_disk)
    train(network)
    with pytest.raises(OSError, match="no space left"):
        save_adapter(network, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_nothing_to_save(tmp_path: Path, network: nn.Module) -> None:
    with pytest.raises(ValueError, match="Network has no adapters of its own"):
        save_adapter(network, tmp_path / "a")
    attach(network, LoRAConfig(2), name="a")
    with pytest.raises(ValueError, match="there is no adapter 'b', only 'a'"):
        save_adapter(network, tmp_path / "a", "b")
    with pytest.raises(ValueError, match="no adapter is in use; name one of 'a'"):
        save_adapter(use(network, None), tmp_path / "a")
    assert not list(tmp_path.iterdir())


class Untouched:
    """What a model is and computes must be the same after a refusal."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = self._state()

    def _state(self) -> tuple[list[tuple[str, int, bool, Tensor]], list[type], object, list[str]]:
        return snapshot(self.model), classes(self.model), attached(self.model), sorted(vars(self.model))

    def check(self) -> None:
        (before, *rest), (after, *rest_after) = self.before, self._state()
        assert same(before, after)
        assert rest == rest_after


@pytest.fixture
def adapter_file(tmp_path: Path, network: nn.Module) -> Path:
    duplicate = copy.deepcopy(network)
    save_adapter(train(attach(duplicate, GSOFTConfig(4))), tmp_path / "a")
    return tmp_path / "a"


def test_a_file_that_is_none(tmp_path: Path, network: nn.Module, adapter_file: Path) -> None:
    untouched = Untouched(network)
    with pytest.raises(FileNotFoundError, match=r"there is no adapter file .*missing"):
        load_adapter(network, tmp_path / "missing")
    content = adapter_file.read_bytes()
    for damaged in (b"", b"not a file of tensors", content[:100], content[:-10]):
        adapter_file.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be read as an adapter file: truncated or damaged"):
            load_adapter(network, adapter_file)
    save_file({"x": torch.zeros(1)}, adapter_file)
    with pytest.raises(ValueError, match="is no adapter file that this version of lipnet reads"):
        load_adapter(network, adapter_file)
    untouched.check()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format 2, this version reads 1"),
        ({"config": {"structure": "os.system"}}, "structure must be one of LoRA"),
        ({"config": {"structure": "GSOFT", "block_size": "4"}}, "block_size must be a whole number"),
        ({"config": 1}, "is no adapter file that this version of lipnet reads"),
        ({"weights": ["stem.weight"]}, "is no adapter file that this version of lipnet reads"),
        ({"weights": {}}, "it has tensors for .*'stem.weight'.* which it does not describe"),
        ({"config": {"structure": "LoRA"}}, r"does not hold what LoRAConfig\(.*\) needs for stem\.weight: .* got"),
        ({"config": {"structure": "GSOFT", "block_size": 2}}, r"does not hold what .* needs for stem\.weight"),
        ({"config": {"structure": "GSOFT", "block_size": 5}}, r"no such adapter fits stem\.weight: .*divisible by 5"),
        ({"name": "a.b"}, "letters, digits, - and _, got 'a.b'"),
        ({"name": 3}, "letters, digits, - and _, got 3"),
    ],
)
def test_a_description_that_is_wrong(
    network: nn.Module, adapter_file: Path, change: dict[str, Any], message: str
) -> None:
    tensors, description = read(adapter_file)
    write(adapter_file, tensors, description | change)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=message):
        load_adapter(network, adapter_file)
    untouched.check()


@pytest.mark.parametrize("change", ["missing", "shape", "surplus"])
def test_tensors_that_are_wrong(network: nn.Module, adapter_file: Path, change: str) -> None:
    tensors, description = read(adapter_file)
    key = "weight:head.weight:scale"
    changes = {"missing": {}, "shape": {key: torch.ones(3)}, "surplus": {key: tensors[key], f"{key}s": torch.ones(1)}}
    del tensors[key]
    write(adapter_file, tensors | changes[change], description)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=r"does not hold what GSOFTConfig\(.*\) needs for head\.weight: .*, got"):
        load_adapter(network, adapter_file)
    untouched.check()


def test_an_adapter_for_another_model(network: nn.Module, adapter_file: Path) -> None:
    smaller = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"for another model: it adapts stem\.weight, .*, and there are 0\.weight"):
        load_adapter(smaller, adapter_file)
    network.head = nn.Linear(8, 10)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=r"head\.weight has shape \(10, 8\), the adapter was made for \(4, 8\)"):
        load_adapter(network, adapter_file)
    untouched.check()
    network.head = nn.Linear(8, 4)
    network.norm = nn.BatchNorm2d(16, track_running_stats=False)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=r"brings the buffer norm\.\w+ of shape .*, the model has none of this name"):
        load_adapter(network, adapter_file)
    untouched.check()
    network.norm = nn.BatchNorm2d(16)
    network.stem = nn.utils.parametrizations.spectral_norm(network.stem)
    with pytest.raises(ValueError, match=r"fits stem\.weight: the weight is no plain parameter"):
        load_adapter(network, adapter_file)


def test_a_name_that_is_taken(network: nn.Module, adapter_file: Path) -> None:
    load_adapter(network, adapter_file)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match="an adapter 'default' is attached already"):
        load_adapter(network, adapter_file)
    untouched.check()
    load_adapter(network, adapter_file, name="again")
    assert list(attached(network)) == ["default", "again"]
