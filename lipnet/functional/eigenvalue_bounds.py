"""Proven bounds on the eigenvalues of Hermitian matrices, by Cholesky decompositions."""

import torch
from torch import Tensor

# Lanczos steps before the proof: a good first bound saves Cholesky decompositions. After a few steps with all matrices,
# only those with the largest estimates (the candidates) continue.
_STEPS_OF_ALL = 8
_STEPS_OF_CANDIDATES = 60
_CANDIDATES = 16
# The first bound to prove is the estimate times the margin. If the proof fails, the bound grows by at least _GROWTH.
_MARGIN = 1.0005
_GROWTH = 1.001
# Size n up to which a proof is first tried in float32. Its rounding costs 4 n^2 units of the bound.
_LARGEST_IN_FLOAT32 = 128


def eigenvalue_bound(hermitian: Tensor, signs: tuple[int, ...] = (1, -1)) -> float:
    """Bound the moduli of all eigenvalues of Hermitian matrices H (N, n, n) from above.

    Cholesky decompositions of b I + H and b I - H prove the bound b. b starts slightly above an estimate, and grows
    until all of them succeed.

    Args:
        hermitian: the matrices; real and imaginary parts of their entries are at most 2.
        signs: of H in the decompositions. (1,) is enough if the eigenvalues are symmetric about 0, and (-1,) if none
            is negative.
    """
    single = hermitian.to(torch.complex64 if hermitian.is_complex() else torch.float32)
    # A positive start, so that the bound of zero matrices can grow.
    bound = max(_estimate(single) * _MARGIN, 2.0**-40)
    while len(unproven := (~_proven(hermitian, single, bound, signs)).nonzero().squeeze(1)):
        hermitian, single = hermitian[unproven], single[unproven]
        bound = max(bound * _GROWTH, _estimate(single) * _MARGIN)
    return bound


def _proven(hermitian: Tensor, single: Tensor, bound: float, signs: tuple[int, ...]) -> Tensor:
    """Return a mask (N,) of the matrices H for which bound I + sign H provably has no negative eigenvalue.

    Most norms are a little below the bound, so that float32 suffices. It takes little more than half the time.

    Args:
        hermitian: the matrices (N, n, n).
        single: the same matrices in single precision.
        bound, signs: as in `eigenvalue_bound`.
    """
    if hermitian.shape[-1] > _LARGEST_IN_FLOAT32:
        return _decomposes(hermitian, bound, signs)
    proven = _decomposes(single, bound, signs)
    rest = (~proven).nonzero().squeeze(1)
    if len(rest):
        proven[rest] = _decomposes(hermitian[rest], bound, signs)
    return proven


def _decomposes(hermitian: Tensor, bound: float, signs: tuple[int, ...]) -> Tensor:
    """Return a mask (N,) of the matrices H for which the Cholesky decompositions of (bound - r) I + sign H succeed.

    r bounds the rounding. A decomposition that succeeds is the exact one of A + D with ||D|| <= gamma tr(A) (Higham,
    Theorem 10.3). In complex arithmetic, gamma is 2 sqrt(2) (n + 2) u. Converting entries with parts of at most 2 to
    float32 has an error of norm 3 n u. The shift of a diagonal entry is rounded, too.
    """
    n, unit = hermitian.shape[-1], torch.finfo(hermitian.dtype).eps / 2
    trace = float(hermitian.diagonal(dim1=-2, dim2=-1).real.sum(dim=-1).abs().amax())
    shift = bound - unit * (4 * (n + 4) * (n * bound + trace) + 4 * n)
    decomposed = torch.ones(len(hermitian), dtype=torch.bool, device=hermitian.device)
    for sign in signs:
        shifted = sign * hermitian
        shifted.diagonal(dim1=-2, dim2=-1).add_(shift)
        decomposed &= torch.linalg.cholesky_ex(shifted).info == 0
    return decomposed


def _estimate(matrices: Tensor) -> float:
    """Estimate the largest modulus of an eigenvalue of the matrices (N, n, n) from below."""
    estimates = _ritz_values(matrices, _STEPS_OF_ALL)
    candidates = estimates.topk(min(_CANDIDATES, len(estimates))).indices
    return float(_ritz_values(matrices[candidates], _STEPS_OF_CANDIDATES).max())


def _ritz_values(matrices: Tensor, steps: int) -> Tensor:
    """Return the largest modulus of a Ritz value of each matrix (N,), by the Lanczos process."""
    n = matrices.shape[-1]
    start = torch.nn.functional.normalize(torch.linspace(1, 2, n, device=matrices.device), dim=0)
    current, previous = start.to(matrices).expand(len(matrices), n).unsqueeze(-1), torch.zeros_like(matrices[..., :1])
    diagonal, off_diagonal = [], [torch.zeros_like(current[:, :1].real)]
    for _ in range(min(steps, n)):
        image = matrices @ current - off_diagonal[-1] * previous
        diagonal.append((current.mH @ image).real)
        image = image - diagonal[-1] * current
        off_diagonal.append(image.norm(dim=1, keepdim=True))
        # Below 1e-10 the Krylov space is invariant: go on with zeros. Squares of smaller entries underflow in float32.
        previous, current = current, torch.where(off_diagonal[-1] > 1e-10, image / off_diagonal[-1], 0.0)
    tridiagonal = torch.diag_embed(torch.cat(diagonal, dim=1).squeeze(-1))
    if len(diagonal) > 1:
        tridiagonal += torch.diag_embed(torch.cat(off_diagonal[1:-1], dim=1).squeeze(-1), offset=-1)
    # eigvalsh reads only the lower triangle.
    values: Tensor = torch.linalg.eigvalsh(tridiagonal.double())
    return values.abs().amax(dim=-1)
