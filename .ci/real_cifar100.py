"""Train on real CIFAR-100, certify twice, and check the bounds of the trained network's layers.

    python .ci/real_cifar100.py DATA_DIR RUN_DIR

DATA_DIR contains the official folder cifar-100-python; RUN_DIR receives the files of the run.
"""

import json
import math
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from lipnet.data import CIFAR100DataModule
from lipnet.layers import SOC
from lipnet.models import load_checkpoint

N_SAMPLES = 200
# More than the relative rounding error of a singular value decomposition in float64.
ROUNDING = 1e-9


def run(*command: str) -> None:
    """Run a Python script; raise if it fails."""
    subprocess.run([sys.executable, *command], check=True)


def summary_of(folder: Path) -> dict[str, object]:
    """Return the entries of a summary that two certifications of one checkpoint must share."""
    content = json.loads((folder / "summary.json").read_text())
    different = ("wall_seconds", "checkpoint", "sha256")
    return {key: value for key, value in content.items() if key not in different}


def check_names(data_dir: Path) -> None:
    """Compare lipnet's names of the classes with the official file's."""
    names = datasets.CIFAR100(data_dir, train=False).classes
    assert [name.replace("_", " ") for name in names] == list(CIFAR100DataModule.spec.classes or ()), names


def check_figures(folder: Path) -> None:
    """Check that all figures are finite, and that certified accuracy is at most clean and falls with the radius."""
    summary = json.loads((folder / "summary.json").read_text())
    shares = [summary["clean_accuracy"], *summary["certified_accuracy"].values()]
    assert summary["n_samples"] == N_SAMPLES, summary
    assert all(math.isfinite(share) and 0 <= share <= 1 for share in shares), summary
    assert shares == sorted(shares, reverse=True), summary
    assert math.isfinite(summary["lipschitz_bound"]), summary
    assert summary["average_certified_radius"] >= 0, summary


def check_guarantee(checkpoint: Path) -> None:
    """Compare the largest singular value of every trained layer's Jacobian, on small feature maps, with its bound."""
    model = load_checkpoint(checkpoint).model.double()
    for name, layer in model.named_modules():
        if not isinstance(layer, SOC):
            continue
        size = 1 if layer.kernel_size == (1, 1) and layer.stride == 1 else 4
        norm = largest_singular_value(layer, size)
        bound = layer.lipschitz_bound()
        print(f"{name}: largest singular value {norm:.12f}, bound {bound:.12f}")
        assert norm <= bound * (1 + ROUNDING), (name, norm, bound)


def largest_singular_value(layer: SOC, size: int) -> float:
    """Return the norm of the layer's Jacobian for inputs of size x size pixels, or for vectors if it is linear."""
    # The only subclass of SOC in the network, SOCLinear, takes vectors.
    shape = (layer.in_channels,) if type(layer) is not SOC else (layer.in_channels, size, size)

    def function(x: Tensor) -> Tensor:
        return layer(x.unsqueeze(0)).flatten()

    origin = torch.zeros(shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(function, origin).flatten(1)
    return float(torch.linalg.matrix_norm(jacobian, ord=2))


def main() -> None:
    data_dir, run_dir = (Path(argument).absolute() for argument in sys.argv[1:3])
    check_names(data_dir)
    run(
        "train.py",
        "experiment=table3/gs_soc_4",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "model.depth=5",
        "model.initial_channels=16",
        "optimizer.lr=0.1",
        "data.batch_size=256",
        f"certify.n_samples={N_SAMPLES}",
        f"paths.data_dir={data_dir}",
        f"hydra.run.dir={run_dir}",
    )
    checkpoint = run_dir / "checkpoints" / "best.ckpt"
    again = run_dir / "again"
    run(
        "certify.py",
        f"ckpt_path={checkpoint}",
        f"n_samples={N_SAMPLES}",
        f"paths.data_dir={data_dir}",
        f"output_dir={again}",
        f"hydra.run.dir={run_dir / 'hydra'}",
    )
    check_figures(run_dir)
    assert summary_of(run_dir) == summary_of(again), (summary_of(run_dir), summary_of(again))
    assert (run_dir / "certificates.tsv").read_bytes() == (again / "certificates.tsv").read_bytes()
    check_guarantee(checkpoint)


if __name__ == "__main__":
    main()
