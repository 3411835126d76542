"""Export of a model as a plain torch module."""

import operator
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from lipnet.functional.autocast import without_autocast
from lipnet.layers.export.fold import fold_constants
from lipnet.layers.export.freeze import frozen_copy
from lipnet.layers.normalize import Normalize

# What a module that cannot be traced may raise; torch's own exceptions are subclasses of these.
_UNTRACEABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def export(model: nn.Module, input_shape: Sequence[int] | None = None) -> fx.GraphModule:
    """Return a plain torch module that computes the same as the model in evaluation, and runs without lipnet.

    The result is a graph of torch functions on constants, without lipnet's code, scaling, norms and caches. It can be
    saved by ``torch.save``, loaded and run where lipnet is not installed, moved to another device, and passed to
    ``torch.export``, ``torch.compile`` and ``torch.onnx``. Every layer keeps its engine for inputs of this shape and
    the constants of its evaluation. So the function is the same up to the order of summation, and its Lipschitz bound
    is the same.

    Args:
        model: in evaluation mode. Any module that ``torch.export`` can trace: lipnet's layers, torch's, containers,
            parametrized modules and modules of your own. It is not changed.
        input_shape: of one input without the batch: (C, H, W), or (n,) for features. None takes the shape from the
            model's `Normalize`, if it has an image size.

    Returns:
        A module for inputs (B, *input_shape) of any batch size B, on the model's device and of its dtype. Its
        parameters do not require gradients; gradients with respect to the input flow. An input of another shape raises
        AssertionError.

    Raises:
        ValueError: for a model in training mode, with forward hooks, or that changes its buffers in evaluation; for an
            unknown input shape; and for a module that cannot be traced. The error names the module.
        TypeError: if the model does not return one tensor.

    Example:
        >>> from lipnet.layers import SOC, MaxMin
        >>> model = nn.Sequential(SOC(3, 8), MaxMin()).eval()
        >>> plain = export(model, input_shape=(3, 16, 16))
        >>> x = torch.rand(5, 3, 16, 16)
        >>> torch.allclose(plain(x), model(x), atol=1e-5)
        True
        >>> sorted(name for name, _ in plain.named_parameters())
        ['0.bias', '0.filter_0']
    """
    _check_running(model)
    example = example_batch(model, 2, input_shape)
    # Leave inference mode: the constants may be used under autograd later. A trace under autocast would keep its casts.
    with torch.inference_mode(False), without_autocast(example.device):
        example = example.clone()
        traced = _traced(frozen_copy(model, example), example)
        folded = fx.GraphModule(traced, _plain_graph(traced.graph, tuple(example.shape[1:])))
        fold_constants(folded)
    # A new module takes over only the tensors that its graph refers to.
    return fx.GraphModule(folded, folded.graph, type(model).__name__).requires_grad_(False).eval()


def declared_input_shape(model: nn.Module) -> tuple[int, ...] | None:
    """Return the image shape (C, H, W) of a model's `Normalize`, or None if there is none with an image size."""
    for module in model.modules():
        if isinstance(module, Normalize) and module.image_size is not None:
            return len(module.mean), module.image_size, module.image_size
    return None


def example_batch(model: nn.Module, batch: int, input_shape: Sequence[int] | None = None) -> Tensor:
    """Return inputs (batch, *input_shape) in [0, 1), of the model's device and dtype and the same in every process.

    Raises:
        ValueError: for an unknown shape, and for one with lengths that are not positive.
    """
    shape = declared_input_shape(model) if input_shape is None else tuple(input_shape)
    if shape is None:
        raise ValueError("input_shape is needed, (C, H, W) for images: the model has no Normalize with an image_size")
    if not shape or any(length < 1 for length in shape):
        raise ValueError(f"input_shape must have positive lengths, got {shape}")
    reference = next(model.parameters(), torch.empty(0))
    entries = torch.arange(batch * torch.Size(shape).numel(), dtype=torch.float64)
    # The fractional parts of multiples of the golden ratio spread evenly.
    return (entries * 0.6180339887498949 % 1).view(batch, *shape).to(reference)


def _check_running(model: nn.Module) -> None:
    for path, module in model.named_modules():
        name = f"{path or 'the model'} ({type(module).__name__})"
        if module.training:
            raise ValueError(f"{name} is in training mode; only evaluation can be exported: call model.eval() first")
        if module._forward_hooks or module._forward_pre_hooks:
            raise ValueError(f"{name} has forward hooks, which an exported model cannot have; remove them first")


def _traced(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """Trace the model's evaluation as a functional graph of torch operators with a free batch size."""
    trail = _Trail(model)
    batch = torch.export.Dim("batch")
    try:
        # With gradients enabled, layers change nothing in place.
        with torch.enable_grad():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},), strict=False)
    except _UNTRACEABLE as error:
        raise ValueError(f"{trail.last()} cannot be exported: {error}") from error
    program = program.run_decompositions({})
    changed = sorted(set(program.graph_signature.buffers_to_mutate.values()))
    if changed:
        raise ValueError(f"a model that changes its buffers in evaluation cannot be exported: {', '.join(changed)}")
    traced = program.module()
    assert isinstance(traced, fx.GraphModule)
    return traced


class _Trail:
    """The modules that are running, so that an error can name the innermost one."""

    def __init__(self, model: nn.Module) -> None:
        self._entered: list[str] = []
        for path, module in model.named_modules():
            name = f"{path or 'the model'} ({type(module).__name__})"
            module.register_forward_pre_hook(lambda _module, _inputs, name=name: self._entered.append(name))
            module.register_forward_hook(self._leave)

    def _leave(self, _module: nn.Module, _inputs: object, _output: object) -> None:
        self._entered.pop()

    def last(self) -> str:
        """Return the innermost module that was entered and not left."""
        return self._entered[-1] if self._entered else "the model"


def _plain_graph(traced: fx.Graph, shape: tuple[int, ...]) -> fx.Graph:
    """Copy a traced graph without the checks that tracing added; check the shape of the input instead."""
    graph, copies = fx.Graph(), {}
    for node in traced.nodes:
        if node.op == "placeholder":
            copies[node] = graph.placeholder("x")
            _check_shape(graph, copies[node], shape)
        elif node.op == "output":
            (result,) = node.args[0]
            graph.output(copies[result])
        elif _is_whole_slice(node):
            copies[node] = copies[node.args[0]]
        elif not _is_tracers_check(node):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    # Metadata still points to the traced lipnet code.
    for node in graph.nodes:
        node.meta.clear()
    graph.eliminate_dead_code()
    return graph


def _check_shape(graph: fx.Graph, x: fx.Node, shape: tuple[int, ...]) -> None:
    received = graph.call_function(getattr, (x, "shape"))
    without_batch = graph.call_function(operator.getitem, (received, slice(1, None)))
    equal = graph.call_function(operator.eq, (without_batch, shape))
    message = f"this exported model needs inputs of shape (B, {', '.join(map(str, shape))})"
    graph.call_function(torch._assert, (equal, message))


def _is_whole_slice(node: fx.Node) -> bool:
    """Tell whether a node is ``x[:]`` along some dimension."""
    return node.target is torch.ops.aten.slice.Tensor and node.args[2:] == (0, sys.maxsize)


def _is_tracers_check(node: fx.Node) -> bool:
    """Tell whether a node checks device, dtype or batch size against those seen during tracing."""
    return node.op == "call_module" or node.target is torch.ops.aten._assert_tensor_metadata.default
