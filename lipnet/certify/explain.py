"""Explain, module by module, the bounds behind a model's certificates, and suggest replacements."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import StringIO
from math import isfinite
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from lipnet.certify.checks import MERGE, check_computes_as_declared, check_module
from lipnet.certify.rounding import RoundingBounds, rounding_bounds
from lipnet.certify.rules import bound_of, find_rule, join, leaves
from lipnet.functional import product_up
from lipnet.layers.base import LipschitzModule

_LOGITS = "leave it out: certificates are about logits, and the training loss applies it"
_NORMALIZATION = "leave it out, or use BatchNorm2d, which is an affine map in evaluation"
_ACTIVATION = "use lipnet.layers.MaxMin, or ReLU, LeakyReLU, ELU, GELU, SiLU, Softplus, Tanh or Sigmoid"
_DROPOUT = "use nn.Dropout, which has a rule: it does nothing in evaluation"
_POOLING = "use MaxPool2d or AvgPool2d with stride = kernel_size, or lipnet.layers.NormPool2d"
_PADDING = "use ZeroPad2d, or the padding of the convolution"
_DIMENSIONS = "use the layer for two dimensions, or lipnet.layers.SOC1d"
_UNBOUNDED = "leave it out: a product of two functions of its input has no bound"
_SUGGESTIONS = {
    **dict.fromkeys(("Softmax", "Softmax2d", "LogSoftmax", "Softmin", "LogSigmoid"), _LOGITS),
    **dict.fromkeys(("LayerNorm", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _NORMALIZATION),
    **dict.fromkeys(("LocalResponseNorm", "RMSNorm", "SyncBatchNorm"), _NORMALIZATION),
    **dict.fromkeys(("CELU", "SELU", "ReLU6", "Hardtanh", "Hardswish", "Hardsigmoid", "Mish", "RReLU"), _ACTIVATION),
    **dict.fromkeys(("Softsign", "Softshrink", "Hardshrink", "Tanhshrink", "Threshold", "GLU"), _ACTIVATION),
    **dict.fromkeys(("Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"), _DROPOUT),
    **dict.fromkeys(("AdaptiveMaxPool2d", "LPPool2d", "FractionalMaxPool2d"), _POOLING),
    **dict.fromkeys(("ReflectionPad2d", "ReplicationPad2d", "CircularPad2d", "ConstantPad2d"), _PADDING),
    **dict.fromkeys(("Conv1d", "Conv3d", "ConvTranspose1d", "ConvTranspose3d", "MaxPool1d", "MaxPool3d"), _DIMENSIONS),
    **dict.fromkeys(("AvgPool1d", "AvgPool3d", "AdaptiveAvgPool1d", "AdaptiveAvgPool3d"), _DIMENSIONS),
    **dict.fromkeys(("MultiheadAttention", "Bilinear", "TransformerEncoderLayer"), _UNBOUNDED),
}
# Suggestions for modules that have a rule, but for which lipnet has a better module or setting.
_BETTER: dict[type[nn.Module], str] = {
    nn.ReLU: "lipnet.layers.MaxMin keeps norms, which tighter certificates need",
    nn.Linear: "lipnet.layers.SOCLinear, or NormalizedLinear as the head, has bound 1",
    nn.Conv2d: "lipnet.layers.SOC has bound 1 and keeps norms",
    nn.ConvTranspose2d: "lipnet.layers.SOCTranspose has bound 1 and keeps norms",
    nn.BatchNorm2d: "leave it out of networks that you train: small variances make the bound large",
    nn.MaxPool2d: "stride = kernel_size has bound 1",
    nn.AdaptiveAvgPool2d: "AvgPool2d(s) computes the same on maps of s x s, with bound 1 / s",
}
_OWN = (
    "write it as nn.Sequential, with lipnet.layers.Residual for a skip connection; or inherit from "
    "lipnet.layers.LipschitzModule; see docs/own-layer.md"
)


@dataclass(frozen=True)
class ExplainedModule:
    """Module of a model, and its part in a certificate.

    Attributes:
        path: path of the module in the model.
        kind: name of its class.
        rule: source of its bounds: "rule" (the registry), "own" (its ``lipschitz_bound()``), or "none".
        bound: its Lipschitz bound, rounded up; None if it has none.
        rounding: its share of E if the image shape is known; otherwise True if its rounding has a bound.
        suggestion: a change, with its reason; empty if nothing needs to change.
    """

    path: str
    kind: str
    rule: str
    bound: float | None
    rounding: float | bool
    suggestion: str


@dataclass(frozen=True)
class Explanation:
    """The modules of a model in order, and the problems of the model as a whole. ``print`` shows a table.

    Attributes:
        modules: a row for each module that runs; below a module without a rule, rows for its children.
        problems: reasons why the model as a whole cannot be certified.
        lipschitz: K; None if a module has no bound.
        rounding: E, if the image shape is known and every module has a bound on its rounding; otherwise None.
    """

    modules: tuple[ExplainedModule, ...]
    problems: tuple[str, ...]
    lipschitz: float | None
    rounding: float | None

    @property
    def certifiable(self) -> bool:
        """Return True if every module has both bounds and the model has no problems."""
        covered = all(each.bound is not None and each.rounding is not False for each in self.modules)
        return covered and not self.problems

    def table(self) -> Table:
        """Return the rows as a table for `rich`."""
        spacing: Any = {"box": SIMPLE_HEAD, "padding": (0, 1, 0, 0), "pad_edge": False}
        total = "no bound" if self.lipschitz is None else f"{self.lipschitz:.6g}"
        table = Table(title=f"Lipschitz bound from images to logits: {total}", **spacing)
        for name in ("module", "kind", "rule"):
            table.add_column(name, no_wrap=True)
        for name in ("bound", "rounding"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("suggestion", overflow="fold")
        for each in self.modules:
            bound = "-" if each.bound is None else f"{each.bound:.4g}"
            rounding = (
                ("bounded" if each.rounding else "-") if isinstance(each.rounding, bool) else f"{each.rounding:.1e}"
            )
            table.add_row(Text(each.path or "(model)"), each.kind, each.rule, bound, rounding, Text(each.suggestion))
        return table

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=120)
        console.print(self.table(), *(Text(f"Problem: {problem}") for problem in self.problems), sep="\n")
        assert isinstance(console.file, StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


def explain(model: nn.Module, image_shape: tuple[int, ...] | None = None) -> Explanation:
    """Explain the bounds behind a model's certificates. A module without a rule becomes a row, not an error.

    Args:
        model: in any mode and dtype. It is explained in evaluation mode; the modes of its modules are restored.
        image_shape: (C, H, W) of one image; with it, a float64 model is run to bound its rounding.

    Returns:
        A row for each module, the problems of the whole model, K and E. It never raises for a model that has no bound.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm(6), nn.ReLU(), nn.Flatten())
        >>> explanation = explain(model)
        >>> explanation.certifiable
        False
        >>> [(each.kind, each.rule) for each in explanation.modules]
        [('Conv2d', 'rule'), ('LayerNorm', 'none'), ('ReLU', 'rule'), ('Flatten', 'rule')]
        >>> print(explanation.modules[1].suggestion)
        leave it out, or use BatchNorm2d, which is an affine map in evaluation
    """
    with _in_evaluation(model):
        rows = list(_rows("", model))
        bounds = [row.bound for row in rows if row.bound is not None]
        if len(bounds) < len(rows):
            # The row of a module without a bound names the problem; checks of the whole model would only repeat it.
            return Explanation(tuple(rows), (), None, None)
        problems: tuple[str, ...] = ()
        shares: dict[str, float | bool] = {}
        rounding = None
        try:
            check_computes_as_declared(model)
            if image_shape is not None:
                found = rounding_bounds(model, image_shape)
                rounding, shares = found.logits, _shares(found)
        except (TypeError, ValueError, RuntimeError) as error:
            problems = (str(error),)
    modules = tuple(replace(row, rounding=shares.get(row.path, row.rounding)) for row in rows)
    return Explanation(modules, problems, product_up(bounds), rounding)


def _rows(path: str, module: nn.Module) -> Iterator[ExplainedModule]:
    """Yield a row for each module that runs and, below a module without a bound, rows for its children."""
    for leaf_path, leaf in leaves(path, module):
        row = _explained(leaf_path, leaf)
        yield row
        if row.bound is None:
            for name, child in leaf.named_children():
                if name != "parametrizations":
                    yield from _rows(join(leaf_path, name), child)


def _explained(path: str, module: nn.Module) -> ExplainedModule:
    """Return the row of one module."""
    found, kind = find_rule(module), type(module).__name__
    if found is None and not isinstance(module, LipschitzModule):
        return ExplainedModule(path, kind, "none", None, False, _replacement(module))
    rule = "own" if found is None else "rule"
    try:
        check_module(path, module)
        bound = bound_of(path, module)
    except (TypeError, ValueError, RuntimeError) as error:
        return ExplainedModule(path, kind, rule, None, False, str(error))
    if isinstance(module, LipschitzModule) and found is None:
        has_rounding = type(module).rounding_step is not LipschitzModule.rounding_step
    else:
        has_rounding = hasattr(found, "rounding")
    suggestion = ""
    if not isfinite(bound):
        suggestion = "its bound is infinite: are its weights finite?"
    elif not has_rounding:
        suggestion = "implement rounding_step(signal, shape), or certify in float32 with ignore_rounding"
    elif bound > 1 or type(module) in (nn.ReLU, nn.AdaptiveAvgPool2d):
        suggestion = _BETTER.get(type(module), "")
    return ExplainedModule(path, kind, rule, bound, has_rounding, suggestion)


def _replacement(module: nn.Module) -> str:
    """Suggest a replacement for a module that has no bound."""
    known = _SUGGESTIONS.get(type(module).__name__) if type(module).__module__.startswith("torch.nn.") else None
    if known is not None:
        return known
    if hasattr(module, "parametrizations"):
        return MERGE
    if list(module.children()):
        return _OWN
    return "inherit from lipnet.layers.LipschitzModule, or register a rule; see docs/own-layer.md"


def _shares(found: RoundingBounds) -> dict[str, float | bool]:
    """Return each module's share of E by path; the shares of a module that runs several times are added."""
    shares: dict[str, float | bool] = {}
    for each in found.modules:
        shares[each.path] = shares.get(each.path, 0.0) + each.contribution
    return shares


@contextmanager
def _in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode within the context; restore the mode of each module afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
