"""The options report=html and compare=... of the certify command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from torch import Tensor

from lipnet.certify import PGD, UnsoundCertificatesError
from lipnet.certify.bounds import LogitBounds
from lipnet.certify.html import COMPARISON, REPORT
from lipnet.commands.arguments import with_compare_list
from lipnet.data import DigitsDataModule
from lipnet.workflows import CertificateAttack, certify_checkpoint, verify_certificates
from lipnet.workflows.attacking import VIOLATION
from lipnet.workflows.reporting import compare_runs


def data_of(path: Path) -> dict[str, Any]:
    match = re.search(r'id="data">(.*?)</script>', path.read_text())
    assert match is not None
    return json.loads(match[1])


def test_a_report_is_written_on_request_only(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certify_checkpoint(tiny_checkpoint, tmp_path / "plain", n_samples=20)
    assert not (tmp_path / "plain" / REPORT).exists()
    certify_checkpoint(tiny_checkpoint, tmp_path / "page", n_samples=20, batch_size=15, report="html")
    data = data_of(tmp_path / "page" / REPORT)
    assert data["idx"] == DigitsDataModule().evaluation_indices("test")[:20].tolist()


@pytest.mark.parametrize("name", [REPORT, VIOLATION])
def test_a_folder_in_place_of_a_report_or_a_violation_is_refused_at_the_start(
    tmp_path: Path, tiny_checkpoint: Path, name: str
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    attack = CertificateAttack(PGD(steps=1, restarts=1), n_samples=1)
    with pytest.raises(IsADirectoryError, match=f"{name} must be a file or not exist, got a folder"):
        certify_checkpoint(tiny_checkpoint, tmp_path / "out", n_samples=5, attack=attack)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_class_names_of_the_data_are_shown(tmp_path: Path, tiny_checkpoint: Path) -> None:
    class NamedDigits(DigitsDataModule):
        def facts(self) -> dict[str, Any]:
            return {"classes": [f"digit {number}" for number in range(10)]}

    certify_checkpoint(tiny_checkpoint, tmp_path, data=NamedDigits(), n_samples=20, report="html")
    assert "digit 3" in data_of(tmp_path / REPORT)["classes"].values()


def test_no_verification_reads_the_report(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certify_checkpoint(tiny_checkpoint, tmp_path, n_samples=20, report="html")
    (tmp_path / REPORT).write_text("100 % certified")
    assert verify_certificates(tmp_path / "certificates.tsv").confirmed


def test_an_earlier_report_does_not_stay_beside_new_certificates(tmp_path: Path, tiny_checkpoint: Path) -> None:
    certify_checkpoint(tiny_checkpoint, tmp_path, n_samples=20, report="html")
    with pytest.raises(FileExistsError):
        certify_checkpoint(tiny_checkpoint, tmp_path, n_samples=10, report="html")
    assert len(data_of(tmp_path / REPORT)["idx"]) == 20
    certify_checkpoint(tiny_checkpoint, tmp_path, n_samples=10, overwrite=True)
    assert not (tmp_path / REPORT).exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / REPORT).write_text("something of the user's")
    with pytest.raises(FileExistsError, match=r"report\.html exists; choose another output_dir"):
        certify_checkpoint(tiny_checkpoint, tmp_path / "other", n_samples=10, report="html")
    assert (tmp_path / "other" / REPORT).read_text() == "something of the user's"


def test_another_kind_of_report_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="report must be 'html' or null, got 'pdf'"):
        certify_checkpoint(tmp_path / "missing.ckpt", tmp_path / "out", report="pdf")
    assert not (tmp_path / "out").exists()


def test_an_attack_brings_its_images_into_the_report(tmp_path: Path, tiny_checkpoint: Path) -> None:
    plan = CertificateAttack(PGD(steps=10, restarts=1), n_samples=12, factors=[20.0], radii=["1"])
    certify_checkpoint(tiny_checkpoint, tmp_path, n_samples=20, batch_size=8, attack=plan, report="html")
    data = data_of(tmp_path / REPORT)
    found = data["attack"]
    assert len(found["distance"]) == len(found["prediction"]) == 12
    flipped = [place for place, distance in enumerate(found["distance"]) if distance is not None]
    assert flipped
    for place in flipped:
        assert found["distance"][place] >= float(data["radius"][place])
        assert found["prediction"][place] != data["prediction"][place]


def test_a_wrong_certificate_is_an_alarm_in_the_report(
    tmp_path: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    radius = LogitBounds.certified_radius

    def excessive(self: LogitBounds, logits: Tensor, *errors: Any) -> tuple[Tensor, Tensor]:
        prediction, found = radius(self, logits, *errors)
        return prediction, 50 * found

    monkeypatch.setattr(LogitBounds, "certified_radius", excessive)
    plan = CertificateAttack(PGD(steps=10, restarts=1), radii=["1"])
    with pytest.raises(UnsoundCertificatesError):
        certify_checkpoint(tiny_checkpoint, tmp_path, n_samples=20, attack=plan, report="html")
    assert 'role="alert">Unsound: certificate violated' in (tmp_path / REPORT).read_text()


def test_runs_are_compared(tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, count in (("one", 20), ("two", 25)):
        certify_checkpoint(tiny_checkpoint, tmp_path / name, n_samples=count)
    path = compare_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    assert path == tmp_path / "both" / COMPARISON
    assert [each["name"] for each in data_of(path)["curves"]] == ["one", "two"]
    assert "The runs certify different images" in path.read_text()
    assert "The comparison of 2 runs is in" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match=r"compare\.html exists"):
        compare_runs([tmp_path / "one", tmp_path / "two"], tmp_path / "both")
    compare_runs([tmp_path / "two", tmp_path / "one"], tmp_path / "both", overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"holds no certificates\.tsv"):
        compare_runs([tmp_path / "one", tmp_path / "gone"], tmp_path / "third")


@pytest.mark.parametrize("paths", [["a", "b"], ["logs/it's", "b c"], ["x=[1]", "${y}\\'", "c\\"]])
def test_hydra_reads_the_list_of_runs(paths: list[str]) -> None:
    [argument] = with_compare_list([f"compare={','.join(paths)}"])
    assert OverridesParser.create().parse_override(argument).value() == paths


@pytest.mark.parametrize("argument", ["compare=[a,b]", "compare=null", "n_samples=5", "--help"])
def test_other_arguments_are_left_as_they_are(argument: str) -> None:
    assert with_compare_list([argument]) == [argument]
