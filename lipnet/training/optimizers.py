"""Optimizers of whole modules: settings by the kind of parameter, several optimizers as one, and Lookahead."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lipnet.functional.orthogonal_matrices import polar_retraction
from lipnet.layers import OrthogonalMixing
from lipnet.training.closure import Closure, loss_of
from lipnet.training.riemannian import ORTHOGONAL, RiemannianAdam, stacked

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


class ModuleOptimizer:
    """Factory of a module's optimizer, with settings by the kind of parameter.

    - Matrices on the manifold, which `OrthogonalMixing` lists, take the Riemannian steps of `RiemannianAdam`.
    - Biases, which are the parameters named ``bias``, have ``bias_lr_factor`` times the learning rate of the others.
    - All other parameters go to ``optimizer``, including the free weights behind orthogonal layers.

    Args:
        optimizer: makes the optimizer from parameters, or from groups of parameters, such as
            ``functools.partial(torch.optim.SGD, lr=0.1)``.
        bias_lr_factor: positive factor of the biases' learning rate; airbench uses 64.
        manifold_lr: learning rate of matrices on the manifold; schedules scale it like the other rates.
        lookahead: wraps the optimizer, such as ``functools.partial(Lookahead, steps=5)``; None for none.

    Raises:
        ValueError: for a factor or rate that is not positive.

    Source: rate of the biases: Jordan, "94 % on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498.

    Example:
        >>> from functools import partial
        >>> make = ModuleOptimizer(partial(torch.optim.SGD, lr=0.1), bias_lr_factor=64)
        >>> [(len(group["params"]), group["lr"]) for group in make(nn.Linear(3, 2)).param_groups]
        [(1, 0.1), (1, 6.4)]
    """

    def __init__(
        self,
        optimizer: OptimizerFactory,
        *,
        bias_lr_factor: float = 1.0,
        manifold_lr: float = 1e-3,
        lookahead: Callable[[Optimizer], Optimizer] | None = None,
    ) -> None:
        for name, value in {"bias_lr_factor": bias_lr_factor, "manifold_lr": manifold_lr}.items():
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.optimizer, self.bias_lr_factor, self.manifold_lr = optimizer, bias_lr_factor, manifold_lr
        self.lookahead = lookahead

    def __call__(self, module: nn.Module) -> Optimizer:
        """Return the optimizer of all parameters of a module."""
        manifold = [
            parameter
            for each in module.modules()
            if isinstance(each, OrthogonalMixing)
            for parameter in each.manifold_parameters()
        ]
        known = set(map(id, manifold))
        free = [(name, parameter) for name, parameter in module.named_parameters() if id(parameter) not in known]
        parts = [self._with_rate_of_biases(free)] if free else []
        if manifold:
            parts.append(RiemannianAdam(manifold, lr=self.manifold_lr))
        optimizer = parts[0] if len(parts) == 1 else CombinedOptimizer(parts)
        return optimizer if self.lookahead is None else self.lookahead(optimizer)

    def _with_rate_of_biases(self, named: Sequence[tuple[str, nn.Parameter]]) -> Optimizer:
        biases = [parameter for name, parameter in named if name.rpartition(".")[2] == "bias"]
        if self.bias_lr_factor == 1 or len(biases) in (0, len(named)):
            return self.optimizer([parameter for _, parameter in named])
        others = [parameter for name, parameter in named if name.rpartition(".")[2] != "bias"]
        optimizer = self.optimizer([{"params": others}, {"params": biases}])
        known = set(map(id, biases))
        for group in optimizer.param_groups:
            if all(id(parameter) in known for parameter in group["params"]):
                group["lr"] *= self.bias_lr_factor
        return optimizer


class CombinedOptimizer(Optimizer):
    """Several optimizers of different parameters as one.

    It has the parameter groups of all of them, so that schedules, clipping and checkpoints see one optimizer.

    Args:
        optimizers: at least one. A `CombinedOptimizer` among them is replaced by its own optimizers.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        parts = [each.optimizers if isinstance(each, CombinedOptimizer) else [each] for each in optimizers]
        self.optimizers: list[Optimizer] = [each for part in parts for each in part]
        super().__init__([group for each in self.optimizers for group in each.param_groups], {})
        self.defaults = self.optimizers[0].defaults
        self._share()

    def _share(self) -> None:
        """Let all optimizers use the groups and the state of this one."""
        start = 0
        for each in self.optimizers:
            end = start + len(each.param_groups)
            each.param_groups, each.state = self.param_groups[start:end], self.state
            start = end

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        loss = loss_of(closure)
        for each in self.optimizers:
            each.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()


class Lookahead(Optimizer):
    r"""Lookahead around an optimizer: every k steps, slow weights move towards the fast ones, which go on from there.

    .. math:: \phi \leftarrow \phi + \alpha\,(\theta - \phi), \qquad \theta \leftarrow \phi \qquad
        \text{after every } k \text{ steps of } \theta

    The slow weights start as the weights before their first gradient. Matrices of `RiemannianAdam` are retracted to the
    nearest orthogonal ones after the move. For alpha = 1/2 the result is the middle of the geodesic between phi and
    theta, as if Lookahead acted in the tangent space.

    Args:
        optimizer: the optimizer of the fast weights theta; it keeps its momentum.
        steps: k, at least 1.
        alpha: share of the way to the fast weights, in (0, 1].

    Raises:
        ValueError: for a setting out of range.

    Source: Zhang et al., "Lookahead optimizer: k steps forward, 1 step back", NeurIPS 2019 (arXiv 1907.08610).

    Example:
        >>> weight = nn.Parameter(torch.zeros(1))
        >>> optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), steps=2)
        >>> for _ in range(2):
        ...     weight.grad = -torch.ones(1)
        ...     optimizer.step()
        >>> weight.item()
        1.0
    """

    def __init__(self, optimizer: Optimizer, steps: int = 5, alpha: float = 0.5) -> None:
        if steps < 1 or not 0 < alpha <= 1:
            raise ValueError(f"steps must be at least 1 and alpha in (0, 1], got {steps} and {alpha}")
        self.optimizer, self.steps, self.alpha = optimizer, steps, alpha
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._share()
        # In the first group, so that checkpoints contain the count, and a resumed training compares the settings.
        self.param_groups[0].update(lookahead_step=0, lookahead_steps=steps, lookahead_alpha=alpha)

    def _share(self) -> None:
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        loss = loss_of(closure)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        # Taken before the inner step, stored after it: optimizers only initialise a state that is empty.
        starts = {each: each.clone() for each in parameters if each.grad is not None and not self._has_slow(each)}
        self.optimizer.step()
        for parameter, start in starts.items():
            self.state[parameter]["slow"] = start
        first = self.param_groups[0]
        first["lookahead_step"] += 1
        if first["lookahead_step"] % self.steps == 0:
            for group in self.param_groups:
                self._pull(group)
        return loss

    def _has_slow(self, parameter: Tensor) -> bool:
        return "slow" in self.state.get(parameter, {})

    def _pull(self, group: dict[str, Any]) -> None:
        for parameter in filter(self._has_slow, group["params"]):
            slow: Tensor = self.state[parameter]["slow"]
            slow.lerp_(parameter, self.alpha)
            if group.get(ORTHOGONAL, False):
                stacked(slow).copy_(polar_retraction(stacked(slow)))
            parameter.copy_(slow)

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state_dict)
        self._share()
