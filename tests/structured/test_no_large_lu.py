"""No code decomposes a batch of matrices larger than 64 by LU, which hangs in some builds of torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lipnet import structured
from lipnet.layers import GSSOC, SOC, NormalizedLinear, SOCLinear
from lipnet.structured.rotations import BLOCK_MAPS

SIZE = 96
LARGEST = 64
BY_LU = re.compile(r"(solve_ex|solve|inv|inv_ex|inverse|lu|lu_factor|lu_factor_ex|lu_solve|det|slogdet)$")


class RecordLU(TorchDispatchMode):
    """Record the operations by LU on matrices larger than 64."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        sizes = [each.shape[-1] for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor) and each.dim() >= 2]
        if BY_LU.search(name) and "triangular" not in name and "cholesky" not in name and max(sizes) > LARGEST:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "decompose", [torch.linalg.solve, torch.linalg.solve_ex, torch.linalg.inv, torch.linalg.lu, torch.linalg.det]
)
def test_the_recorder_finds_lu(decompose: Callable[..., Any]) -> None:
    matrices = torch.eye(SIZE).repeat(2, 1, 1)
    with RecordLU() as record:
        decompose(*[matrices] * (2 if "solve" in decompose.__name__ else 1))
    assert record.found


def test_the_sources_name_no_lu_but_that_of_small_blocks() -> None:
    lu = re.compile(r"linalg\.(solve|solve_ex|inv|inv_ex|lu\w*|det|slogdet|tensorinv|tensorsolve)\(|\.(inverse|det)\(")
    root = Path(structured.__file__).parents[1]
    found = [
        (path.name, line.strip())
        for path in root.rglob("*.py")
        for line in path.read_text().splitlines()
        if lu.search(line)
    ]
    assert found == [("rotations.py", "rotation: Tensor = torch.linalg.solve_ex(identity - skew, identity + skew)[0]")]


def orthogonal(block_map: str, factors: int) -> nn.Module:
    matrix = structured.gsoft(2 * SIZE, SIZE, block_map, factors)
    nn.init.normal_(matrix.generators)
    return matrix


def layer(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: SOC(SIZE, SIZE, padding_mode="circular", **settings)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "oft": (lambda: structured.oft(SIZE, SIZE), (SIZE, 2)),
    "boft": (lambda: structured.boft(2 * SIZE, SIZE, factors=2), (2 * SIZE, 2)),
    "gsoft": (lambda: orthogonal("cayley", 2), (2 * SIZE, 2)),
    "gsoft, exponential": (lambda: orthogonal("exponential", 3), (2 * SIZE, 2)),
    "map": (lambda: structured.OrthogonalMap(structured.oft(SIZE, SIZE)), (2, SIZE, 3, 3)),
    "update": (lambda: structured.OrthogonalUpdate(SIZE, SIZE, input=structured.oft(SIZE, SIZE)), (SIZE, SIZE)),
    "low rank": (lambda: structured.LowRank(SIZE, SIZE, rank=4), (SIZE, SIZE)),
    "Kronecker": (lambda: structured.Kronecker(SIZE, SIZE), (SIZE, SIZE)),
    "circulant": (lambda: structured.Circulant(SIZE, SIZE), (SIZE, SIZE)),
    "Toeplitz": (lambda: structured.Toeplitz(SIZE, SIZE), (SIZE, SIZE)),
    "low displacement rank": (lambda: structured.LowDisplacementRank(SIZE, SIZE, rank=2), (SIZE, SIZE)),
    "series": (layer(engine="series"), (1, SIZE, 3, 3)),
    "spectral": (layer(engine="spectral"), (1, SIZE, 4, 4)),
    "dense": (layer(engine="dense", kernel_size=1), (1, SIZE, 2, 2)),
    "groups": (lambda: GSSOC(2 * SIZE, 2 * SIZE, groups=(2, 1)), (1, 2 * SIZE, 2, 2)),
    "linear": (lambda: SOCLinear(SIZE, SIZE), (2, SIZE)),
    "head": (lambda: NormalizedLinear(SIZE, SIZE), (2, SIZE)),
}


@pytest.mark.parametrize("name", MODULES)
def test_no_module_decomposes_large_matrices_by_lu(name: str) -> None:
    make, shape = MODULES[name]
    torch.manual_seed(0)
    module = make()
    with RecordLU() as record:
        for mode in (True, False):
            module.train(mode)(torch.randn(shape)).sum().backward()
        if callable(bound := getattr(module, "lipschitz_bound", None)):
            assert bound() >= 0
    assert not record.found


@pytest.mark.parametrize("block_map", BLOCK_MAPS)
def test_no_block_map_decomposes_large_matrices_by_lu(block_map: str) -> None:
    matrices = torch.randn(2, SIZE, SIZE)
    with RecordLU() as record:
        BLOCK_MAPS[block_map](matrices - matrices.mT)
    assert not record.found
