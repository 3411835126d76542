"""Check that a configuration describes a model: a file that holds it and the weights then holds the whole model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lipnet.layers.identity import differing_part
from lipnet.models.build import build_model


def check_described(model: nn.Module, config: Mapping[str, Any], trust: Sequence[str] = ()) -> None:
    """Refuse a model that was changed after it was built: a file would hold its weights, and another function.

    Modules, settings, and buffers that are not saved are compared with those that the configuration gives. Nothing of
    the size of the weights is allocated, except for models that compute such buffers.

    Args:
        model: the model; its weights may have any values.
        config, trust: arguments of `build_model`.

    Raises:
        ValueError: names the first difference.
    """
    with torch.device("meta"), _GivenNumbers():
        described = build_model(config, trust)
    difference = differing_part(model, described)
    if difference is None:
        saved = model.state_dict().keys()
        constants = {name: value for name, value in _buffers(model) if name not in saved}
        there = dict(_buffers(described))
        if any(there[name].is_meta for name in constants if name in there):
            with torch.random.fork_rng(devices=[]):
                there = dict(_buffers(build_model(config, trust)))
        difference = next((f"{name} has other values" for name in constants if _differ(constants, there, name)), None)
    if difference is not None:
        raise ValueError(f"the model is not the one that model_config describes: {difference}")


class _GivenNumbers(TorchFunctionMode):
    """Put tensors that are made from given numbers on the CPU, so that they have values on the meta device, too."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        device = {"device": "cpu"} if func is torch.tensor else {}
        return func(*args, **{**device, **(kwargs or {})})


def _buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    return list(model.named_buffers(remove_duplicate=False))


def _differ(here: Mapping[str, Tensor], there: Mapping[str, Tensor], name: str) -> bool:
    """Tell whether the buffers differ after the conversion to the model's dtype, which loading makes, too."""
    value = here[name].cpu()
    return name not in there or not torch.equal(value, there[name].to(value.dtype))
