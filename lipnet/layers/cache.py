"""A cache for values computed from weights, valid while the weights stay the same."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

Value = TypeVar("Value")
_State = tuple[tuple[int, ...], list[tuple[torch.Size, torch.dtype]]]


class WeightCache(Generic[Value]):
    """Cache of the last value computed from some tensors, valid while their entries and the settings stay the same.

    The cache compares the tensors with copies, entry by entry. This takes one pass over the weights, little beside a
    convolution with them. It notices changes that version counters miss: writes through ``.data``, loaded state dicts,
    moves to another dtype or device, averaged copies.

    On an accelerator, a comparison of values waits for the device. There, tensors whose version counter and address are
    unchanged count as unchanged, so that prepared evaluations run without waiting and can be captured as a CUDA graph.
    Bounds ask with ``exact=True`` and compare values on every device: no certificate rests on a counter.

    Several threads may ask at once. If another thread changes the weights during a computation, the caller gets the
    value, but the cache drops it.

    A tensor that a caller has written into, or a value whose method ``written()`` returns True, is computed again.

    A copy of a module keeps the value; a pickle starts empty.
    """

    def __init__(self) -> None:
        # Copies of the weights, the value, its version counter if it is a tensor, and the settings. One attribute, so
        # that no thread sees parts of two computations.
        self._kept: tuple[list[Tensor], Value, int | None, object] | None = None
        self._state: _State | None = None
        self._frozen = False

    # Compiling code that runs once per weight would take minutes. `torch.compiler.disable` is not used, because it
    # imports the compiler immediately.
    @_disable_dynamo
    def get(
        self, weights: Sequence[Tensor], compute: Callable[[], Value], *, settings: object = None, exact: bool = False
    ) -> Value:
        """Return the value for these tensors and settings; call ``compute()``, without gradients, if one has changed.

        Args:
            weights: tensors that the value depends on.
            compute: returns the value.
            settings: everything else that it depends on, compared by ``==``.
            exact: compare values on every device.
        """
        if _are_batched(weights):
            return compute()  # their values cannot be compared
        state = _state_of(weights) if waits_for_comparisons(weights[0]) else None
        trusted = not exact and state is not None and state == self._state
        kept = self._kept
        if (
            kept is not None
            and kept[3] == settings
            and (trusted or _same_values(kept[0], weights))
            and not _written(kept[1], kept[2])
        ):
            self._state = state
            return kept[1]
        # Leave inference mode: the value may be used under autograd later.
        with torch.inference_mode(False), torch.no_grad():
            copies = [weight.detach().clone() for weight in weights]
            value = compute()
        unchanged = _same_values(copies, weights) if state is None else state == _state_of(weights)
        version = version_of(value) if isinstance(value, Tensor) else None
        self._kept = (copies, value, version, settings) if unchanged else None
        self._state = state if unchanged else None
        return value

    def freeze(self) -> None:
        """Let `frozen` return the present value, for an export whose trace cannot compare weights."""
        self._frozen = True

    def frozen(self) -> Value | None:
        """Return the value after `freeze`, without comparing the weights; None before it."""
        return self._kept[1] if self._frozen and self._kept is not None else None

    def clear(self) -> None:
        """Drop the value."""
        self._kept, self._state, self._frozen = None, None, False

    def __deepcopy__(self, memo: dict[int, object]) -> "WeightCache[Value]":
        # Both share the value, which is never changed in place. The state is left out: copied weights have other
        # addresses.
        copy: WeightCache[Value] = WeightCache()
        copy._kept = self._kept
        return copy

    def __reduce__(self) -> tuple[type["WeightCache[Value]"], tuple[()]]:
        return WeightCache, ()


def _written(value: object, version: int | None) -> bool:
    """Return whether a caller has changed a cached value in place. ``version`` is the counter that a tensor had."""
    if isinstance(value, Tensor):
        return version_of(value) != version
    written = getattr(value, "written", None)
    return written is not None and bool(written())


def _same_values(kept: Sequence[Tensor], weights: Sequence[Tensor]) -> bool:
    return len(weights) == len(kept) and all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in zip(kept, weights, strict=True)
    )


def versions(tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    """Return version counter and address of each tensor, or None where tensors have none, such as in a trace."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return None
    counters = [version_of(each) for each in tensors]
    known = tuple(counter for counter in counters if counter is not None)
    return (*known, *(each.data_ptr() for each in tensors)) if len(known) == len(tensors) else None


def version_of(tensor: Tensor) -> int | None:
    """Return a tensor's version counter, or None for one that was made in inference mode."""
    try:
        return tensor._version
    except RuntimeError:  # is_inference() is False for a parameter that has moved to another dtype since
        return None


def count_fused_step(optimizer: Optimizer, *_: object) -> None:
    """Advance the version counters of the parameters that a fused step of torch's optimizers has written.

    Steps that are not fused advance them themselves.
    """
    fused = [group["params"] for group in optimizer.param_groups if group.get("fused")]
    torch.autograd.graph.increment_version([each for group in fused for each in group if each.grad is not None])


# For every optimizer of the process: layers, caches and certificates rest on the counters.
register_optimizer_step_post_hook(count_fused_step)


def is_frozen(weight: Tensor) -> bool:
    """Return whether a weight is a parameter that is not trained.

    A tensor in the place of a parameter is not frozen: `torch.func.functional_call` may train it without
    ``requires_grad``.
    """
    return isinstance(weight, nn.Parameter) and not weight.requires_grad


def _are_batched(tensors: Sequence[Tensor]) -> bool:
    """Return whether `torch.func.vmap` has batched one of the tensors, so that its values cannot be read."""
    return any(torch._C._functorch.is_batchedtensor(each) for each in tensors)


def check_not_batched(name: str, weights: Sequence[Tensor]) -> None:
    """Refuse weights that `torch.func.vmap` has batched, for an evaluation that needs to read their values.

    Args:
        name: of the layer's class, for the error.
        weights: that the evaluation is computed from.

    Raises:
        RuntimeError: if one is batched.
    """
    if _are_batched(weights):
        raise RuntimeError(
            f"{name} cannot be evaluated by torch.func.vmap over its weights, whose values it has to read: call the "
            "models one after another, or vmap them in training mode"
        )


def waits_for_comparisons(weight: Tensor) -> bool:
    """Return whether comparing a tensor's values waits for a device that works asynchronously."""
    return weight.device.type != "cpu"


def _state_of(weights: Sequence[Tensor]) -> _State | None:
    """Return version, address, shape and dtype of tensors, or None where they have no version."""
    seen = versions(weights)
    return None if seen is None else (seen, [(weight.shape, weight.dtype) for weight in weights])
