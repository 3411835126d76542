"""Train a 1-Lipschitz network, then certify its best checkpoint.

lipnet-train experiment=quickstart
lipnet-train experiment=table3/gs_soc_4 paths.data_dir=/path/to/data
"""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from lipnet.commands.arguments import with_empty_lists
from lipnet.workflows import resolvers as resolvers  # registers them
from lipnet.workflows.errors import clear_errors


def main() -> None:
    """Train with the settings of the command line."""
    sys.argv[1:] = with_empty_lists(sys.argv[1:])
    _train()


@hydra.main(version_base="1.3", config_path="pkg://lipnet.conf", config_name="train")
@clear_errors
def _train(config: DictConfig) -> float | None:
    """Fit, choose the best checkpoint by validation, certify it on the test images; return its validation score."""
    # Imported here, because --help ends before and Lightning takes seconds to import.
    from lightning import seed_everything

    from lipnet.workflows import certify_checkpoint, trained, training
    from lipnet.workflows.unread import PARTS, TRAINING, check_read

    if config.trust and str(Path.cwd()) not in sys.path:
        # A trusted package may be in the command's folder, which comes last: nothing there hides an installed module.
        sys.path.append(str(Path.cwd()))
    check_read(config, TRAINING, PARTS)
    training.check_settings(config)
    seed_everything(config.seed, workers=True, verbose=False)
    training.check_certification(config)
    data = training.make_data(config)
    module = training.make_module(config, data)
    trainer = training.make_trainer(config)
    ckpt_path = training.resume_path(config, module)
    training.log_configuration(trainer, config)
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)

    folder = Path(config.paths.output_dir)
    with trained.resumable_on_signals(trainer, folder):
        if config.certify is None:
            best = trained.best_checkpoint(trainer)
            return None if best is None else best[1]
        checkpoint, score = trained.checkpoint_to_certify(trainer, folder)
        trained.end_distributed()
        if trainer.is_global_zero:
            # The new data module is not divided among processes. A resumed run continues an interrupted certification
            # of the same checkpoint, and replaces its earlier certificates.
            settings = {**config.certify, "radii": list(config.radii), "trust": list(config.trust)}
            settings |= {"overwrite": True, "resume": True}
            summary = certify_checkpoint(checkpoint, folder, data=training.make_data(config), **settings)
            trained.log_certificates(trainer, summary, folder / "curve.png")
    return score
