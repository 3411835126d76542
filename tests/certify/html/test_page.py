"""The page: complete, self-contained, with its figures in the markup, and nothing from the data as markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from lipnet.certify import read_summary
from lipnet.certify.files import FILES
from lipnet.certify.html import REPORT, AttackedImages, write_comparison, write_report
from lipnet.certify.html import page as page_module
from lipnet.certify.html.sections import layers
from tests.certify.html.synthetic import LAYERS, make_images, make_run
from tests.certify.html.test_pictures import result_of

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "a & b",
    "$x",
]


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def data_of(page: str) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert match is not None
    return json.loads(match[1])


def test_the_page_states_the_figures_of_the_files(tmp_path: Path) -> None:
    rows = make_run(tmp_path)
    summary = read_summary(tmp_path / "summary.json")
    page = write_report(tmp_path, [make_images(100)], command="lipnet-certify 'a b'").read_text()
    texts = Tags(page).texts
    for share in (summary["clean_accuracy"], *summary["certified_accuracy"].values()):
        assert f"{100 * share:.2f} %" in texts
    assert {"c" * 64, "lipnet-certify 'a b'", "lipnet 0.1.0"} <= set(texts)
    data = data_of(page)
    assert data["radius"] == [row.radius for row in rows]
    assert data["prediction"] == [row.prediction for row in rows]
    assert data["curves"][0]["radii"] == sorted(float(row.radius) for row in rows if row.correct)


def test_the_table_of_classes_is_that_of_the_rows(tmp_path: Path) -> None:
    rows = make_run(tmp_path)
    page = write_report(tmp_path, [make_images(100)], class_names=["zero", "one", "two", "three", "four"]).read_text()
    [cells] = re.findall(r">two</th>(.*?)</tr>", page)
    values = [float(value) for value in re.findall(r'data-value="([^"]+)"', cells)]
    own = [row for row in rows if row.label == 2]
    shares = [sum(row.correct and float(row.radius) > r for row in own) / len(own) for r in (36 / 255, 72 / 255, 1)]
    radii = [float(row.radius) for row in own if row.correct]
    assert values == pytest.approx([len(own), len(radii) / len(own), *shares, sum(radii) / len(radii)])


def test_the_page_loads_nothing_and_runs_its_own_script_alone(tmp_path: Path) -> None:
    make_run(tmp_path)
    page = write_report(tmp_path, [make_images(100)]).read_text()
    tags = Tags(page).tags
    links = [values[name] for _, values in tags for name in ("src", "href", "action", "data") if name in values]
    assert all(str(link).startswith(("#", "data:,")) for link in links)
    assert "http:" not in page
    assert "https:" not in page
    [policy] = [values["content"] for tag, values in tags if values.get("http-equiv") == "Content-Security-Policy"]
    assert str(policy).startswith("default-src 'none'; img-src data: blob:; style-src 'sha256-")
    assert "unsafe" not in str(policy)
    assert not [name for _, values in tags for name in values if name.startswith("on") or name == "style"]


def test_hostile_texts_are_texts(tmp_path: Path) -> None:
    make_run(tmp_path / HOSTILE[1].replace("/", ""), dataset=HOSTILE[0], checkpoint=HOSTILE[1])
    [folder] = tmp_path.iterdir()
    clean = tmp_path / "clean"
    make_run(clean)
    pages = [
        write_report(folder, [make_images(100)], class_names=HOSTILE, command=HOSTILE[2]).read_text(),
        write_report(clean, [make_images(100)]).read_text(),
    ]
    hostile, harmless = (Tags(page) for page in pages)
    kinds = [[(tag, sorted(values)) for tag, values in each.tags] for each in (hostile, harmless)]
    # One entry more: the command.
    extra = [("div", []), ("dt", []), ("dd", []), ("code", [])]
    assert sorted(kinds[0]) == sorted(kinds[1] + extra)
    assert set(HOSTILE) <= set(hostile.texts)
    assert list(data_of(pages[0])["classes"].values()) == HOSTILE


def test_a_name_that_is_no_unicode_does_not_stop_the_report(tmp_path: Path) -> None:
    make_run(tmp_path, checkpoint="bad\udce9.ckpt")
    assert "bad\\udce9.ckpt" in write_report(tmp_path, [make_images(100)]).read_text()


def test_an_attack_is_shown_with_its_images(tmp_path: Path) -> None:
    attack = {
        "method": "PGD",
        "settings": {"steps": 20},
        "n_samples": 60,
        "accuracy": {"36/255": {"clean": 0.3, "under_attack": 0.2, "certified": 0.1}},
        "n_certified": 50,
        "flipped": {"1": 0.0, "1.5": None},
        "unconfirmed": 0,
        "wall_seconds": 1.5,
    }
    make_run(tmp_path, attack=attack)
    images = make_images(60)
    attacked = AttackedImages()
    result = result_of((images + 0.01).clamp(0, 1))
    result.distance[5] = float("inf")
    result.nearest_prediction[0] = 5  # no image of the gallery has this class
    attacked.add(images, result)
    names = [f"class {number}" for number in range(6)]
    page = write_report(tmp_path, [make_images(100)], class_names=names, attacked=attacked).read_text()
    texts = Tags(page).texts
    place = texts.index("20.00 %")
    assert texts[place - 1 : place + 2] == ["10.00 %", "20.00 %", "30.00 %"]
    assert "-" in texts
    assert "PGD (steps 20). 60 images were attacked." in page
    data = data_of(page)
    assert data["attack"]["distance"] == [None if i == 5 else 1.0 for i in range(60)]
    assert data["attack"]["gain"] == pytest.approx([50.0] * 60, rel=1e-3)
    assert set(data["pictures"]) == {"images", "perturbed", "difference"}
    assert list(data["classes"].values()) == names


def test_a_norm_of_zero_is_shown_and_an_unknown_one_is_a_dash() -> None:
    layer = {**LAYERS[0], "norm_bound": 0.0, "degree": 0, "rounding": None}
    assert [cell.text for cell in layers([layer]).iter("td")][-4:] == ["0", "0", "1", "-"]


def test_a_violation_is_an_alarm(tmp_path: Path) -> None:
    attack = {"method": "PGD", "settings": {}, "violation": "certificate violated: image 7", "file": "violation.npz"}
    make_run(tmp_path, attack=attack)
    page = write_report(tmp_path, [make_images(100)]).read_text()
    assert 'role="alert">Unsound: certificate violated: image 7<' in page
    assert "certificate violated: image 7. Both images are in violation.npz." in page


def test_fewer_images_than_certificates_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path)
    with pytest.raises(ValueError, match="must be the 100 certified ones, got 90"):
        write_report(tmp_path, [make_images(60), make_images(30)])
    assert {path.name for path in tmp_path.iterdir()} == {FILES[0], FILES[2]}


def test_more_images_than_certificates_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path)
    write_report(tmp_path, make_images(250).split(30))
    exact = (tmp_path / REPORT).read_bytes()
    write_report(tmp_path, make_images(250)[:100].split(100))
    assert (tmp_path / REPORT).read_bytes() == exact


@pytest.mark.slow
def test_ten_thousand_images_stay_below_15_megabytes(tmp_path: Path) -> None:
    make_run(tmp_path, count=10_000, num_classes=100)
    # Noise: nothing compresses worse.
    images = torch.rand(10_000, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    attacked = AttackedImages()
    attacked.add(images[:1000], result_of((images[:1000] * 0.9).clamp(0, 1)))
    assert write_report(tmp_path, images.split(1000), attacked=attacked).stat().st_size < 15_000_000


def test_the_gallery_of_a_large_set_shows_its_first_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "GALLERY", 40)
    rows = make_run(tmp_path)
    page = write_report(tmp_path, [make_images(60)]).read_text()
    data = data_of(page)
    assert data["idx"] == [row.idx for row in rows[:40]]
    assert len(data["curves"][0]["radii"]) == sum(row.correct for row in rows)
    assert "They are the first 40 of 100; charts and tables cover all." in page


def test_runs_are_compared_with_names_that_tell_them_apart(tmp_path: Path) -> None:
    for number, place in enumerate(("a/out", "b/out", "c")):
        make_run(tmp_path / place, seed=number)
    runs = [tmp_path / "a/out", tmp_path / "b/out" / FILES[0], tmp_path / "c"]
    page = write_comparison(runs, tmp_path / "all.html").read_text()
    data = data_of(page)
    assert [each["name"] for each in data["curves"]] == ["a/out", "b/out", f"{tmp_path.name}/c"]
    assert "The runs" not in page
    for place, each in zip(("a/out", "b/out", "c"), data["curves"], strict=True):
        shares = read_summary(tmp_path / place / "summary.json")["certified_accuracy"]
        assert sum(radius > 36 / 255 for radius in each["radii"]) / each["n"] == shares["36/255"]


def test_a_comparison_says_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", dataset="other", dtype="float32")
    page = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "all.html").read_text()
    assert "The runs certify different datasets: a: synthetic, b: other." in page
    assert "The runs are certified in different arithmetic: a: float64, b: float32." in page


def test_a_comparison_warns_of_runs_that_do_not_state_their_images(tmp_path: Path) -> None:
    for number, name in enumerate("ab"):
        make_run(tmp_path / name, seed=number, data_sha256=None)
    page = write_comparison([tmp_path / "a", tmp_path / "b"], tmp_path / "all.html").read_text()
    assert "No run states the SHA-256 of its images, data_sha256: they may be different images." in page


@pytest.mark.parametrize("runs", [[], ["a"], ["a", "a"]])
def test_a_comparison_needs_two_runs(tmp_path: Path, runs: list[str]) -> None:
    make_run(tmp_path / "a")
    with pytest.raises(ValueError, match="a comparison needs at least two runs, got"):
        write_comparison([tmp_path / run for run in runs], tmp_path / "all.html")
