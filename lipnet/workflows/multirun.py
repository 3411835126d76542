"""One table for all the runs of a Hydra multirun."""

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console

from lipnet.certify import summary_table


class SweepTable(Callback):
    """Prints what `summary_table` says of the finished runs of a multirun, each named by its overrides."""

    def __init__(self) -> None:
        self._folders: dict[str, Path] = {}

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.hydra_cfg is not None and job_return.working_dir is not None:
            name = job_return.hydra_cfg.hydra.job.override_dirname or job_return.hydra_cfg.hydra.job.id
            self._folders[name] = Path(job_return.hydra_cfg.hydra.runtime.output_dir)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        summaries = {name: folder / "summary.json" for name, folder in self._folders.items()}
        rows = {name: json.loads(path.read_text()) for name, path in summaries.items() if path.is_file()}
        if rows:
            Console().print(summary_table(rows))
