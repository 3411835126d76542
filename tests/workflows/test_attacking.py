"""Certificates read back from their file and attacked, by the function and by the program."""

from __future__ import annotations

import copy
import dataclasses
import errno
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rich.console import Console
from torch import Tensor, nn

from lipnet.certify import PGD, CertificateFileError, CertificateViolationError, read_certificates, read_summary
from lipnet.certify.files import certificate_bytes
from lipnet.certify.html import sections
from lipnet.certify.html.elements import html
from lipnet.models import save_checkpoint
from lipnet.workflows import CertificateAttack, certify_checkpoint
from lipnet.workflows.attacking import attack_certificates, attack_tables
from lipnet.workflows.certification import prepare_certification
from lipnet.workflows.errors import clear_errors
from lipnet.workflows.reporting import reported
from tests.full_disk import room_for

ROOT = Path(__file__).parents[2]
PLAN = CertificateAttack(PGD(steps=10, restarts=1), n_samples=30)


@pytest.fixture
def checkpoint(
    tmp_path: Path, trained_model: nn.Module, tiny_config: dict[str, Any], digits_dataset: dict[str, Any]
) -> Path:
    save_checkpoint(tmp_path / "trained.ckpt", trained_model, tiny_config, digits_dataset)
    return tmp_path / "trained.ckpt"


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    """The certificates of 50 images."""
    certify_checkpoint(checkpoint, tmp_path / "out", n_samples=50, device="cpu")
    return tmp_path / "out"


@pytest.fixture
def batches(digits: tuple[Tensor, Tensor]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(digits[0].split(20), digits[1].split(20), strict=True))


def over_claim(folder: Path, factor: float) -> None:
    """Multiply all radii of a file, and update its checksum."""
    path = folder / "certificates.tsv"
    content = read_certificates(path)
    rows = [row._replace(radius=f"{factor * float(row.radius):.9f}") for row in content.rows.values()]
    path.write_bytes(certificate_bytes(content.facts, rows))


@pytest.mark.slow
def test_the_sandwich_and_the_power_join_the_summary(tmp_path: Path, checkpoint: Path) -> None:
    summary = certify_checkpoint(checkpoint, tmp_path / "out", n_samples=40, device="cpu", attack=PLAN)
    assert read_summary(tmp_path / "out" / "summary.json") == summary
    found = summary["attack"]
    assert (found["method"], found["n_samples"]) == ("PGD", 30)
    assert found["settings"] == {"steps": 10, "restarts": 1, "seed": 0}
    assert list(found["accuracy"]) == list(summary["certified_accuracy"]) == ["36/255", "72/255", "108/255", "1"]
    for shares in found["accuracy"].values():
        assert shares["certified"] <= shares["under_attack"] <= shares["clean"]
    assert found["flipped"]["1"] == 0
    assert list(found["flipped"]) == ["1", "1.1", "1.2", "1.5", "2.0"]
    assert found["flipped"]["1.5"] > 0.9, "an attack that never succeeds would show nothing"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"certificates.tsv", "summary.json", "curve.png"}


@pytest.mark.slow
def test_radii_of_its_own_and_more_samples_than_there_are(
    folder: Path, trained_model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    plan = CertificateAttack(PGD(steps=5, restarts=1), n_samples=1000, factors=[1.5], radii=["0.25"])
    found = attack_certificates(trained_model, batches, folder, plan, radii=["1"])["attack"]
    assert found["n_samples"] == 50
    assert list(found["accuracy"]) == ["0.25"]
    assert list(found["flipped"]) == ["1", "1.5"]


def test_a_radius_in_the_file_that_claims_too_much_is_found_and_saved(
    folder: Path, trained_model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    over_claim(folder, 1.5)
    with pytest.raises(CertificateViolationError, match=r"violation\.npz"):
        attack_certificates(trained_model, batches, folder, PLAN, radii=["1"])
    assert "certificate violated" in read_summary(folder / "summary.json")["attack"]["violation"]
    with np.load(folder / "violation.npz") as saved:
        original, perturbed = torch.from_numpy(saved["original"]), torch.from_numpy(saved["perturbed"])
        radius, distance, index = float(saved["radius"]), float(saved["distance"]), int(saved["index"])
    (row,) = [row for row in read_certificates(folder / "certificates.tsv").rows.values() if row.idx == index]
    assert radius == float(row.radius)
    assert (original - perturbed).norm() <= distance < radius
    first, second = trained_model(torch.stack([original, perturbed])).argmax(dim=1).tolist()
    assert first != second
    assert row.prediction == first


def test_a_violation_stays_the_error_if_its_files_cannot_be_written(
    folder: Path, checkpoint: Path, trained_model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    over_claim(folder, 1.5)
    certification = prepare_certification(checkpoint, "cpu", n_samples=50)
    batches = list(certification.batches)

    @clear_errors
    def main() -> None:
        with room_for(100), reported("html", certification, folder, read_summary(folder / "summary.json")) as keep:
            attack_certificates(trained_model, batches, folder, PLAN, radii=["1"], on_batch=keep)

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    verdict, *notes = capsys.readouterr().err.splitlines()
    assert verdict.startswith("unsound: certificate violated: image")
    assert len(notes) == 3
    assert all(note.startswith("a file about it could not be written: ") for note in notes)


def test_a_violation_whose_images_cannot_be_written_is_in_the_summary(
    folder: Path, trained_model: nn.Module, batches: list[tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: CertificateViolationError, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    over_claim(folder, 1.5)
    monkeypatch.setattr(CertificateViolationError, "save", full)
    with pytest.raises(CertificateViolationError):
        attack_certificates(trained_model, batches, folder, PLAN, radii=["1"])
    found = read_summary(folder / "summary.json")["attack"]
    assert "certificate violated" in found["violation"]
    assert found["file"] is None
    page = html(sections.attack(found))
    assert "certificate violated" in page
    assert "Both images" not in page


@pytest.mark.slow
def test_a_later_attack_that_finds_nothing_removes_the_image_of_an_earlier_one(
    folder: Path, trained_model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    (folder / "violation.npz").write_text("of another run")
    attack_certificates(trained_model, batches, folder, PLAN, radii=["1"])
    assert not (folder / "violation.npz").exists()


def test_data_that_are_not_those_of_the_file_are_refused(
    folder: Path, trained_model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    with pytest.raises(ValueError, match=r"labels in certificates\.tsv are not those of the data"):
        attack_certificates(trained_model, batches[1:], folder, PLAN, radii=["1"])
    with pytest.raises(ValueError, match=r"must hold the images of 30 certificates, got 20"):
        attack_certificates(trained_model, batches[:1], folder, PLAN, radii=["1"])


def test_a_model_with_other_weights_is_refused(
    folder: Path, trained_model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    before, other = read_summary(folder / "summary.json"), copy.deepcopy(trained_model)
    with torch.no_grad():
        next(other.parameters()).mul_(1 + 1e-12)
    with pytest.raises(ValueError, match=r"the weights must be the certified ones, whose weights_sha256 is \w+, got"):
        attack_certificates(other, batches, folder, PLAN, radii=["1"])
    assert read_summary(folder / "summary.json") == before


REPLACED = "another certification has replaced the one in"


@pytest.mark.parametrize("factor", [1.0, 1.5], ids=["sound", "violated"])
def test_an_attack_is_not_added_to_certificates_that_came_meanwhile(
    folder: Path, checkpoint: Path, trained_model: nn.Module, batches: list[tuple[Tensor, Tensor]], factor: float
) -> None:
    """Another command certifies other images of the same network while the attack runs."""
    over_claim(folder, factor)
    expected = read_summary(folder / "summary.json")

    def replaced() -> Iterator[tuple[Tensor, Tensor]]:
        certify_checkpoint(checkpoint, folder, n_samples=40, device="cpu", overwrite=True)
        yield from batches

    plan = dataclasses.replace(PLAN, method=PGD(steps=2, restarts=1))
    with pytest.raises(ValueError if factor == 1 else CertificateViolationError) as caught:
        attack_certificates(trained_model, replaced(), folder, plan, radii=["1"], expected=expected)
    assert REPLACED in "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert read_summary(folder / "summary.json")["n_samples"] == 40
    assert {path.name for path in folder.iterdir()} == {"certificates.tsv", "summary.json", "curve.png"}


def test_an_attack_and_a_report_begin_with_the_certificates_just_made(
    folder: Path, checkpoint: Path, trained_model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    expected = read_summary(folder / "summary.json")
    certify_checkpoint(checkpoint, folder, n_samples=40, device="cpu", overwrite=True)
    with pytest.raises(CertificateFileError, match=REPLACED):
        attack_certificates(trained_model, batches, folder, PLAN, radii=["1"], expected=expected)
    certification = prepare_certification(checkpoint, "cpu", n_samples=50)
    with pytest.raises(CertificateFileError, match=REPLACED), reported("html", certification, folder, expected):
        pass
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_samples": 0}, r"attack\.n_samples must be at least 1, or null for all, got 0"),
        ({"factors": [0.5]}, r"attack\.factors must be finite and more than 1, got \[0\.5\]"),
        ({"radii": ["far"]}, r"got 'far'"),
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused_before_anything_is_done(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CertificateAttack(PGD(), **settings)


def test_the_tables_say_the_figures_in_per_cent() -> None:
    found = {
        "method": "PGD",
        "n_samples": 1000,
        "n_certified": 900,
        "accuracy": {"36/255": {"clean": 0.6, "certified": 0.4321, "under_attack": 0.5}},
        "flipped": {"1": 0.0, "1.5": 0.875},
    }
    console = Console(file=io.StringIO(), width=120)
    console.print(*attack_tables(found))
    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert ["36/255", "43.21", "50.00", "60.00"] in lines
    assert ["1.5", "87.50"] in lines


@pytest.mark.parametrize("name", ["pgd", "autoattack"])
def test_the_configurations_are_plans(name: str) -> None:
    if name == "autoattack":
        pytest.importorskip("pyautoattack")
    with initialize_config_dir(str(ROOT / "lipnet" / "conf"), version_base="1.3"):
        config = compose("certify", overrides=["ckpt_path=x", f"attack={name}", "seed=7", "attack.n_samples=3"])
        assert compose("certify", overrides=["ckpt_path=x"]).attack is None
    plan = instantiate(config.attack, _convert_="all")
    assert isinstance(plan, CertificateAttack)
    assert (plan.method.seed, plan.n_samples, plan.radii) == (7, 3, None)


@pytest.mark.slow
def test_the_program_ends_with_exit_code_2(tmp_path: Path, checkpoint: Path) -> None:
    """A layer with too small a bound is planted into the program's process."""
    program = tmp_path / "program.py"
    program.write_text(
        "import runpy\n"
        "from lipnet.certify import checks\n"
        "from lipnet.layers import Normalize\n"
        "checks.replaced_in_bases = lambda module: None\n"
        "Normalize.lipschitz_bound = lambda self: 0.5 / self.std\n"
        f"runpy.run_path({str(ROOT / 'certify.py')!r}, run_name='__main__')\n"
    )
    command = [sys.executable, str(program), f"ckpt_path={checkpoint}", "attack=pgd", "n_samples=20", "device=cpu"]
    command += [f"output_dir={tmp_path / 'out'}", f"hydra.run.dir={tmp_path / 'hydra'}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "unsound: certificate violated: image" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "violation.npz").is_file()


def test_an_attack_of_single_images_shows_its_progress_after_a_few(
    folder: Path,
    trained_model: nn.Module,
    batches: list[tuple[Tensor, Tensor]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    class Slow(PGD):
        images_at_once = 8

        def perturb(self, model: nn.Module, images: Tensor, prediction: Tensor, epsilon: Tensor) -> Tensor:
            sizes.append(len(images))
            return images

    monkeypatch.setattr("lipnet.certify.progress.LINE_SECONDS", 0)
    plan = CertificateAttack(Slow(steps=1, restarts=1), n_samples=20, factors=[1.5], radii=["0.25"])
    attack_certificates(trained_model, batches, folder, plan, radii=["1"])
    assert max(sizes) == 8
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("attacked")]
    assert [line.split(",")[0] for line in lines] == [f"attacked {done} of 20 images" for done in (8, 16, 20)]
