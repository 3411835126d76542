"""Certification computes in IEEE arithmetic, and leaves the process's settings alone."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import certify, lipschitz_bound, logit_bounds
from lipnet.certify.arithmetic import dot_product_arithmetic, ieee_arithmetic
from lipnet.functional import spectral_norm_bound
from lipnet.functional.rounding_error import Signal, Step, exact
from lipnet.layers import LipschitzModule, Residual

CPU = torch.device("cpu")
SWITCHES = {
    "cuda.matmul": torch.backends.cuda.matmul,
    "cudnn.conv": torch.backends.cudnn.conv,
    "mkldnn.matmul": torch.backends.mkldnn.matmul,
    "mkldnn.conv": torch.backends.mkldnn.conv,
}


def settings() -> dict[str, str]:
    return {name: switch.fp32_precision for name, switch in SWITCHES.items()}


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = settings()
    yield
    for name, switch in SWITCHES.items():
        switch.fp32_precision = before[name]


@pytest.fixture(params=["as it is", "tf32", "mixed"])
def outside(request: pytest.FixtureRequest) -> dict[str, str]:
    """Set the switches of the process to some values, and return them."""
    chosen = {
        "as it is": settings(),
        "tf32": dict.fromkeys(SWITCHES, "tf32"),
        "mixed": {"cuda.matmul": "tf32", "cudnn.conv": "none", "mkldnn.matmul": "bf16", "mkldnn.conv": "ieee"},
    }[request.param]
    for name, switch in SWITCHES.items():
        switch.fp32_precision = chosen[name]
    assert settings() == chosen
    return chosen


def test_ieee_inside_and_as_before_outside(outside: dict[str, str]) -> None:
    with ieee_arithmetic(CPU):
        assert settings() == dict.fromkeys(SWITCHES, "ieee")
    assert settings() == outside


def test_as_before_after_an_exception(outside: dict[str, str]) -> None:
    with pytest.raises(RuntimeError, match="from inside"), ieee_arithmetic(CPU):
        raise RuntimeError("from inside")
    assert settings() == outside
    assert not torch.is_autocast_enabled("cpu")


def test_the_older_way_to_set_precision_is_left_as_it_was() -> None:
    torch.set_float32_matmul_precision("medium")
    with ieee_arithmetic(CPU):
        assert settings() == dict.fromkeys(SWITCHES, "ieee")
    assert torch.get_float32_matmul_precision() == "medium"
    torch.set_float32_matmul_precision("highest")


def test_autocast_is_off_inside_and_on_again_outside() -> None:
    matrix = torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with ieee_arithmetic(CPU):
            assert (matrix @ matrix).dtype == torch.float32
        assert (matrix @ matrix).dtype == torch.bfloat16


class Witness(LipschitzModule):
    """Flatten layer that records the settings and the autocast of its call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, str]] = []
        self.autocast: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(settings())
        self.autocast.append(torch.is_autocast_enabled("cpu"))
        return x.flatten(1)

    def lipschitz_bound(self) -> float:
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal)


@pytest.mark.usefixtures("outside")
def test_certify_runs_the_model_so() -> None:
    witness = Witness().eval()
    certify(witness, torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), batch_size=2)
    # For the bounds, twice for the shapes of the maps, module by module and together, and for two images together, and
    # one by one; for each of two batches; and for the bounds again, because the module is not lipnet's.
    assert witness.seen == (5 + 2 + 5) * [dict.fromkeys(SWITCHES, "ieee")]


def test_autocast_around_certify_changes_nothing(tiny_model: nn.Module) -> None:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(4, dtype=torch.int64)
    expected = certify(tiny_model, images, labels, ignore_rounding=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        received = certify(tiny_model, images, labels, ignore_rounding=True)
    assert received.radius.equal(expected.radius)
    assert (expected.radius > 0).all()


def test_autocast_is_off_where_the_model_runs() -> None:
    witness = Witness()
    model = nn.Sequential(witness, nn.Linear(4, 2)).double().eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        certify(model, torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.int64))
    assert witness.autocast
    assert not any(witness.autocast)


class Product(LipschitzModule):
    """Multiplication by A^2, whose bound rests on a product that torch's settings may round."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
        self.seen: list[dict[str, str]] = []

    def matrix(self) -> Tensor:
        return self.weight @ self.weight

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix().mT

    def lipschitz_bound(self) -> float:
        self.seen.append(settings())
        return spectral_norm_bound(self.matrix())


@pytest.mark.usefixtures("outside")
def test_bounds_are_computed_in_the_arithmetic_of_the_logits() -> None:
    model = nn.Sequential(nn.Sequential(Product()), nn.ReLU()).eval()
    exact_bound = lipschitz_bound(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert lipschitz_bound(model) == exact_bound == logit_bounds(model).lipschitz
    assert model[0][0].seen == 3 * [dict.fromkeys(SWITCHES, "ieee")]


def diagonal(value: float) -> nn.Linear:
    layer = nn.Linear(2, 2, bias=False, dtype=torch.float64)
    # Not a product, which would be flushed, too.
    layer.weight = nn.Parameter(torch.tensor([[value, 0.0], [0.0, value]], dtype=torch.float64))
    return layer


@pytest.fixture
def flushing() -> Iterator[None]:
    """Let torch count numbers below the normal range as 0."""
    assert torch.set_flush_denormal(True)
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("flushing")
def test_weights_that_torch_flushes_to_zero_count_in_bounds() -> None:
    tiny, huge = 2.0**-1030, 2.0**1020
    model = nn.Sequential(Residual(nn.Sequential(diagonal(tiny), diagonal(huge)), 1.0, 1024.0)).eval()
    assert lipschitz_bound(model) >= logit_bounds(model).lipschitz >= 2


@pytest.mark.usefixtures("flushing")
def test_flushing_is_off_inside_and_on_again_outside() -> None:
    below = torch.tensor(2.0**-1030, dtype=torch.float64)
    with ieee_arithmetic(CPU):
        assert bool(below * 1.0 > 0)
        with ieee_arithmetic(CPU):
            pass
        assert bool(below * 1.0 > 0)
    assert not bool(below * 1.0 > 0)
    with pytest.raises(RuntimeError, match="from inside"), ieee_arithmetic(CPU):
        raise RuntimeError("from inside")
    assert not bool(below * 1.0 > 0)


def test_bounds_are_computed_alone_where_torchs_other_threads_flush() -> None:
    """A thread's mode is inherited by the workers that torch starts for it, and cannot be changed there."""
    model = nn.Sequential(nn.Linear(600, 600, bias=False, dtype=torch.float64)).eval()
    model[0].weight = nn.Parameter(torch.full((600, 600), 2.0**-1060, dtype=torch.float64))
    found: dict[str, float] = {}

    def with_flushing_workers() -> None:
        torch.set_num_threads(2)
        torch.set_flush_denormal(True)
        torch.rand(2**20).exp()  # starts the workers
        torch.set_flush_denormal(False)
        with ieee_arithmetic(CPU):
            found["inside"] = torch.get_num_threads()
        found["outside"] = torch.get_num_threads()
        found["bound"] = lipschitz_bound(model)

    before = torch.get_num_threads()
    thread = threading.Thread(target=with_flushing_workers)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert (found["inside"], found["outside"]) == (1, 2)
    exact = 600 * 2.0**-1060
    # `lipnet.functional.rounding.BELOW_NORMAL` is 64 of the smallest numbers.
    assert exact <= found["bound"] <= exact * (1 + 1e-5)


def libraries() -> tuple[bool, bool]:
    return torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled


@pytest.mark.parametrize("enabled", [True, False])
def test_convolutions_are_sums_of_products_inside_and_as_before_outside(
    enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", enabled)
    before = libraries()
    with dot_product_arithmetic(CPU):
        assert libraries() == (False, False)
        assert settings() == dict.fromkeys(SWITCHES, "ieee")
    assert libraries() == before
    with pytest.raises(RuntimeError, match="from inside"), dot_product_arithmetic(CPU):
        raise RuntimeError("from inside")
    assert libraries() == before == (torch.backends.cudnn.enabled, enabled)


@pytest.mark.parametrize(
    "options",
    [{"padding": 1}, {"padding": 1, "groups": 4}, {"groups": 8}, {"stride": 2}, {"dilation": 2}],
    ids=str,
)
def test_float64_convolutions_are_matrix_products_of_patches(options: dict[str, int]) -> None:
    """Torch's own operator, by patches as columns of a matrix: the assumption under which rounding is bounded."""
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    weight = torch.randn(8, 8 // options.get("groups", 1), 3, 3, dtype=torch.float64)
    with dot_product_arithmetic(CPU), torch.profiler.profile() as profile:
        torch.nn.functional.conv2d(x, weight, **options)
    operators = {event.key for event in profile.key_averages()}
    assert operators & {"aten::_slow_conv2d_forward", "aten::slow_conv_dilated2d"}
    assert not any("mkldnn" in name or "cudnn" in name or "winograd" in name.lower() for name in operators)
