"""Certification by the processes of a group: a change in one of them ends all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from lipnet.certify.partial import PARTIAL, PartialCertification
from lipnet.certify.ranks import _check_settings, certify_in_ranks
from lipnet.certify.run import Certification
from tests.certify.test_processes import BATCH_SIZE, OTHER, prepare

N_SAMPLES = 4 * BATCH_SIZE


@pytest.fixture(autouse=True)
def _group_of_one() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def begun(folder: Path, checkpoint: Path, device: str) -> tuple[Certification, PartialCertification]:
    certification = prepare(device, path=checkpoint, end="change", n_samples=N_SAMPLES)
    return certification, PartialCertification.begin(folder / PARTIAL, certification.identity())


def test_all_batches_are_certified(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certification, partial = begun(tmp_path, tiny_checkpoint, "cpu")
    certify_in_ranks(certification, partial)
    assert sorted(partial.batches()) == [0, 1, 2, 3]


def test_certified_batches_behind_the_last_missing_one_are_compared_with_the_data(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    certification, partial = begun(tmp_path, tiny_checkpoint, "cpu")
    certify_in_ranks(certification, partial)
    last = partial.batches()[3]
    again = PartialCertification.begin(partial.folder, certification.identity())
    with again.writer() as add:
        add(3, last._replace(data_sha256="of other images"))
    with pytest.raises(ValueError, match="batch 3 has other images or labels than when it was certified"):
        certify_in_ranks(certification, again)


def test_a_model_that_changed_in_this_process_is_an_error(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certification, partial = begun(tmp_path, tiny_checkpoint, OTHER)
    with pytest.raises(RuntimeError, match="in process 0 of 1, the model was changed after its bounds were computed"):
        certify_in_ranks(certification, partial)
    assert not partial.folder.exists()


def test_a_model_that_changed_in_another_process_is_an_error(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certification, partial = begun(tmp_path, tiny_checkpoint, "cpu")

    def gather(found: list[Any], own: Any) -> None:
        found[:] = [own, "the model was changed"]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    with pytest.raises(RuntimeError, match="in process 1 of 2, the model was changed"):
        certify_in_ranks(certification, partial)
    assert not partial.folder.exists()


def test_another_code_in_a_process_is_an_error(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certification, _ = begun(tmp_path, tiny_checkpoint, "cpu")
    first = certification.identity()
    monkeypatch.setattr("lipnet.certify.run.code_sha256", lambda: "0")
    with pytest.raises(ValueError, match=r"the processes have different settings: code_sha256: .* 0 here"):
        _check_settings(certification, first)
