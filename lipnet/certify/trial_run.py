"""Trial runs, which show whether a model computes what its modules compute one after another."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipnet.certify.arithmetic import explicit_arithmetic, reference_tensor
from lipnet.certify.rules import Children, describe, find_rule, join, leaves

# Images in a trial run: two are enough to see whether a model mixes the images of a batch.
_BATCH = 2


class ModuleRun(NamedTuple):
    """One run of a module.

    Attributes:
        path: path of the module in the model.
        module: the module itself.
        shape: shape of its input, for one sample.
        result: shape of its result, for one sample.
        parts: the runs of each part that its rule combines, such as the body of `Residual`.
    """

    path: str
    module: nn.Module
    shape: tuple[int, ...]
    result: tuple[int, ...]
    parts: "tuple[tuple[ModuleRun, ...], ...]" = ()


def run_in_order(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[ModuleRun, ...]:
    """Run a model on two random images, module by module, and return the modules with their shapes.

    Raises:
        ValueError: if a module changes the number of images or the dtype; if the model, or a part that a module's rule
            combines, computes something else than its modules do one after another; if such a part modifies its input;
            or if the model mixes the images of a batch.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((_BATCH, *image_shape), generator=generator, dtype=torch.float64)
    with torch.no_grad(), explicit_arithmetic(model):
        runs = _run("", model, images.to(reference_tensor(model)))
    check_images_apart(model, image_shape)
    return runs


def check_images_apart(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Refuse a model whose results for two images depend on whether they are in one batch.

    Convolutions of torch and lipnet also accept an input without a batch dimension. If an earlier module leaves three
    dimensions of a batch of two, they take it for one image with two channels.

    Raises:
        ValueError: if a batch of one image fails, or gives other results than a batch of two.
    """
    reference = reference_tensor(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((_BATCH, *image_shape), generator=generator, dtype=torch.float64).to(reference)
    with torch.no_grad(), explicit_arithmetic(model):
        together = model(images.clone())
        try:
            alone = torch.cat([model(image.clone()) for image in torch.split(images, 1)])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"the model does not compute each image by itself; a batch of one fails: {error}"
            ) from error
    if not _same(alone, together, 0.5):
        raise ValueError("the model does not compute each image by itself; a batch of two gives other results")


def _run(path: str, module: nn.Module, inputs: Tensor) -> tuple[ModuleRun, ...]:
    """Run the modules of a chain one by one, compare the result with the chain's own, and return the runs."""
    runs, values = [], inputs
    for each, leaf in leaves(path, module):
        shape, dtype = tuple(values.shape[1:]), values.dtype
        # A copy, because a module may work in place.
        values = leaf(values.clone())
        if values.shape[:1] != (_BATCH,):
            raise ValueError(
                f"{describe(each, leaf)} must keep the first dimension, which counts the images, got "
                f"{tuple(values.shape)} for {_BATCH} images"
            )
        if values.dtype != dtype:
            raise ValueError(f"{describe(each, leaf)} must return {dtype}, as it receives, got {values.dtype}")
        parts = tuple(_run_part(join(each, name), part, shape) for name, part in _parts(leaf))
        runs.append(ModuleRun(each, leaf, shape, tuple(values.shape[1:]), parts))
    _check_chain(path, module, inputs, values)
    return tuple(runs)


def _parts(module: nn.Module) -> Children:
    found = find_rule(module)
    return [] if found is None else found.parts(module)


def _run_part(path: str, module: nn.Module, shape: tuple[int, ...]) -> tuple[ModuleRun, ...]:
    """Run a part on random inputs, which it must not modify."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn((_BATCH, *shape), generator=generator, dtype=torch.float64).to(reference_tensor(module))
    given = inputs.clone()
    runs = _run(path, module, inputs)
    module(given)
    if not given.equal(inputs):
        raise ValueError(f"{describe(path, module)} modifies its input, which the module around it reads again")
    return runs


def _check_chain(path: str, module: nn.Module, inputs: Tensor, expected: Tensor) -> None:
    """Refuse a module that computes something else than its modules do one after another."""
    if not _same(module(inputs.clone()), expected, 0.75):
        name = describe(path, module) if path else "the model"
        raise ValueError(f"{name} computes something else than its modules do one after another in their order")


def _same(one: Tensor, other: Tensor, exponent: float) -> bool:
    """Return whether two results are equal up to a tolerance: the unit of their dtype to the power of ``exponent``."""
    scale = float(other.abs().nan_to_num(nan=0.0, posinf=0.0).max()) if other.numel() else 0.0
    tolerance = torch.finfo(other.dtype).eps ** exponent
    same = one.shape == other.shape
    return same and torch.allclose(one, other, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
