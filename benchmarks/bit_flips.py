"""Single flipped bits in a checkpoint and in certification files: the share that goes unnoticed.

    python -m benchmarks.bit_flips --flips 1000

Each trial flips one random bit of a file, then reads the file with plain torch, csv or json, and with lipnet. A reader
raises an error, or reads what was written because the bit has no meaning to it, or silently reads something else. The
files come from a small network on the digits; ``--checkpoint`` chooses another checkpoint.
"""

import argparse
import csv
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import identical
from benchmarks.digits_network import CONFIG
from benchmarks.reliability import write_figures
from lipnet.certify import read_certificates, read_summary
from lipnet.models import build_model, save_checkpoint
from lipnet.models.archive import UNREADABLE, read_archive
from lipnet.workflows import certify_checkpoint

NOTICED, SAME, OTHER = "refused", "read unchanged", "read with other content"
NOTICES = (*UNREADABLE, csv.Error, MemoryError)
Reader = Callable[[Path], Any]


def torch_alone(path: Path) -> Any:
    return torch.load(BytesIO(path.read_bytes()), map_location="cpu", weights_only=True)


def checkpoint_of_lipnet(path: Path) -> Any:
    return read_archive(path)[0]


def csv_alone(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader((line for line in file if not line.startswith("#")), delimiter="\t"))


def json_alone(path: Path) -> Any:
    return json.loads(path.read_text())


def outcomes(path: Path, readers: dict[str, Reader], flips: int, seed: int) -> dict[str, Counter[str]]:
    """Count each reader's outcomes over ``flips`` single flipped bits, and restore the file."""
    data = path.read_bytes()
    written = {name: read(path) for name, read in readers.items()}
    counts: dict[str, Counter[str]] = {name: Counter() for name in readers}
    generator = random.Random(seed)
    try:
        for _ in range(flips):
            bit = generator.randrange(8 * len(data))
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            for name, read in readers.items():
                counts[name][_outcome(path, read, written[name])] += 1
    finally:
        path.write_bytes(data)
    return counts


def _outcome(path: Path, read: Reader, written: Any) -> str:
    try:
        content = read(path)
    except NOTICES:
        return NOTICED
    return SAME if identical(content, written) else OTHER


def measure(folder: Path, checkpoint: Path | None, flips: int, seed: int) -> dict[str, dict[str, Counter[str]]]:
    """Write the files into a folder, and count the outcomes for each file and reader."""
    own = folder / "network.ckpt"
    torch.manual_seed(seed)
    save_checkpoint(own, build_model(CONFIG), CONFIG, {"name": "digits", "seed": 0, "validation_fraction": 0.1})
    certify_checkpoint(own, folder / "certified", device="cpu")
    if checkpoint is not None:
        own.write_bytes(checkpoint.read_bytes())
    plans: dict[Path, dict[str, Reader]] = {
        own: {"torch.load": torch_alone, "lipnet": checkpoint_of_lipnet},
        folder / "certified" / "certificates.tsv": {"csv": csv_alone, "lipnet": read_certificates},
        folder / "certified" / "summary.json": {"json": json_alone, "lipnet": read_summary},
    }
    return {path.name: outcomes(path, readers, flips, seed) for path, readers in plans.items()}


def rows_of(results: dict[str, dict[str, Counter[str]]], flips: int) -> list[tuple[str, str]]:
    return [
        (
            f"{file}, one random bit flipped, {flips:,} times; read by {reader}",
            ", ".join(f"{kind}: {counts[kind]:,}" for kind in (OTHER, NOTICED, SAME)),
        )
        for file, readers in results.items()
        for reader, counts in readers.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="checkpoint to damage instead of a small network's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), arguments.checkpoint, arguments.flips, arguments.seed)
    rows = rows_of(results, arguments.flips)
    for measured, seen in rows:
        print(f"{measured}: {seen}")
    write_figures("bit_flips", "Flipped bits", 31, rows)
    if any(readers["lipnet"][OTHER] for readers in results.values()):
        raise SystemExit("a flipped bit changed what was read")


if __name__ == "__main__":
    main()
