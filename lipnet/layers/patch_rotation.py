"""Patches as channels, rotated to their principal components: the first layer of a network that works on patches."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lipnet.functional import space_to_depth
from lipnet.functional.contractions import orthogonal_norm_bound
from lipnet.functional.rounding_error import Signal, Step, absolute_norm, exact, products
from lipnet.layers.base import LipschitzModule


class PatchEmbedding(LipschitzModule):
    r"""Pixels of patches as channels, rotated to their principal components: :math:`y = Q\,\mathrm{patch}(x)`.

    Patches of p x p pixels, without overlap, become C p^2 channels: a permutation of the entries. With ``rotation``,
    the rows of the fixed orthogonal matrix Q are the principal components of the training images' patches, largest
    variance first. Unlike whitening, Q does not rescale the components, which would have a large norm. Channels of
    zeros fill up to ``out_channels``. The layer is an isometry up to the rounding of Q, and has no parameters.

    Q starts as the identity. `fit` computes it. The callback `lipnet.training.FitPatchRotation`, which every training
    has, calls `fit` with the training images.

    Args:
        in_channels: C.
        patch_size: p, which must divide the images' height and width.
        out_channels: at least C p^2; None for C p^2.
        rotation: rotate the patches; False only moves pixels.
        device, dtype: of Q.

    Shape:
        (B, C, H, W) to (B, out_channels, H / p, W / p).

    Raises:
        ValueError: for sizes out of range, and for inputs of another shape.

    Example:
        >>> PatchEmbedding(3, patch_size=2, out_channels=16)(torch.zeros(1, 3, 8, 8)).shape
        torch.Size([1, 16, 4, 4])
    """

    components: Tensor
    fitted: Tensor

    def __init__(
        self,
        in_channels: int,
        patch_size: int,
        out_channels: int | None = None,
        *,
        rotation: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_channels < 1 or patch_size < 1:
            raise ValueError(f"in_channels and patch_size must be at least 1, got {in_channels} and {patch_size}")
        entries = in_channels * patch_size**2
        out_channels = entries if out_channels is None else out_channels
        if out_channels < entries:
            raise ValueError(
                f"out_channels must be at least in_channels * patch_size^2 = {entries}, so that nothing is lost, "
                f"got {out_channels}"
            )
        self.in_channels, self.patch_size, self.out_channels, self.rotation = (
            in_channels,
            patch_size,
            out_channels,
            rotation,
        )
        if rotation:
            self.register_buffer("components", torch.eye(entries, device=device, dtype=dtype))
            self.register_buffer("fitted", torch.zeros((), dtype=torch.bool, device=device))

    def forward(self, x: Tensor) -> Tensor:
        patches = self._patches(x)
        if self.rotation:
            patches = F.conv2d(patches, self.components.view(*self.components.shape, 1, 1))
        missing = self.out_channels - patches.shape[1]
        return F.pad(patches, (0, 0, 0, 0, 0, missing)) if missing else patches

    def _patches(self, x: Tensor) -> Tensor:
        size = self.patch_size
        if x.dim() != 4 or x.shape[1] != self.in_channels or x.shape[2] % size or x.shape[3] % size:
            raise ValueError(
                f"PatchEmbedding needs images (B, {self.in_channels}, H, W) that patches of {size} x {size} divide, "
                f"got {tuple(x.shape)}"
            )
        return space_to_depth(x, (size, size))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Set Q to the principal components of the patches of images (N, C, H, W), in any affine scale of the pixels.

        The rows of Q are the eigenvectors of the patches' covariance, by falling eigenvalue, computed in float64. The
        entry of largest magnitude in each row is positive, so that the signs do not depend on the library.

        Raises:
            ValueError: if the layer has no rotation, pixels are not finite, or there are fewer than two patches.
        """
        if not self.rotation:
            raise ValueError("rotation must be True to fit it, got rotation=False")
        columns = self._patches(images.double()).transpose(0, 1).flatten(1)
        if not bool(columns.isfinite().all()):
            raise ValueError("images must have finite pixels, got NaN or infinity")
        if columns.shape[1] < 2:
            raise ValueError(f"images must have at least two patches, got {columns.shape[1]}")
        vectors = torch.linalg.eigh(torch.cov(columns).view(2 * [len(columns)])).eigenvectors.flip(1).T
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        self.components.copy_(vectors * largest.sign())
        self.fitted.fill_(True)

    def lipschitz_bound(self) -> float:
        """Bound ||Q|| from the residual Q^T Q - I, rounded up; 1 without rotation."""
        return orthogonal_norm_bound(self.components) if self.rotation else 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        """Bound the rounding of the product with Q; moving pixels is exact."""
        if not self.rotation:
            return exact(signal)
        return products(
            signal,
            length=len(self.components),
            magnitude=absolute_norm(self.components),
            gain=self.lipschitz_bound(),
            outputs=signal.entries,
        )

    def extra_repr(self) -> str:
        rotation = ", rotation=True" if self.rotation else ""
        return f"{self.in_channels}, patch_size={self.patch_size}, out_channels={self.out_channels}{rotation}"
