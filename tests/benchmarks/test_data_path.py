"""The benchmark measures every data path, and all deliver the same kind of batches."""

import torch

from benchmarks.data_path import contestants, measure, report


def test_measures_and_reports() -> None:
    rates = measure(300, [0], rounds=1, device=torch.device("cpu"))
    table = report(rates)
    assert list(table.columns[0].cells) == ["memory", "workers, 0", "torchvision, 0"]
    assert list(table.columns[1].cells) == [f"{rate:,.0f}" for rate in rates.values()]


def test_paths_deliver_the_same_kind_of_batches() -> None:
    for name, batches in contestants(300, [0], torch.device("cpu")).items():
        images, labels = next(iter(batches))
        assert images.shape == (128, 3, 32, 32), name
        assert images.dtype == torch.float32, name
        assert labels.dtype == torch.int64, name
