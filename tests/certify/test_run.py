"""The files of a certification: their content, and that they appear whole or not at all."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
import torchvision
from matplotlib.figure import Figure
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lipnet
from lipnet.certify import certify, certify_dataset, files, lipschitz_bound, read_certificates, summary_table
from lipnet.certify.html.runs import read_run
from lipnet.certify.partial import PARTIAL
from lipnet.metrics.curve import plot_certified_curve
from tests.killed import killed_at

RADII = ("4/255", "0.05", "36/255")
NAMES = {"certificates.tsv", "summary.json", "curve.png"}
COUNT = 23
INDICES = 1000 - 7 * torch.arange(COUNT)

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(COUNT, 1, 3, 3, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 3, (COUNT,), generator=generator)


@pytest.fixture
def batches(samples: tuple[Tensor, Tensor]) -> Batches:
    return list(zip(samples[0].split(8), samples[1].split(8), strict=True))


@pytest.fixture
def model(samples: tuple[Tensor, Tensor]) -> nn.Module:
    """A linear classifier of the pixels that is right for about two thirds of the samples, with varied radii."""
    images, labels = samples
    # Least squares for labels of which each third one is wrong.
    targets = nn.functional.one_hot(torch.where(torch.arange(COUNT) % 3 == 0, (labels + 1) % 3, labels), 3).double()
    layer = nn.Linear(9, 3).double()
    with torch.no_grad():
        layer.weight.copy_(torch.linalg.lstsq(images.flatten(1) - 0.5, targets).solution.T)
        layer.bias.copy_(-0.5 * layer.weight.sum(dim=1))
    return nn.Sequential(nn.Flatten(), layer).eval()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "certificates.tsv").open(newline="") as file:
        lines = [line for line in file if not line.startswith("#")]
    return list(csv.DictReader(lines, delimiter="\t"))


def read_summary(folder: Path) -> Any:
    """summary.json, which must be JSON in the strict sense: no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads((folder / "summary.json").read_text(), parse_constant=refuse)


def without_time(summary: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in summary.items() if key not in ("wall_seconds", "sha256")}


def test_a_line_for_each_sample_in_order(
    tmp_path: Path, model: nn.Module, batches: Batches, samples: tuple[Tensor, Tensor]
) -> None:
    certify_dataset(model, batches, INDICES, f"{tmp_path}/new/folder", facts={})
    folder = tmp_path / "new" / "folder"
    lines = (folder / "certificates.tsv").read_text().splitlines()
    assert next(line for line in lines if line[0] != "#") == "idx\tlabel\tprediction\tradius\tcorrect"
    rows, exact = rows_of(folder), certify(model, *samples)
    assert [int(row["idx"]) for row in rows] == INDICES.tolist()
    assert [int(row["label"]) for row in rows] == samples[1].tolist()
    assert [int(row["prediction"]) for row in rows] == exact.prediction.tolist()
    assert [row["correct"] for row in rows] == [str(int(correct)) for correct in exact.correct]
    assert 5 < exact.correct.sum() < COUNT


def test_radii_are_written_rounded_down_to_nine_decimals(
    tmp_path: Path, model: nn.Module, batches: Batches, samples: tuple[Tensor, Tensor]
) -> None:
    certify_dataset(model, batches, INDICES, tmp_path, facts={})
    # Batch by batch, as batches of other sizes may be rounded in another way.
    exact = torch.cat([certify(model, *batch).radius for batch in batches])
    for row, radius in zip(rows_of(tmp_path), exact.tolist(), strict=True):
        assert len(row["radius"].split(".")[1]) == 9
        assert Fraction(row["radius"]) <= Fraction(radius) < Fraction(row["radius"]) + Fraction(1, 10**9)


def test_the_summary_can_be_computed_from_the_lines(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    facts = {"dataset": "made up", "split": "test"}
    summary = certify_dataset(model, batches, INDICES, tmp_path, facts=facts, radii=RADII)
    assert read_summary(tmp_path) == summary
    proven = [Fraction(row["radius"]) for row in rows_of(tmp_path) if row["correct"] == "1"]
    shares = {text: sum(radius > Fraction(text) for radius in proven) / COUNT for text in RADII}
    assert len({0.0, *shares.values(), len(proven) / COUNT}) > 3, "equal shares would show little"
    assert summary["certified_accuracy"] == shares
    assert list(summary["certified_accuracy"]) == list(RADII)
    assert summary["n_samples"] == COUNT
    assert summary["clean_accuracy"] == len(proven) / COUNT
    assert summary["average_certified_radius"] == pytest.approx(float(sum(proven) / len(proven)), rel=1e-12)
    assert {key: summary[key] for key in facts} == facts


def test_the_summary_says_what_was_certified_by_what(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    summary = certify_dataset(model, batches, INDICES, tmp_path, facts={})
    assert summary["lipschitz_bound"] == lipschitz_bound(model)
    assert summary["parameters"] == 9 * 3 + 3
    assert summary["dtype"] == "float64"
    versions = {"lipnet": lipnet.__version__, "torch": torch.__version__, "torchvision": torchvision.__version__}
    assert versions.items() <= summary["versions"].items()
    assert summary["versions"]["python"].startswith("3.")
    assert 0 <= summary["wall_seconds"] < 60
    assert list(summary["certified_accuracy"]) == ["36/255", "72/255", "108/255", "1"]


def test_float32_is_said_to_be_float32(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    assert certify_dataset(model.float(), batches, INDICES, tmp_path, facts={})["dtype"] == "float32"


def test_the_curve_is_a_picture(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    certify_dataset(model, batches, INDICES, tmp_path, facts={"dataset": "made up", "split": "test"})
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = matplotlib.image.imread(tmp_path / "curve.png")
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.01


def test_the_curve_marks_the_radii_of_the_table_and_names_what_the_facts_state(
    tmp_path: Path, model: nn.Module, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def recording(*args: Any, **settings: Any) -> Any:
        figure, axes = plot_certified_curve(*args, **settings)
        drawn.append(axes)
        return figure, axes

    monkeypatch.setattr("lipnet.certify.run.plot_certified_curve", recording)
    for number, facts in enumerate(({}, {"dataset": "made up"}, {"dataset": "made up", "split": "test"})):
        certify_dataset(model, batches, INDICES, tmp_path / str(number), facts=facts, radii=["0.5", "3"])
    titles = [axes.get_title(loc="left") for axes in drawn]
    assert titles == ["23 images", "made up, 23 images", "made up test, 23 images"]
    labels = [text.get_text().split("\n")[0] for text in drawn[0].texts]
    assert labels == ["clean", "0.5", "3"]
    assert drawn[0].get_xlim()[1] > 3


def test_nothing_but_the_three_files_is_written(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    certify_dataset(model, batches, INDICES, tmp_path, facts={})
    assert {path.name for path in tmp_path.iterdir()} == NAMES


def test_the_same_figures_twice(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    first, second = (certify_dataset(model, batches, INDICES, tmp_path / name, facts={}) for name in "ab")
    assert (tmp_path / "a/certificates.tsv").read_bytes() == (tmp_path / "b/certificates.tsv").read_bytes()
    assert without_time(first) == without_time(second)


@pytest.mark.parametrize("count", [1, 8, 11])
def test_the_first_samples_alone(tmp_path: Path, model: nn.Module, batches: Batches, count: int) -> None:
    summary = certify_dataset(model, batches, INDICES, tmp_path / "all", facts={})
    part = certify_dataset(model, batches, INDICES[:count], tmp_path / "first", facts={})
    assert (summary["n_samples"], part["n_samples"]) == (COUNT, count)
    everything, first = rows_of(tmp_path / "all"), rows_of(tmp_path / "first")
    assert len(first) == count
    for row, other in zip(first, everything, strict=False):
        assert float(row.pop("radius")) == pytest.approx(float(other.pop("radius")), abs=2e-9)
        assert row == other


def stopping(batches: Batches, after: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A loader that fails when it is asked for more batches."""
    yield from batches[:after]
    raise RuntimeError("the disk is gone")


def test_batches_beyond_the_last_sample_are_not_read(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    summary = certify_dataset(model, stopping(batches, after=1), INDICES[:8], tmp_path, facts={})
    assert summary["n_samples"] == 8


@pytest.mark.parametrize("name", sorted(NAMES))
def test_files_in_the_way_are_left_alone(tmp_path: Path, model: nn.Module, batches: Batches, name: str) -> None:
    (tmp_path / name).write_text("of another run")
    with pytest.raises(FileExistsError, match=rf"already holds {name}.*output_dir"):
        certify_dataset(model, batches, INDICES, tmp_path, facts={})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "of another run"


def test_replacing_replaces_all_three(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    certify_dataset(model, batches, INDICES[:5], tmp_path, facts={})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("report.html", "violation.npz"):
        (tmp_path / name).write_text("about the old certificates")
    summary = certify_dataset(model, batches, INDICES, tmp_path, facts={}, overwrite=True)
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == after.keys() == NAMES
    assert all(before[name] != after[name] for name in NAMES)
    assert read_summary(tmp_path) == summary


def test_replacing_that_fails_leaves_the_old_files(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    certify_dataset(model, batches, INDICES, tmp_path, facts={})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(RuntimeError, match="the disk is gone"):
        certify_dataset(model, stopping(batches, after=2), INDICES, tmp_path, facts={}, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != PARTIAL} == before


def test_a_full_disk_keeps_the_report_and_the_violation_of_the_old_files(
    tmp_path: Path, model: nn.Module, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    certify_dataset(model, batches, INDICES[:5], tmp_path, facts={})
    for name in ("report.html", "violation.npz"):
        (tmp_path / name).write_text("about the old certificates")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: Any, **settings: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        certify_dataset(model, batches, INDICES, tmp_path, facts={}, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != PARTIAL} == before


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_folder_in_place_of_a_file_changes_nothing(
    tmp_path: Path, model: nn.Module, batches: Batches, name: str
) -> None:
    certify_dataset(model, batches, INDICES[:5], tmp_path, facts={})
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(IsADirectoryError, match=f"{name} must be a file or not exist, got a folder"):
        certify_dataset(model, batches, INDICES, tmp_path, facts={}, overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert {path.name for path in tmp_path.iterdir()} == NAMES


def interrupted(folder: Path, model: nn.Module, batches: Batches, monkeypatch: pytest.MonkeyPatch, moves: int) -> None:
    """Replace a certification of five samples, and stop as a kill does, after so many files are in their places."""
    certify_dataset(model, batches, INDICES[:5], folder, facts={})
    (folder / "report.html").write_text("about the old certificates")
    left, replace = iter(range(moves)), os.replace

    def stopping_replace(source: Path, target: Path) -> None:
        if source.parent.name == "summary.json.replacement" and next(left, None) is None:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stopping_replace)
        with pytest.raises(KeyboardInterrupt):
            certify_dataset(model, batches, INDICES, folder, facts={}, overwrite=True)


READERS: dict[str, Callable[[Path], object]] = {
    "certificates": lambda folder: read_certificates(folder / "certificates.tsv"),
    "summary": lambda folder: files.read_summary(folder / "summary.json"),
    "report": read_run,
}


@pytest.mark.parametrize("moves", [0, 1, 2])
@pytest.mark.parametrize("reader", READERS)
def test_readers_complete_a_replacement_that_a_kill_interrupted(
    tmp_path: Path, model: nn.Module, batches: Batches, monkeypatch: pytest.MonkeyPatch, reader: str, moves: int
) -> None:
    interrupted(tmp_path, model, batches, monkeypatch, moves)
    READERS[reader](tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*NAMES, PARTIAL}
    assert len(rows_of(tmp_path)) == read_summary(tmp_path)["n_samples"] == len(INDICES)


@pytest.mark.slow
def test_a_kill_at_any_step_of_a_replacement_leaves_the_old_certificates_or_the_new_ones(
    tmp_path: Path, model: nn.Module, batches: Batches
) -> None:
    found = []
    for step in range(200):
        folder = tmp_path / str(step)
        certify_dataset(model, batches, INDICES[:5], folder, facts={})
        again = partial(certify_dataset, model, batches, INDICES, folder, facts={}, overwrite=True)
        killed = killed_at(step, again)
        run = read_run(folder)
        assert len(run.rows) == run.summary["n_samples"]
        assert (folder / "curve.png").is_file()
        found.append(len(run.rows))
        again()
        assert {path.name for path in folder.iterdir() if path.name.count(".") == 1} == NAMES
        if not killed:
            break
    moment = found.index(len(INDICES))
    assert found == [5] * moment + [len(INDICES)] * (len(found) - moment)
    assert 10 <= moment <= len(found) - 5


@pytest.mark.parametrize("settings", [{"overwrite": True}, {"resume": True}])
def test_the_same_call_again_completes_it(
    tmp_path: Path, model: nn.Module, batches: Batches, monkeypatch: pytest.MonkeyPatch, settings: dict[str, bool]
) -> None:
    interrupted(tmp_path, model, batches, monkeypatch, moves=1)
    summary = certify_dataset(model, batches, INDICES, tmp_path, facts={}, **settings)
    assert {path.name for path in tmp_path.iterdir()} == NAMES
    assert read_summary(tmp_path) == summary
    assert len(rows_of(tmp_path)) == len(INDICES)


def test_an_error_midway_leaves_what_can_be_gone_on_with_alone(
    tmp_path: Path, model: nn.Module, batches: Batches
) -> None:
    with pytest.raises(RuntimeError, match="the disk is gone"):
        certify_dataset(model, stopping(batches, after=2), INDICES, tmp_path, facts={})
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]


def test_too_few_samples_make_no_file(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    with pytest.raises(ValueError, match=r"data must hold 23 samples, got 16"):
        certify_dataset(model, batches[:2], INDICES, tmp_path, facts={})
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("count", [6, 12])
def test_batches_of_more_or_fewer_labels_than_images_make_no_file(
    tmp_path: Path, model: nn.Module, batches: Batches, number: int, count: int
) -> None:
    images, labels = batches[number]
    batches[number] = images, labels.repeat(2)[:count]
    with pytest.raises(ValueError, match=rf"batch {number} must have a label for each image, got {count} of"):
        certify_dataset(model, batches, INDICES, tmp_path, facts={})
    assert not NAMES & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (-INDICES, r"indices must be from 0 to 9+, got -\d+ to"),
        (INDICES.double(), r"indices must be integers \(n,\), at least one, got torch\.float64"),
        (INDICES > 3, r"indices must be integers \(n,\), at least one, got torch\.bool"),
        (INDICES[None], r"indices must be integers \(n,\), at least one, got torch\.int64 \(1, "),
        (INDICES[:0], r"indices must be integers \(n,\), at least one, got torch\.int64 \(0,\)"),
        (INDICES * 0, "indices must name each image once, got 22 repetitions"),
        (INDICES + 10**18, r"indices must be from 0 to 9+, got"),
    ],
    ids=["negative", "fractions", "truth values", "a table", "none", "repeated", "too large"],
)
def test_indices_that_a_file_cannot_state_are_refused(
    tmp_path: Path, model: nn.Module, batches: Batches, indices: Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        certify_dataset(model, batches, indices, tmp_path, facts={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sha256", "two words", "", "gr\u00f6\u00dfe"])
def test_facts_whose_names_a_file_cannot_state_are_refused(
    tmp_path: Path, model: nn.Module, batches: Batches, name: str
) -> None:
    with pytest.raises(ValueError, match="names of facts consist of letters, digits and _, and 'sha256' is taken, got"):
        certify_dataset(model, batches, INDICES, tmp_path, facts={name: 1})
    assert list(tmp_path.iterdir()) == []


class Noisy(TensorDataset):
    """Images with other noise at each reading, as random augmentation gives."""

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image, label = super().__getitem__(index)
        return (image + torch.rand(()) / 100).clamp(0, 1), label


@pytest.mark.parametrize("loader", ["shuffled", "augmented"])
def test_batches_that_change_make_no_file(
    tmp_path: Path, model: nn.Module, samples: tuple[Tensor, Tensor], loader: str
) -> None:
    """The file would say that the n-th certificate is the n-th image's."""
    dataset = TensorDataset(*samples) if loader == "shuffled" else Noisy(*samples)
    batches = DataLoader(dataset, batch_size=8, shuffle=loader == "shuffled")
    with pytest.raises(ValueError, match=r"the same images in every iteration, got others: set shuffle=False"):
        certify_dataset(model, batches, INDICES, tmp_path, facts={})
    assert not NAMES & {path.name for path in tmp_path.iterdir()}
    in_order = DataLoader(TensorDataset(*samples), batch_size=8)
    certify_dataset(model, in_order, INDICES, tmp_path, facts={}, overwrite=True)
    assert [int(row["label"]) for row in rows_of(tmp_path)] == samples[1].tolist()


def test_pixels_out_of_range_make_no_file(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    batches[1][0][2] += 1
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        certify_dataset(model, batches, INDICES, tmp_path, facts={})
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]


@pytest.mark.parametrize(
    ("radii", "message"),
    [
        (["36/255", "far"], "number such as '36/255' or 0.5, got 'far'"),
        (["1", "-1"], "finite and at least 0"),
        (["1", "1"], "each radius once"),
        ([], "at least one radius"),
    ],
    ids=str,
)
def test_radii_are_checked_before_anything_is_certified(
    tmp_path: Path, model: nn.Module, batches: Batches, radii: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        certify_dataset(model, stopping(batches, after=0), INDICES, tmp_path, facts={}, radii=radii)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    with torch.no_grad():
        model[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="weights are not finite"):
        certify_dataset(model, batches, INDICES, tmp_path, facts={})
    assert list(tmp_path.iterdir()) == []


def test_no_correct_prediction_at_all_can_be_reported(tmp_path: Path, model: nn.Module, batches: Batches) -> None:
    wrong = [(images, (model(images).argmax(dim=1) + 1) % 3) for images, _ in batches]
    summary = certify_dataset(model, wrong, INDICES, tmp_path, facts={})
    assert read_summary(tmp_path) == summary
    assert summary["clean_accuracy"] == 0
    assert set(summary["certified_accuracy"].values()) == {0.0}
    assert "0.00" in printed({"wrong": summary})


def printed(rows: dict[str, dict[str, Any]]) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(summary_table(rows))
    return console.file.getvalue()


def numbers_in(text: str, name: str) -> list[str]:
    """The numbers in the line of a table that a name begins."""
    (words,) = (line.split() for line in text.splitlines() if name in line.split())
    return [word for word in words if word[0].isdigit()]


def test_the_table_says_the_figures_in_per_cent() -> None:
    shares = {"36/255": 0.4321, "72/255": 0.25}
    summary = {
        "parameters": 6806000,
        "clean_accuracy": 0.5432,
        "certified_accuracy": shares,
        "average_certified_radius": 0.2999,
    }
    text = printed({"one": summary, "other": {**summary, "clean_accuracy": 0.125, "parameters": 12}})
    assert numbers_in(text, "one") == ["6,806,000", "54.32", "43.21", "25.00", "0.299"]
    assert numbers_in(text, "other") == ["12", "12.50", "43.21", "25.00", "0.299"]
    heading = next(line for line in text.splitlines() if "clean" in line and "%" not in line)
    assert heading.index("clean") < heading.index("36/255") < heading.index("72/255")
