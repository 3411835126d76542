r"""Losses that raise certified accuracy: functions of logits (B, C) and labels, averaged over the batch.

Offsets and radii are L2 distances for pixels in [0, 1]. K is the Lipschitz constant from pixels to logits: a lead of m
over every other class certifies the radius m / (sqrt(2) K) (Tsuzuku, Sato & Sugiyama, NeurIPS 2018). Losses are
computed in at least float32, whatever the precision of the logits. They check shapes and dtypes. They do not check
values, because that would wait for the accelerator in every step.
"""

from math import inf, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

# Lower limit of the constants of pairs of logits.
_SMALLEST_CONSTANT = 1e-6


def offset_cross_entropy(
    logits: Tensor, labels: Tensor, *, lipschitz_constant: float, radius: float, temperature: float
) -> Tensor:
    r"""Compute the cross-entropy with an offset, which hardly raises margins that certify twice the radius already.

    .. math:: \mathrm{CE}\left(\frac{z / K - 2\sqrt{2}\,\epsilon\,y}{T},\ y\right)

    for the logits z, the radius :math:`\epsilon` and the one-hot label y. If y holds probabilities, each class loses
    its share of the offset.

    Args:
        logits: (B, C), floating.
        labels: classes (B,), or probabilities (B, C) whose rows sum to 1.
        lipschitz_constant: K, from pixels to logits.
        radius: :math:`\epsilon`, L2, pixels in [0, 1].
        temperature: T, which divides the logits after K.

    Returns:
        A scalar.

    Raises:
        ValueError: for logits or labels of another shape or dtype.

    Source: Prach et al., "1-Lipschitz layers compared", CVPR 2024, for networks with K = 1. The
    published loss is T times this one.

    Example:
        >>> logits = torch.tensor([[4.0, 0.0]])
        >>> offset_cross_entropy(logits, torch.tensor([0]), lipschitz_constant=2.0, radius=0.5, temperature=0.25)
        tensor(0.0917)
    """
    _check_logits(logits)
    scores, offset = scores_of(logits), 2 * sqrt(2) * radius
    if labels.shape == logits.shape and labels.is_floating_point():
        probabilities = labels.to(scores.dtype)
    elif labels.shape == logits.shape[:1] and labels.dtype == torch.int64:
        probabilities = F.one_hot(labels, logits.shape[1]).to(scores.dtype)
    else:
        raise ValueError(
            f"labels must be int64 classes of shape ({len(logits)},) or floating probabilities of shape "
            f"{tuple(logits.shape)}, got {labels.dtype} {tuple(labels.shape)}"
        )
    return F.cross_entropy((scores / lipschitz_constant - offset * probabilities) / temperature, probabilities)


def certificate_regularization(
    logits: Tensor, labels: Tensor, *, lipschitz_constant: float | Tensor, gamma: float
) -> Tensor:
    r"""Compute the cross-entropy minus :math:`\gamma` times the mean certified radius of the correct class.

    .. math:: \mathrm{CE}(z, y) - \gamma\,\mathrm{mean}\,\max(0, R)

    with the radius R of `correct_class_radius`.

    Args:
        logits: (B, C), floating, C >= 2.
        labels: classes (B,).
        lipschitz_constant: K, or one constant for each pair of logits, as in `correct_class_radius`.
        gamma: weight of the radius, which is an L2 distance for pixels in [0, 1].

    Returns:
        A scalar.

    Raises:
        ValueError: for logits or labels of another shape or dtype.

    Source: Singla, Singla & Feizi, "Improved deterministic l2 robustness on CIFAR-10 and CIFAR-100", ICLR 2022.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0], [1.0, 0.0, 2.0]])
        >>> certificate_regularization(logits, torch.tensor([0, 0]), lipschitz_constant=1.0, gamma=0.5)
        tensor(0.4352)
    """
    radius = correct_class_radius(logits, labels, lipschitz_constant)
    return F.cross_entropy(scores_of(logits), labels) - gamma * radius.relu().mean()


def logit_annealing(logits: Tensor, labels: Tensor, *, offset: float, temperature: float, beta: float) -> Tensor:
    r"""Compute the logit annealing loss, which fades out samples with a large margin.

    .. math:: -T\,(1 - p_y)^\beta \log p_y, \qquad p = \mathrm{softmax}\left(\frac{z - \xi\,y}{T}\right)

    Args:
        logits: (B, C), floating, C >= 2.
        labels: classes (B,).
        offset: :math:`\xi`, **in logits**, as in the source, whose networks take normalised images.
        temperature: T, which divides the logits.
        beta: the exponent; 0 leaves the cross-entropy with an offset.

    Returns:
        A scalar.

    Raises:
        ValueError: for logits or labels of another shape or dtype.

    Source: Lai et al., "Block reflector orthogonal layers and logit annealing loss", ICML 2025 (arXiv 2505.15174).

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0]])
        >>> logit_annealing(logits, torch.tensor([0]), offset=2.0, temperature=0.75, beta=5.0)
        tensor(0.0332)
    """
    _check_classes(logits, labels)
    scores = scores_of(logits)
    correct = F.one_hot(labels, scores.shape[1]).bool()
    log_p = ((scores - offset * correct) / temperature).log_softmax(dim=1)
    # log(1 - p_y) from the other classes: 1 - p_y would lose all its digits, and its gradient, where p_y is close to 1.
    log_others = log_p.masked_fill(correct, -inf).logsumexp(dim=1)
    log_correct = log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
    return -temperature * ((beta * log_others).exp() * log_correct).mean()


def multiclass_hinge(logits: Tensor, labels: Tensor, *, lipschitz_constant: float | Tensor, radius: float) -> Tensor:
    r"""Compute the multi-class hinge loss, the sum of the hinges on the radii to all other classes.

    .. math:: \mathrm{mean}\ \sum_{j \ne y} \max(0,\ r - R_j), \qquad R_j = (z_y - z_j) / D_{yj}

    with the constants D of `correct_class_radius`. Its radius R is the smallest R_j, so a sample with R >= r has loss
    0. All classes that are nearer than r are pushed away at once. A hinge on R alone pushes one class at a time, and
    hardly learns a hundred classes.

    Args:
        logits: (B, C), floating, C >= 2.
        labels: classes (B,).
        lipschitz_constant: K, or one constant for each pair of logits, as in `correct_class_radius`.
        radius: r, L2, pixels in [0, 1].

    Returns:
        A scalar, in pixels.

    Raises:
        ValueError: for logits or labels of another shape or dtype.

    Source: Weston & Watkins, "Support vector machines for multi-class pattern recognition", ESANN 1999.

    Example:
        >>> logits = torch.tensor([[3.0, 1.0, 0.0], [1.0, 0.0, 2.0]])
        >>> multiclass_hinge(logits, torch.tensor([0, 0]), lipschitz_constant=1.0, radius=2.0)
        tensor(2.2929)
    """
    radii = radii_to_others(logits, labels, lipschitz_constant)
    return (radius - radii).relu().sum(dim=1).mean()


def correct_class_radius(logits: Tensor, labels: Tensor, lipschitz_constant: float | Tensor) -> Tensor:
    r"""Compute the signed, differentiable radius of the correct class; if positive, it is the certified radius.

    .. math:: R = \min_{j \ne y} \frac{z_y - z_j}{D_{yj}}

    where D bounds the Lipschitz constants of the differences of logits: :math:`\sqrt{2} K` for all pairs, or one
    number per pair, such as :math:`\|w_y - w_j\| K` for a head with rows w. The radius is rounded to nearest:
    certificates come from `lipnet.certify`.

    Args:
        logits: (B, C), floating, C >= 2.
        labels: classes (B,).
        lipschitz_constant: K, from pixels to logits; or D, floating of shape (C, C), whose diagonal is not read.

    Returns:
        (B,), L2, pixels in [0, 1]; negative where another class leads.

    Raises:
        ValueError: for logits, labels or constants of another shape or dtype.

    Source: Tsuzuku, Sato & Sugiyama, NeurIPS 2018; for each pair: Singla, Singla & Feizi, ICLR 2022.

    Example:
        >>> correct_class_radius(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), torch.tensor([0, 0]), lipschitz_constant=1.0)
        tensor([ 1.4142, -1.4142])
    """
    return radii_to_others(logits, labels, lipschitz_constant).amin(dim=1)


def radii_to_others(logits: Tensor, labels: Tensor, lipschitz_constant: float | Tensor) -> Tensor:
    """Return the signed radii R_j of the correct class to each class j, (B, C); infinite for the class itself.

    Args, Raises: as for `correct_class_radius`.
    """
    _check_classes(logits, labels)
    scores, index = scores_of(logits), labels.unsqueeze(1)
    leads = scores.gather(1, index) - scores
    if not isinstance(lipschitz_constant, Tensor):
        return (leads / (sqrt(2) * lipschitz_constant)).scatter(1, index, inf)
    pairs = 2 * logits.shape[1:]
    if lipschitz_constant.shape != pairs or not lipschitz_constant.is_floating_point():
        raise ValueError(
            f"lipschitz_constant must be a number, or floating of shape {tuple(pairs)} for pairs of logits, got "
            f"{lipschitz_constant.dtype} {tuple(lipschitz_constant.shape)}"
        )
    # The label's own entry, 0 / 0, would make every gradient NaN, and so would two equal rows.
    constants = lipschitz_constant[labels].scatter(1, index, 1.0).clamp_min(_SMALLEST_CONSTANT)
    return (leads / constants).scatter(1, index, inf)


def scores_of(logits: Tensor) -> Tensor:
    """Return the logits in at least float32: under autocast they may be in half precision."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _check_logits(logits: Tensor) -> None:
    if logits.dim() != 2 or logits.shape[1] < 2 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating and of shape (B, C) with C >= 2, got {logits.dtype} {tuple(logits.shape)}"
        )


def _check_classes(logits: Tensor, labels: Tensor) -> None:
    _check_logits(logits)
    if labels.shape != logits.shape[:1] or labels.dtype != torch.int64:
        raise ValueError(
            f"labels must be int64 classes of shape ({len(logits)},) for this loss, got {labels.dtype} "
            f"{tuple(labels.shape)}: mixed labels need a cross-entropy"
        )
