"""Measurements of `benchmarks.structured`: the adapters, and time, memory and deviation of each."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from benchmarks.common import seconds
from lipnet.structured.adapters import (
    AdapterConfig,
    BOFTConfig,
    CirculantConfig,
    DoubleGSOFTConfig,
    GSOFTConfig,
    KroneckerConfig,
    LoRAConfig,
    LowDisplacementRankConfig,
    OFTConfig,
    SkewCirculantConfig,
    ToeplitzConfig,
    attach,
)

FROZEN = "frozen layer"
# Small enough for a singular value decomposition of every contestant.
DEVIATION_FEATURES = 256
# Measure longer steps only once, in the warm-up round.
SLOW_SECONDS = 5.0


@dataclass(frozen=True)
class Contestant:
    """Named adapter.

    Attributes:
        name: name of its structure.
        block: block size, or rank of LoRA; None for structures without either.
        adapt: function that puts the adapter on the only layer of a model.
        orthogonal: the adapter should keep the singular values of the weight.
    """

    name: str
    block: int | None
    adapt: Callable[[nn.Module], nn.Module]
    orthogonal: bool = False


@dataclass
class Row:
    """Measurements of a contestant on an n x n layer.

    Attributes:
        size: n.
        name, block: see `Contestant`.
        seconds: time of the fastest step.
        multiple: this time as a multiple of the frozen layer's.
        kept: bytes saved for the backward pass, without the parameters, with the inputs if it needs them.
        trained: number of trained parameters.
        free: number of free parameters; of a skew-symmetric matrix, the upper triangle alone is free.
        deviation: largest distance of a singular value from 1, for the adapter on the identity with its parameters
            moved by normal noise of standard deviation 0.1; None for an adapter that is not orthogonal by design.
    """

    size: int
    name: str
    block: int | None
    seconds: float
    multiple: float
    kept: int
    trained: int
    free: int
    deviation: float | None


def ours(blocks: Iterable[int]) -> Iterator[Contestant]:
    """Yield lipnet's adapters: first those with a block size or rank, then the others."""
    for b in blocks:
        of_size: dict[str, AdapterConfig] = {
            "GSOFT": GSOFTConfig(b),
            "GSOFT, no scale": GSOFTConfig(b, scale=False),
            "Double GSOFT": DoubleGSOFTConfig(b),
            "BOFT, 2 factors": BOFTConfig(b, factors=2),
            "OFT": OFTConfig(b),
            "OFT, no scale": OFTConfig(b, scale=False),
            "LoRA": LoRAConfig(rank=b),
        }
        for name, config in of_size.items():
            yield Contestant(name, b, partial(attach, config=config), orthogonal=not isinstance(config, LoRAConfig))
    without_blocks: dict[str, AdapterConfig] = {
        "circulant": CirculantConfig(),
        "skew-circulant": SkewCirculantConfig(),
        "Toeplitz": ToeplitzConfig(),
        "Kronecker": KroneckerConfig(),
        "low displacement rank 1": LowDisplacementRankConfig(rank=1),
    }
    yield from (Contestant(name, None, partial(attach, config=config)) for name, config in without_blocks.items())


def of_peft(blocks: Sequence[int]) -> list[Contestant]:
    """Return peft's adapters, or none without peft.

    The largest block size is doubled, for comparisons with GSOFT at equal numbers of entries.
    """
    try:
        import peft
    except ImportError as error:
        Console().print(f"peft is left out: {error}")
        return []
    found = []
    for b in sorted({*blocks, 2 * max(blocks)}):
        configs: dict[str, Any] = {
            "peft OFT": peft.OFTConfig(oft_block_size=b, r=0, target_modules=["0"]),
            "peft OFT, exact": peft.OFTConfig(oft_block_size=b, r=0, use_cayley_neumann=False, target_modules=["0"]),
            "peft BOFT, 1 factor": peft.BOFTConfig(boft_block_size=b, target_modules=["0"]),
            "peft LoRA": peft.LoraConfig(r=b, target_modules=["0"]),
        }
        # More factors need CUDA. Without it, peft warns and takes one factor.
        if torch.cuda.is_available():
            configs["peft BOFT, 2 factors"] = peft.BOFTConfig(
                boft_block_size=b, boft_n_butterfly_factor=2, target_modules=["0"]
            )
        for name, config in configs.items():
            found.append(Contestant(name, b, partial(peft.inject_adapter_in_model, config), "LoRA" not in name))
    return found


def build(contestant: Contestant, size: int, device: torch.device) -> nn.Module:
    """Return a model of one n x n layer with the adapter, n = ``size``, in training mode."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's, about missing extensions
        model = contestant.adapt(nn.Sequential(nn.Linear(size, size)))
    return model.to(device).train()


def trained(model: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def step(model: nn.Module, x: Tensor) -> None:
    """Run a forward and a backward pass."""
    model(x).sum().backward()


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Return the bytes saved for the backward pass, each storage once, without the parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = model(x)
    del y
    return sum(kept.values())


@torch.no_grad()
def deviation(contestant: Contestant, device: torch.device) -> float:
    """Return `Row.deviation`, measured on `DEVIATION_FEATURES` features."""
    model = build(contestant, DEVIATION_FEATURES, device)
    torch.manual_seed(1)
    adapter = trained(model)
    for parameter in adapter:
        # Leave scales at 1: they stretch by design.
        if not bool((parameter == 1).all()):
            parameter.add_(0.1 * torch.randn_like(parameter))
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    for parameter in frozen:
        parameter.copy_(torch.eye(len(parameter)) if parameter.dim() == 2 else torch.zeros(len(parameter)))
    values = torch.linalg.svdvals(model(torch.eye(DEVIATION_FEATURES, device=device)).double())
    return float((values - 1).abs().max())


def free_parameters(model: nn.Module) -> int:
    """Count the free parameters: b (b - 1) / 2 for each square block A (b, b), which stands for A - A^T; else all."""
    count = 0
    for parameter in trained(model):
        square = parameter.dim() >= 3 and parameter.shape[-1] == parameter.shape[-2]
        b = parameter.shape[-1]
        count += parameter.numel() * (b - 1) // (2 * b) if square else parameter.numel()
    return count


def step_seconds(
    models: dict[Contestant, nn.Module], x: Tensor, rounds: int, device: torch.device
) -> dict[Contestant, float]:
    """Return the seconds of the fastest step of each model, after a warm-up round.

    The warm-up round only counts for steps too slow to repeat.
    """
    times: dict[Contestant, list[float]] = {contestant: [] for contestant in models}
    for _ in range(rounds + 1):
        for contestant, model in models.items():
            if times[contestant] and times[contestant][0] > SLOW_SECONDS:
                continue
            for tensor in (x, *trained(model)):
                tensor.grad = None
            times[contestant].append(seconds(partial(step, model, x), device))
    return {contestant: min(measured[1:] or measured) for contestant, measured in times.items()}


def measure(size: int, contestants: Sequence[Contestant], batch: int, rounds: int, device: torch.device) -> list[Row]:
    """Measure all contestants; return a row for each."""
    x = torch.randn(batch, size, device=device).requires_grad_()
    frozen = Contestant(FROZEN, None, lambda model: model.requires_grad_(False))
    models = {contestant: build(contestant, size, device) for contestant in (frozen, *contestants)}
    times = step_seconds(models, x, rounds, device)
    return [
        Row(
            size=size,
            name=contestant.name,
            block=contestant.block,
            seconds=times[contestant],
            multiple=times[contestant] / times[frozen],
            kept=kept_bytes(model, x),
            trained=sum(parameter.numel() for parameter in trained(model)),
            free=free_parameters(model),
            deviation=deviation(contestant, device) if contestant.orthogonal else None,
        )
        for contestant, model in models.items()
    ]
