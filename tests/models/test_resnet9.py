"""ResNet9: its shapes and sizes, and checkpoints and bounds as of every network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import lipschitz_bound
from lipnet.models import ResNet9, build_model, load_checkpoint, save_checkpoint
from tests.oracles import dense_jacobian, spectral_norm

TINY: dict[str, Any] = {"num_classes": 3, "channels": 2, "in_channels": 1, "image_size": 8, "stride": 1}


def test_it_has_eight_convolutions_and_a_linear_head() -> None:
    model = ResNet9(100, channels=8)
    convolutions = [each for each in model.modules() if isinstance(each, nn.Conv2d)]
    widths = [(each.in_channels, each.out_channels) for each in convolutions]
    assert widths == [(3, 8), (8, 16), (16, 16), (16, 16), (16, 32), (32, 64), (64, 64), (64, 64)]
    assert (model.head.in_features, model.head.out_features) == (64, 100)
    sizes: list[tuple[int, ...]] = []
    for name in ("stem", "stage1", "stage2", "stage3", "pooling"):
        model.get_submodule(name).register_forward_hook(lambda _, __, y: sizes.append(tuple(y.shape[1:])))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 100)
    assert sizes == [(8, 16, 16), (16, 8, 8), (32, 4, 4), (64, 2, 2), (64, 1, 1)]


@pytest.mark.parametrize(
    "settings", [{"image_size": 24}, {"channels": 0}, {"stride": 0}, {"image_size": 32, "stride": 3}, {"image_size": 0}]
)
def test_sizes_that_do_not_fit_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be positive, and image_size divisible by 8 \* stride, got channels="):
        ResNet9(10, **settings)


def test_a_residual_block_adds_its_input() -> None:
    model = ResNet9(**TINY).double().eval()
    block, x = model.stage1[2], torch.randn(1, 4, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(block(x), x + block.body(x), rtol=0, atol=0)


def test_the_bound_is_above_the_norm_of_the_jacobian() -> None:
    model = ResNet9(**TINY, mean=(0.4,), std=0.5)
    model(torch.rand(16, 1, 8, 8))
    model.double().eval()
    x = torch.rand(1, 1, 8, 8, dtype=torch.float64)

    def logits(images: Tensor) -> Tensor:
        return model(images)

    assert spectral_norm(dense_jacobian(logits, x)) <= lipschitz_bound(model)


def test_a_checkpoint_gives_the_same_network(tmp_path: Path) -> None:
    config = {"_target_": "lipnet.models.ResNet9", **TINY}
    model = build_model(config)
    model(torch.rand(16, 1, 8, 8))
    save_checkpoint(tmp_path / "teacher.ckpt", model, config, {"name": "digits"})
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_checkpoint(tmp_path / "teacher.ckpt").model(x), model.eval()(x))
