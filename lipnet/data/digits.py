"""Scikit-learn's 8 x 8 digits: a small real dataset that comes with scikit-learn."""

import numpy as np
import torch

from lipnet.data.base import ImageDataModule
from lipnet.data.images import LabelledImages
from lipnet.data.spec import DIGITS_SPEC
from lipnet.data.splits import stratified_split

TEST_FRACTION = 0.2
TEST_SEED = 0


class DigitsDataModule(ImageDataModule):
    """Scikit-learn's digits, scaled from 0..16 to [0, 1]; arguments as for :class:`lipnet.data.ImageDataModule`.

    An index is a position in ``load_digits``, for all splits. By default, training images are padded with 1 zero on
    each side and cropped at random to 8 x 8. They are not flipped: a mirrored digit is another character.
    """

    spec = DIGITS_SPEC
    usual_crop_padding = 1
    usual_flip = False

    def read_images(self, train: bool) -> LabelledImages:
        """Read the 1438 training images or the 359 test images of a fixed stratified split.

        The split has its own seed, so the test images do not depend on a run's seed. Images are bytes 0..16 of shape
        (N, 1, 8, 8).
        """
        # Imported here, because scikit-learn takes long to import and other datasets do not need it.
        from sklearn.datasets import load_digits

        digits = load_digits()
        indices = stratified_split(digits.target, TEST_FRACTION, TEST_SEED)[0 if train else 1]
        return LabelledImages(
            images=torch.from_numpy(digits.images[indices].astype(np.uint8)).unsqueeze(1),
            labels=torch.from_numpy(digits.target[indices].astype(np.int64)),
            indices=torch.from_numpy(indices),
            maximum=16,
        )
