"""Time and peak memory of certifying the CIFAR-100 test images with LipConvNet-15 in float64.

    python -m benchmarks.certify_load --data-dir data

``certify.py`` runs in its own process for each number of images. The system reports the peak memory of each process,
which should not grow with that number. The network is LipConvNet-15 of GS-SOC (4,-) with random weights, which take as
long as trained ones.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.common import resident_bytes
from benchmarks.reliability import FOLDER, write_figures
from benchmarks.rows import ROOT
from lipnet.certify import read_summary
from lipnet.data import CIFAR100DataModule
from lipnet.models import build_model, save_checkpoint

SPEC = CIFAR100DataModule.spec
NETWORK = {
    "_target_": "lipnet.models.LipConvNet",
    "num_classes": SPEC.num_classes,
    "depth": 15,
    "conv": {"_target_": "lipnet.layers.GSSOC", "_partial_": True, "groups": [4, None]},
    "activation": {"_target_": "lipnet.layers.MaxMinPermuted", "_partial_": True},
    "mean": list(SPEC.mean),
    "std": SPEC.std,
}
MIB = 2**20


@dataclass(frozen=True)
class Load:
    """Cost of one certification.

    Attributes:
        images: number of certified images.
        seconds: duration of the process.
        certifying: duration of the certification alone, in seconds.
        peak: peak resident memory of the process, in bytes.
        busy: the system's load average over the last minute.
    """

    images: int
    seconds: float
    certifying: float
    peak: int
    busy: float


def certify(checkpoint: Path, output: Path, images: int, threads: int, overrides: Sequence[str]) -> Load:
    """Run ``certify.py`` on the first images.

    Raises:
        RuntimeError: if the command fails.
    """
    settings = [f"ckpt_path={checkpoint}", f"output_dir={output}", f"n_samples={images}", "device=cpu", *overrides]
    command = [sys.executable, str(ROOT / "certify.py"), f"hydra.run.dir={output}/hydra", *settings]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"certify.py ended with exit status {process.returncode}")
    summary = read_summary(output / "summary.json")
    peak = resident_bytes(usage.ru_maxrss)
    return Load(summary["n_samples"], seconds, summary["wall_seconds"], peak, os.getloadavg()[0])


def rows_of(loads: Sequence[Load], threads: int) -> list[tuple[str, str]]:
    rows = []
    for load in loads:
        what = f"{load.images:,} CIFAR-100 test images, LipConvNet-15 GS-SOC (4,-), float64, {threads} threads"
        rate = load.images / load.certifying
        seen = f"{load.certifying:,.0f} s, {rate:.1f} images/s; the whole command {load.seconds:,.0f} s"
        rows.append((f"Certification of {what}", f"{seen}; load {load.busy:.1f}"))
        rows.append((f"Peak of resident memory, {load.images:,} images", f"{load.peak / MIB:,.0f} MiB"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of CIFAR-100")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--output", type=Path, default=FOLDER, help="folder for the figures")
    arguments = parser.parse_args()
    overrides = [f"batch_size={arguments.batch_size}", f"paths.data_dir={arguments.data_dir.absolute()}"]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "network.ckpt"
        torch.manual_seed(0)
        save_checkpoint(checkpoint, build_model(NETWORK), NETWORK, {"name": SPEC.name, "seed": 0})
        loads = [
            certify(checkpoint, Path(folder) / str(images), images, arguments.threads, overrides)
            for images in arguments.images
        ]
    rows = rows_of(loads, arguments.threads)
    for measured, seen in rows:
        print(f"{measured}: {seen}")
    # Leave out the local path of the data.
    command = "python -m benchmarks.certify_load --data-dir DATA"
    write_figures(
        "certify_load", "Certification of a whole test set", 32, rows, command=command, folder=arguments.output
    )


if __name__ == "__main__":
    main()
