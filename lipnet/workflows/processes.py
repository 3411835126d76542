"""A certification by several processes, each on its share of the batches."""

import pickle
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

from lipnet.certify.certification import Certification
from lipnet.certify.partial import PartialCertification
from lipnet.certify.progress import CertificationProgress
from lipnet.certify.report import count_rows

POLL_SECONDS = 0.5


class CertifyInProcesses:
    """Certifies the batches that are missing in a process for each device.

    The batches are those of a single process, so that what is certified of an image does not depend on how many
    processes there are. Each process makes model and data for itself, and begins only if all that its certificates
    rest on is what the others' rest on. If one fails or is killed, the others are ended too; what they have certified
    stays.

    Args:
        prepare: makes the certification on a device; it is sent to the processes by pickle.
        devices: of the processes.

    Raises:
        ChildProcessError: on a call, if a process fails or is killed.
    """

    def __init__(self, prepare: Callable[[str], Certification], devices: Sequence[str]) -> None:
        self.prepare, self.devices = prepare, list(devices)

    def __call__(self, certification: Certification, partial: PartialCertification) -> None:
        certified = partial.batches()
        missing = sorted(set(range(certification.count_batches())) - certified.keys())
        shares = [missing[rank :: len(self.devices)] for rank in range(len(self.devices))]
        # As many threads as one process would have, together.
        threads = max(1, torch.get_num_threads() // len(self.devices))
        arguments = (pickle.dumps(self.prepare), self.devices, partial.folder, shares, threads)
        processes = spawn(_certify_share, arguments, nprocs=len(self.devices), join=False)  # type: ignore[no-untyped-call]
        total = len(certification.indices)
        with CertificationProgress(total, count_rows(certified)) as progress:
            try:
                while not processes.join(timeout=POLL_SECONDS):
                    progress.update(count_rows(partial.batches()))
            except (ProcessExitedException, ProcessRaisedException) as error:
                done = count_rows(partial.batches())
                raise ChildProcessError(
                    f"process {error.error_index + 1} of {len(self.devices)} {_end_of(error)}; {done} of {total} "
                    "images are certified: resume=true goes on with the others"
                ) from error
            finally:
                for process in processes.processes:
                    process.kill()
                    process.join()
            progress.update(count_rows(partial.batches()))


def _certify_share(
    rank: int, prepare: bytes, devices: Sequence[str], folder: Path, shares: Sequence[Collection[int]], threads: int
) -> None:
    torch.set_num_threads(threads)
    certification: Certification = pickle.loads(prepare)(devices[rank])
    partial = PartialCertification(folder)
    partial.check(certification.settings())
    with partial.writer() as writer:
        for batch in certification.certify(numbers=set(shares[rank])):
            writer.add(batch)


def _end_of(error: ProcessExitedException | ProcessRaisedException) -> str:
    if isinstance(error, ProcessRaisedException):
        return f"failed: {str(error).strip().splitlines()[-1]}"
    return f"was ended by {error.signal_name}" if error.signal_name else f"ended with exit status {error.exit_code}"
