"""Certify with several processes, each on its share of the batches."""

import os
import pickle
import threading
import time
from collections.abc import Callable, Collection, Sequence
from math import ceil
from pathlib import Path

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from lipnet.certify.partial import PartialCertification
from lipnet.certify.report import progress
from lipnet.certify.run import Certification, count_rows

POLL_SECONDS = 0.5


class CertifyInProcesses:
    """Certifies the missing batches in a process for each device.

    The batches are those of a single process, so that a certificate does not depend on the number of processes. Each
    process makes model and data for itself, and begins only if its settings are those of the others. If one fails or is
    killed, the others are ended too; the batches they have certified stay. If the parent dies, they end by themselves.

    Args:
        prepare: makes the certification on a device; it is sent to the processes by pickle.
        devices: one for each process.

    Raises:
        ChildProcessError: on a call, if a process fails or is killed.
    """

    def __init__(self, prepare: Callable[[str], Certification], devices: Sequence[str]) -> None:
        self.prepare, self.devices = prepare, list(devices)

    def __call__(self, certification: Certification, partial: PartialCertification) -> None:
        certified = partial.batches()
        total = len(certification.indices)
        size: int = certification.batches.batch_size  # type: ignore[attr-defined]
        missing = sorted(set(range(ceil(total / size))) - certified.keys())
        shares = [missing[rank :: len(self.devices)] for rank in range(len(self.devices))]
        # Together as many threads as one process would have.
        threads = max(1, torch.get_num_threads() // len(self.devices))
        arguments = (os.getpid(), pickle.dumps(self.prepare), self.devices, partial.folder, shares, threads)
        processes = spawn(_certify_share, arguments, nprocs=len(self.devices), join=False)  # type: ignore[no-untyped-call]
        with progress(total, count_rows(certified)) as show:
            try:
                while not processes.join(timeout=POLL_SECONDS):
                    show(count_rows(partial.batches()))
            except (ProcessExitedException, ProcessRaisedException) as error:
                done = count_rows(partial.batches())
                raise ChildProcessError(
                    f"process {error.error_index + 1} of {len(self.devices)} {_end_of(error)}; {done} of {total} "
                    "images are certified: resume=true continues with the others"
                ) from error
            finally:
                for process in processes.processes:
                    process.kill()
                    process.join()
            show(count_rows(partial.batches()))


def _certify_share(
    rank: int,
    parent: int,
    prepare: bytes,
    devices: Sequence[str],
    folder: Path,
    shares: Sequence[Collection[int]],
    threads: int,
) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    certification: Certification = pickle.loads(prepare)(devices[rank])
    partial = PartialCertification(folder)
    partial.check(certification.settings())
    with partial.writer() as add:
        for number, rows in certification.certify(numbers=set(shares[rank])):
            add(number, rows)


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone: a killed parent cannot tell it."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _end_of(error: ProcessExitedException | ProcessRaisedException) -> str:
    if isinstance(error, ProcessRaisedException):
        return f"failed: {str(error).strip().splitlines()[-1]}"
    return f"was ended by {error.signal_name}" if error.signal_name else f"ended with exit status {error.exit_code}"
