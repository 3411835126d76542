"""The newest of several runs or multiruns, by the times in their records."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from lipnet.training.run_record import read_starts


def newest(paths: Iterable[Path], start: Callable[[Path], datetime]) -> Path | None:
    """Return the path of the run that began last, or None if there is none.

    Args:
        paths: one for each run.
        start: returns the time at which the run of a path began.

    Raises:
        ValueError: if several runs began at the latest time, such as a run and its copy.
    """
    # A link and the folder that it leads to are one run.
    starts = {path: start(path) for path in {path.resolve(): path for path in sorted(paths)}.values()}
    latest = max(starts.values(), default=None)
    found = [path for path in starts if starts[path] == latest]
    if len(found) > 1:
        raise ValueError(
            f"ckpt_path=last must have one newest run, got several that began at {latest}: "
            f"{', '.join(map(str, found))}: name one, ckpt_path=RUN/checkpoints/last.ckpt, or move copies elsewhere"
        )
    return next(iter(found), None)


def start_of_run(record: Path, other: Path) -> datetime:
    """Return the start of a run: the time in its record, or else of another file.

    Folder names do not sort: they are local times, which jump back at the end of summer time or in another zone.
    """
    starts = read_starts(record) if record.is_file() else []
    if starts:
        return datetime.fromisoformat(starts[0]["began"])
    return datetime.fromtimestamp(other.stat().st_mtime, UTC)


def start_of_sweep(sweep: Path) -> datetime:
    """Return the start of a multirun's newest run; one without any counts with the time of its folder."""
    runs = [start_of_run(record, record) for record in sweep.glob("*/run.json")]
    return max(runs, default=datetime.fromtimestamp(sweep.stat().st_mtime, UTC))
