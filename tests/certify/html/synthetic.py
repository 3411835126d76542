"""Certifications with made-up certificates, for reports of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lipnet.certify.files import CERTIFICATES, SUMMARY, Row, certificate_bytes, sealed, summary_bytes
from lipnet.certify.report import figures_of

RADII = ["36/255", "72/255", "1"]
LAYERS = [
    {
        "path": "conv",
        "kind": "SOC",
        "input_shape": [3, 8, 8],
        "constant": 1.0,
        "engine": "series",
        "norm_bound": 1.5,
        "degree": 7,
        "interval": 1.6,
        "rounding": 1e-12,
    },
    {
        "path": "sort",
        "kind": "MaxMin",
        "input_shape": [3, 8, 8],
        "constant": 1.0,
        "engine": None,
        "norm_bound": None,
        "degree": None,
        "interval": None,
        "rounding": 0.0,
    },
]


def make_rows(count: int, classes: int, seed: int = 0) -> list[Row]:
    """Certificates of which about two thirds are correct and some are 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    correct = torch.rand(count, generator=generator) < 0.66
    predictions = torch.where(correct, labels, (labels + 1) % classes)
    radii = (torch.rand(count, generator=generator, dtype=torch.float64) - 0.05).clamp(min=0)
    columns = zip(labels.tolist(), predictions.tolist(), radii.tolist(), strict=True)
    return [Row(7 + i, y, p, f"{r:.9f}", int(y == p)) for i, (y, p, r) in enumerate(columns)]


def make_run(folder: Path, count: int = 100, num_classes: int = 5, seed: int = 0, **entries: Any) -> list[Row]:
    """Write the files of such a certification; ``entries`` replace or extend the summary's."""
    rows = make_rows(count, num_classes, seed)
    facts = {
        "dataset": "synthetic",
        "split": "test",
        "data_sha256": "d" * 64,
        "checkpoint_sha256": "c" * 64,
        "n_samples": count,
        "weights_sha256": f"{seed:064}",
        "lipschitz_bound": 2.5,
        "rounding_bound": 1e-11,
        "parameters": 1234,
        "dtype": "float64",
        "versions": {"lipnet": "0.1.0"},
    }
    facts |= {name: value for name, value in entries.items() if name in facts}
    summary = {"checkpoint": "best.ckpt", **facts, **figures_of(rows, RADII), "rounding": {"covered": False}}
    summary |= {"layers": LAYERS, **entries}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CERTIFICATES).write_bytes(certificate_bytes(facts, rows))
    (folder / SUMMARY).write_bytes(summary_bytes(sealed(summary)))
    return rows


def make_images(count: int, side: int = 8, channels: int = 3, noise: float = 0.1) -> Tensor:
    """Smooth images with noise, (count, channels, side, side), pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(count, channels, 4, 4, generator=generator), (side, side), mode="bilinear")
    return (smooth + noise * (torch.rand(smooth.shape, generator=generator) - 0.5)).clamp(0, 1)
