"""Train and certify a 1-Lipschitz network in plain torch: the whole story in one file.

Run: python examples/minimal.py        (scikit-learn's digits, one CPU core, about 20 seconds)
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from lipnet.certify import certify
from lipnet.layers import GSSOC, MaxMinPermuted, NormalizedLinear
from lipnet.metrics.functional import certified_accuracy

RADII = ("36/255", "72/255", "108/255")
# The loss asks for this margin between logits. A radius r needs a margin of sqrt(2) r.
MARGIN, TEMPERATURE = 0.4, 0.25


def digits(test_share: float = 0.2) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return training and test images (N, 1, 8, 8) with pixels in [0, 1], each with their labels (N,)."""
    content = load_digits()
    images = torch.from_numpy(content.images).float().div(16).unsqueeze(1)
    labels = torch.from_numpy(content.target)
    order = torch.randperm(len(labels))
    test, train = order.split([int(test_share * len(labels)), len(labels) - int(test_share * len(labels))])
    return (images[train], labels[train]), (images[test], labels[test])


def network() -> nn.Sequential:
    """Build a network whose layers are orthogonal or 1-Lipschitz: no normalisation, no ReLU, no average pooling."""
    return nn.Sequential(
        GSSOC(1, 16, kernel_size=3, groups=(1, None)),
        MaxMinPermuted(),
        GSSOC(16, 32, kernel_size=3, stride=2, groups=(4, None)),
        MaxMinPermuted(),
        GSSOC(32, 64, kernel_size=3, stride=2, groups=(4, 1)),
        MaxMinPermuted(),
        nn.Flatten(),
        NormalizedLinear(64 * 2 * 2, 10),
    )


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy after lowering the logit of the true class, which rewards margins up to `MARGIN`."""
    handicap = MARGIN * F.one_hot(labels, logits.shape[1])
    return F.cross_entropy((logits - handicap) / TEMPERATURE, labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int = 30, batch_size: int = 64) -> None:
    """Train with SGD and a one-cycle learning rate."""
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(batch_size)[: len(images) // batch_size]:
            optimizer.zero_grad()
            loss(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


def main(epochs: int = 30) -> dict[str, float]:
    """Train, certify the test images, print and return the accuracies."""
    torch.manual_seed(0)
    (images, labels), (test_images, test_labels) = digits()
    model = network()
    train(model, images, labels, epochs)
    # In float64 the radii account for rounding: no image within a radius changes the computed prediction.
    result = certify(model.double().eval(), test_images.double(), test_labels)
    figures = {"clean": float(result.correct.double().mean())}
    figures |= dict(zip(RADII, certified_accuracy(result.radius, result.correct, RADII).tolist(), strict=True))
    for name, share in figures.items():
        print(f"{name:>8}: {share:6.1%}")
    return figures


if __name__ == "__main__":
    main()
