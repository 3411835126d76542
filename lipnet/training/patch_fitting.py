"""Callback that fits the patch rotations of a network to its training images."""

from lightning import Callback, LightningModule, Trainer

from lipnet.layers import PatchEmbedding

_IMAGES = 5000


class FitPatchRotation(Callback):
    """Callback that fits every `lipnet.layers.PatchEmbedding` with a rotation before the training.

    The rotation comes from up to 5000 training images, without augmentation. A network from a checkpoint has its
    rotation already.

    Raises:
        ValueError: at the start of a training, if a rotation is missing and there is no data module with a method
            ``training_images(count)``.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        waiting = [
            (name, module)
            for name, module in pl_module.named_modules()
            if isinstance(module, PatchEmbedding) and module.rotation and not bool(module.fitted)
        ]
        if not waiting:
            return
        images_of = getattr(getattr(trainer, "datamodule", None), "training_images", None)
        if images_of is None:
            raise ValueError(
                f"{waiting[0][0]} has no rotation yet, and there is no data module with training_images(count): call "
                "its fit(images) first"
            )
        for _, module in waiting:
            # The embedding follows the normalisation, which leaves directions as they are.
            module.fit(images_of(_IMAGES).to(module.components.device))
