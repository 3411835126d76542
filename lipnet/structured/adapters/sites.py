"""Weights of a model that can have adapters, and their selection by targets."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lipnet.structured.adapters.weight import AdaptedWeight

Target = str | type[nn.Module]
_KINDS = "Linear, Conv2d, Conv1D or MultiheadAttention"
# Longest list of names in a message.
_LISTED = 20


@dataclass(frozen=True)
class Site:
    """A weight that can have an adapter.

    Attributes:
        path: name of the module in the model, as in ``named_modules``.
        module: the module.
        parameter: name of the weight in the module.
        parts: number of stacked row blocks: 3 for the queries, keys and values of attention.
    """

    path: str
    module: nn.Module
    parameter: str
    parts: int = 1

    @property
    def name(self) -> str:
        """The name of the weight in the state dict of the model without adapters."""
        return f"{self.path}.{self.parameter}".lstrip(".")

    @property
    def transposed(self) -> bool:
        """True if the weight is stored as (in, out)."""
        return is_conv1d(self.module)

    @property
    def adapted(self) -> AdaptedWeight | None:
        """The adapters on the weight, if it has any."""
        first = next(iter(self._parametrizations or ()), None)
        return first if isinstance(first, AdaptedWeight) else None

    @property
    def original(self) -> Tensor:
        """The weight without adapters."""
        parametrizations = self._parametrizations
        return self.module.get_parameter(self.parameter) if parametrizations is None else parametrizations.original

    def is_topmost(self, adapted: AdaptedWeight) -> bool:
        """Return whether the adapters are the last parametrization of the weight."""
        return [*(self._parametrizations or ())] == [adapted]

    @property
    def _parametrizations(self) -> parametrize.ParametrizationList | None:
        if not parametrize.is_parametrized(self.module, self.parameter):
            return None
        parametrizations = self.module.get_submodule(f"parametrizations.{self.parameter}")
        assert isinstance(parametrizations, parametrize.ParametrizationList)
        return parametrizations

    def obstacle(self) -> str | None:
        """Return the reason why this weight cannot be adapted, or None."""
        if self.adapted is not None:
            return None
        weight = self.module._parameters.get(self.parameter)
        if parametrize.is_parametrized(self.module, self.parameter) or weight is None:
            return "the weight is no plain parameter: it is parametrized, or computed by a hook"
        if is_lazy(weight):
            return "the weight has no shape before the first forward pass"
        if not weight.is_floating_point():
            return f"the weight is {weight.dtype}, not real floating-point numbers"
        if isinstance(self.module, nn.Conv2d) and self.module.groups != 1:
            return f"a convolution with groups ({self.module.groups}) is no single matrix"
        if self.transposed and (weight.dim() != 2 or weight.shape[1] != self.module.nf):
            return f"a Conv1D needs a weight (in, {self.module.nf}), got {tuple(weight.shape)}"
        return None

    def output_obstacle(self) -> str | None:
        """Return the reason why an adapter cannot change this module's output, or None."""
        if isinstance(self.module, NonDynamicallyQuantizableLinear):
            return "attention reads the weight of its output projection and never calls it"
        if isinstance(self.module, nn.Linear) or self.transposed:
            return None
        return f"it stands after a Linear or a Conv1D, got {type(self.module).__name__}"


def is_conv1d(module: nn.Module) -> bool:
    """Return whether a module is Hugging Face's ``Conv1D``, the linear layer of GPT-2 with a weight (in, out).

    It is recognised by its class name and its attribute ``nf``, so that transformers need not be installed.
    """
    return hasattr(module, "nf") and any(kind.__name__ == "Conv1D" for kind in type(module).__mro__)


def all_sites(model: nn.Module) -> list[Site]:
    """Return every weight of Linear, Conv2d, Conv1D and MultiheadAttention modules, each module once."""
    return [site for path, module in model.named_modules() for site in _sites_of(path, module)]


def _sites_of(path: str, module: nn.Module) -> Iterator[Site]:
    if not isinstance(module, nn.MultiheadAttention):
        if isinstance(module, nn.Linear | nn.Conv2d) or is_conv1d(module):
            yield Site(path, module, "weight")
    # Do not access in_proj_weight itself: that would compute the adapted weight.
    elif module._qkv_same_embed_dim:
        yield Site(path, module, "in_proj_weight", parts=3)
    else:
        yield from (Site(path, module, f"{part}_proj_weight") for part in "qkv")


def find_sites(model: nn.Module, targets: Sequence[Target] | None, exclude: Sequence[Target]) -> list[Site]:
    """Return the weights that the targets choose, or all weights for None, without the excluded ones.

    Raises:
        ValueError: for a target or exclusion that is neither a name nor a type, or that matches no adaptable module
            (lists the names that exist); if nothing is left; if a chosen weight cannot be adapted.
    """
    sites = all_sites(model)
    there_are = f"there are {names_in_words(list(dict.fromkeys(site.path for site in sites)))}"
    for target in (*(targets or ()), *exclude):
        if not isinstance(target, str | type):
            raise ValueError(f"a target must be the name or the type of modules, got {type(target).__name__}")
        if not any(matches(target, model, site) for site in sites):
            target_name = repr(target) if isinstance(target, str) else target.__name__
            raise ValueError(f"target {target_name} matches no {_KINDS}; {there_are}")
    chosen = [
        site
        for site in sites
        if (targets is None or any(matches(target, model, site) for target in targets))
        and not any(matches(target, model, site) for target in exclude)
    ]
    if not chosen:
        raise ValueError(f"no {_KINDS} is left to adapt; {there_are}")
    refuse(chosen, [site.obstacle() for site in chosen])
    return chosen


def matches(target: Target, model: nn.Module, site: Site) -> bool:
    """Return whether the target chooses the site's module, or the attention whose output projection it is."""
    candidates = [(site.path, site.module)]
    parent_path, _, child = site.path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if isinstance(parent, nn.MultiheadAttention) and child == "out_proj":
        candidates.append((parent_path, parent))
    if isinstance(target, str):
        return any(fnmatchcase(path, target) for path, _ in candidates)
    return any(isinstance(module, target) for _, module in candidates)


def refuse(sites: Sequence[Site], obstacles: Iterable[str | None]) -> None:
    """Raise ValueError if any of the sites has an obstacle to an adapter."""
    reasons = {site.name: obstacle for site, obstacle in zip(sites, obstacles, strict=True) if obstacle is not None}
    if not reasons:
        return
    first, reason = next(iter(reasons.items()))
    others = f"; the same or similar for {names_in_words(list(reasons)[1:])}" if len(reasons) > 1 else ""
    raise ValueError(f"the adapter does not fit {first}: {reason}{others} (attach(..., exclude=...) skips modules)")


def names_in_words(names: Sequence[str]) -> str:
    """Return a list of names for a message, cut after the first 20."""
    listed = ", ".join(name or "the model itself" for name in names[:_LISTED]) or "none"
    return listed + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
