"""Certify with several processes on one machine, each on its share of the batches."""

import os
import pickle
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from lipnet.certify.partial import Batches, PartialCertification, count_rows
from lipnet.certify.progress import progress
from lipnet.certify.run import Certification

POLL_SECONDS = 0.5


class CertifyInProcesses:
    """Executor that certifies the missing batches with one process for each device.

    A single process would certify the same batches, so a certificate does not depend on the number of processes. Each
    process builds its own model and data, and begins only if its settings equal the parent's. If one fails or is
    killed, the others are stopped too; the batches they have certified stay. If the parent dies, they stop themselves.

    Args:
        prepare: builds the certification on a device; pickle sends it to the processes.
        devices: one for each process.

    Raises:
        ChildProcessError: on a call, if a process fails or is killed.
    """

    def __init__(self, prepare: Callable[[str], Certification], devices: Sequence[str]) -> None:
        self.prepare, self.devices = prepare, list(devices)

    def __call__(self, certification: Certification, partial: PartialCertification) -> None:
        certified = partial.batches()
        total = len(certification.indices)
        missing = certification.missing(certified)
        shares = [missing[rank :: len(self.devices)] for rank in range(len(self.devices))]
        # All processes together use as many threads as one process would.
        threads = max(1, torch.get_num_threads() // len(self.devices))
        arguments = (os.getpid(), pickle.dumps(self.prepare), self.devices, partial.folder, shares, certified, threads)
        processes = spawn(_certify_share, arguments, nprocs=len(self.devices), join=False)  # type: ignore[no-untyped-call]
        with progress(total, count_rows(certified)) as show:
            try:
                while not processes.join(timeout=POLL_SECONDS):
                    show(count_rows(partial.batches()))
            except (ProcessExitedException, ProcessRaisedException) as error:
                done = count_rows(partial.batches())
                raise ChildProcessError(
                    f"process {error.error_index + 1} of {len(self.devices)} {_describe_end(error)}; {done} of {total} "
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
    certified: Batches,
    threads: int,
) -> None:
    """Certify the batches of ``shares[rank]`` on ``devices[rank]``; runs in a process of its own."""
    threading.Thread(target=_exit_with_parent, args=(parent,), daemon=True).start()
    torch.set_num_threads(threads)
    certification: Certification = pickle.loads(prepare)(devices[rank])
    partial = PartialCertification(folder)
    partial.check(certification.identity())
    with partial.writer() as add:
        for number, batch in certification.certify(set(shares[rank]), certified):
            add(number, batch)
    # The parent compares its own model only.
    try:
        certification.evidence.check_unchanged()
    except RuntimeError:
        partial.discard()  # nobody knows which of the batches were certified before the change
        raise


def _exit_with_parent(parent: int) -> None:
    """Exit this process once its parent is gone: a killed parent cannot stop it."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def _describe_end(error: ProcessExitedException | ProcessRaisedException) -> str:
    """Return the end of a failed process as a predicate, for an error."""
    if isinstance(error, ProcessRaisedException):
        return f"failed: {str(error).strip().splitlines()[-1]}"
    return f"was ended by {error.signal_name}" if error.signal_name else f"ended with exit status {error.exit_code}"
