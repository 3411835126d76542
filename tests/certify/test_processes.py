"""Certification by several processes: the same file, or no file if one of them fails."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify.partial import PARTIAL, PartialCertification
from lipnet.certify.processes import CertifyInProcesses, _certify_share, _exit_with_parent
from lipnet.certify.run import Certification, run_certification
from lipnet.workflows import certify_checkpoint
from lipnet.workflows.certification import prepare_certification

BATCH_SIZE = 11
OTHER = "cpu:0"
"""The CPU under another name: how a test tells the second process from the first."""


class Failing:
    """Batches of a loader that ends the process after some of them."""

    def __init__(self, batches: Any, after: int, end: str) -> None:
        self.batches, self.after, self.end, self.batch_size = batches, after, end, batches.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(self.batches):
            if number == self.after:
                if self.end == "error":
                    raise OSError("no space left on the disk")
                os.kill(os.getpid(), signal.Signals[self.end])
            yield batch


class Changing:
    """Batches of a loader that changes a model unseen by version counters, in an iteration after the first."""

    def __init__(self, batches: Any, model: nn.Module) -> None:
        self.batches, self.model, self.batch_size = batches, model, batches.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(self.batches):
            if number == 2:
                next(self.model.parameters()).data.add_(1.0)
            yield batch


def prepare(device: str, *, path: Path, end: str, n_samples: int | None = None) -> Certification:
    """Prepare a certification that fails in the second process only."""
    certification = prepare_certification(path, device, n_samples=n_samples, batch_size=BATCH_SIZE)
    if device == OTHER and end == "other settings":
        return Certification(
            certification.model, certification.batches, certification.indices, {**certification.facts, "split": "?"}
        )
    if device == OTHER and end == "change":
        object.__setattr__(certification, "batches", Changing(certification.batches, certification.model))
    elif device == OTHER and end != "none":
        object.__setattr__(certification, "batches", Failing(certification.batches, 9, end))
    return certification


@pytest.mark.slow
def test_two_processes_write_the_file_of_one(tmp_path: Path, tiny_checkpoint: Path) -> None:
    settings = {"n_samples": 100, "batch_size": BATCH_SIZE}
    one = certify_checkpoint(tiny_checkpoint, tmp_path / "one", device="cpu", **settings)
    two = certify_checkpoint(tiny_checkpoint, tmp_path / "two", device=["cpu", "cpu"], **settings)
    files = [(tmp_path / name / "certificates.tsv").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]
    assert one["certified_accuracy"] == two["certified_accuracy"]
    assert not (tmp_path / "two" / PARTIAL).exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("SIGKILL", r"process 2 of 2 was ended by SIGKILL; \d+ of 359 images are certified: resume=true continues"),
        ("error", r"process 2 of 2 failed: OSError: no space left on the disk; \d+ of 359"),
        ("other settings", r"process 2 of 2 failed: ValueError: .*settings differ.*split: test there, \? here"),
    ],
)
def test_a_process_that_does_not_come_back_is_an_error(
    tmp_path: Path, tiny_checkpoint: Path, end: str, message: str
) -> None:
    make = partial(prepare, path=tiny_checkpoint, end=end)
    with pytest.raises(ChildProcessError, match=message):
        run_certification(make("cpu"), tmp_path / "out", execute=CertifyInProcesses(make, ["cpu", OTHER]))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [PARTIAL]
    certify_checkpoint(tiny_checkpoint, tmp_path / "out", device="cpu", batch_size=BATCH_SIZE, resume=True)
    certify_checkpoint(tiny_checkpoint, tmp_path / "whole", device="cpu", batch_size=BATCH_SIZE)
    files = [(tmp_path / name / "certificates.tsv").read_bytes() for name in ("out", "whole")]
    assert files[0] == files[1]


def test_a_process_compares_its_own_model_after_its_last_batch(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """The parent does not see a change in another process, and could only trust the batches from there."""
    make = partial(prepare, path=tiny_checkpoint, end="change", n_samples=4 * BATCH_SIZE)
    folder = tmp_path / PARTIAL
    PartialCertification.begin(folder, make("cpu").identity())
    given = (os.getppid(), pickle.dumps(make), ["cpu", OTHER], folder, [[0, 2], [1, 3]], {}, torch.get_num_threads())
    _certify_share(0, *given)
    assert sorted(PartialCertification(folder).batches()) == [0, 2]
    with pytest.raises(RuntimeError, match="the model was changed after its bounds were computed"):
        _certify_share(1, *given)
    assert not folder.exists()


def _wait_with_parent(connection: Any) -> None:
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    connection.send(os.getpid())
    time.sleep(600)


def _start_and_die(connection: Any) -> None:
    process = get_context("spawn").Process(target=_wait_with_parent, args=(connection,))
    process.start()
    time.sleep(600)


@pytest.mark.slow
def test_a_worker_ends_when_its_parent_is_killed() -> None:
    ours, theirs = get_context("spawn").Pipe()
    parent = get_context("spawn").Process(target=_start_and_die, args=(theirs,))
    parent.start()
    worker = ours.recv()
    parent.kill()
    parent.join()
    limit = time.monotonic() + 60
    while Path(f"/proc/{worker}/stat").exists() and Path(f"/proc/{worker}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < limit, "the worker outlives its parent"
        time.sleep(0.1)
