"""Adapter files: their content, restoring, and refusals."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from lipnet.functional.digest import SHA256_TO_COME, with_own_sha256
from lipnet.structured.adapters import (
    AdapterConfig,
    DoubleGSOFTConfig,
    GSOFTConfig,
    LoRAConfig,
    OFTConfig,
    attach,
    attached,
    detach,
    load_adapter,
    merge,
    save_adapter,
    scale_adapter,
    use,
)
from tests.structured.adapters.helpers import classes, logits, same, snapshot, train


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["lipnet_adapter"])
        del description["sha256"]
        return {key: file.get_tensor(key) for key in file.keys()}, description  # noqa: SIM118 (no mapping)


def write(path: Path, tensors: dict[str, Tensor], description: Any) -> None:
    metadata = {"lipnet_adapter": json.dumps({"sha256": SHA256_TO_COME, **description})}
    path.write_bytes(with_own_sha256(save(tensors, metadata)))


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
        "config": {
            "structure": "GSOFT",
            "block_size": 4,
            "blocks": None,
            "scale": True,
            "block_map": "cayley",
            "transpose": True,
            "side": "input",
            "factors": 2,
        },
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


def test_saving_needs_an_adapter(tmp_path: Path, network: nn.Module) -> None:
    with pytest.raises(ValueError, match="Network has no adapters of its own"):
        save_adapter(network, tmp_path / "a")
    attach(network, LoRAConfig(2), name="a")
    with pytest.raises(ValueError, match="there is no adapter 'b', only 'a'"):
        save_adapter(network, tmp_path / "a", "b")
    with pytest.raises(ValueError, match="no adapter is in use; name one of 'a'"):
        save_adapter(use(network, None), tmp_path / "a")
    assert not list(tmp_path.iterdir())


class Untouched:
    """Check that a model and its outputs are the same after a refusal."""

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


def test_damaged_and_foreign_files_are_refused(tmp_path: Path, network: nn.Module, adapter_file: Path) -> None:
    untouched = Untouched(network)
    with pytest.raises(FileNotFoundError, match=r"there is no adapter file .*missing"):
        load_adapter(network, tmp_path / "missing")
    content = adapter_file.read_bytes()
    for damaged in (b"", b"not a file of tensors", content[:100], content[:-10]):
        adapter_file.write_bytes(damaged)
        with pytest.raises(ValueError, match="cannot be read as an adapter file: truncated, damaged, or"):
            load_adapter(network, adapter_file)
    save_file({"x": torch.zeros(1)}, adapter_file)
    with pytest.raises(ValueError, match=r"cannot be read as an adapter file: .*not written by lipnet\?"):
        load_adapter(network, adapter_file)
    untouched.check()


def test_a_flipped_bit_is_noticed(network: nn.Module, adapter_file: Path) -> None:
    data = adapter_file.read_bytes()
    untouched = Untouched(network)
    # Without its name, the SHA-256 counts as missing: see the next test.
    name = data.index(b"sha256")
    for place in random.Random(0).sample([*range(name), *range(name + 6, len(data))], 300):
        flipped = bytearray(data)
        flipped[place] ^= 1 << random.Random(place).randrange(8)
        adapter_file.write_bytes(flipped)
        with pytest.raises(ValueError, match="adapter file"):
            load_adapter(network, adapter_file)
    untouched.check()


def test_files_of_earlier_versions_are_loaded_with_a_warning(network: nn.Module, adapter_file: Path) -> None:
    tensors, description = read(adapter_file)
    save_file(tensors, adapter_file, {"lipnet_adapter": json.dumps(description)})
    with pytest.warns(UserWarning, match="carries no SHA-256: damage to it would go unnoticed"):
        load_adapter(network, adapter_file)
    assert list(attached(network)) == ["default"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 3}, r"format must be one of \(1, 2\), got 3"),
        ({"config": {"structure": "os.system"}}, "structure must be one of LoRA"),
        ({"config": {"structure": "GSOFT", "block_size": "4"}}, "block_size must be a whole number"),
        ({"config": 1}, "is no adapter file that this version of lipnet reads"),
        ({"weights": ["stem.weight"]}, "is no adapter file that this version of lipnet reads"),
        ({"weights": {}}, "it has tensors for .*'stem.weight'.* which it does not describe"),
        ({"config": {"structure": "LoRA"}}, r"does not hold what LoRAConfig\(.*\) needs for stem\.weight: .* got"),
        ({"config": {"structure": "GSOFT", "block_size": 2}}, r"does not hold what .* needs for stem\.weight"),
        (
            {"config": {"structure": "GSOFT", "block_size": 5}},
            r"does not fit stem\.weight: .*divisible by 5",
        ),
        ({"name": "a.b"}, "letters, digits, - and _, got 'a.b'"),
        ({"name": 3}, "letters, digits, - and _, got 3"),
        ({"format": 2, "strength": float("nan")}, "strength must be finite, got nan"),
    ],
)
def test_a_wrong_description_is_refused(
    network: nn.Module, adapter_file: Path, change: dict[str, Any], message: str
) -> None:
    tensors, description = read(adapter_file)
    write(adapter_file, tensors, description | change)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=message):
        load_adapter(network, adapter_file)
    untouched.check()


@pytest.mark.parametrize("change", ["missing", "shape", "surplus"])
def test_wrong_tensors_are_refused(network: nn.Module, adapter_file: Path, change: str) -> None:
    tensors, description = read(adapter_file)
    key = "weight:head.weight:scale"
    changes = {"missing": {}, "shape": {key: torch.ones(3)}, "surplus": {key: tensors[key], f"{key}s": torch.ones(1)}}
    del tensors[key]
    write(adapter_file, tensors | changes[change], description)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=r"does not hold what GSOFTConfig\(.*\) needs for head\.weight: .*, got"):
        load_adapter(network, adapter_file)
    untouched.check()


def test_an_adapter_for_another_model_is_refused(network: nn.Module, adapter_file: Path) -> None:
    smaller = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"for another model: it adapts stem\.weight, .*, and there are 0\.weight"):
        load_adapter(smaller, adapter_file)
    network.head = nn.Linear(8, 10)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=r"needs the weight head\.weight of shape \(4, 8\), got \(10, 8\)"):
        load_adapter(network, adapter_file)
    untouched.check()
    network.head = nn.Linear(8, 4)
    network.norm = nn.BatchNorm2d(16, track_running_stats=False)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=r"needs the buffer norm\.\w+ of shape .*, got none of this name"):
        load_adapter(network, adapter_file)
    untouched.check()
    network.norm = nn.BatchNorm2d(16)
    network.stem = nn.utils.parametrizations.spectral_norm(network.stem)
    with pytest.raises(ValueError, match=r"does not fit stem\.weight: the weight is no plain parameter"):
        load_adapter(network, adapter_file)


def test_a_taken_name_is_refused(network: nn.Module, adapter_file: Path) -> None:
    load_adapter(network, adapter_file)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match="an adapter 'default' is attached already"):
        load_adapter(network, adapter_file)
    untouched.check()
    load_adapter(network, adapter_file, name="again")
    assert list(attached(network)) == ["default", "again"]


def with_new_head(network: nn.Module, config: AdapterConfig, name: str = "default", rate: float = 0.05) -> nn.Module:
    """Attach an adapter beside the head, and train both."""
    attach(network, config, exclude="head", name=name)
    network.get_submodule("head").requires_grad_(True)
    return train(network, rate=rate)


def test_a_head_that_was_trained_along_is_not_left_out_silently(tmp_path: Path, network: nn.Module) -> None:
    with_new_head(network, LoRAConfig(2))
    with pytest.raises(ValueError, match=r"head\.weight, head\.bias would be lost: trained, but outside the adapter"):
        save_adapter(network, tmp_path / "a")
    with pytest.raises(ValueError, match=r"head\.bias would be lost"):
        save_adapter(network, tmp_path / "a", along="head.weight")
    with pytest.raises(ValueError, match="along must name modules or parameters, got 'haed', which matches none"):
        save_adapter(network, tmp_path / "a", along=["head", "haed"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("along", ["head", "h*", ["head.weight", "head.bias"]])
def test_a_head_that_was_trained_along_is_restored(
    tmp_path: Path, network: nn.Module, images: Tensor, along: str | list[str]
) -> None:
    fresh, before = copy.deepcopy(network), logits(network, images)
    with_new_head(network, GSOFTConfig(4))
    expected = logits(network, images)
    save_adapter(network, tmp_path / "a", along=along)
    tensors, description = read(tmp_path / "a")
    assert {key for key in tensors if key.startswith("parameter:")} == {"parameter:head.weight", "parameter:head.bias"}
    assert description["format"] == 2
    base = snapshot(fresh)
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(logits(fresh, images), expected)
    assert fresh.get_parameter("head.weight").requires_grad
    assert torch.equal(logits(use(fresh, None), images), before)
    assert not fresh.get_parameter("head.weight").requires_grad
    assert torch.equal(logits(use(fresh, "default"), images), expected)
    save_adapter(fresh, tmp_path / "again")
    assert same_tensors(read(tmp_path / "again")[0], tensors)
    merged = merge(copy.deepcopy(fresh))
    assert torch.equal(logits(merged, images), expected)
    detach(fresh)
    assert same(base, snapshot(fresh))


@pytest.mark.parametrize("config", [LoRAConfig(2), GSOFTConfig(4)])
def test_an_adapter_merges_into_weights_that_were_trained_along(
    tmp_path: Path, network: nn.Module, images: Tensor, config: AdapterConfig
) -> None:
    fresh = copy.deepcopy(network)
    train(attach(network, config).requires_grad_(True))
    expected = logits(network, images)
    save_adapter(network, tmp_path / "a", along="*")
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(logits(merge(fresh), images), expected)


def test_the_other_owner_of_a_merged_weight_keeps_what_was_trained_along(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        model[2].weight = model[0].weight
        return model.eval()

    trained, fresh, x = tied(), tied(), torch.randn(3, 8)
    train(attach(trained, LoRAConfig(2), ["0"]).requires_grad_(True), shape=(6, 8))
    expected = logits(trained, x)
    save_adapter(trained, tmp_path / "a", along="*")
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(logits(fresh, x), expected)
    assert torch.equal(logits(merge(fresh), x), expected)


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_every_loaded_adapter_keeps_its_own_head(tmp_path: Path, network: nn.Module, images: Tensor) -> None:
    expected = {}
    for name, rate in (("a", 0.05), ("b", 0.2)):
        model = with_new_head(copy.deepcopy(network), LoRAConfig(2), name, rate)
        expected[name] = logits(model, images)
        save_adapter(model, tmp_path / name, along="head")
    assert not torch.equal(expected["a"], expected["b"])
    before = snapshot(network)
    for name in expected:
        load_adapter(network, tmp_path / name)
    for name in ("a", "b", "a"):
        assert torch.equal(logits(use(network, name), images), expected[name])
    detach(network, "a")
    attach(network, OFTConfig(4), "stem", name="a")
    assert not network.get_parameter("head.weight").requires_grad
    assert torch.equal(logits(use(network, "b"), images), expected["b"])
    detach(network)
    assert same(before, snapshot(network))


def test_a_head_under_adapters_of_its_own_is_restored(tmp_path: Path, network: nn.Module, images: Tensor) -> None:
    fresh = copy.deepcopy(network)
    with_new_head(network, LoRAConfig(2))
    expected = logits(network, images)
    save_adapter(network, tmp_path / "a", along="head")
    train(attach(fresh, OFTConfig(4), "head", name="other"))
    with_other = logits(fresh, images)
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(logits(fresh, images), expected)
    assert torch.equal(logits(use(fresh, "other"), images), with_other)


def test_a_head_of_another_shape_is_refused(tmp_path: Path, network: nn.Module) -> None:
    save_adapter(with_new_head(copy.deepcopy(network), LoRAConfig(2)), tmp_path / "a", along="head")
    network.head = nn.Linear(8, 10)
    untouched = Untouched(network)
    with pytest.raises(ValueError, match=r"needs the parameter head\.bias of shape \(4,\), got \(10,\)"):
        load_adapter(network, tmp_path / "a")
    untouched.check()


def test_settings_by_weight_and_the_strength_are_restored(tmp_path: Path, network: nn.Module, images: Tensor) -> None:
    fresh = copy.deepcopy(network)
    train(attach(network, GSOFTConfig(4), {"*": {}, "mix": {"block_size": 2}, "stem": {"blocks": 3}}))
    scale_adapter(network, 0.5)
    save_adapter(network, tmp_path / "a")
    description = read(tmp_path / "a")[1]
    assert (description["format"], description["strength"]) == (2, 0.5)
    assert set(description["special"]) == {"mix.weight", "stem.weight"}
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(logits(fresh, images), logits(network, images))
    assert torch.equal(logits(scale_adapter(fresh, 1), images), logits(scale_adapter(network, 1), images))


@pytest.mark.parametrize("strength", [0.3, 0.7, -1.3])
@pytest.mark.parametrize("make", [OFTConfig, GSOFTConfig, DoubleGSOFTConfig])
def test_a_scaled_rotation_is_restored_bit_for_bit(
    tmp_path: Path, network: nn.Module, images: Tensor, make: type[AdapterConfig], strength: float
) -> None:
    """The file holds K = A - A^T, and t A - (t A)^T rounds differently from t K."""
    fresh = copy.deepcopy(network)
    attach(network, make(4))
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("generators"):
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    scale_adapter(network, strength)
    save_adapter(network, tmp_path / "a")
    load_adapter(fresh, tmp_path / "a")
    assert torch.equal(logits(fresh, images), logits(network, images))
