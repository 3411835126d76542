"""Train a 1-Lipschitz network, then certify its best checkpoint.

lipnet-train experiment=quickstart
lipnet-train experiment=table3/gs_soc_4 paths.data_dir=/path/to/data
"""

import hydra
from lightning import seed_everything
from omegaconf import DictConfig

from lipnet.workflows import (
    best_checkpoint,
    certify_checkpoint,
    clear_errors,
    make_data,
    make_module,
    make_trainer,
    resume_path,
)


@hydra.main(version_base="1.3", config_path="pkg://lipnet.conf", config_name="train")
@clear_errors
def main(config: DictConfig) -> float | None:
    """Fit, choose the best checkpoint by validation and certify it on the test images; return its validation score."""
    seed_everything(config.seed, workers=True, verbose=False)
    data = make_data(config)
    module = make_module(config, data)
    trainer = make_trainer(config)
    trainer.fit(module, data, ckpt_path=resume_path(config, module), weights_only=True)

    best = best_checkpoint(trainer)
    if best is None:
        return None
    path, score = best
    if config.certify is not None and trainer.is_global_zero:
        # Data without the trainer's share-out; and a run that was resumed supersedes what it had certified before.
        data, radii = make_data(config), list(config.radii)
        certify_checkpoint(path, config.paths.output_dir, data=data, radii=radii, overwrite=True, **config.certify)
    return score
