"""Class counts, image sizes and normalisation constants of the datasets."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DatasetSpec:
    """Name, sizes and normalisation of a dataset of square images with pixels in [0, 1].

    The normalisation ``(x - mean) / std`` has one mean per channel but a single std. It is a shift followed by a
    multiplication with 1 / std, so its L2 Lipschitz constant is 1 / std exactly, in every direction. ``std`` is
    ``sqrt(mean((x - mean[channel])^2))`` over all pixels and channels of the training images.

    Attributes:
        name: the key in ``lipnet.data.DATAMODULES``.
        num_classes: number of classes; labels are 0..num_classes - 1.
        in_channels: number of channels.
        image_size: height and width in pixels.
        mean: one mean per channel.
        std: one standard deviation for all channels.
        classes: names of the classes, in the order of their labels; None if only the dataset's files hold them, or if
            they have none.

    Raises:
        ValueError: ``mean`` does not have one value per channel, ``classes`` does not have one name per class, or
            ``std`` is not positive.
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    mean: tuple[float, ...]
    std: float
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != self.in_channels:
            raise ValueError(f"mean must have {self.in_channels} values, one per channel, got {self.mean}")
        if not self.std > 0.0:
            raise ValueError(f"std must be positive, got {self.std}")
        if self.classes is not None and len(self.classes) != self.num_classes:
            raise ValueError(f"classes must have {self.num_classes} names, got {self.classes}")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


CIFAR100_CLASSES = _names("""
apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly,
camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile, cup,
dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn mower,
leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak tree, orange, orchid,
otter, palm tree, pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit, raccoon, ray, road,
rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel, streetcar, sunflower,
sweet pepper, table, tank, telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale,
willow tree, wolf, woman, worm
""")
CIFAR100_COARSE_CLASSES = _names("""
aquatic mammals, fish, flowers, food containers, fruit and vegetables, household electrical devices, household
furniture, insects, large carnivores, large man-made outdoor things, large natural outdoor scenes, large omnivores
and herbivores, medium mammals, non-insect invertebrates, people, reptiles, small mammals, trees, vehicles 1,
vehicles 2
""")

CIFAR100_SPEC = DatasetSpec(
    "cifar100",
    100,
    in_channels=3,
    image_size=32,
    mean=(0.5071, 0.4865, 0.4409),
    std=0.2668,
    classes=CIFAR100_CLASSES,
)
"""CIFAR-100, measured on its 50000 training images."""

CIFAR10_SPEC = DatasetSpec(
    "cifar10",
    10,
    in_channels=3,
    image_size=32,
    mean=(0.4914, 0.4822, 0.4465),
    std=0.2508,
    classes=_names("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck"),
)
"""CIFAR-10: the commonly published channel means, and the root mean square of the published channel standard
deviations (0.2470, 0.2435, 0.2616), which equals ``std`` as defined above."""

DIGITS_SPEC = DatasetSpec("digits", 10, in_channels=1, image_size=8, mean=(0.3053,), std=0.3759)
"""Scikit-learn's digits, measured on the 1438 images outside the test split."""

SVHN_SPEC = DatasetSpec(
    "svhn",
    10,
    in_channels=3,
    image_size=32,
    mean=(0.4377, 0.4438, 0.4728),
    std=0.1987,
    classes=tuple("0123456789"),
)
"""SVHN: the published channel means, and the root mean square of the published channel standard deviations (0.1980,
0.2010, 0.1970)."""

MNIST_SPEC = DatasetSpec(
    "mnist", 10, in_channels=1, image_size=28, mean=(0.1307,), std=0.3081, classes=tuple("0123456789")
)
"""MNIST, with the published mean and standard deviation."""

FASHION_MNIST_SPEC = DatasetSpec(
    "fashion_mnist",
    10,
    in_channels=1,
    image_size=28,
    mean=(0.2860,),
    std=0.3530,
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)
"""Fashion-MNIST, with the published mean and standard deviation."""

TINY_IMAGENET_SPEC = DatasetSpec(
    "tiny_imagenet", 200, in_channels=3, image_size=64, mean=(0.4802, 0.4481, 0.3975), std=0.2761
)
"""Tiny ImageNet: the published channel means, and the root mean square of the published channel standard deviations
(0.2770, 0.2691, 0.2821)."""
