"""Evaluation of a network by its bounds, which the network must keep until the end."""

from torch import Tensor, nn

from lipnet.certify import logit_bounds
from lipnet.certify.certificates import check_own_modules
from lipnet.certify.checks import check_computes_as_declared
from lipnet.certify.trial_run import run_in_order
from lipnet.layers.identity import state_of


class BoundedEvaluation:
    """Bounds of a network during an evaluation, and the checks that they are about what it computes.

    Args:
        model: the network, in evaluation mode.
        estimate: take estimates of the scales and of the Lipschitz constant in place of proofs.
    """

    def __init__(self, model: nn.Module, *, estimate: bool) -> None:
        self.estimate = estimate
        self.bounds, self._state = logit_bounds(model, estimate=estimate), state_of(model)
        self._tried_shapes: set[tuple[int, ...]] = set()

    def check_order(self, model: nn.Module, images: Tensor) -> None:
        """Refuse a network that does not run its modules one after another, on images of this shape."""
        shape = tuple(images.shape[1:])
        if shape not in self._tried_shapes:
            check_computes_as_declared(model)
            run_in_order(model, shape)
            self._tried_shapes.add(shape)

    def check_unchanged(self, model: nn.Module) -> None:
        """Refuse a network that was changed since its bounds were computed."""
        if state_of(model) != self._state:
            raise RuntimeError("the network was changed while it was evaluated; its bounds are not about it any more")
        check_computes_as_declared(model)  # a hook may have come meanwhile
        check_own_modules(model, self.bounds, estimate=self.estimate)
