"""One table for all the runs of a Hydra multirun."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from lipnet.certify import read_summary, summary_table


class SweepTable(Callback):
    """Prints what `summary_table` says of the finished runs of a multirun, each named by what sets it apart."""

    def __init__(self) -> None:
        self._folders: dict[tuple[str, ...], Path] = {}

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.hydra_cfg is not None and job_return.overrides is not None:
            self._folders[tuple(job_return.overrides)] = Path(job_return.hydra_cfg.hydra.runtime.output_dir)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        summaries = {overrides: folder / "summary.json" for overrides, folder in self._folders.items()}
        certified = {overrides: path for overrides, path in summaries.items() if path.is_file()}
        if certified:
            rows = dict(zip(distinct_names(list(certified)), map(read_summary, certified.values()), strict=True))
            Console().print(summary_table(rows))


def distinct_names(runs: Sequence[tuple[str, ...]]) -> list[str]:
    """A name for each run: its overrides without those that all share, short where that tells the runs apart.

    A run that has no overrides of its own is named by its number.
    """
    shared = set(runs[0]).intersection(*runs)
    own = [[override for override in overrides if override not in shared] for overrides in runs]
    short = [" ".join(map(_short, overrides)) for overrides in own]
    names = short if len(set(short)) == len(runs) else [" ".join(overrides) for overrides in own]
    return [name or f"run {place}" for place, name in enumerate(names)]


def _short(override: str) -> str:
    """model.depth=5 as depth=5."""
    key, equals, value = override.partition("=")
    return key.rpartition(".")[2] + equals + value
