"""Which weights of a model an adapter can stand on, and which of them are asked for."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from lipnet.structured.adapters.weight import AdaptedWeight

Target = str | type[nn.Module]
ADAPTABLE: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
# As many names as a message lists.
_LISTED = 20


@dataclass(frozen=True)
class Site:
    """A weight that an adapter can stand on.

    Attributes:
        path: of the module in the model, as in ``named_modules``.
        module: the module.
        parameter: the name of its weight.
        parts: of how many weights on top of each other it consists: 3 for the queries, keys and values of attention.
    """

    path: str
    module: nn.Module
    parameter: str
    parts: int = 1

    @property
    def name(self) -> str:
        """The name of the weight in the model, as in the state dict of the model without adapters."""
        return f"{self.path}.{self.parameter}".lstrip(".")

    @property
    def adapted(self) -> AdaptedWeight | None:
        """The adapters that stand on the weight already."""
        parametrizations = self._parametrizations
        first = None if parametrizations is None else parametrizations[0]
        return first if isinstance(first, AdaptedWeight) else None

    @property
    def original(self) -> Tensor:
        """The weight of the base."""
        parametrizations = self._parametrizations
        return self.module.get_parameter(self.parameter) if parametrizations is None else parametrizations.original

    def is_topmost(self, adapted: AdaptedWeight) -> bool:
        """Whether nothing has been put on the weight after its adapters."""
        parametrizations = self._parametrizations
        return parametrizations is not None and [*parametrizations] == [adapted]

    @property
    def _parametrizations(self) -> parametrize.ParametrizationList | None:
        if not parametrize.is_parametrized(self.module, self.parameter):
            return None
        parametrizations = self.module.get_submodule(f"parametrizations.{self.parameter}")
        assert isinstance(parametrizations, parametrize.ParametrizationList)
        return parametrizations

    def obstacle(self) -> str | None:
        """What stands against an adapter on this weight, in words; None if nothing does."""
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
        return None


def all_sites(model: nn.Module) -> list[Site]:
    """Every weight of ``nn.Linear``, ``nn.Conv2d`` and ``nn.MultiheadAttention`` modules, each module once."""
    return [site for path, module in model.named_modules() for site in _sites_of(path, module)]


def find_sites(model: nn.Module, targets: Sequence[Target] | None, exclude: Sequence[Target]) -> list[Site]:
    """The weights that the targets choose, with None all that there are, without those that are excluded.

    Raises:
        ValueError: for a target or an exclusion that is neither a name nor a type, or that matches no adaptable
            module, with the names that there are; if nothing is left; if a weight that is chosen cannot be adapted.
    """
    sites = all_sites(model)
    for target in (*(targets or ()), *exclude):
        if not isinstance(target, str | type):
            raise ValueError(f"a target is the name or the type of modules, got {type(target).__name__}")
        if not any(_matches(target, model, site) for site in sites):
            raise ValueError(f"{_in_words(target)} matches no {_kinds()}; there are {names_in_words(_paths(sites))}")
    chosen = [
        site
        for site in sites
        if (targets is None or any(_matches(target, model, site) for target in targets))
        and not any(_matches(target, model, site) for target in exclude)
    ]
    if not chosen:
        raise ValueError(f"no {_kinds()} is left to adapt; there are {names_in_words(_paths(sites))}")
    refuse({site.name: obstacle for site in chosen if (obstacle := site.obstacle()) is not None})
    return chosen


def refuse(reasons: dict[str, str]) -> None:
    """Raise ValueError if there are reasons, by name of the weight, against an adapter on them."""
    if not reasons:
        return
    first, reason = next(iter(reasons.items()))
    others = f"; the same or the like for {names_in_words(list(reasons)[1:])}" if len(reasons) > 1 else ""
    raise ValueError(f"no such adapter fits {first}: {reason}{others} (attach(..., exclude=...) leaves modules out)")


def _single(module: nn.Module) -> Iterator[tuple[str, int]]:
    yield "weight", 1


def _attention(module: nn.Module) -> Iterator[tuple[str, int]]:
    # Not by in_proj_weight, which is computed at every look once it is adapted.
    if module._qkv_same_embed_dim:
        yield "in_proj_weight", 3
    else:
        yield from ((f"{part}_proj_weight", 1) for part in "qkv")


_WEIGHTS: dict[type[nn.Module], Callable[[nn.Module], Iterable[tuple[str, int]]]] = {
    nn.Linear: _single,
    nn.Conv2d: _single,
    nn.MultiheadAttention: _attention,
}


def _sites_of(path: str, module: nn.Module) -> Iterator[Site]:
    for kind, weights in _WEIGHTS.items():
        if isinstance(module, kind):
            yield from (Site(path, module, parameter, parts) for parameter, parts in weights(module))


def _matches(target: Target, model: nn.Module, site: Site) -> bool:
    """Whether the target chooses the site's module, or the attention whose output projection that module is."""
    candidates = [(site.path, site.module)]
    parent_path, _, child = site.path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if isinstance(parent, nn.MultiheadAttention) and child == "out_proj":
        candidates.append((parent_path, parent))
    if isinstance(target, str):
        return any(fnmatchcase(path, target) for path, _ in candidates)
    return any(isinstance(module, target) for _, module in candidates)


def _paths(sites: Iterable[Site]) -> list[str]:
    return list(dict.fromkeys(site.path for site in sites))


def _kinds() -> str:
    return ", ".join(kind.__name__ for kind in ADAPTABLE[:-1]) + f" or {ADAPTABLE[-1].__name__}"


def names_in_words(names: Sequence[str]) -> str:
    """Names for a message, not too many of them."""
    listed = ", ".join(name or "the model itself" for name in names[:_LISTED]) or "none"
    return listed + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _in_words(target: Target) -> str:
    return f"target {target!r}" if isinstance(target, str) else f"target {target.__name__}"
