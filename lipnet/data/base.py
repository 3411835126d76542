"""Base class of the LightningDataModules: splits, augmentation and loaders."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from math import inf
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from lipnet.data.augmentation import Augmentation, CropAndFlip, Mixing, SeededAugmentation
from lipnet.data.checks import check_at_least, check_fraction, check_seed
from lipnet.data.extra import ExtraImages
from lipnet.data.fingerprint import comparable
from lipnet.data.images import ImageDataset, LabelledImages, to_unit_range
from lipnet.data.loaders import LOADERS
from lipnet.data.samplers import EpochSampler, RatioSampler, ShardSampler
from lipnet.data.spec import DatasetSpec
from lipnet.data.splits import stratified_split

STAGES = ("fit", "validate", "test", "predict")
EVALUATION_SPLITS = ("validation", "test")


class ImageDataModule(LightningDataModule, ABC):
    """Training, validation and test images with pixels in [0, 1]: float32 of shape (C, H, W), and int labels.

    Images are not normalised: the model normalises them, so that radii are in pixels. The validation images are a
    stratified part of the training images. The test images are only read for the stages "test" and "predict".

    The training order is a function of (seed, epoch), augmentation of (seed, epoch, index), and mixing of (seed, epoch,
    process, number of the batch). Neither the loader, the number of workers nor the global random state matters.
    Evaluation is in dataset order and shared among processes without padding.

    Args:
        batch_size: training samples in a batch, per process; the last batch of an epoch may be smaller.
        eval_batch_size: samples in a batch of validation or test, per process; None takes ``batch_size``.
        num_workers: worker processes of each loader; 0 loads in the main process.
        validation_fraction: part of each class of the training images that becomes the validation images, in (0, 1).
        seed: seed of the split, the order and the augmentation, 0..2**32 - 1.
        augment: augment the training images; False disables crop, flip, policy and mixing.
        crop_padding: zeros added on each side of a training image before it is cropped at random to its own size; 0
            disables cropping, None takes the dataset's usual value.
        flip: flip training images at random, left to right; ``"alternating"`` flips each in every other epoch; None
            takes the dataset's usual value.
        policy: a further random transform of single training images, bytes 0..255 of shape (C, H, W), such as
            ``torchvision.transforms.v2.TrivialAugmentWide()``; needs the loader "workers".
        mixing: ``torchvision.transforms.v2.MixUp`` or ``CutMix``, applied to each training batch; labels become
            probabilities (B, num_classes).
        extra: further training images, such as generated ones, mixed in at their ratio.
        loader: "workers" builds batches in worker processes; "memory" holds all images on the training device and
            builds batches there, without workers. Both build the same batches.
        download: allow ``prepare_data`` to fetch missing files; no effect for datasets without files.
        pin_memory: return page-locked tensors from the loaders.

    Raises:
        ValueError: an argument is outside its range.
    """

    spec: DatasetSpec
    checkpoint_settings: ClassVar[tuple[str, ...]] = ("seed", "validation_fraction")
    """Arguments that a checkpoint sets when a certification makes its data module again."""
    checkpoint_facts: ClassVar[tuple[str, ...]] = ()
    """Further attributes that a checkpoint states. A certification compares them with the data."""
    same_split: ClassVar[tuple[str, ...]] = ()
    """Other datasets with the same images, and the same split at the same settings."""
    other_split: ClassVar[tuple[str, ...]] = ()
    """Other datasets with some of these images, split in another way."""
    usual_crop_padding: ClassVar[int]
    """The default of ``crop_padding`` for this dataset."""
    usual_flip: ClassVar[bool]
    """The default of ``flip`` for this dataset."""

    def __init__(
        self,
        *,
        batch_size: int = 128,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        validation_fraction: float = 0.1,
        seed: int = 0,
        augment: bool = True,
        crop_padding: int | None = None,
        flip: bool | str | None = None,
        policy: v2.Transform | None = None,
        mixing: Mixing | None = None,
        extra: ExtraImages | None = None,
        loader: str = "workers",
        download: bool = False,
        pin_memory: bool = False,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        crop_padding = self.usual_crop_padding if crop_padding is None else crop_padding
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(0, num_workers=num_workers, crop_padding=crop_padding)
        check_fraction("validation_fraction", validation_fraction)
        check_seed("seed", seed)
        if loader not in LOADERS:
            raise ValueError(f"loader must be one of {tuple(LOADERS)}, got {loader!r}")
        if policy is not None and not LOADERS[loader].uses_workers:
            raise ValueError(
                f"data.loader={loader} makes whole batches, but the policy {type(policy).__name__} transforms single "
                "images: use data.loader=workers"
            )
        if mixing is not None and not 0 < mixing.alpha < inf:
            raise ValueError(f"alpha must be positive and finite, got {mixing.alpha}")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.loader, self.pin_memory = num_workers, loader, pin_memory
        self.validation_fraction, self.seed, self.download = validation_fraction, seed, download
        self.augment, self.crop_padding, self.flip = augment, crop_padding, self.usual_flip if flip is None else flip
        self.policy, self.mixing, self.extra = policy, mixing, extra

    @property
    def dataset_name(self) -> str:
        """The key of the dataset in ``lipnet.data.DATAMODULES``."""
        return self.spec.name

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are 0..num_classes - 1."""
        return self.spec.num_classes

    def description(self) -> dict[str, Any]:
        """Return the description of the data for checkpoints: name, settings and facts, as plain values."""
        stated = (*self.checkpoint_settings, *self.checkpoint_facts)
        return {"name": self.dataset_name} | {name: getattr(self, name) for name in stated}

    def settings_behind(self, split: str) -> tuple[str, ...]:
        """Return the names of the `description` entries that determine the images of a split, "validation" or "test".

        A network that was trained with other values of them may have been trained on these images.
        """
        return ("seed", "validation_fraction") if split == "validation" else ()

    def unseen_by(self, description: Mapping[str, Any]) -> bool:
        """Tell whether a network that was trained on the described data saw none of the validation and test images.

        Args:
            description: of the data of that training, see `description`.
        """
        name = description["name"]
        if name not in (self.dataset_name, *self.same_split):
            return name not in self.other_split
        behind = dict.fromkeys(key for split in EVALUATION_SPLITS for key in self.settings_behind(split))
        here = comparable({key: getattr(self, key) for key in behind}, description)
        return all(description.get(key) == value for key, value in here.items())

    def facts(self) -> dict[str, Any]:
        """Return facts for certificates, as JSON values: the names of the classes, if the dataset has them."""
        return {} if self.spec.classes is None else {"classes": list(self.spec.classes)}

    @abstractmethod
    def read_images(self, train: bool) -> LabelledImages:
        """Read the official training images, including those of the validation split, or the official test images."""

    def split_labels(self) -> Tensor:
        """Return the classes (N,) that stratify the validation split: the labels, unless overridden."""
        return self._training_images.labels

    @cached_property
    def _training_images(self) -> LabelledImages:
        return self._read_prepared(train=True)

    @cached_property
    def _test_images(self) -> LabelledImages:
        return self._read_prepared(train=False)

    @cached_property
    def _positions(self) -> tuple[Tensor, Tensor]:
        labels = self.split_labels().numpy()
        training, validation = stratified_split(labels, self.validation_fraction, self.seed)
        return torch.from_numpy(training), torch.from_numpy(validation)

    @cached_property
    def _training_source(self) -> LabelledImages:
        """The training images followed by the extra ones."""
        return self._training_images if self.extra is None else self._training_images.joined(self.extra.read(self.spec))

    def _read_prepared(self, train: bool) -> LabelledImages:
        self.prepare_alone()
        return self.read_images(train)

    def prepare_alone(self) -> None:
        """Prepare the data unless a Trainer does so, in one process per machine."""
        if self.trainer is None:
            self.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read the images of a stage.

        Args:
            stage: "fit" and "validate" read the training images, "test" and "predict" the test images, None all.

        Raises:
            FileNotFoundError: files are missing.
            OSError: files are damaged.
            ValueError: the stage is unknown, a class is too small to be split, or extra images do not fit.
        """
        if stage not in (None, *STAGES):
            raise ValueError(f"stage must be one of {STAGES} or None, got {stage!r}")
        # The images are cached: the first request for a split reads them.
        if stage in (None, "fit", "validate"):
            self.evaluation_dataset("validation")
        if stage in (None, "fit"):
            self.training_dataset()
        if stage in (None, "test", "predict"):
            self.evaluation_dataset("test")

    def training_dataset(self) -> ImageDataset:
        """Return the training images outside the validation split, then the extra ones, with augmentation if enabled.

        Raises:
            ValueError: extra images do not fit, or a policy is set for images that are not bytes 0..255.
        """
        source = self._training_source
        positions = torch.cat([self._positions[0], torch.arange(len(self._training_images), len(source))])
        augmentations: list[Augmentation] = []
        if self.augment:
            augmentations.append(CropAndFlip(self.seed, self.crop_padding, self.flip))
        if self.augment and self.policy is not None:
            if source.maximum != 255:
                raise ValueError(
                    f"the policy {type(self.policy).__name__} is for bytes 0..255, but images of {self.dataset_name} "
                    f"are 0..{source.maximum}"
                )
            augmentations.append(SeededAugmentation(self.policy, self.seed))
        return ImageDataset(source, positions, augmentations)

    def training_images(self, count: int) -> Tensor:
        """Return at most ``count`` own training images, evenly spread and not augmented: float32 (n, C, H, W)."""
        positions = self._positions[0]
        chosen = positions[torch.arange(0, len(positions), max(1, -(-len(positions) // count)))]
        return to_unit_range(self._training_images.images[chosen], self._training_images.maximum)

    def evaluation_dataset(self, split: str) -> ImageDataset:
        """Return the images of a split, not augmented, in the order of the official file.

        Args:
            split: "validation" or "test".

        Raises:
            ValueError: the split is unknown.
        """
        if split not in EVALUATION_SPLITS:
            raise ValueError(f"split must be one of {EVALUATION_SPLITS}, got {split!r}")
        if split == "validation":
            return ImageDataset(self._training_images, self._positions[1])
        return ImageDataset(self._test_images, torch.arange(len(self._test_images)))

    def evaluation_indices(self, split: str) -> Tensor:
        """Return the official index of each sample of a split, int64 (n,), in the order of `evaluation_dataset`."""
        return self.evaluation_dataset(split).indices

    def train_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the shuffled loader of this process's share of the training images."""
        dataset, world = self.training_dataset(), (*self._world(), self.seed)
        sampler = EpochSampler(dataset, *world)
        if self.extra is not None:
            own = len(self._positions[0])
            sampler = RatioSampler(own, len(dataset) - own, self.extra.ratio, *world)
        return self._dataloader(dataset, sampler, self.batch_size, self.mixing if self.augment else None)

    def evaluation_dataloader(self, split: str) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the loader of this process's share of `evaluation_dataset`, in order."""
        num_replicas, rank = self._world()
        dataset = self.evaluation_dataset(split)
        return self._dataloader(dataset, ShardSampler(dataset, num_replicas, rank), self.eval_batch_size)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the loader of the validation images."""
        return self.evaluation_dataloader("validation")

    def test_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the loader of the test images."""
        return self.evaluation_dataloader("test")

    def predict_dataloader(self) -> DataLoader[tuple[Tensor, Tensor]]:
        """Return the loader of the test images."""
        return self.evaluation_dataloader("test")

    def _world(self) -> tuple[int, int]:
        """Return the number of processes and the rank of this one: (1, 0) without a Trainer."""
        return (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)

    def _dataloader(
        self, dataset: ImageDataset, sampler: EpochSampler | ShardSampler, batch_size: int, mixing: Mixing | None = None
    ) -> DataLoader[tuple[Tensor, Tensor]]:
        kind = LOADERS[self.loader]
        num_workers = self.num_workers if kind.uses_workers else 0
        if not kind.uses_workers and self.trainer is not None:
            dataset = dataset.to(self.trainer.strategy.root_device)
        return kind(
            dataset,
            num_classes=self.num_classes,
            mixing=mixing,
            seed=self.seed,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=self.pin_memory and kind.uses_workers,
            # Without its own generator, each iterator would draw its workers' seed from the global one.
            generator=torch.Generator().manual_seed(self.seed),
        )
