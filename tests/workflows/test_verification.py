"""Verification of a certificate file: true statements are confirmed, and false ones are named."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lipnet.certify import PGD, CertificateFileError, read_certificates
from lipnet.certify.files import Row, certificate_bytes, read_summary, sealed, summary_bytes, unsealed
from lipnet.certify.report import radii_of
from lipnet.data import DigitsDataModule
from lipnet.models import CheckpointError, build_model, save_checkpoint
from lipnet.workflows import CertificateAttack, certify_checkpoint, verify_certificates
from lipnet.workflows.attack_check import attack_problems
from lipnet.workflows.verification import Verification, _compare_facts

COUNT = 40
SHARES = {"certified": 0.5, "under_attack": 0.5, "clean": 0.5}


@pytest.fixture
def run(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A folder of certificates."""
    folder = tmp_path / "run"
    certify_checkpoint(tiny_checkpoint, folder, n_samples=COUNT, batch_size=16, device="cpu")
    return folder


def verify(run: Path, checkpoint: Path | None = None, **settings: Any) -> Verification:
    return verify_certificates(run / "certificates.tsv", checkpoint, device="cpu", **settings)


def rewrite(run: Path, change: Any) -> None:
    """Write the file anew with other rows and a checksum that fits them, as a forger would."""
    content = read_certificates(run / "certificates.tsv")
    (run / "certificates.tsv").write_bytes(certificate_bytes(content.facts, change(list(content.rows.values()))))
    (run / "summary.json").unlink()


def test_a_true_file_is_confirmed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(run)
    assert found == Verification(COUNT, (), (), ())
    assert found.confirmed
    assert f"all {COUNT} certificates are confirmed" in capsys.readouterr().out


def test_checkpoint_and_data_alone_are_enough(run: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(run / "certificates.tsv", alone)
    with pytest.raises(FileNotFoundError, match=r"checkpoint of .* is missing: name it by ckpt_path"):
        verify(alone)
    assert verify(alone, tiny_checkpoint, data=DigitsDataModule()).confirmed


def test_the_checkpoint_of_a_run_is_found(run: Path, tiny_checkpoint: Path) -> None:
    (run / "checkpoints").mkdir()
    shutil.move(tiny_checkpoint, run / "checkpoints" / "best.ckpt")
    assert verify(run).confirmed


def test_a_folder_that_holds_its_checkpoint_may_be_moved(tmp_path: Path, tiny_checkpoint: Path) -> None:
    checkpoint = tmp_path / "run" / "weights" / "tiny.ckpt"
    checkpoint.parent.mkdir(parents=True)
    shutil.move(tiny_checkpoint, checkpoint)
    summary = certify_checkpoint(checkpoint, tmp_path / "run", n_samples=COUNT, device="cpu")
    assert summary["checkpoint"] == "weights/tiny.ckpt"
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert verify(tmp_path / "moved").confirmed


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("label", 99, "label 99, found "),
        ("prediction", 99, "prediction 99, found "),
        ("correct", None, "correct "),
        ("radius", "9.000000000", "radius 9.000000000 claims more than "),
        ("radius", "0.000000000", "radius 0.000000000 claims less than "),
        ("idx", 10**6, "idx 1000000: stated twice, or no sample of these data"),
    ],
)
def test_each_lie_is_named(run: Path, tiny_checkpoint: Path, field: str, value: Any, sentence: str) -> None:
    def lie(rows: list[Row]) -> list[Row]:
        row = rows[7]
        rows[7] = row._replace(**{field: 1 - row.correct if value is None else value})
        return rows

    line = list(read_certificates(run / "certificates.tsv").rows)[7]
    rewrite(run, lie)
    found = verify(run, tiny_checkpoint)
    assert found.differences[0].startswith(f"line {line}, idx ")
    assert sentence in found.differences[0]
    assert found.problems == ()
    assert not found.confirmed


def test_a_last_decimal_is_a_difference(run: Path, tiny_checkpoint: Path) -> None:
    def raised(rows: list[Row]) -> list[Row]:
        rows[0] = rows[0]._replace(radius=f"{float(rows[0].radius) + 1e-9:.9f}")
        return rows

    rewrite(run, raised)
    (difference,) = verify(run, tiny_checkpoint).differences
    assert difference.endswith("by 1E-9")
    assert "claims more" in difference


def test_every_difference_counts_and_the_first_are_shown(
    run: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run, lambda rows: [row._replace(radius="7.000000000") for row in rows])
    assert len(verify(run, tiny_checkpoint).differences) == COUNT
    printed = capsys.readouterr().out
    assert printed.count("claims more") == 10
    assert "and 30 more" in printed
    assert f"40 differences in {COUNT} certificates" in printed


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda rows: [*rows[:-1], rows[0]], "stated twice"),
        (lambda rows: rows[::-1], "not in the order of the data"),
    ],
    ids=["twice", "order"],
)
def test_each_sample_is_certified_once_and_in_order(
    run: Path, tiny_checkpoint: Path, change: Any, sentence: str
) -> None:
    rewrite(run, change)
    assert any(sentence in difference for difference in verify(run, tiny_checkpoint).differences)


def test_a_truncated_file_is_noticed(run: Path) -> None:
    path = run / "certificates.tsv"
    path.write_bytes(path.read_bytes()[:-400])
    found = verify(run)
    assert "SHA-256, is missing" in " ".join(found.problems)
    assert any("there is no certificate" in difference for difference in found.differences)


def test_an_edited_file_is_noticed(run: Path) -> None:
    path = run / "certificates.tsv"
    row = next(iter(read_certificates(path).rows.values()))
    path.write_text(path.read_text().replace(row.radius, "5.000000000", 1))
    found = verify(run)
    assert any("its SHA-256 differs from the one" in problem for problem in found.problems)
    (difference,) = found.differences
    assert "claims more" in difference


def test_a_bound_that_is_not_the_models_is_noticed(run: Path, tiny_checkpoint: Path) -> None:
    content = read_certificates(run / "certificates.tsv")
    versions = {**content.facts["versions"], "torch": "1.0"}
    facts = {**content.facts, "lipschitz_bound": 1.0, "versions": versions, "device": "cuda"}
    (run / "certificates.tsv").write_bytes(certificate_bytes(facts, list(content.rows.values())))
    (run / "summary.json").unlink()
    found = verify(run, tiny_checkpoint)
    assert [problem.split(":")[0] for problem in found.problems] == ["lipschitz_bound"]
    assert [note.split(":")[0] for note in found.notes] == ["device", "versions"]
    assert found.differences == ()


def test_a_summary_that_says_more_than_the_file_is_noticed(run: Path) -> None:
    summary = {key: value for key, value in read_summary(run / "summary.json").items() if key != "sha256"}
    forged = sealed({**summary, "clean_accuracy": 0.99})
    (run / "summary.json").write_bytes(summary_bytes(forged))
    (problem,) = verify(run).problems
    assert problem.startswith("summary.json states clean_accuracy 0.99, the file ")
    (run / "summary.json").write_text(json.dumps(forged))
    with pytest.raises(CertificateFileError, match=r"summary\.json was changed after it was written"):
        verify(run)


SUMMARY_LIES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "rounding is not covered": lambda summary: summary["rounding"].update(covered=False),
    "no rounding": lambda summary: summary["rounding"].update(logits=0.0),
    "no cost of the rounding": lambda summary: summary["rounding"].update(radius=0.0),
    "another measurement": lambda summary: summary["rounding"]["measured"].update(float32=0.0),
    "a measurement on more images": lambda summary: summary["rounding"]["measured"].update(images=10**6),
    "a negative number of predictions": lambda summary: summary["rounding"]["measured"].update(float32_predictions=-1),
    "nothing measured": lambda summary: summary["rounding"].pop("measured"),
    "no layers": lambda summary: summary.update(layers=[]),
    "a layer's constant": lambda summary: summary["layers"][2].update(constant=0.5),
    "a layer's engine": lambda summary: summary["layers"][2].update(engine="dense?"),
    "a layer without its path": lambda summary: summary["layers"][2].pop("path"),
    "an unknown entry": lambda summary: summary.update(reviewed=True),
    "no accuracy": lambda summary: summary.pop("clean_accuracy"),
    "no certified accuracy": lambda summary: summary.pop("certified_accuracy"),
    "radii that are none": lambda summary: summary.update(certified_accuracy={"far": 1.0}),
    "certified accuracy as text": lambda summary: summary.update(certified_accuracy="all"),
    "no time": lambda summary: summary.pop("wall_seconds"),
    "a negative time": lambda summary: summary.update(wall_seconds=-1.0),
    "an average": lambda summary: summary.update(average_certified_radius=2.0),
    "true for one": lambda summary: summary.update(n_samples=True),
    "a violation": lambda summary: summary.update(attack={"violation": "image 3"}),
    "an attack that found nothing": lambda summary: summary.update(
        attack={"n_samples": COUNT, "n_certified": COUNT, "accuracy": {}, "flipped": {"1": 0}}
    ),
    "an attack that is a number": lambda summary: summary.update(attack=3),
    "seconds as text": lambda summary: summary.update(wall_seconds="x"),
    "an average of yes": lambda summary: summary.update(average_certified_radius=True),
    "no average": lambda summary: summary.pop("average_certified_radius"),
    "no rounding at all": lambda summary: summary.pop("rounding"),
    "no rounding bound": lambda summary: summary.pop("rounding_bound"),
    "other versions than the file": lambda summary: summary.update(versions={}),
    "a layer's constant that differs by more than rounding": lambda summary: summary["layers"][2].update(
        constant=summary["layers"][2]["constant"] * (1 + 2e-6)
    ),
    "an attack without figures": lambda summary: summary.update(attack={"method": "PGD"}),
}


@pytest.mark.cover(0)
@pytest.mark.parametrize("name", SUMMARY_LIES)
def test_each_lie_of_a_resealed_summary_is_named(run: Path, tiny_checkpoint: Path, name: str) -> None:
    summary = unsealed(read_summary(run / "summary.json"))
    SUMMARY_LIES[name](summary)
    (run / "summary.json").write_bytes(summary_bytes(sealed(summary)))
    found = verify(run, tiny_checkpoint)
    assert found.problems
    assert all(problem.startswith("summary.json ") for problem in found.problems)
    assert found.differences == ()


@pytest.mark.parametrize(
    ("flipped", "problem"),
    [
        ({"1": 0.0, "1.5": 1.0, "2.0": 1.0}, None),
        ({"1": 0, "1.5": 1.0}, "missing, unknown or wrong entries: attack.flipped.1"),
        ({"1": None, "1.5": None}, "shares of flipped predictions that are null although images are certified"),
        ({"1": 0.0, "1.5": 0.123456}, "shares of an attack that are no whole numbers of images"),
        ({"1": 0.0, "nan": 0.0}, "shares of flipped predictions at distances that are no positive numbers"),
        ({"1": 0.0, "-3": 0.0}, "shares of flipped predictions at distances that are no positive numbers"),
        ({"1": 0.1}, "predictions that flipped within certified radii"),
        ({"1": 0.0, "0.999": 0.1}, "predictions that flipped within certified radii"),
        ({"1": 0.0, "1.0": 0.7}, "shares of flipped predictions without one within the radii, or with several"),
        ({"1.5": 0.9}, "shares of flipped predictions without one within the radii, or with several"),
        ({"1": 0.0, "1.5": 0.9, "2.0": 0.1}, "shares of flipped predictions that fall with the distance"),
    ],
)
def test_flips_that_contradict_the_certificates_are_named(
    run: Path, flipped: dict[str, float | None], problem: str | None
) -> None:
    rows = list(read_certificates(run / "certificates.tsv").rows.values())
    found = list(attack_problems({**an_attack(rows), "flipped": flipped}, rows))
    assert found == [] if problem is None else any(each.startswith(problem) for each in found)


def an_attack(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the entry of an attack that flipped every certified image right behind its radius."""
    radius, correct = radii_of(rows)
    clean, certified = (float(each.double().mean()) for each in (correct, correct & (radius > 36 / 255)))
    return {
        "method": "PGD",
        "settings": {"steps": 10},
        "n_samples": len(rows),
        "accuracy": {"36/255": {"certified": certified, "under_attack": certified, "clean": clean}},
        "n_certified": int((radius > 0).sum()),
        "flipped": {"1": 0.0, "1.1": 1.0},
        "unconfirmed": 0,
        "wall_seconds": 1.5,
    }


ATTACK_LIES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown entry": ({"proved": "everything"}, "missing, unknown or wrong entries: attack.proved"),
    "no method": ({"method": None}, "missing, unknown or wrong entries: attack.method"),
    "true for one": ({"n_samples": True}, "missing, unknown or wrong entries: attack.n_samples"),
    "no images": ({"n_samples": 0}, "an attack on another number of certificates"),
    "too few images": ({"n_samples": -1}, "an attack on another number of certificates"),
    "no accuracies": ({"accuracy": {}}, "an attack without accuracies"),
    "a negative count": ({"unconfirmed": -5}, "a negative number of predictions or seconds of an attack"),
    "negative seconds": ({"wall_seconds": -5.0}, "a negative number of predictions or seconds of an attack"),
    "seconds that are no number": (
        {"wall_seconds": math.nan},
        "missing, unknown or wrong entries: attack.wall_seconds",
    ),
    "a radius that is none": ({"accuracy": {"far": SHARES}}, "an attack that cannot be read"),
    "an unknown share": (
        {"accuracy": {"1": {**SHARES, "proved": 1.0}}},
        "missing, unknown or wrong entries: attack.accuracy.1.proved",
    ),
    "a factor that is none": ({"flipped": {"1": 0.0, "far": 0.0}}, "an attack that cannot be read"),
    "a factor in another form": (
        {"flipped": {"1": 0.0, "1_0": 0.0}},
        "shares of flipped predictions at distances that are no positive numbers",
    ),
}


@pytest.mark.parametrize("name", ATTACK_LIES)
def test_each_lie_about_an_attack_is_named(run: Path, name: str) -> None:
    rows = list(read_certificates(run / "certificates.tsv").rows.values())
    changes, problem = ATTACK_LIES[name]
    assert next(attack_problems({**an_attack(rows), **changes}, rows)).startswith(problem)


# Ten images, of which nine are correct, with radii 0.1, 0.2, ..., 1. The last one is not.
TEN = [Row(idx, 0, int(idx == 9), f"{(idx + 1) / 10:.9f}", int(idx < 9)) for idx in range(10)]


@pytest.mark.parametrize(
    ("under_attack", "flipped", "problems"),
    [
        ({"0.45": 0.5}, {"1.5": 0.8}, []),
        # Eight images at least are flipped within 1.5 times their radius, of which two may lie beyond 0.45.
        ({"0.45": 0.9}, {"1.5": 0.8}, ["shares of flipped predictions that contradict the accuracies under attack"]),
        ({"0.45": 0.7}, {"1.5": 0.9}, []),
        ({"0.45": 0.7}, {"1.5": 1.0}, ["shares of flipped predictions that contradict the accuracies under attack"]),
        # Within 100 times each radius, and so within 0.45, two images are flipped at most.
        ({"0.45": 0.7}, {"100.0": 0.2}, []),
        ({"0.45": 0.6}, {"100.0": 0.2}, ["shares of flipped predictions that contradict the accuracies under attack"]),
        ({"0.45": 0.7, "0.15": 0.8}, {"1.5": 0.9}, []),
        ({"0.15": 0.8, "0.45": 0.85}, {"1.5": 0.5}, ["an accuracy under attack that rises with the radius"]),
        ({"0.45": 0.55}, {"1.5": 0.5}, ["shares of an attack that are no whole numbers of images"]),
    ],
)
def test_figures_of_an_attack_that_contradict_each_other_are_named(
    under_attack: dict[str, float], flipped: dict[str, float], problems: list[str]
) -> None:
    certified = {"0.45": 0.5, "0.15": 0.8}
    accuracy = {
        text: {"certified": certified[text], "under_attack": share, "clean": 0.9}
        for text, share in under_attack.items()
    }
    attack = {**an_attack(TEN), "accuracy": accuracy, "flipped": {"1": 0.0, **flipped}}
    found = list(attack_problems(attack, TEN))
    assert found[: len(problems)] == problems
    assert bool(found) == bool(problems)


def test_an_attack_has_each_factor_once() -> None:
    with pytest.raises(ValueError, match=r"attack\.factors must differ from each other, got \[2, 2\.0\]"):
        CertificateAttack(PGD(), factors=[2, 2.0])


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("reviewed", True, "reviewed: the file states True, which is no fact of a certification"),
        ("parameters", 3, "parameters: the file states 3"),
        ("rounding_bound", 0.0, "rounding_bound: the file states 0.0"),
    ],
)
def test_each_lie_of_a_resealed_file_is_named(
    run: Path, tiny_checkpoint: Path, name: str, value: Any, problem: str
) -> None:
    content = read_certificates(run / "certificates.tsv")
    rows = list(content.rows.values())
    (run / "certificates.tsv").write_bytes(certificate_bytes({**content.facts, name: value}, rows))
    (run / "summary.json").unlink()
    (found,) = verify(run, tiny_checkpoint).problems
    assert found.startswith(problem)


FACTS = {"device": "cpu", "versions": {"lipnet": "1.0", "torch": "2.0"}, "rounding_bound": None}


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_that_is_not_stated_is_a_problem(name: str) -> None:
    stated = {other: value for other, value in FACTS.items() if other != name}
    assert _compare_facts(stated, FACTS) == ([f"{name}: the file does not state it, now {FACTS[name]}"], [])


@pytest.mark.parametrize("name", ["device", "versions"])
@pytest.mark.parametrize("value", [None, True, 0, "", {}, [], {"torch": "2.0"}, {"lipnet": "1.0", "torch": 2}])
def test_device_and_versions_of_another_form_are_problems(name: str, value: Any) -> None:
    (problem,), notes = _compare_facts({**FACTS, name: value}, FACTS)
    assert problem == f"{name}: the file states {value}, now {FACTS[name]}"
    assert notes == []


@pytest.mark.parametrize("changed", ["file", "summary", "both"])
def test_a_bound_that_would_be_null_must_be_stated(tmp_path: Path, tiny_checkpoint: Path, changed: str) -> None:
    certify_checkpoint(tiny_checkpoint, tmp_path, n_samples=5, dtype="float32", device="cpu")
    content = read_certificates(tmp_path / "certificates.tsv")
    summary = unsealed(read_summary(tmp_path / "summary.json"))
    assert content.facts.pop("rounding_bound", "missing") is None
    if changed != "summary":
        (tmp_path / "certificates.tsv").write_bytes(certificate_bytes(content.facts, list(content.rows.values())))
    if changed != "file":
        del summary["rounding_bound"]
        (tmp_path / "summary.json").write_bytes(summary_bytes(sealed(summary)))
    problem = verify(tmp_path).problems[0]
    sentences = {
        "file": "rounding_bound: the file does not state it",
        "summary": "summary.json does not state rounding_bound",
        "both": "rounding_bound: the file does not state it",
    }
    assert problem.startswith(sentences[changed])


def test_distances_that_overflow_are_confirmed(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    """Logits that overflow in float32 have a distance that the summary states as null."""
    config = {**tiny_config, "std": 1e-37, "head": {"_target_": "torch.nn.Linear", "_partial_": True}}
    model = build_model(config)
    model.get_submodule("head").weight.data.mul_(1e6)
    save_checkpoint(tmp_path / "large.ckpt", model, config, {"name": "digits"})
    certify_checkpoint(tmp_path / "large.ckpt", tmp_path, n_samples=5, device="cpu")
    summary = unsealed(read_summary(tmp_path / "summary.json"))
    assert summary["rounding"]["measured"]["float32"] is None
    assert verify(tmp_path).confirmed
    summary["rounding"]["measured"]["float32"] = 1.0
    (tmp_path / "summary.json").write_bytes(summary_bytes(sealed(summary)))
    assert verify(tmp_path).problems == (
        "summary.json states another value of rounding.measured than the recomputed one",
    )


def test_a_rounding_without_a_bound_is_stated_as_null_and_confirmed(
    tmp_path: Path, tiny_config: dict[str, Any]
) -> None:
    config = {**tiny_config, "std": 1e-37, "head": {"_target_": "torch.nn.Linear", "_partial_": True}}
    model = build_model(config).double()
    model.get_submodule("head").weight.data.mul_(1e121)
    save_checkpoint(tmp_path / "large.ckpt", model, config, {"name": "digits"})
    certify_checkpoint(tmp_path / "large.ckpt", tmp_path, n_samples=5, device="cpu")
    assert read_summary(tmp_path / "summary.json")["rounding_bound"] is None
    assert not any("Infinity" in (tmp_path / name).read_text() for name in ("certificates.tsv", "summary.json"))
    assert verify(tmp_path).confirmed


def test_an_average_that_would_be_null_must_be_stated(run: Path) -> None:
    content = read_certificates(run / "certificates.tsv")
    rows = [row._replace(correct=0) for row in content.rows.values()]
    (run / "certificates.tsv").write_bytes(certificate_bytes(content.facts, rows))
    assert "summary.json states average_certified_radius" in " ".join(verify(run).problems)
    summary = unsealed(read_summary(run / "summary.json"))
    del summary["average_certified_radius"]
    (run / "summary.json").write_bytes(summary_bytes(sealed(summary)))
    assert "summary.json does not state average_certified_radius" in verify(run).problems


def test_a_fact_that_is_stated_twice_is_a_problem(run: Path) -> None:
    path = run / "certificates.tsv"
    body = path.read_text().rpartition("# sha256")[0].replace("# split:", '# split: "train"\n# split:')
    path.write_text(f'{body}# sha256: "{hashlib.sha256(body.encode()).hexdigest()}"\n')
    assert any("states split a second time" in problem for problem in verify(run).problems)


def test_an_attack_is_checked_as_far_as_the_certificates_go_and_said_not_to_be_repeated(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    attack = CertificateAttack(PGD(steps=1, restarts=1), n_samples=10)
    certify_checkpoint(tiny_checkpoint, tmp_path / "run", n_samples=COUNT, device="cpu", attack=attack)
    found = verify(tmp_path / "run")
    assert found.confirmed
    assert any("states an attack, which is not repeated here" in note for note in found.notes)


@pytest.mark.parametrize(("name", "value"), [("n_samples", "40"), ("batch_size", 1.5), ("dtype", ["float64"])])
def test_settings_of_another_type_are_an_error(run: Path, tiny_checkpoint: Path, name: str, value: Any) -> None:
    content = read_certificates(run / "certificates.tsv")
    facts = {**content.facts, name: value}
    (run / "certificates.tsv").write_bytes(certificate_bytes(facts, list(content.rows.values())))
    with pytest.raises(CertificateFileError, match=f"{name} must be of type"):
        verify(run, tiny_checkpoint)


def test_a_summary_without_a_checkpoint_leaves_the_run_s_own(run: Path) -> None:
    summary = unsealed(read_summary(run / "summary.json"))
    del summary["checkpoint"]
    (run / "summary.json").write_bytes(summary_bytes(sealed(summary)))
    with pytest.raises(FileNotFoundError, match=r"name it by ckpt_path"):
        verify(run)


def test_another_checkpoint_is_an_error(run: Path, tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    torch.manual_seed(1)
    other = tmp_path / "other.ckpt"
    save_checkpoint(other, build_model(tiny_config), tiny_config, {"name": "digits", "seed": 0})
    with pytest.raises(
        ValueError, match=r"checkpoint_sha256 of the checkpoint .*other\.ckpt must be \w+, as .* states, got \w+"
    ):
        verify(run, other)


def test_a_damaged_checkpoint_is_an_error(run: Path, tiny_checkpoint: Path) -> None:
    tiny_checkpoint.write_bytes(tiny_checkpoint.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="cannot be read"):
        verify(run)


def test_other_data_are_an_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = DigitsDataModule()
    data.evaluation_dataset("test").source.images[0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match=r"data_sha256 of the data must be \w+, as .* states, got \w+"):
        verify(run, data=data)


def test_a_file_without_what_is_needed_is_an_error(run: Path, tiny_checkpoint: Path, tiny_model: nn.Module) -> None:
    path = run / "certificates.tsv"
    path.write_bytes(certificate_bytes({"dataset": "digits", "n_samples": 0}, []))
    with pytest.raises(CertificateFileError, match=r"cannot be checked: it does not say split, data_sha256"):
        verify(run, tiny_checkpoint)
