"""Certify with processes that torchrun or Slurm started, on one machine or several."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from lipnet.certify.partial import Batch, Batches, PartialCertification, count_rows
from lipnet.certify.progress import progress
from lipnet.certify.run import Certification


@contextmanager
def process_group() -> Iterator[None]:
    """Join the process group that MASTER_ADDR, MASTER_PORT, RANK and WORLD_SIZE name; leave it after the block."""
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def certify_in_ranks(certification: Certification, partial: PartialCertification | None) -> None:
    """Certify the missing batches together with the other processes of the group.

    A single process would certify the same batches, so a certificate does not depend on the number of processes. In
    each round every process certifies one batch, and the first process saves them all: no other process needs its
    folder.

    Args:
        certification: each process builds its own.
        partial: the unfinished certification, in the first process; None in the others.

    Raises:
        ValueError: in a process whose settings differ from those of the first one.
        RuntimeError: if the model of a process was changed meanwhile; the certified batches are discarded then.
        ChildProcessError: if another process fails or is killed.
    """
    try:
        if partial is None:
            _check_settings(certification, _broadcast(None))
            for _ in _rounds(certification, *_broadcast(None)):
                pass
            _check_unchanged(certification, None)
            return
        certified, total = partial.batches(), len(certification.indices)
        _broadcast(certification.identity())
        missing, certified = _broadcast((certification.missing(certified), certified))
        done = count_rows(certified)
        with progress(total, done) as show, partial.writer() as add:
            for batches in _rounds(certification, missing, certified):
                for number, batch in batches:
                    add(number, batch)
                    done += len(batch.rows)
                show(done)
        _check_unchanged(certification, partial)
    except RuntimeError as error:
        # gloo reports a lost process as a plain RuntimeError.
        if "gloo" not in str(error).lower() and "connection" not in str(error).lower():
            raise
        raise ChildProcessError(
            f"process {dist.get_rank()} of {dist.get_world_size()} lost another process, which failed or was ended; "
            "resume=true continues with the images that are not certified"
        ) from error


def _rounds(certification: Certification, missing: list[int], certified: Batches) -> Iterator[list[tuple[int, Batch]]]:
    """Certify one batch per round in each process; yield each round's batches in the first process, else nothing."""
    rank, size = dist.get_rank(), dist.get_world_size()
    share = certification.certify(set(missing[rank::size]), certified)
    for start in range(0, len(missing), size):
        # In the last round there may be fewer batches than processes.
        batch = next(share) if start + rank < len(missing) else None
        gathered: list[Any] | None = [None] * size if rank == 0 else None
        dist.gather_object(batch, gathered, dst=0)
        yield [each for each in gathered or [] if each is not None]
    # Read on: certified batches behind the last missing one are compared with the data, too.
    next(share, None)


def _check_unchanged(certification: Certification, partial: PartialCertification | None) -> None:
    """Compare all weights in every process, and fail in all of them if the model of one was changed."""
    own = None
    try:
        certification.evidence.check_unchanged()
    except RuntimeError as error:
        own = str(error)
    found: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    for rank, change in enumerate(found):
        if change is not None:
            if partial is not None:
                partial.discard()  # nobody knows which of the batches were certified before the change
            raise RuntimeError(f"in process {rank} of {len(found)}, {change}")


def _broadcast(value: Any) -> Any:
    """Return the first process's value in all processes."""
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def _check_settings(certification: Certification, first: dict[str, Any]) -> None:
    here = certification.identity()
    differing = sorted(name for name in {*here, *first} if here.get(name) != first.get(name))
    if differing:
        values = "; ".join(f"{name}: {first.get(name)} in the first, {here.get(name)} here" for name in differing)
        raise ValueError(f"the processes have different settings: {values}")
