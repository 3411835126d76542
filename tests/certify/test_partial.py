"""Interrupted certifications: the batches that count as done, and resuming."""

from __future__ import annotations

import copy
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lipnet.certify import Evidence, certify_dataset, evidence, run
from lipnet.certify.files import FILES, Row, read_certificates
from lipnet.certify.partial import PARTIAL, Batch, PartialCertification, check_free
from lipnet.certify.run import Certification
from lipnet.functional.rounding_error import Signal, Step, addition
from lipnet.layers import LipschitzModule, MaxMin, MaxMinPermuted, Normalize
from tests.full_disk import room_for

SETTINGS = {"dtype": "float64", "bound": 0.1 + 0.2}
BATCHES = {number: Batch((Row(number, 1, 1, "0.123456789", 1),) * 3, "d" * 64) for number in range(5)}
COUNT = 30
Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def partial(tmp_path: Path) -> PartialCertification:
    partial = PartialCertification.begin(tmp_path / "partial", SETTINGS)
    with partial.writer() as add:
        for number, batch in BATCHES.items():
            add(number, batch)
    return partial


def file_of(partial: PartialCertification) -> Path:
    (path,) = partial.folder.glob("*.batches")
    return path


def test_what_is_added_comes_back(partial: PartialCertification) -> None:
    assert partial.batches() == BATCHES
    resumed = PartialCertification.begin(partial.folder, SETTINGS, resume=True)
    assert resumed.batches() == partial.batches()


def test_a_certification_may_be_watched_before_it_begins(tmp_path: Path) -> None:
    watching = PartialCertification(tmp_path / PARTIAL)
    assert not watching.batches()
    with PartialCertification.begin(tmp_path / PARTIAL, SETTINGS).writer() as add:
        add(0, BATCHES[0])
    assert watching.batches() == {0: BATCHES[0]}


def test_several_writers_at_once(partial: PartialCertification) -> None:
    with partial.writer() as add_one, partial.writer() as add_other:
        add_one(7, BATCHES[0])
        add_other(8, BATCHES[0])
    assert sorted(partial.batches()) == [0, 1, 2, 3, 4, 7, 8]


def test_a_line_that_was_cut_does_not_count(partial: PartialCertification) -> None:
    path = file_of(partial)
    data = path.read_bytes()
    for length in random.Random(0).sample(range(len(data)), 100):
        path.write_bytes(data[:length])
        # A line is whole with or without the character that ends it.
        assert len(partial.batches()) in (data[:length].count(b"\n"), data[: length + 1].count(b"\n"))
        assert all(partial.batches()[number] == BATCHES[number] for number in partial.batches())


def test_no_flipped_bit_counts(partial: PartialCertification) -> None:
    path = file_of(partial)
    data = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(data)), 300):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        assert len(partial.batches()) < 5
        assert all(partial.batches()[number] == BATCHES[number] for number in partial.batches())


def test_beginning_again_forgets(partial: PartialCertification) -> None:
    assert PartialCertification.begin(partial.folder, SETTINGS).batches() == {}


@pytest.mark.parametrize(("name", "value"), [("dtype", "float32"), ("bound", 0.3), ("more", 1)])
def test_other_settings_are_not_gone_on_with(partial: PartialCertification, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"settings differ.*{name}: .* there, {value} here"):
        PartialCertification.begin(partial.folder, {**SETTINGS, name: value}, resume=True)
    assert len(partial.batches()) == 5


class Stopping:
    """Batches that stop with an interruption after some, and count requests."""

    def __init__(self, batches: Batches, after: int) -> None:
        self.batches, self.after = batches, after

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self.batches[: self.after]
        raise KeyboardInterrupt


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double().eval()


@pytest.fixture
def batches() -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, 1, 3, 3, generator=generator, dtype=torch.float64)
    return list(zip(images.split(4), torch.arange(COUNT).remainder(3).split(4), strict=True))


def certified(folder: Path, model: nn.Module, batches: Any, count: int = COUNT, **settings: Any) -> dict[str, Any]:
    return certify_dataset(model, batches, torch.arange(count), folder, facts={"dataset": "made up"}, **settings)


def test_replacing_discards_the_batches_of_another_certification_alone(tmp_path: Path) -> None:
    settings = {"resume": True, "overwrite": True}
    with PartialCertification.begin(tmp_path / PARTIAL, SETTINGS, **settings).writer() as add:
        add(0, Batch((Row(0, 1, 1, "0.500000000", 1),), "images"))
    assert PartialCertification.begin(tmp_path / PARTIAL, SETTINGS, **settings).batches().keys() == {0}
    other = {**SETTINGS, "another": 1}
    assert PartialCertification.begin(tmp_path / PARTIAL, other, **settings).batches() == {}
    PartialCertification.begin(tmp_path / PARTIAL, other, resume=True)


@pytest.mark.cover(1)
@pytest.mark.parametrize("count", [COUNT, 18])
@pytest.mark.parametrize("interruptions", [[0], [1], [3], [1, 2, 4]])
def test_a_resumed_certification_is_the_whole_one(
    tmp_path: Path,
    model: nn.Module,
    batches: Batches,
    interruptions: list[int],
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for after in interruptions:
        with pytest.raises(KeyboardInterrupt):
            certified(tmp_path / "cut", model, Stopping(batches, after), count, resume=True)
        # Without a first batch there is no certification yet.
        assert [path.name for path in tmp_path.glob("cut/*")] == ([PARTIAL] if after else [])
    seen: list[int] = []
    certify_batch = evidence.certify

    def counting(model: nn.Module, images: Tensor, *rest: Any, **settings: Any) -> Any:
        seen.append(len(images))
        return certify_batch(model, images, *rest, **settings)

    monkeypatch.setattr(evidence, "certify", counting)
    resumed = certified(tmp_path / "cut", model, batches, count, resume=True)
    assert sum(seen) == count - 4 * max(interruptions), "certified batches are certified again"
    whole = certified(tmp_path / "whole", model, batches, count)
    assert (tmp_path / "cut" / FILES[0]).read_bytes() == (tmp_path / "whole" / FILES[0]).read_bytes()
    assert {path.name for path in (tmp_path / "cut").iterdir()} == set(FILES)
    assert resumed["certified_accuracy"] == whole["certified_accuracy"]


def interrupted(folder: Path, model: nn.Module, batches: Batches) -> None:
    with pytest.raises(KeyboardInterrupt):
        certified(folder, model, Stopping(batches, 2))


def test_what_is_unfinished_is_neither_dropped_nor_gone_on_with_unasked(
    tmp_path: Path, model: nn.Module, batches: Batches
) -> None:
    interrupted(tmp_path, model, batches)
    with pytest.raises(FileExistsError, match=r"an unfinished certification; resume=true continues it"):
        certified(tmp_path, model, batches)
    certified(tmp_path, model, batches, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


@pytest.mark.parametrize("change", ["weights", "samples", "dtype"])
def test_another_certification_is_not_gone_on_with(
    tmp_path: Path, model: nn.Module, batches: Batches, change: str
) -> None:
    interrupted(tmp_path, model, batches)
    count = COUNT - 1 if change == "samples" else COUNT
    if change == "weights":
        with torch.no_grad():
            model[1].bias += 1
    model = model.float() if change == "dtype" else model
    difference = {"weights": "weights_sha256", "samples": "n_samples", "dtype": "dtype"}[change]
    with pytest.raises(ValueError, match=rf"settings differ: .*{difference}: "):
        certified(tmp_path, model, batches, count, resume=True)


def _folding(activation: nn.Module, mean: float = 0.25) -> nn.Module:
    """A network whose activation and mean are neither in its state dict nor in K or E."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = Normalize([mean], 0.5), nn.Conv2d(1, 4, 1), activation, nn.Flatten(), nn.Linear(36, 3)
        return nn.Sequential(*layers).double().eval()


@pytest.mark.parametrize("other", [_folding(MaxMinPermuted()), _folding(MaxMin(), mean=0.75)], ids=["part", "mean"])
def test_another_model_with_the_same_state_and_bounds_is_not_gone_on_with(
    tmp_path: Path, batches: Batches, other: nn.Module
) -> None:
    one = _folding(MaxMin())
    assert one.state_dict().keys() == other.state_dict().keys()
    assert Evidence(one, (1, 3, 3)).facts() == Evidence(other, (1, 3, 3)).facts()
    interrupted(tmp_path, one, batches)
    with pytest.raises(ValueError, match=r"settings differ: .*model_sha256: "):
        certified(tmp_path, other, batches, resume=True)
    assert certified(tmp_path, _folding(MaxMin()), batches, resume=True)["n_samples"] == COUNT


class Shifting(LipschitzModule):
    """A user's module, whose setting is a private mapping."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self._options = {"shift": shift}

    def forward(self, x: Tensor) -> Tensor:
        return x + self._options["shift"]

    def lipschitz_bound(self) -> float:
        return 1.0

    def rounding_step(self, signal: Signal, shape: tuple[int, ...]) -> Step:
        return addition(signal, torch.ones(1), signal.entries)


def test_other_settings_of_an_own_module_are_not_gone_on_with(tmp_path: Path, batches: Batches) -> None:
    one, other = _folding(Shifting(0.5)), _folding(Shifting(-0.5))
    assert Evidence(one, (1, 3, 3)).facts() == Evidence(other, (1, 3, 3)).facts()
    interrupted(tmp_path, one, batches)
    with pytest.raises(ValueError, match=r"settings differ: .*model_sha256: "):
        certified(tmp_path, other, batches, resume=True)
    assert certified(tmp_path, _folding(Shifting(0.5)), batches, resume=True)["n_samples"] == COUNT


def test_a_model_whose_content_cannot_be_compared_is_not_gone_on_with(
    tmp_path: Path, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _folding(Shifting(0.5))
    model[2]._options["buffer"] = memoryview(b"a")  # type: ignore[index, union-attr]
    interrupted(tmp_path, model, batches)
    monkeypatch.setattr("lipnet.functional.fingerprint._UNKNOWN", "unknown in another process")
    with pytest.raises(ValueError, match=r"one process alone, as 2\._options has content that cannot be compared"):
        certified(tmp_path, model, batches, resume=True)


@pytest.mark.parametrize("change", ["pixel", "label", "order", "batch size"])
def test_other_data_are_not_gone_on_with(tmp_path: Path, model: nn.Module, batches: Batches, change: str) -> None:
    interrupted(tmp_path, model, batches)
    others = [(images.clone(), labels.clone()) for images, labels in batches]
    if change == "pixel":
        others[1][0][3, 0, 2, 2] /= 2
    elif change == "label":
        others[1][1][3] = (others[1][1][3] + 1) % 3
    elif change == "order":
        others[0], others[1] = others[1], others[0]
    else:
        images, labels = (torch.cat(each) for each in zip(*batches, strict=True))
        others = list(zip(images.split(5), labels.split(5), strict=True))
    number = 1 if change in ("pixel", "label") else 0
    with pytest.raises(ValueError, match=rf"batch {number} has other images or labels than when it was certified"):
        certified(tmp_path, model, others, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]
    certified(tmp_path, model, iter(batches), resume=True)


def test_batches_of_another_certification_do_not_count(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    interrupted(tmp_path / "one", model, batches)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[1].bias += torch.arange(3)
    interrupted(tmp_path / "other", other, batches)
    for path in (tmp_path / "other" / PARTIAL).glob("*.batches"):
        shutil.copy(path, tmp_path / "one" / PARTIAL / f"9999-{path.name}")
    assert len(PartialCertification(tmp_path / "one" / PARTIAL).batches()) == 2
    certified(tmp_path / "one", model, batches, resume=True)
    certified(tmp_path / "whole", model, batches)
    assert (tmp_path / "one" / FILES[0]).read_bytes() == (tmp_path / "whole" / FILES[0]).read_bytes()


def test_a_line_that_is_no_batch_is_named(partial: PartialCertification) -> None:
    with partial.writer() as add:
        add(5, Batch([[1, 2]], "d"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\.batches is not as lipnet writes it; begin again with overwrite=true"):
        partial.batches()


def test_there_may_be_nothing_to_go_on_with(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    """One command can be repeated until it succeeds."""
    certified(tmp_path, model, batches, resume=True)
    with pytest.raises(FileExistsError, match=r"already holds certificates\.tsv"):
        certified(tmp_path, model, batches, resume=True)


def test_certificates_of_other_samples_do_not_make_a_file(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    interrupted(tmp_path, model, batches)
    partial = PartialCertification(tmp_path / PARTIAL)
    with partial.writer() as add:
        add(1, partial.batches()[1]._replace(rows=(Row(3, 0, 0, "0.100000000", 1),) * 4))
    with pytest.raises(ValueError, match=r"must hold certificates of 30 samples, got .* or those of other samples"):
        certified(tmp_path, model, batches, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]


@pytest.mark.parametrize("begins_after", [0, 1, 8])
def test_the_certificates_of_a_certification_that_begins_meanwhile_are_not_taken(
    tmp_path: Path, model: nn.Module, batches: Batches, begins_after: int
) -> None:
    def certification(slope: float) -> Certification:
        return Certification(nn.Sequential(model, nn.LeakyReLU(slope)).eval(), batches, torch.arange(COUNT), {})

    def execute(own: Certification, partial: PartialCertification) -> None:
        with partial.writer() as add:
            for number, batch in own.certify():
                if number == begins_after:
                    begin_other()
                add(number, batch)
        if begins_after == 8:
            begin_other()

    def begin_other() -> None:
        other = certification(2.0)
        run.certify_here(other, PartialCertification.begin(tmp_path / "one" / PARTIAL, other.identity()))

    with pytest.raises(ValueError, match=r"got 0 certificates, .* unless another certification has begun there"):
        run.run_certification(certification(1.0), tmp_path / "one", execute=execute)
    run.run_certification(certification(2.0), tmp_path / "one", resume=True)
    run.run_certification(certification(2.0), tmp_path / "two")
    assert (tmp_path / "one" / FILES[0]).read_bytes() == (tmp_path / "two" / FILES[0]).read_bytes()


def test_batches_that_another_code_certified_do_not_count(
    tmp_path: Path, model: nn.Module, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Certification(model, batches, torch.arange(COUNT), {})
    with PartialCertification.begin(tmp_path / PARTIAL, own.identity()).writer() as add:
        add(*next(own.certify()))
    monkeypatch.setattr("lipnet.certify.run.code_sha256", lambda: "0")
    with pytest.raises(ValueError, match="code_sha256"):
        run.run_certification(own, tmp_path, resume=True)


def test_files_that_appear_meanwhile_are_only_replaced_on_request(
    tmp_path: Path, model: nn.Module, batches: Batches
) -> None:
    own = Certification(model, batches, torch.arange(COUNT), {})

    def execute(certification: Certification, partial: PartialCertification) -> None:
        run.certify_here(certification, partial)
        (tmp_path / FILES[0]).write_text("of another certification")

    with pytest.raises(FileExistsError, match=rf"another certification wrote {FILES[0]} into .* meanwhile"):
        run.run_certification(own, tmp_path, execute=execute)
    assert (tmp_path / FILES[0]).read_text() == "of another certification"
    run.run_certification(own, tmp_path, resume=True)
    assert len(read_certificates(tmp_path / FILES[0]).rows) == COUNT
    run.run_certification(own, tmp_path, overwrite=True, execute=execute)
    assert len(read_certificates(tmp_path / FILES[0]).rows) == COUNT


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    PartialCertification.begin(tmp_path / "partial", {"tuple": (1, 2)})
    assert json.loads((tmp_path / "partial" / "settings.json").read_text()) == {"tuple": [1, 2]}
    PartialCertification.begin(tmp_path / "partial", {"tuple": (1, 2)}, resume=True)


@pytest.mark.parametrize("room", [250, 1000, 3000])
def test_a_full_disk_leaves_the_files_of_before_and_what_is_certified(
    tmp_path: Path, model: nn.Module, batches: Batches, room: int
) -> None:
    """The disk has room for no batch, for some batches, or for all batches but not for the files."""
    certified(tmp_path, model, batches, 10)
    before = {name: (tmp_path / name).read_bytes() for name in FILES}
    with room_for(room), pytest.raises(OSError, match=f"File too large: '{tmp_path}"):
        certified(tmp_path, model, batches, overwrite=True)
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == before
    assert {path.name for path in tmp_path.iterdir()} <= {*FILES, PARTIAL}
    if room > 250:
        assert PartialCertification(tmp_path / PARTIAL).batches()
        certified(tmp_path, model, batches, resume=True)
    else:
        certified(tmp_path, model, batches, overwrite=True)
    certified(tmp_path / "whole", model, batches)
    assert (tmp_path / FILES[0]).read_bytes() == (tmp_path / "whole" / FILES[0]).read_bytes()


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_removed_alone(tmp_path: Path, exists: bool) -> None:
    other = tmp_path / "other"
    if exists:
        other.mkdir()
        (other / "notes").touch()
    (tmp_path / PARTIAL).symlink_to(other)
    begun = PartialCertification.begin(tmp_path / PARTIAL, SETTINGS)
    assert not begun.folder.is_symlink()
    assert [path.name for path in begun.folder.iterdir()] == ["settings.json"]
    begun.discard()
    assert [path.name for path in tmp_path.rglob("*")] == (["other", "notes"] if exists else [])


@pytest.mark.parametrize("settings", [{}, {"resume": True}, {"overwrite": True}])
def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path, settings: dict[str, bool]) -> None:
    (tmp_path / PARTIAL).write_text("the user's")
    with pytest.raises(NotADirectoryError, match="must be the folder of an unfinished certification or not exist"):
        check_free(tmp_path, **{"resume": False, "overwrite": False, **settings})
    assert (tmp_path / PARTIAL).read_text() == "the user's"
