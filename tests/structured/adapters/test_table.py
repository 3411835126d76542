"""The table of trained parameters, and the counts of the GS paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lipnet.structured.adapters import (
    AdapterConfig,
    BOFTConfig,
    GSOFTConfig,
    LoRAConfig,
    OFTConfig,
    attach,
    describe,
    use,
)


def test_every_weight_has_a_row_and_the_counts_are_right(network: nn.Module, config: AdapterConfig) -> None:
    own = sum(value.numel() for value in network.parameters())
    attach(network, config)
    first, head, *rows, total, last = describe(network).splitlines()
    assert first == f"adapter 'default': {config}"
    assert head.split() == ["weight", "shape", "trained", "saved"]
    names = ["stem.weight", "mix.weight", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"]
    assert [row.split()[0] for row in rows] == names
    assert rows[0].split()[1:-2] == ["16", "x", "8", "x", "3", "x", "3"]
    trained = sum(value.numel() for value in network.parameters() if value.requires_grad)
    counts = [[int(cell.replace(",", "")) for cell in row.split()[-2:]] for row in [*rows, total]]
    assert counts[-1][0] == trained
    assert [sum(column) for column in zip(*counts[:-1], strict=True)] == counts[-1]
    percentage = f"{100 * trained / own:.2f} %"
    assert last == f"The model has {own:,} parameters of its own; the adapter trains {percentage} of that number."
    assert len({len(line) for line in [head, *rows, total]}) == 1


def test_another_adapter_than_the_one_in_use(network: nn.Module) -> None:
    attach(network, LoRAConfig(2), "head", name="a")
    attach(network, GSOFTConfig(4), "mix", name="b")
    assert "head.weight" in describe(network, "a")
    assert "head.weight" not in describe(network)
    with pytest.raises(ValueError, match="there is no adapter 'c', only 'a', 'b'"):
        describe(network, "c")
    with pytest.raises(ValueError, match="no adapter is in use; name one of 'a', 'b'"):
        describe(use(network, None))
    with pytest.raises(ValueError, match="Linear has no adapters of its own"):
        describe(nn.Linear(2, 2))


class Encoder(nn.Module):
    """The linear layers of RoBERTa-base, by their shapes: 12 layers of width 768 and feed-forward width 3072."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"query": (768, 768), "key": (768, 768), "value": (768, 768), "output": (768, 768)}
        shapes |= {"intermediate": (768, 3072), "feedforward": (3072, 768)}
        layers = [nn.ModuleDict({name: nn.Linear(*shape) for name, shape in shapes.items()}) for _ in range(12)]
        self.encoder = nn.ModuleList(layers)
        self.pooler = nn.Linear(768, 768)


@pytest.mark.parametrize(
    ("config", "targets", "count", "published"),
    [
        (LoRAConfig(rank=8), "encoder.*", 1_327_104, "1.33"),
        (OFTConfig(16), "encoder.*", 1_410_048, "1.41"),
        (BOFTConfig(8, factors=2), None, 1_423_104, "1.42"),
        (GSOFTConfig(8), None, 1_423_104, "1.42"),
    ],
)
def test_the_counts_of_the_papers_table_for_glue(
    config: AdapterConfig, targets: str | None, count: int, published: str
) -> None:
    """GS paper (arXiv 2406.10019), table 1, in millions. Its figures for LoRA and OFT are those of the encoder alone,
    the other two those of the encoder with the pooler."""
    with torch.device("meta"):
        model = Encoder()
    attach(model, config, targets)
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert trained == count
    assert f"{trained / 1e6:.2f}" == published
