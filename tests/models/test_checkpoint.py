"""Checkpoints: loading returns the saved content, and refuses damaged and foreign files with a reason."""

from __future__ import annotations

import hashlib
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
import torch.distributed
from torch import Tensor, nn

from lipnet.models import CheckpointError, build_model, load_checkpoint, save_checkpoint
from lipnet.models.archive import write_archive
from lipnet.models.fit import _limited_parts, check_fit


@pytest.fixture
def content(tiny_checkpoint: Path) -> dict[str, Any]:
    """Content of a valid checkpoint."""
    return torch.load(tiny_checkpoint, weights_only=True)


@pytest.fixture
def other_model(tiny_config: dict[str, Any]) -> nn.Module:
    """The same network with other weights."""
    torch.manual_seed(1)
    return build_model(tiny_config).eval()


def write(content: Any, path: Path) -> Path:
    write_archive(path, content)
    return path


def assert_same_state(first: nn.Module, second: nn.Module) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert list(a) == list(b)
    for name, value in a.items():
        assert torch.equal(value, b[name])
        assert value.dtype == b[name].dtype


def test_what_was_saved_comes_back(
    tiny_checkpoint: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint)
    assert checkpoint.model_config == tiny_config
    assert checkpoint.dataset == digits_dataset
    assert checkpoint.sha256 == hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()
    assert not checkpoint.model.training
    assert_same_state(checkpoint.model, tiny_model)
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(checkpoint.model(x), tiny_model(x))
    assert checkpoint.model.lipschitz_bound() == tiny_model.lipschitz_bound()


def test_the_weights_of_training_come_back_from_any_mode(
    tmp_path: Path, other_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    other_model.train()(torch.rand(4, 1, 8, 8)).sum().backward()
    torch.optim.SGD(other_model.parameters(), lr=1.0).step()
    save_checkpoint(str(tmp_path / "a.ckpt"), other_model, tiny_config, digits_dataset)
    assert other_model.training
    loaded = load_checkpoint(str(tmp_path / "a.ckpt")).model
    assert not loaded.training
    assert_same_state(loaded, other_model)


@pytest.mark.parametrize("name", ["a.ckpt", "a.safetensors"])
def test_a_tilde_is_the_home_folder(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: nn.Module,
    tiny_config: dict[str, Any],
    digits_dataset: dict[str, Any],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_checkpoint(f"~/{name}", tiny_model, tiny_config, digits_dataset)
    assert (tmp_path / name).is_file()
    assert_same_state(load_checkpoint(f"~/{name}").model, tiny_model)


def test_the_file_holds_plain_containers_alone(content: dict[str, Any]) -> None:
    def assert_plain(value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                assert type(key) is str
                assert_plain(inner)
        elif isinstance(value, list):
            for inner in value:
                assert_plain(inner)
        else:
            assert value is None or type(value) in (str, int, float, bool, Tensor)

    assert_plain(content)
    assert set(content) == {"state_dict", "lipnet"}
    assert set(content["lipnet"]) == {"format", "version", "model", "dataset"}


def test_loading_executes_nothing(tmp_path: Path, content: dict[str, Any]) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return Path.touch, (str(tmp_path / "run"),)

    for path in (tmp_path / "archive.ckpt", tmp_path / "pickle.ckpt"):
        if path.stem == "archive":
            write({**content, "callbacks": Malicious()}, path)
        else:
            path.write_bytes(pickle.dumps({"lipnet": Malicious()}, protocol=2))
        with pytest.raises(CheckpointError, match="cannot be read as a checkpoint"):
            load_checkpoint(path)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", "builtins.eval", "torch.nn.functional.relu"])
def test_a_configuration_with_a_forbidden_target_is_refused(
    tmp_path: Path, content: dict[str, Any], target: str
) -> None:
    content["lipnet"]["model"]["conv"] = {"_target_": target}
    with pytest.raises(ValueError, match=f"got _target_ '{target}'"):
        load_checkpoint(write(content, tmp_path / "bad.ckpt"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no checkpoint /.*nothing\.ckpt"):
        load_checkpoint(tmp_path / "nothing.ckpt")
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        load_checkpoint(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.ckpt"
    path.touch()
    with pytest.raises(CheckpointError, match=r"empty\.ckpt is empty: it is not a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("kept", [1, 2, 4, 100, 0.1, 0.5, 0.9, -200, -20, -1])
def test_a_truncated_file(tmp_path: Path, tiny_checkpoint: Path, kept: float) -> None:
    data = tiny_checkpoint.read_bytes()
    length = int(kept * len(data)) if isinstance(kept, float) else kept % len(data)
    path = tmp_path / "truncated.ckpt"
    path.write_bytes(data[:length])
    message = rf"truncated\.ckpt \({length} bytes\) cannot be read as a checkpoint: truncated or damaged\?"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "data",
    [b"\0", b".", b"j", b"sjX", b"\x80\x02.", b"\x80\x02X", b"hello", b"<html></html>", b"PK\x03\x04" + bytes(50)],
)
def test_a_file_of_something_else(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"other\.ckpt.* cannot be read as a checkpoint"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_random_bytes(tmp_path: Path) -> None:
    source, path = random.Random(0), tmp_path / "random.ckpt"
    for length in [1, 2, 3, 5, 10, 100, 1000] * 20:
        path.write_bytes(source.randbytes(length))
        with pytest.raises(CheckpointError, match=r"random\.ckpt"):
            load_checkpoint(path)


@pytest.mark.parametrize("value", [3, "text", [1, 2], None, {}, {"state_dict": {}}, {"weight": torch.ones(2)}])
def test_a_file_of_torch_without_a_description(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"plain\.ckpt is not a checkpoint of lipnet: it does not describe"):
        load_checkpoint(write(value, tmp_path / "plain.ckpt"))


@pytest.mark.parametrize("number", [0, 2, None, "1"])
def test_a_format_of_another_version(tmp_path: Path, content: dict[str, Any], number: Any) -> None:
    content["lipnet"]["format"] = number
    with pytest.raises(CheckpointError, match=f"has format {number}, this version of lipnet reads 1"):
        load_checkpoint(write(content, tmp_path / "other.ckpt"))


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("model", None, "does not describe its model"),
        ("model", "LipConvNet", "does not describe its model"),
        ("dataset", None, "does not describe its dataset"),
        ("dataset", {}, "does not describe its dataset"),
        ("dataset", ["digits"], "does not describe its dataset"),
    ],
)
def test_an_incomplete_description(
    tmp_path: Path, content: dict[str, Any], part: str, value: Any, message: str
) -> None:
    content["lipnet"][part] = value
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write(content, tmp_path / "bad.ckpt"))
    del content["lipnet"][part]
    with pytest.raises(CheckpointError, match=f"does not describe its {part}"):
        load_checkpoint(write(content, tmp_path / "bad.ckpt"))


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "no tensor"])
def test_weights_that_do_not_fit_the_model(tmp_path: Path, content: dict[str, Any], damage: str) -> None:
    state, name = content["state_dict"], "model.head.bias"
    if damage == "missing":
        del state[name]
    elif damage == "unexpected":
        state["model.head.scale"] = torch.ones(1)
    else:
        state[name] = torch.ones(3) if damage == "shape" else [1.0] * 10
    message = "holds weights that are not tensors" if damage == "no tensor" else "the weights do not fit .*: .*head"
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        load_checkpoint(write(content, tmp_path / "bad.ckpt"))


def test_an_error_while_saving_leaves_the_old_file(
    tiny_checkpoint: Path,
    other_model: nn.Module,
    tiny_config: dict[str, Any],
    digits_dataset: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def half_then_full_disk(content: object, file: BinaryIO) -> None:
        file.write(b"half of it")
        raise OSError("No space left on device")

    before = tiny_checkpoint.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half_then_full_disk)
        with pytest.raises(OSError, match="No space left"):
            save_checkpoint(tiny_checkpoint, other_model, tiny_config, digits_dataset)
    assert list(tiny_checkpoint.parent.iterdir()) == [tiny_checkpoint]
    assert tiny_checkpoint.read_bytes() == before
    save_checkpoint(tiny_checkpoint, other_model, tiny_config, digits_dataset)
    assert_same_state(load_checkpoint(tiny_checkpoint).model, other_model)
    assert list(tiny_checkpoint.parent.iterdir()) == [tiny_checkpoint]


def test_every_checkpoint_error_is_a_value_error() -> None:
    assert issubclass(CheckpointError, ValueError)


@pytest.mark.parametrize("value", [Path("data"), lambda image: image, {1, 2}, torch.zeros(1)])
def test_descriptions_are_plain(
    value: object, tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    with pytest.raises(TypeError, match=f"plain containers.* got {type(value).__name__}"):
        save_checkpoint(tmp_path / "new.ckpt", tiny_model, tiny_config, {**digits_dataset, "extra": value})
    assert not list(tmp_path.iterdir())


def stranger(path: Path, config: dict[str, Any], state: dict[Any, Any], version: str = "0.1.0") -> Path:
    """Write a file without `save_checkpoint`, as a stranger might."""
    description = {"format": 1, "version": version, "model": config, "dataset": {"name": "digits"}}
    return write({"state_dict": state, "lipnet": description}, path)


HUGE = {"_target_": "torch.nn.Linear", "in_features": 10**6, "out_features": 10**6}


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(2, 2), torch.zeros(1).expand(10**6, 10**6), torch.empty(10**6, 10**6, device="meta")],
    ids=["small", "expanded", "meta"],
)
def test_a_model_larger_than_its_weights_is_not_allocated(tmp_path: Path, weight: Tensor) -> None:
    path = stranger(tmp_path / "huge.ckpt", HUGE, {"model.weight": weight, "model.bias": torch.zeros(1).expand(10**6)})
    with pytest.raises(CheckpointError, match=r"huge\.ckpt cannot be loaded .* the weights do not fit the model"):
        load_checkpoint(path)


def test_a_model_of_millions_of_layers_is_not_built(tmp_path: Path) -> None:
    identity = {"_target_": "torch.nn.Identity", "_partial_": True}
    for conv in (identity, {"_target_": "lipnet.layers.SOC", "_partial_": True}):
        config = {"_target_": "lipnet.models.LipConvNet", "depth": 50_000, "stages": 5, "conv": conv}
        path = stranger(tmp_path / "deep.ckpt", config, {})
        with pytest.raises(CheckpointError, match="has more modules and parameters than its weights"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "weight", [torch.empty(10**9, device="meta"), torch.eye(2).to_sparse()], ids=["meta", "sparse"]
)
def test_weights_that_state_more_entries_than_the_file_holds_are_refused(tmp_path: Path, weight: Tensor) -> None:
    """They would let numbers in the configuration be as large."""
    config = {"_target_": "torch.nn.ConstantPad1d", "padding": 10**8, "value": 0.0}
    path = stranger(tmp_path / "meta.ckpt", config, {"model.weight": weight})
    with pytest.raises(CheckpointError, match="weight must be an ordinary tensor, got"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["TransformerEncoder", "modules.transformer.TransformerDecoder"])
def test_classes_that_copy_layers_are_not_built_for_strangers(tmp_path: Path, name: str) -> None:
    """Two levels of a thousand copies would make a million modules without a registration."""
    layer: dict[str, Any] = {"_target_": "torch.nn.Identity"}
    for _ in range(2):
        kind = name.rpartition(".")[2].removeprefix("Transformer").lower()
        layer = {"_target_": f"torch.nn.{name}", f"{kind}_layer": layer, "num_layers": 2}
    path = stranger(tmp_path / "copies.ckpt", {"_target_": "lipnet.layers.Residual", "body": layer}, {})
    with pytest.raises(
        CheckpointError, match=rf"torch\.nn\.{name} copies its layers, and may need any amount of memory"
    ):
        load_checkpoint(path)
    assert check_fit(layer, {}, ["torch.nn"]) == torch.float32


@pytest.mark.parametrize("key", [3, None, ("model", "weight"), b"model.weight"])
def test_names_of_weights_that_are_no_text_are_refused(tmp_path: Path, content: dict[str, Any], key: Any) -> None:
    content["state_dict"][key] = torch.ones(2)
    with pytest.raises(CheckpointError, match="names are not strings, got"):
        load_checkpoint(write(content, tmp_path / "bad.ckpt"))


@pytest.mark.parametrize("part", ["model", "dataset"])
def test_a_deep_description_is_one_clear_error(tmp_path: Path, content: dict[str, Any], part: str) -> None:
    inner: dict[str, Any] = {}
    for _ in range(150):
        inner = {"inner": inner}
    content["lipnet"][part]["inner"] = inner
    with pytest.raises(CheckpointError, match=r"bad\.ckpt cannot be read .* at most 100 levels deep"):
        load_checkpoint(write(content, tmp_path / "bad.ckpt"))


def test_an_unknown_option_names_the_version_that_wrote_it(tmp_path: Path, content: dict[str, Any]) -> None:
    content["lipnet"]["version"] = "7.0.0"
    content["lipnet"]["model"]["new_option"] = 1
    with pytest.raises(CheckpointError, match=r"cannot be loaded by lipnet .*, lipnet 7\.0\.0 wrote it: .*new_option"):
        load_checkpoint(write(content, tmp_path / "new.ckpt"))


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel, lambda model: torch.compile(nn.DataParallel(model))])
def test_wrappers_are_removed(
    wrap: Any, tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    path = tmp_path / "wrapped.ckpt"
    save_checkpoint(path, wrap(tiny_model), tiny_config, digits_dataset)
    assert_same_state(load_checkpoint(path).model, tiny_model)


def test_a_distributed_wrapper_is_removed(
    tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(tiny_model)
        save_checkpoint(tmp_path / "ddp.ckpt", wrapped, tiny_config, digits_dataset)
    finally:
        torch.distributed.destroy_process_group()
    assert_same_state(load_checkpoint(tmp_path / "ddp.ckpt").model, tiny_model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_the_dtype_comes_back(
    dtype: torch.dtype,
    tmp_path: Path,
    other_model: nn.Module,
    tiny_config: dict[str, Any],
    digits_dataset: dict[str, Any],
) -> None:
    model = other_model.to(dtype)
    save_checkpoint(tmp_path / "a.ckpt", model, tiny_config, digits_dataset)
    loaded = load_checkpoint(tmp_path / "a.ckpt").model
    assert_same_state(loaded, model)
    assert [buffer.dtype for buffer in loaded.buffers()] == [buffer.dtype for buffer in model.buffers()]


@pytest.mark.parametrize("fault", ["other model", "two dtypes", "compiled inside", "foreign class"])
def test_what_could_not_be_loaded_is_not_written(
    fault: str, tmp_path: Path, tiny_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    model, config = tiny_model, tiny_config
    if fault == "other model":
        model = nn.Linear(2, 2)
    elif fault == "two dtypes":
        model.head.double()  # type: ignore[operator, union-attr]
    elif fault == "compiled inside":
        model.stage1 = torch.compile(model.stage1)  # type: ignore[arg-type]
    else:
        config = {"_target_": "my_package.Net"}
    with pytest.raises(CheckpointError, match=r"new\.ckpt is not written, as it could not be read again: .*"):
        save_checkpoint(tmp_path / "new.ckpt", model, config, digits_dataset)
    assert not list(tmp_path.glob("new.ckpt*"))


@pytest.mark.parametrize("change", ["std", "padding", "activation", "addition"])
def test_a_model_that_was_changed_after_it_was_built_is_not_lost(
    change: str, tmp_path: Path, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    """The weights would fit, and the file would describe another function."""
    model = build_model(tiny_config)
    stage: Any = model.stage1
    if change == "std":
        model.normalize.std = 0.1  # type: ignore[union-attr, assignment]
    elif change == "padding":
        stage[0].spatial.padding_mode = "circular"
    elif change == "activation":
        stage[1] = nn.ReLU()
    else:
        model.add_module("last", nn.ReLU())
    named = {
        "std": r"normalize\.std is 0\.1 in place of 0\.3",
        "padding": r"stage1\.0\.spatial\.padding_mode is 'circular' in place of 'zeros'",
        "activation": r"stage1\.1 is ReLU in place of MaxMinPermuted",
        "addition": "last is ReLU in place of no module",
    }
    with pytest.raises(CheckpointError, match=f"is not the one that model_config describes: {named[change]}"):
        save_checkpoint(tmp_path / "new.ckpt", model, tiny_config, digits_dataset)
    assert not list(tmp_path.glob("new.ckpt*"))


@pytest.mark.parametrize("change", ["mean", "rounded mean", "other mean"])
def test_a_buffer_that_is_not_saved_is_not_lost(
    change: str, tmp_path: Path, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> None:
    model: Any = build_model(tiny_config)
    if change == "mean":
        model.normalize.mean += 0.25
    elif change == "rounded mean":
        model.half().float()
    else:
        model.normalize.mean = model.normalize.mean.repeat(1, 2, 2)
    with pytest.raises(CheckpointError, match=r"model_config describes: normalize\.mean has other values"):
        save_checkpoint(tmp_path / "new.ckpt", model, tiny_config, digits_dataset)
    assert not list(tmp_path.glob("new.ckpt*"))
    save_checkpoint(tmp_path / "half.ckpt", build_model(tiny_config).half(), tiny_config, digits_dataset)


def test_buffers_that_a_model_computes_are_compared_too(
    tmp_path: Path, digits_dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device they have no values, so the model is built once more."""
    (tmp_path / "counting_net.py").write_text(
        "import torch\nfrom torch import nn\nclass Net(nn.Linear):\n    def __init__(self):\n"
        "        super().__init__(2, 2)\n"
        "        self.register_buffer('places', torch.arange(3.0), persistent=False)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = {"_target_": "counting_net.Net"}
    model: Any = build_model(config, ["counting_net"])
    state = torch.get_rng_state()
    save_checkpoint(tmp_path / "new.ckpt", model, config, digits_dataset, ["counting_net"])
    assert torch.get_rng_state().equal(state)
    model.places[1] = 7
    with pytest.raises(CheckpointError, match=r"places has other values"):
        save_checkpoint(tmp_path / "other.ckpt", model, config, digits_dataset, ["counting_net"])


def test_numbers_that_the_weights_do_not_explain_are_refused(tmp_path: Path) -> None:
    """The network would make a list of so many means on the CPU."""
    config = {"_target_": "lipnet.models.LipConvNet", "depth": 5, "in_channels": 10**12}
    path = stranger(tmp_path / "long.ckpt", config, {})
    with pytest.raises(CheckpointError, match="it states the number 1000000000000, and the file holds 0 bytes"):
        load_checkpoint(path)


def test_numbers_of_trusted_packages_may_be_seeds() -> None:
    config = {"_target_": "torch.nn.Softplus", "beta": 10**12}
    assert check_fit(config, {}, ["trusted_net"]) == torch.float32
    with pytest.raises(ValueError, match="it states the number"):
        check_fit(config, {}, [])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"structure": "GSOFT", "block_size": 2, "factors": 50_000}, "factors must be from 1 to 64, got 50000"),
        ({"structure": "BOFT", "block_size": 2, "factors": 65}, "factors must be from 1 to 64, got 65"),
    ],
)
def test_adapters_of_many_factors_are_refused(tmp_path: Path, settings: dict[str, Any], problem: str) -> None:
    layer = {"_target_": "lipnet.layers.SOC", "_partial_": True}
    config = {"_target_": "lipnet.models.AdaptedConv", "in_channels": 4, "out_channels": 4, "layer": layer}
    path = stranger(tmp_path / "factors.ckpt", {**config, "adapter": settings}, {})
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(path)


def test_a_model_of_a_trusted_package_comes_back(
    tmp_path: Path, digits_dataset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trusted_net.py").write_text("from torch import nn\nclass Net(nn.Linear): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    config = {"_target_": "trusted_net.Net", "in_features": 2, "out_features": 3}
    model = build_model(config, trust=["trusted_net"])
    path = tmp_path / "trusted.ckpt"
    save_checkpoint(path, model, config, digits_dataset, trust=["trusted_net"])
    assert_same_state(load_checkpoint(path, trust=["trusted_net"]).model, model)
    with pytest.raises(CheckpointError, match=r"modules alone, got _target_ 'trusted_net\.Net'; trust="):
        load_checkpoint(path)


def test_building_elsewhere_is_not_limited_while_a_checkpoint_is_checked() -> None:
    """The limit on the number of layers holds in the thread that loads."""
    with _limited_parts(3), ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(lambda: nn.Sequential(*(nn.ReLU() for _ in range(9)))).result()) == 9
        with pytest.raises(ValueError, match="more modules and parameters"):
            nn.Sequential(*(nn.ReLU() for _ in range(9)))
    assert len(nn.Sequential(*(nn.ReLU() for _ in range(9)))) == 9
