"""Time, memory and parameters of structured adapters on one linear layer, compared with Hugging Face peft.

    python -m benchmarks.structured --output benchmarks/structured_cpu.json

A step is the forward and backward pass of a frozen n x n layer with its adapter. The input requires a gradient, as
inside a network. All contestants take turns in every round, and the fastest round counts, since other load on the
machine can only add time. Times are also given as multiples of the frozen layer's. peft is optional: without it, its
rows are left out with a message.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.lipconvnet import machine, seconds
from lipnet.files import atomic_write
from lipnet.structured import factors_needed
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
# A longer step is measured once, in the warm-up round.
SLOW_SECONDS = 5.0


@dataclass(frozen=True)
class Contestant:
    """An adapter by name.

    Attributes:
        name: of the structure.
        block: block size, or rank of LoRA; None for structures without either.
        adapt: puts the adapter on the only layer of a model.
        orthogonal: the adapter should keep the singular values of the weight.
    """

    name: str
    block: int | None
    adapt: Callable[[nn.Module], nn.Module]
    orthogonal: bool = False


@dataclass
class Row:
    """The measurements of a contestant; times in seconds, memory in bytes.

    Attributes:
        seconds: time of the fastest step.
        multiple: the same as a multiple of the frozen layer's.
        kept: memory saved for the backward pass, without the parameters, with the inputs if it needs them.
        trained: number of trained parameters.
        free: number of those that the map depends on: the upper triangle of a skew-symmetric matrix.
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
    """Yield lipnet's adapters: for each block size or rank, then the circulant family."""
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
    """Return peft's adapters, or none without peft. Blocks twice as large have the number of parameters of GSOFT."""
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
        # More factors need its CUDA extension; without it, peft falls back to one, with a warning.
        if torch.cuda.is_available():
            configs["peft BOFT, 2 factors"] = peft.BOFTConfig(
                boft_block_size=b, boft_n_butterfly_factor=2, target_modules=["0"]
            )
        for name, config in configs.items():
            found.append(Contestant(name, b, partial(peft.inject_adapter_in_model, config), "LoRA" not in name))
    return found


def build(contestant: Contestant, size: int, device: torch.device) -> nn.Module:
    """Return a model of one layer with the adapter, in training mode."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from peft, about missing extensions
        model = contestant.adapt(nn.Sequential(nn.Linear(size, size)))
    return model.to(device).train()


def trained(model: nn.Module) -> list[nn.Parameter]:
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
    """Count b (b - 1) / 2 for square blocks (..., b, b), which represent A - A^T, and all other parameters fully."""
    count = 0
    for parameter in trained(model):
        square = parameter.dim() >= 3 and parameter.shape[-1] == parameter.shape[-2]
        b = parameter.shape[-1]
        count += parameter.numel() * (b - 1) // (2 * b) if square else parameter.numel()
    return count


def step_seconds(
    models: dict[Contestant, nn.Module], x: Tensor, rounds: int, device: torch.device
) -> dict[Contestant, float]:
    """Return the fastest step of each. The first round is a warm-up; it counts only for steps too slow to repeat."""
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


def report(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield a table for each size."""
    for size in sorted({row.size for row in rows}):
        table = Table(title=f"{size} x {size}")
        for heading in ("adapter", "block", "step", "multiple", "saved MB", "trained", "free", "deviation"):
            table.add_column(heading, justify="left" if heading == "adapter" else "right", no_wrap=True)
        for row in rows:
            if row.size == size:
                table.add_row(
                    row.name,
                    "" if row.block is None else str(row.block),
                    f"{1000 * row.seconds:.1f} ms",
                    f"{row.multiple:.2f}",
                    f"{row.kept / 1e6:.1f}",
                    f"{row.trained:,}",
                    f"{row.free:,}",
                    "" if row.deviation is None else f"{row.deviation:.0e}",
                )
        yield table


def comparisons(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compare GSOFT with peft at equal numbers of parameters: its time and memory as a share of theirs.

    Two factors with blocks of size b have the parameters of one factor with blocks of size 2 b. Like GSOFT, peft's BOFT
    has a scale; its OFT has none.
    """
    found = {(row.size, row.name, row.block): row for row in rows}
    pairs = (
        ("GSOFT", "peft BOFT, 1 factor", 2),
        ("GSOFT", "peft BOFT, 2 factors", 1),
        ("GSOFT, no scale", "peft OFT", 2),
        ("GSOFT, no scale", "peft OFT, exact", 2),
    )
    return [
        {
            "size": row.size,
            "adapter": f"{row.name}, b = {row.block}",
            "other": f"{other}, b = {factor * row.block}",
            "share_of_time": row.seconds / rival.seconds,
            "share_of_memory": row.kept / rival.kept,
        }
        for row in rows
        if row.block is not None
        for name, other, factor in pairs
        if row.name == name and (rival := found.get((row.size, other, factor * row.block))) is not None
    ]


def density(measured: Sequence[tuple[int, int]]) -> list[dict[str, int]]:
    """Return the numbers of factors until every output depends on every input, for pairs of size and block size."""
    return [
        {
            "size": size,
            "block": b,
            "factors_group_and_shuffle": factors_needed(block_size=b, blocks=size // b),
            "factors_butterfly": factors_needed(block_size=b, blocks=size // b, butterfly=True),
        }
        for size, b in measured
    ]


def comparison_table(found: Sequence[dict[str, Any]]) -> Table:
    """Return the comparisons as a table."""
    table = Table(title="at equal parameters: share of the other's time and memory")
    for heading in ("size", "adapter", "other", "time", "memory"):
        table.add_column(heading, justify="left" if heading in ("adapter", "other") else "right")
    for each in found:
        table.add_row(
            str(each["size"]),
            each["adapter"],
            each["other"],
            f"{each['share_of_time']:.2f}",
            f"{each['share_of_memory']:.2f}",
        )
    return table


def earlier_rows(path: Path | None, replaced: Sequence[int]) -> list[Row]:
    """Return an earlier run's rows from a file, except those for sizes measured now."""
    if path is None or not path.exists():
        return []
    return [Row(**row) for row in json.loads(path.read_text())["rows"] if row["size"] not in replaced]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[768, 1024, 4096], help="features in and out")
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 16, 32], help="block sizes, and ranks of LoRA")
    parser.add_argument("--batch", type=int, default=512, help="vectors in a batch")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after one warm-up round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file; sizes from earlier runs stay in it")
    arguments = parser.parse_args()

    device, console = torch.device(arguments.device), Console()
    about = machine(device) | {"batch": arguments.batch, "peft": _peft_version()}
    rows = earlier_rows(arguments.output, arguments.sizes)
    contestants = [*ours(arguments.blocks), *of_peft(arguments.blocks)]
    for size in arguments.sizes:
        rows += measure(size, contestants, arguments.batch, arguments.rounds, device)
        if arguments.output is not None:
            write(arguments.output, about, rows)
    for table in (*report(rows), comparison_table(comparisons(rows))):
        console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in about.items()))


def write(path: Path, about: dict[str, Any], rows: list[Row]) -> None:
    """Write the measurements so far as JSON."""
    rows = sorted(rows, key=lambda row: row.size)
    measured = [(row.size, row.block) for row in rows if row.name == "GSOFT" and row.block is not None]
    content = {
        "machine": about,
        "comparisons": comparisons(rows),
        "density": density(measured),
        "rows": [asdict(row) for row in rows],
    }
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def _peft_version() -> str | None:
    try:
        import peft
    except ImportError:
        return None
    return str(peft.__version__)


if __name__ == "__main__":
    main()
