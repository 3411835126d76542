"""Constant folding: results of a graph that do not depend on its input are computed once."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx


def fold_constants(module: fx.GraphModule) -> None:
    """Replace results that depend only on constants by constants, in place.

    Heads that normalise their rows, and parametrizations, then cost nothing at run time. Views stay in the graph: they
    cost nothing either, and keep the names of their bases.

    Args:
        module: a graph module whose graph changes no tensor in place.
    """
    values = _constant_values(module)
    for node in _needed_constants(values, module.graph):
        if node.op == "get_attr":
            continue
        name = f"constant_{node.name}"
        module.register_buffer(name, values[node].contiguous())
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(module.graph.get_attr(name))
    module.graph.eliminate_dead_code()


def _constant_values(module: fx.GraphModule) -> dict[fx.Node, Any]:
    """Return the value of each node that does not depend on the input."""
    values: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = attrgetter(node.target)(module)
        elif _is_deterministic(node) and all(argument in values for argument in node.all_input_nodes):
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*args, **kwargs)
    return values


def _is_deterministic(node: fx.Node) -> bool:
    if node.op != "call_function" or node.is_impure():
        return False
    return torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


def _needed_constants(values: dict[fx.Node, Any], graph: fx.Graph) -> Iterable[fx.Node]:
    """Return the constant tensors that the other nodes use, with the bases of views in place of the views."""
    users = [node for node in graph.nodes if node not in values]
    found: dict[fx.Node, None] = {}
    while users:
        for argument in users.pop().all_input_nodes:
            if argument not in values or argument in found:
                continue
            if getattr(argument.target, "is_view", False) or not isinstance(values[argument], Tensor):
                users.append(argument)
            else:
                found[argument] = None
    return found
