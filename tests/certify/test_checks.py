"""Models that compute something else than their classes declare: each is refused by name, or has a correct bound."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from lipnet.certify import (
    Rule,
    Signal,
    Step,
    certify,
    explicit_arithmetic,
    export_program,
    lipschitz_bound,
    logit_bounds,
    rounding_bounds,
    rule,
    rules,
)
from lipnet.certify.rules import Children, bound_of
from lipnet.functional.rounding_error import exact
from lipnet.layers import (
    GSSOC,
    SOC,
    LipschitzModule,
    MaxMin,
    MirrorAverage,
    Normalize,
    NormalizedLinear,
    Residual,
    ScaledConv2d,
    SOCLinear,
)
from lipnet.layers.estimated import estimated_scales
from lipnet.layers.explicit import explicit_products
from lipnet.layers.originals import WatchedModule
from lipnet.layers.scaling import Scaling
from lipnet.models import LipConvNet
from lipnet.structured import OrthogonalMap, StructuredOrthogonal, oft
from lipnet.training import CertifiedClassifier
from tests.mutation.planting import lipnet_modules

IN_PLACE = {
    "slope": lambda: Residual(nn.LeakyReLU(10.0, inplace=True), skip=1.0, branch=1e-9),
    "behind a view": lambda: Residual(nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))),
    "nested": lambda: nn.Sequential(Residual(nn.Sequential(nn.Linear(4, 4), Residual(nn.ReLU(inplace=True))))),
    "inside a layer of one's own": lambda: Twice(nn.ReLU(inplace=True)),
}


class Twice(LipschitzModule):
    """x + f(x), which reads x twice."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x

    def lipschitz_bound(self) -> float:
        return 2.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal, 2.0)


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_modules_are_refused_where_their_input_is_read_again(name: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \((LeakyReLU|ReLU)\) works in place on an input .* use inplace=False"):
        lipschitz_bound(IN_PLACE[name]().eval())


def test_in_place_modules_in_a_chain_are_certified_and_leave_the_images_alone() -> None:
    model = nn.Sequential(nn.LeakyReLU(10.0, inplace=True), nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(4, 2))
    images = torch.rand(3, 1, 2, 2, dtype=torch.float64) * 0.5
    before = images.clone()
    model = model.double().eval()
    assert (certify(model, images, [0, 1, 0]).radius >= 0).all()
    assert images.equal(before)


class Overwriting(LipschitzModule):
    """Module that doubles its input in place, without an attribute that tells."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)

    def lipschitz_bound(self) -> float:
        return 2.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal, 2.0)


def test_a_body_that_modifies_its_input_without_saying_so_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), Residual(Overwriting())).double().eval()
    with pytest.raises(ValueError, match=r"1\.body \(Overwriting\) modifies its input"):
        rounding_bounds(model, (1, 2, 2))


@pytest.fixture
def circular() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(SOC(2, 2, padding_mode="circular"), nn.Flatten(), nn.Linear(32, 3)).double().eval()


def flags() -> tuple[bool, ...]:
    return torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled


def seen_in_turn(
    first: AbstractContextManager[None], second: AbstractContextManager[None], see: Callable[[], Any]
) -> Any:
    """Enter the second context in a thread while another one is in the first.

    Returns what each thread sees inside, in the order in which they were done: a list of names and views.
    """
    inside, leave, seen = threading.Event(), threading.Event(), []

    def hold() -> None:
        with first:
            inside.set()
            leave.wait(10)
            seen.append(("first", see()))

    def follow() -> None:
        with second:
            seen.append(("second", see()))

    threads = [threading.Thread(target=hold), threading.Thread(target=follow)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    threads[1].join(0.3)
    leave.set()
    for thread in threads:
        thread.join()
    return seen


def test_one_thread_at_a_time_computes_certificates(circular: nn.Module) -> None:
    before = flags()
    seen = seen_in_turn(explicit_arithmetic(circular), explicit_arithmetic(circular), lambda: circular[0].explicit)
    assert seen == [("first", True), ("second", True)]
    assert flags() == before
    assert not circular[0].explicit


@pytest.mark.parametrize(
    ("context", "view"),
    [
        pytest.param(explicit_products, (True, False), id="explicit_products"),
        pytest.param(estimated_scales, (False, True), id="estimated_scales"),
    ],
)
def test_layers_compute_in_one_way_until_their_logits_are_complete(
    circular: nn.Module, context: Callable[[nn.Module], AbstractContextManager[None]], view: tuple[bool, bool]
) -> None:
    layer = circular[0]
    seen = seen_in_turn(
        context(circular), explicit_arithmetic(circular), lambda: (layer.explicit, bool(layer.estimated))
    )
    assert seen == [("first", view), ("second", (True, False))]
    assert not layer.explicit
    assert not layer.estimated


def test_a_layer_that_leaves_explicit_arithmetic_meanwhile_is_an_error(circular: nn.Module) -> None:
    with pytest.raises(RuntimeError, match="explicit was changed"), explicit_arithmetic(circular):
        circular[0].explicit = False
    assert not circular[0].explicit


def test_certificates_of_three_threads_are_those_of_one(circular: nn.Module) -> None:
    images, labels = torch.rand(8, 2, 4, 4, dtype=torch.float64), torch.zeros(8, dtype=torch.int64)
    expected, before, results = certify(circular, images, labels).radius, flags(), []

    def work() -> None:
        results.extend(certify(circular, images, labels, batch_size=8).radius for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 15
    assert all(radius.equal(expected) for radius in results)
    assert flags() == before


def test_settings_and_model_are_restored_after_an_exception(circular: nn.Module) -> None:
    before = flags()
    with pytest.raises(KeyboardInterrupt), explicit_arithmetic(circular):
        raise KeyboardInterrupt
    assert flags() == before
    assert not circular[0].explicit
    with explicit_arithmetic(circular):
        pass


def test_settings_that_another_thread_changes_meanwhile_are_an_error(circular: nn.Module) -> None:
    before = flags()
    with pytest.raises(RuntimeError, match="enabled was changed by another thread"), explicit_arithmetic(circular):
        torch.backends.mkldnn.enabled = True
    assert flags() == before


def tenfold(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *arguments, **settings: 10 * forward(*arguments, **settings)


@pytest.mark.parametrize(
    "name", ["forward", "_call_impl", "_compiled_call_impl", "_wrapped_call_impl", "lipschitz_bound"]
)
def test_a_call_of_an_instance_s_own_is_refused(name: str) -> None:
    model = nn.Sequential(nn.Flatten(), NormalizedLinear(4, 2)).eval()
    setattr(model[1], name, tenfold(model[1].forward))
    with pytest.raises(ValueError, match=rf"1 \(NormalizedLinear\) has a {name} of its own"):
        lipschitz_bound(model)


def test_compiled_modules_are_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=r"compiled by torch\.compile.*_orig_mod"):
        certify(torch.compile(model.double(), backend="eager"), torch.rand(1, 1, 2, 2), [0])
    model[1].compile(backend="eager")
    with pytest.raises(ValueError, match=r"1 \(Linear\) has a _compiled_call_impl of its own"):
        lipschitz_bound(model)


BOUNDED = [
    (SOC, (2, 2)),
    (SOCLinear, (2, 2)),
    (GSSOC, (4, 4, 3, 1, "same", 1, (2, None))),
    (NormalizedLinear, (2, 2)),
    (Normalize, ([0.0], 1.0)),
    (MaxMin, ()),
]


@pytest.mark.parametrize("call", ["forward", "__call__", "_call_impl"])
@pytest.mark.parametrize(("base", "arguments"), BOUNDED, ids=lambda value: getattr(value, "__name__", ""))
def test_a_call_that_is_overridden_below_the_bound_is_refused(
    base: type[nn.Module], arguments: tuple[Any, ...], call: str
) -> None:
    hot = type("Hot", (base,), {call: tenfold(getattr(base, call))})
    with pytest.raises(ValueError, match=rf"the model \(Hot\) overrides {call} below the class that defines \w+\(\)"):
        lipschitz_bound(hot(*arguments).eval())
    bounded = type("Bounded", (hot,), {"lipschitz_bound": lambda self: 10.0, "children_in_order": lambda self: None})
    ready = {name: getattr(base, name) for name in ("rounding_step", "pairwise_lipschitz")}
    assert lipschitz_bound(type("Ready", (bounded,), ready)(*arguments).eval()) == 10.0


@pytest.mark.parametrize("answer", ["rounding_step", "pairwise_lipschitz"])
def test_no_answer_of_another_function_is_taken(answer: str) -> None:
    names = {"lipschitz_bound", "rounding_step", "pairwise_lipschitz"} - {answer}
    own = {name: getattr(NormalizedLinear, name) for name in names}
    hot = type("Hot", (NormalizedLinear,), {"forward": tenfold(NormalizedLinear.forward), **own})
    with pytest.raises(ValueError, match=rf"overrides forward below the class that defines {answer}\(\)"):
        logit_bounds(hot(2, 2).eval())


def test_an_abstract_class_may_leave_forward_to_the_class_below() -> None:
    class Abstract(LipschitzModule):
        def lipschitz_bound(self) -> float:
            return 0.5

    class Half(Abstract):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    assert lipschitz_bound(Half().eval()) == 0.5


@pytest.mark.parametrize("call", ["forward", "__call__", "__iter__"])
@pytest.mark.parametrize("base", [nn.Sequential, LipConvNet])
def test_a_sequential_that_runs_in_another_way_is_refused(base: type[nn.Sequential], call: str) -> None:
    loud = type("Loud", (base,), {call: tenfold(getattr(base, call))})
    model = (
        loud(nn.Flatten()) if base is nn.Sequential else loud(3, depth=1, stages=1, image_size=2, initial_channels=4)
    )
    message = r"the model \(Loud\) (has no rule|has no Lipschitz bound|overrides (forward|__call__) below the class)"
    with pytest.raises((TypeError, ValueError), match=message):
        lipschitz_bound(model.eval())


def test_a_class_that_was_changed_after_its_rule_was_made_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: 10 * x)
    with pytest.raises(ValueError, match=r"0 \(ReLU\): the class was changed after its rule was registered"):
        lipschitz_bound(nn.Sequential(nn.ReLU()).eval())


@pytest.mark.parametrize(
    ("owner", "name", "value", "message"),
    [
        (nn.Conv2d, "_conv_forward", tenfold(nn.Conv2d._conv_forward), r"Conv2d\): the class was .*_conv_forward"),
        (nn.Conv2d, "weight", property(lambda self: 10 * self._parameters["weight"]), r"Conv2d\): .*Conv2d\.weight"),
        (SOC, "forward", tenfold(SOC.forward), r"1 \(SOC\): SOC\.forward was replaced"),
        (MaxMin, "forward", tenfold(MaxMin.forward), r"2 \(MaxMin\): \w+\.forward was replaced"),
        (Scaling, "scaled", tenfold(Scaling.scaled), r"1\.scaling \(JacobianScaling\): Scaling\.scaled was replaced"),
        (StructuredOrthogonal, "forward", tenfold(StructuredOrthogonal.forward), r"StructuredOrthogonal\.forward was"),
        (nn.Module, "_call_impl", tenfold(nn.Module._call_impl), r"\._call_impl"),
    ],
    ids=["helper", "property", "layer", "activation", "scaling", "matrix", "every module"],
)
def test_code_that_was_replaced_at_runtime_is_refused(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, value: Any, message: str
) -> None:
    turned = OrthogonalMap(oft(4, block_size=2))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), SOC(4, 4), MaxMin(), turned, nn.Flatten()).double().eval()
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, value, raising=False)
        with pytest.raises(ValueError, match=message):
            certify(model, images, [0, 1])
    assert certify(model, images, [0, 1]).radius.shape == (2,)


def test_methods_that_were_replaced_before_a_subclass_was_defined_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOC, "_forward", tenfold(SOC._forward))
    Late = type("Late", (SOC,), {"__init_subclass__": classmethod(lambda cls: None)})
    Later = type("Later", (Late,), {})
    for cls in (Late, Later):
        with pytest.raises(ValueError, match=rf"{cls.__name__}\): SOC\._forward was replaced"):
            lipschitz_bound(cls(2, 2).eval())


def test_every_module_in_certified_networks_has_a_rule_or_is_watched() -> None:
    packages = ("lipnet.layers.", "lipnet.models.", "lipnet.structured.orthogonal")
    classes = [
        value
        for module in lipnet_modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__.startswith(packages)
    ]
    assert len(set(classes)) > 40
    assert {each for each in classes if not issubclass(each, WatchedModule)} == {MirrorAverage, Residual}


def test_methods_of_one_s_own_may_be_replaced_or_added(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(SOC):
        def note(self) -> int:
            return 1

    monkeypatch.setattr(Own, "note", lambda self: 2)
    assert lipschitz_bound(Own(2, 2).eval()) >= 1


def test_weights_that_torch_keeps_for_its_parametrizations_are_refused() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1)), nn.Flatten()).double().eval()
    with nn.utils.parametrize.cached(), pytest.raises(ValueError, match=r"0: parametrize.cached\(\) is active"):
        lipschitz_bound(model)
    assert lipschitz_bound(model) > 0


@pytest.mark.parametrize("register", [register_module_forward_hook, register_module_forward_pre_hook])
def test_global_hooks_are_refused(register: Callable[..., Any]) -> None:
    handle = register(lambda *arguments: None)
    try:
        with pytest.raises(ValueError, match="global forward hooks"):
            lipschitz_bound(nn.ReLU().eval())
    finally:
        handle.remove()
    assert lipschitz_bound(nn.ReLU().eval()) == 1.0


class SteeperFunctions(TorchFunctionMode):
    """Scale what every linear layer returns."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return 100 * result if func is torch.nn.functional.linear else result


class SteeperOperators(TorchDispatchMode):
    """Scale what the operator of linear layers returns."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return 100 * result if func is torch.ops.aten.addmm.default else result


@pytest.mark.parametrize("mode", [SteeperFunctions, SteeperOperators])
def test_modes_that_may_change_every_operation_are_refused(mode: Callable[[], Any]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().eval()
    for answer in (lipschitz_bound, logit_bounds, lambda model: certify(model, torch.rand(2, 1, 2, 2), [0, 0])):
        with mode(), pytest.raises(ValueError, match=f"{mode.__name__} is active, a mode of torch"):
            answer(model)
        answer(model)


def test_a_default_device_is_no_mode_that_changes_operations() -> None:
    with torch.device("cpu"):
        assert lipschitz_bound(nn.ReLU().eval()) == 1.0


def test_exchanged_parts_are_bounded_by_what_they_are_now() -> None:
    layer = GSSOC(2, 2, 1, groups=(1, None))
    layer.spatial = nn.Conv2d(2, 2, 1, bias=False)
    with torch.no_grad():
        layer.spatial.weight.copy_(10 * torch.eye(2)[:, :, None, None])
    assert 10 <= lipschitz_bound(layer.double().eval()) <= 10 * (1 + 1e-9)
    layer.spatial = nn.Mish()
    with pytest.raises(TypeError, match=r"spatial \(Mish\) has no rule"):
        lipschitz_bound(layer.eval())


class Listing(LipschitzModule):
    """Module that lists a child without running it."""

    def __init__(self) -> None:
        super().__init__()
        self.run, self.unused = nn.Linear(4, 2), nn.LeakyReLU(1e-3)
        self.zero = nn.Linear(2, 2)
        nn.init.zeros_(self.zero.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)

    def children_in_order(self) -> list[tuple[str, nn.Module]]:
        return list(self.named_children())


def test_children_that_are_listed_but_do_not_run_are_noticed() -> None:
    model = nn.Sequential(nn.Flatten(), Listing()).double().eval()
    with pytest.raises(ValueError, match="computes something else than its modules do one after another"):
        rounding_bounds(model, (1, 2, 2))


class Forgetting(LipschitzModule):
    """Block with a shrinking convolution that it runs in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.shrink, self.activation = nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()
        nn.init.constant_(self.shrink.weight, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.shrink(x) if self.training else x)
        return out

    def children_in_order(self) -> list[tuple[str, nn.Module]]:
        return list(self.named_children())


class Mean(nn.Module):
    """A module of somebody else: the mean of two branches."""

    def __init__(self, one: nn.Module, other: nn.Module) -> None:
        super().__init__()
        self.one, self.other = one, other

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (self.one(x) + self.other(x)) / 2
        return out


@rule(Mean)
class _Mean(Rule):
    def parts(self, module: nn.Module) -> Children:
        return list(module.named_children())

    def lipschitz(self, module: nn.Module, *parts: float) -> float:
        return sum(parts)

    def rounding(self, module: nn.Module, signal: Signal, shape: tuple[int, ...], *parts: Step) -> Step:
        return exact(signal, sum(part.gain for part in parts))


FORGETTING = {
    "chain": Forgetting,
    "Residual": lambda: Residual(Forgetting()),
    "chain in Residual": lambda: Residual(nn.Sequential(Forgetting(), nn.ReLU())),
    "Residual in Residual": lambda: Residual(Residual(Forgetting())),
    "own rule": lambda: Mean(nn.ReLU(), Forgetting()),
}


def forgetting(name: str, dtype: torch.dtype) -> nn.Module:
    return nn.Sequential(FORGETTING[name](), nn.Flatten(), nn.Linear(4, 2)).to(dtype).eval()


@pytest.mark.parametrize("name", FORGETTING)
def test_children_of_a_part_that_do_not_run_are_noticed(name: str) -> None:
    message = r"(the model|\(\w+\)) computes something else than its modules do one after another"
    images, labels = torch.rand(3, 1, 2, 2), [0, 1, 0]
    with pytest.raises(ValueError, match=message):
        certify(forgetting(name, torch.float64), images.double(), labels)
    with pytest.raises(ValueError, match=message):
        certify(forgetting(name, torch.float32), images, labels, ignore_rounding=True)


@pytest.mark.parametrize("name", ["chain", "Residual"])
def test_evaluations_and_exports_notice_children_that_do_not_run(name: str, tmp_path: Path) -> None:
    module = CertifiedClassifier(forgetting(name, torch.float32), num_classes=2)
    loader = DataLoader(TensorDataset(torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 0, 1])), batch_size=2)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    for evaluate in (trainer.test, trainer.predict):
        with pytest.raises(ValueError, match="computes something else than its modules do one after another"):
            evaluate(module, loader)
    with pytest.raises(ValueError, match="computes something else than its modules do one after another"):
        export_program(forgetting(name, torch.float32), tmp_path / "model.pt2", input_shape=(1, 2, 2))
    assert not (tmp_path / "model.pt2").exists()


def other_weight(make: Callable[[], nn.Module], *shape: int) -> nn.Module:
    module = make()
    module.weight = nn.Parameter(torch.ones(shape))
    return module


STALE = {
    "kernel": lambda: other_weight(lambda: nn.Conv2d(4, 4, 1, padding=1, bias=False), 4, 4, 3, 3),
    "channels": lambda: other_weight(lambda: nn.Conv2d(4, 4, 1), 8, 4, 1, 1),
    "groups": lambda: other_weight(lambda: nn.Conv2d(4, 4, 1, groups=2), 4, 4, 1, 1),
    "features": lambda: other_weight(lambda: nn.Linear(4, 4), 4, 3),
    "bias": lambda: other_weight(lambda: nn.Linear(4, 1), 3, 4),
}


@pytest.mark.parametrize("name", STALE)
def test_attributes_that_contradict_the_weight_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"0: \w+ has attributes for a weight of shape .*, got a weight of shape"):
        lipschitz_bound(nn.Sequential(STALE[name]()).eval())


def test_circular_padding_is_read_where_the_convolution_reads_it() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular").eval()
    layer._reversed_padding_repeated_twice = (2, 2, 2, 2)
    with pytest.raises(ValueError, match="repeats pixels"):
        lipschitz_bound(layer)


def test_a_layer_may_check_itself() -> None:
    class Checked(MaxMin):
        def check(self) -> None:
            raise ValueError("pairs must be 2, got 3")

    with pytest.raises(ValueError, match=r"0 \(Checked\): pairs must be 2, got 3"):
        lipschitz_bound(nn.Sequential(Checked()).eval())


def test_a_layer_s_own_check_does_not_replace_that_of_its_base_class() -> None:
    class Checked(ScaledConv2d):
        def check(self) -> None:
            pass

    layer = Checked(4, 4, padding_mode="circular").eval()
    layer.padding = (2, 2)
    with pytest.raises(ValueError, match="circular padding must be 'same'"):
        lipschitz_bound(layer)


class Scaled(Tensor):
    """Tensor subclass with other products than its entries have."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        return super().__torch_function__(function, types, arguments, options or {})


@pytest.mark.parametrize("kind", ["complex", "subclass", "buffer", "sparse"])
def test_weights_that_are_no_plain_real_tensors_are_refused(kind: str) -> None:
    layer = nn.Linear(2, 2, bias=False, dtype=torch.complex128 if kind == "complex" else None)
    if kind == "subclass":
        layer.weight = nn.Parameter(torch.eye(2).as_subclass(Scaled))
    elif kind == "sparse":
        layer.weight = nn.Parameter(torch.eye(2).to_sparse())
    elif kind == "buffer":
        layer.register_buffer("scale", torch.eye(2).as_subclass(Scaled))
    with pytest.raises(ValueError, match=r"0 \(Linear\) has (weight|scale) of (dtype torch\.complex128|type \w+)"):
        lipschitz_bound(nn.Sequential(layer).eval())


@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), lambda: ScaledConv2d(2, 2), lambda: SOC(2, 2)])
def test_weights_without_values_are_refused(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"0 \(\w+\) has (weight|bias) on the meta device, without values; load"):
        lipschitz_bound(nn.Sequential(make()).to("meta").eval())


@pytest.mark.parametrize(
    "value", [nan, (1.0, nan), np.float32(nan), torch.tensor(nan)], ids=["float", "tuple", "numpy", "tensor"]
)
@pytest.mark.parametrize(
    ("make", "name"), [(nn.LeakyReLU, "negative_slope"), (lambda: Residual(nn.ReLU()), "branch"), (MaxMin, "eps")]
)
def test_settings_that_are_no_numbers_are_refused(make: Callable[[], nn.Module], name: str, value: Any) -> None:
    module = make().eval()
    setattr(module, name, value)
    with pytest.raises(ValueError, match=rf"has the setting {name}=.*nan.*numbers are needed"):
        lipschitz_bound(module)


@pytest.mark.parametrize("make", [nn.LeakyReLU, nn.ELU])
@pytest.mark.parametrize("kind", [float, np.float32, torch.tensor])
def test_a_slope_that_is_no_number_has_no_bound(make: Callable[..., nn.Module], kind: Callable[[float], Any]) -> None:
    """max(1, nan) is 1: the rule itself must not take the slope for a small one."""
    with pytest.raises(ValueError, match=r"must be at least 0, got nan"):
        bound_of("", make(kind(nan)).eval())


class Answering(LipschitzModule):
    """Module that returns the given bounds."""

    def __init__(self, bound: float, error: float = 0.0) -> None:
        super().__init__()
        self.answers = {"bound": bound, "error": error}

    def forward(self, x: Tensor) -> Tensor:
        return x

    def lipschitz_bound(self) -> float:
        return self.answers["bound"]

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return exact(signal)._replace(error=self.answers["error"])


@pytest.mark.parametrize("answer", [-5.0, -inf, nan])
def test_bounds_that_are_none_are_refused(answer: float) -> None:
    with pytest.raises(ValueError, match=rf"bound of 0 \(Answering\) must be at least 0, got {answer}"):
        lipschitz_bound(nn.Sequential(Answering(answer)).eval())
    with pytest.raises(ValueError, match=r"rounding of 0 \(Answering\) must be at least 0, got Step\("):
        rounding_bounds(nn.Sequential(Answering(1.0, answer)).eval(), (1, 2, 2))


@pytest.mark.parametrize("module", [nn.Flatten(0, 1), nn.Flatten(-4, -3)], ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_modules_that_mix_the_images_of_a_batch_are_refused(module: nn.Module, count: int) -> None:
    model = nn.Sequential(module, nn.Flatten(), nn.Linear(4, 3)).double().eval()
    with pytest.raises(
        ValueError, match=r"start_dim 0|0 \(Flatten\) must keep the first dimension, .* got \(6, 2, 2\) for 2 images"
    ):
        certify(model, torch.rand(count, 3, 2, 2), [0] * count)


def test_a_model_must_answer_one_row_for_each_image() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    with pytest.raises(ValueError, match=r"must map 1 images to logits \(1, C\), got \(1, 3, 2, 2\)"):
        certify(model, torch.rand(1, 3, 2, 2), [0], ignore_rounding=True)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rules, "_RULES", dict(rules._RULES))
    return


class Third(nn.Module):
    """Third-party module with a method of this name."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 3

    def lipschitz_bound(self) -> float:
        return 1 / 3


@pytest.mark.usefixtures("registry")
def test_a_rule_for_a_module_of_somebody_else() -> None:
    with pytest.raises(
        TypeError, match=r"has a method lipschitz_bound\(\), but is not a LipschitzModule.*certify\.rule"
    ):
        lipschitz_bound(Third().eval())

    @rule(Third)
    class ThirdRule(Rule):
        def lipschitz(self, module: Third) -> float:
            return 1 / 3

    assert lipschitz_bound(Third().eval()) == 1 / 3
    with pytest.raises(TypeError, match=r"\(Third\) has no rule for its rounding"):
        rounding_bounds(Third().eval(), (1, 2, 2))
    with pytest.raises(ValueError, match="Third already has a rule, ThirdRule"):
        rule(Third)(ThirdRule)
    with pytest.raises(TypeError, match=r"\(Fourth\) has a method lipschitz_bound"):
        lipschitz_bound(type("Fourth", (Third,), {})().eval())


def test_a_classifier_that_does_not_look_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double().eval()
    nn.init.zeros_(model[1].weight)
    with pytest.raises(ValueError, match="Lipschitz bound is 0: its logits do not depend on the image"):
        certify(model, torch.rand(1, 1, 2, 2), [0])
