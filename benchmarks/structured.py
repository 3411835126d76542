"""Time, memory and parameters of structured adapters on one linear layer, compared with Hugging Face peft.

    python -m benchmarks.structured --output benchmarks/structured_cpu.json

A step is the forward and backward pass of a frozen n x n layer with its adapter. The input requires a gradient, as
inside a network. All contestants take turns in every round, and the fastest round counts, because other load on the
machine can only add time. Times are also multiples of the frozen layer's. Without peft, its rows are left out with a
message.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import earlier, figure_table, machine, write_json
from benchmarks.structured_measures import Row, measure, of_peft, ours
from lipnet.structured import factors_needed


def report(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield a table for each size."""
    for size in sorted({row.size for row in rows}):
        headings = ("adapter", "block", "step", "multiple", "saved MB", "trained", "free", "deviation")
        table = figure_table(*headings, title=f"{size} x {size}")
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
    """Compare GSOFT with peft's adapters at equal numbers of entries: its time and memory as shares of theirs.

    Two factors with blocks of size b have as many entries as one factor with blocks of size 2 b. Like GSOFT, peft's
    BOFT has a scale; its OFT has none.
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
    """Return the numbers of factors that make the product dense, for pairs of size and block size."""
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
    table = Table(title="at equal numbers of entries: share of the other's time and memory")
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
    kept = earlier(arguments.output, about).get("rows", [])
    rows = [Row(**row) for row in kept if row["size"] not in arguments.sizes]
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
    write_json(path, content, indent=1)


def _peft_version() -> str | None:
    try:
        import peft
    except ImportError:
        return None
    return str(peft.__version__)


if __name__ == "__main__":
    main()
