"""Hydra callback that keeps a multirun going after a failed job, and ends it with one table."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lipnet.certify import UnsoundCertificatesError, read_summary, summary_table
from lipnet.certify.files import SUMMARY, CertificateFileError
from lipnet.printing import say
from lipnet.workflows.errors import (
    WRONG_CERTIFICATE,
    WRONG_INPUT,
    UnconfirmedCertificatesError,
    cause_of,
    full_errors,
    wrong_input,
)

Overrides = tuple[str, ...]
_WRONG = (UnsoundCertificatesError, UnconfirmedCertificatesError)


class SweepTable(Callback):
    """Hydra callback that prints `summary_table` for the finished runs of a multirun, and one line for each failed one.

    Each run is named by the overrides that distinguish it. A multirun ends with exit status 2 if a certificate is wrong
    or not confirmed in any run, else with 1 if a run failed or its files cannot be read. Errors that `clear_errors`
    does not print are printed with their traceback.

    A job outside a multirun keeps its error, which Hydra reports. So does a job of another launcher than Hydra's own:
    its process does not see the others.

    Args:
        advice: ends the line that counts the failed runs; None for nothing.
    """

    def __init__(self, advice: str | None = "ckpt_path=last resumes them") -> None:
        self._advice = "" if advice is None else f"; {advice}"
        self._folders: dict[Overrides, Path] = {}
        self._errors: dict[Overrides, BaseException] = {}

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        if job_return.hydra_cfg is None or job_return.overrides is None:
            return
        # Hydra calls this for every job. Without a multirun, nothing would report the error that is taken away below.
        if job_return.hydra_cfg.hydra.mode != RunMode.MULTIRUN:
            return
        overrides = tuple(job_return.overrides)
        self._folders[overrides] = Path(job_return.hydra_cfg.hydra.runtime.output_dir)
        if job_return.status == JobStatus.FAILED:
            error = job_return._return_value
            self._errors[overrides] = cause_of(error)
            if not isinstance(error, _WRONG) and (full_errors() or not isinstance(error, wrong_input())):
                traceback.print_exception(error)
            if _is_hydras_own(job_return.hydra_cfg):
                # Hydra's own sweeper would raise the error after all jobs and skip the table. Others count failed jobs.
                job_return.status, job_return.return_value = JobStatus.COMPLETED, None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        names = dict(zip(self._folders, distinct_names(list(self._folders)), strict=True)) if self._folders else {}
        summaries = {}
        for overrides, folder in self._folders.items():
            if overrides in self._errors or not (folder / SUMMARY).is_file():
                continue
            # Hydra only warns of exceptions in callbacks: an error here would hide the failed jobs.
            try:
                summaries[names[overrides]] = read_summary(folder / SUMMARY)
            except (CertificateFileError, OSError) as error:
                self._errors[overrides] = error
        if summaries:
            say(summary_table(summaries))
        for overrides, failure in self._errors.items():
            say(f"failed: {names[overrides]}: {type(failure).__name__}: {failure}", file=sys.stderr)
        if self._errors:
            say(f"{len(self._errors)} of {len(names)} runs failed{self._advice}", file=sys.stderr)
            wrong = any(isinstance(failure, _WRONG) for failure in self._errors.values())
            sys.exit(WRONG_CERTIFICATE if wrong else WRONG_INPUT)


def _is_hydras_own(config: DictConfig) -> bool:
    """Return True for a multirun with Hydra's own sweeper and launcher, which runs all jobs in this process."""
    targets = [OmegaConf.select(config, f"hydra.{part}._target_") for part in ("sweeper", "launcher")]
    return all(str(target).endswith((".BasicSweeper", ".BasicLauncher")) for target in targets)


def distinct_names(runs: Sequence[Overrides]) -> list[str]:
    """Return a name for each run: its overrides that not all runs share, shortened if the names stay distinct.

    A run without such overrides is named by its number.
    """
    shared = set(runs[0]).intersection(*runs)
    own = [[override for override in overrides if override not in shared] for overrides in runs]
    short = [" ".join(map(_short, overrides)) for overrides in own]
    names = short if len(set(short)) == len(runs) else [" ".join(overrides) for overrides in own]
    return [name or f"run {place}" for place, name in enumerate(names)]


def _short(override: str) -> str:
    """Shorten model.depth=5 to depth=5."""
    key, equals, value = override.partition("=")
    return key.rpartition(".")[2] + equals + value
