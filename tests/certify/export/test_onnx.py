"""ONNX files: their results in onnxruntime, their metadata, and refusals."""

from __future__ import annotations

import json
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lipnet
from lipnet.certify import certify, export_onnx, lipschitz_bound
from lipnet.certify.export import onnx as onnx_file
from lipnet.functional.margins import certified_radius
from lipnet.layers import (
    BRO,
    GSSOC,
    LOT,
    SOC,
    BROLinear,
    Cayley,
    MaxMin,
    MaxMinPermuted,
    SOC1d,
    SOCLinear,
)
from lipnet.models import LipConvNet, build_model

Metadata = dict[str, Any]


def run(path: Path, x: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"input": x.numpy()})[0])


def network(padding_mode: str) -> LipConvNet:
    """A LipConvNet on 16 x 16 pixels with layers of all engines."""
    conv = partial(GSSOC, groups=(2, 4), padding_mode=padding_mode)
    return LipConvNet(
        10, depth=3, stages=3, initial_channels=16, conv=conv, activation=MaxMinPermuted, image_size=16, std=0.25
    ).eval()


@pytest.mark.cover(0)
@pytest.mark.slow
@pytest.mark.parametrize("padding_mode", ["zeros", "circular"])
def test_onnxruntime_computes_what_the_model_does_at_every_batch_size(tmp_path: Path, padding_mode: str) -> None:
    model = network(padding_mode)
    export_onnx(model, tmp_path / "model.onnx")
    model.double()
    for batch in (1, 2, 7, 32):
        x = torch.rand(batch, 3, 16, 16)
        with torch.no_grad():
            exact = model(x.double())
        torch.testing.assert_close(run(tmp_path / "model.onnx", x).double(), exact, rtol=0, atol=1e-4)
    stored = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(stored, full_check=True)
    assert {each.domain for each in stored.opset_import} == {""}


@pytest.mark.slow
def test_sequences(tmp_path: Path) -> None:
    model = nn.Sequential(SOC1d(2, 8, 5, stride=4), MaxMin(), nn.Flatten(), SOCLinear(128, 3)).eval()
    metadata = export_onnx(model, tmp_path / "model.onnx", input_shape=(2, 64), input_units="volts")
    assert (metadata["input_shape"], metadata["input_units"]) == ([2, 64], "volts")
    x = torch.randn(3, 2, 64)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_layers_in_the_frequency_domain(tmp_path: Path) -> None:
    layers = [Cayley(2, 8, stride=2, padding_mode="zeros"), MaxMin(), LOT(8, 4, groups=2), BRO(4, 4), Cayley(4, 4, 1)]
    model = nn.Sequential(*layers, nn.Flatten(), BROLinear(4 * 3 * 4, 5)).eval()
    metadata = export_onnx(model, tmp_path / "model.onnx", input_shape=(2, 6, 8))
    assert metadata["lipschitz_bound"] == 1.0
    x = torch.rand(3, 2, 6, 8)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=1e-5, atol=1e-5)


NAMES = [f"digit {number}" for number in range(10)]
FACTS = {"dataset": "digits", "seed": 0}


@pytest.fixture(scope="module")
def written(tiny_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, Metadata]:
    """The file of a tiny network, the network's bound, and the metadata that were returned."""
    path = tmp_path_factory.mktemp("exported") / "folder" / "model.onnx"
    model = build_model(tiny_config).eval()
    return path, lipschitz_bound(model), export_onnx(model, path, class_names=NAMES, facts=FACTS)


@pytest.mark.slow
def test_the_file_says_what_its_certificates_rest_on(written: tuple[Path, float, Metadata]) -> None:
    path, bound, metadata = written
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    texts = session.get_modelmeta().custom_metadata_map
    assert float(texts["lipschitz_bound"]) == bound
    assert metadata == {
        **FACTS,
        "lipschitz_bound": bound,
        "input_shape": [1, 8, 8],
        "input_units": "pixels in [0, 1]",
        "dtype": "float32",
        "num_classes": 10,
        "class_names": NAMES,
        "lipnet_version": lipnet.__version__,
    }
    assert {
        key: text if isinstance(metadata[key], str) else json.loads(text) for key, text in texts.items()
    } == metadata
    assert (session.get_inputs()[0].shape, session.get_outputs()[0].shape) == (["batch", 1, 8, 8], ["batch", 10])


@pytest.mark.slow
def test_the_file_names_no_path_and_no_code_of_lipnet(written: tuple[Path, float, Metadata]) -> None:
    content = written[0].read_bytes().replace(b"lipnet_version", b"")
    assert b"lipnet" not in content
    assert str(Path(torch.__file__).parent).encode() not in content


@pytest.mark.slow
def test_radii_from_the_file_alone(
    tmp_path: Path, trained_model: nn.Module, digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    images, labels = (each[:64] for each in digits)
    exact = certify(trained_model, images, labels)
    export_onnx(trained_model.float(), "~/model.onnx")
    texts = {each.key: each.value for each in onnx.load(tmp_path / "model.onnx").metadata_props}
    logits = run(tmp_path / "model.onnx", images.float())
    _, radius = certified_radius(logits.double(), float(texts["lipschitz_bound"]))
    torch.testing.assert_close(radius, exact.radius, rtol=0, atol=1e-5)


def test_a_missing_package_is_named_with_what_to_install(
    tmp_path: Path, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else find_spec(name))
    with pytest.raises(ImportError, match=r"needs onnxscript: pip install 'lipnet\[onnx\]'"):
        export_onnx(tiny_model, tmp_path / "model.onnx")


@pytest.mark.slow
def test_what_onnx_cannot_hold_is_refused(
    tmp_path: Path, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"must be in float32, which all runtimes have, got torch\.float64"):
        export_onnx(tiny_model.double(), tmp_path / "model.onnx")
    monkeypatch.setattr(onnx_file, "_LARGEST", 1000)
    with pytest.raises(ValueError, match="less than 2 GiB"):
        export_onnx(tiny_model.float(), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_no_file_that_computes_something_else(
    tmp_path: Path, tiny_model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Runtime:
        def __init__(self, content: bytes, providers: list[str]) -> None: ...

        def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
            x = torch.from_numpy(inputs["input"])
            return [(tiny_model(x) + 1e-2 * (len(x) > 2)).detach().numpy()]

    monkeypatch.setattr("onnxruntime.InferenceSession", Runtime)
    (tmp_path / "model.onnx").write_text("what was there before")
    with pytest.raises(ValueError, match=r"model\.onnx was not written: for a batch of 7 .* differ .* 1\.0e-02, more"):
        export_onnx(tiny_model, tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "what was there before"


@pytest.mark.slow
def test_no_coefficient_of_a_polynomial_is_taken_for_one(tmp_path: Path) -> None:
    conv = SOC(3, 16, engine="series", eval_tolerance=1e-5)
    lowest = conv.eval().prepared().series.coefficients[0]
    assert 1e-6 < abs(lowest - 1) < 1e-5
    model = nn.Sequential(conv, nn.Flatten()).eval()
    export_onnx(model, tmp_path / "model.onnx", input_shape=(3, 12, 12))
    x = torch.rand(3, 3, 12, 12)
    received = run(tmp_path / "model.onnx", x).double()
    with torch.no_grad():
        torch.testing.assert_close(received, model.double()(x.double()), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_a_circular_layer_by_the_series(tmp_path: Path) -> None:
    conv = SOC(3, 8, padding_mode="circular", engine="series")
    model = nn.Sequential(conv, MaxMin(), nn.Flatten(), SOCLinear(8 * 12 * 9, 4)).eval()
    export_onnx(model, tmp_path / "model.onnx", input_shape=(3, 12, 9))
    x = torch.rand(3, 3, 12, 9)
    torch.testing.assert_close(run(tmp_path / "model.onnx", x), model(x).detach(), rtol=1e-5, atol=1e-5)
