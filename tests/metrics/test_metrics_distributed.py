"""Two processes that hold unequal shares of the samples report the figures of one that holds them all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor

from lipnet.metrics import AverageCertifiedRadius, CertifiedAccuracy
from lipnet.metrics.functional import average_certified_radius, certified_accuracy

SHARES = {0: [slice(0, 4), slice(4, 7)], 1: [slice(7, 10), slice(10, 11)]}


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    radius = torch.rand(11, generator=generator, dtype=torch.float64)
    return radius, torch.rand(11, generator=generator) < 0.7


def report(rank: int, folder: str) -> None:
    """Compute halfway and at the end: a sum that stayed synchronised would count the first share twice."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    radius, correct = samples()
    accuracy, average = CertifiedAccuracy(), AverageCertifiedRadius()
    figures = []
    for share in SHARES[rank]:
        accuracy.update(radius[share], correct[share])
        average.update(radius[share], correct[share])
        figures.append((accuracy.compute(), average.compute()))
    other = CertifiedAccuracy([["0.5"], ["0.4"]][rank])
    other.update(radius[SHARES[rank][0]], correct[SHARES[rank][0]])
    try:
        refusal = str(other.compute())
    except ValueError as error:
        refusal = str(error)
    torch.save({"figures": figures, "local": accuracy.total, "refusal": refusal}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_report_the_figures_of_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(report, args=(str(tmp_path),), nprocs=2)
    radius, correct = samples()
    for rank, own in ((0, 7), (1, 4)):
        result = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert result["local"] == own
        assert result["refusal"] == "CertifiedAccuracy needs the same radii in all processes, got 0.5 and 0.4"
        for step, (accuracy, average) in enumerate(result["figures"]):
            seen = [share for shares in SHARES.values() for share in shares[: step + 1]]
            seen_radius = torch.cat([radius[share] for share in seen])
            seen_correct = torch.cat([correct[share] for share in seen])
            assert accuracy.equal(certified_accuracy(seen_radius, seen_correct))
            expected = average_certified_radius(seen_radius, seen_correct).item()
            assert average.item() == pytest.approx(expected, rel=1e-15)
