"""Certify a checkpoint: how accurate it provably is within each L2 radius.

python certify.py ckpt_path=RUN/checkpoints/best.ckpt
"""

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig

from lipnet.workflows import certify_checkpoint, clear_errors


@hydra.main(version_base="1.3", config_path="conf", config_name="certify")
@clear_errors
def main(config: DictConfig) -> None:
    """Rebuild the model from its checkpoint, certify it, write certificates.tsv, summary.json and curve.png."""
    certify_checkpoint(
        config.ckpt_path,
        config.output_dir,
        data=None if config.data is None else instantiate(config.data),
        data_dir=config.paths.data_dir,
        split=config.split,
        n_samples=config.n_samples,
        batch_size=config.batch_size,
        dtype=config.dtype,
        device=config.device,
        radii=list(config.radii),
        overwrite=config.overwrite,
    )


if __name__ == "__main__":
    main()
