"""The vision study chooses by validation images, and its methods train what they should."""

import pytest
import torch
from torchvision.models import VisionTransformer

from benchmarks.vision_study import (
    METHODS,
    RATES,
    SHAPE,
    Run,
    adapted,
    batches,
    chosen_runs,
    draw,
    report,
    train,
)


def base() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(num_classes=50, **SHAPE)


def test_the_transformer_has_about_a_million_parameters() -> None:
    assert sum(parameter.numel() for parameter in base().parameters()) == pytest.approx(1e6, rel=0.1)


def test_adapters_have_about_the_same_number_of_parameters_and_a_new_head() -> None:
    model = base()
    counts = {}
    for method in METHODS:
        parameters = [p for p in adapted(model, Run(method, 1e-3, 0)).parameters() if p.requires_grad]
        counts[method] = sum(parameter.numel() for parameter in parameters)
    head = 128 * 50 + 50
    assert counts.pop("head alone") == head
    assert counts.pop("everything") == sum(parameter.numel() for parameter in model.parameters())
    assert counts.pop("circulant") - head < 1e4
    assert all(count - head == pytest.approx(49_152, rel=0.1) for count in counts.values()), counts


def test_training_leaves_the_rest_alone() -> None:
    model = adapted(base(), Run("GSOFT, b = 4", 1e-3, 0))
    frozen = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    train(model, batches(images, torch.arange(20) % 50, 2, generator), 2, rate=1e-3)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert bool(after["heads.head.weight"].any())


def test_batches_are_those_of_their_seed() -> None:
    images, labels = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8), torch.arange(20)
    first, again = (list(batches(images, labels, 2, torch.Generator().manual_seed(5))) for _ in range(2))
    assert all(
        torch.equal(a, b) for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert first[0][0].shape == (128, 3, 32, 32)


def test_the_rate_is_chosen_at_the_first_seed_by_validation_accuracy() -> None:
    done = {Run(method, rate, 0): {"validation": rate} for method in METHODS for rate in RATES}
    done[Run("OFT, b = 8", RATES[0], 0)] = {"validation": 1.0}
    chosen = chosen_runs(done, [0, 1])
    assert chosen["OFT, b = 8"] == [Run("OFT, b = 8", RATES[0], seed) for seed in (0, 1)]
    assert chosen["everything"][1].rate == max(RATES)


def test_table_and_plot_hold_every_method() -> None:
    each = {"trained_parameters": 10, "rate": 1e-3, "test_mean": 0.5, "test_deviation": 0.1, "seconds": 1.0}
    rows = {method: dict(each) for method in METHODS}
    assert report(rows).row_count == len(METHODS)
    assert len(draw(rows).axes[0].get_legend_handles_labels()[1]) == len(METHODS)


def test_files_of_runs_are_distinct() -> None:
    runs = [Run(method, rate, seed) for method in METHODS for rate in RATES for seed in range(3)]
    assert len({run.file for run in runs}) == len(runs)
