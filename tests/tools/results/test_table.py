"""The table states what the files state: figures, seeds, interrupted runs, and machines."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tools.results.conftest import CONFIG, RECORD, SUMMARY, changed
from tools.results.folders import Result
from tools.results.published import PublishedRow
from tools.results.table import describe, group_by_settings, results_tables

PUBLISHED = [
    PublishedRow("Better", "cifar100", "50.0", {"36/255": "35.0", "72/255": "20.0"}, "A paper", headline=True),
    PublishedRow("Worse", "cifar100", "40.0", {"36/255": "25.0"}, "A paper", headline=True),
    PublishedRow("Same", "cifar100", "43.0", {"36/255": "29.0"}, "A paper", experiment="table3/gs_soc_4"),
]


def result(name: str, *, config: Any = None, record: Any = None, summary: Any = None) -> Result:
    # Stored configurations are resolved: the model holds its layers.
    parts = {"conv": CONFIG["conv"], "activation": CONFIG["activation"], "head": CONFIG["head"]}
    plain = {**CONFIG, "logger": None, "paths": None, "data": {"seed": 0}}
    plain["model"] = {"depth": 15, "initial_channels": 32, **parts}
    return Result(name, changed(plain, config or {}), {**RECORD, **(record or {})}, {**SUMMARY, **(summary or {})})


def rows_of(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def test_a_measured_row_stands_where_its_certified_accuracy_puts_it() -> None:
    rows = rows_of(results_tables([result("one")], PUBLISHED))
    assert [row[0].strip("*").partition(",")[0] for row in rows] == ["Better", "LipConvNet-15", "Same", "Worse"]
    name, parameters, clean, *certified, training, source = rows[1]
    assert name == "**LipConvNet-15, 32 channels, GSSOC (4,-) paired, MaxMinPermuted, SOCLinear, CrossEntropyLoss**"
    assert (parameters, clean, certified) == ("6.81 M", "**44.01**", ["**30.02**", "**18.03**", "**10.04**"])
    assert training == "200 epochs; 2.5 h of 2 threads of P"
    assert source == "[one](results/one), seed 0"
    assert rows[0][3:6] == ["35.0", "20.0", "-"]


def test_a_row_that_is_no_headline_waits_for_a_measured_one() -> None:
    text = results_tables([], PUBLISHED)
    assert [row[0] for row in rows_of(text)] == ["Better", "Worse"]
    assert text.endswith("No row on CIFAR-100 is measured with lipnet yet.")


def test_seeds_are_averaged() -> None:
    other = result("two", config={"seed": 1, "data": {"seed": 1}}, summary={"clean_accuracy": 0.4601})
    (row,) = (row for row in rows_of(results_tables([result("one"), other], [])) if row[0])
    assert row[2] == "**45.01**"
    assert row[-1] == "[one](results/one), [two](results/two), mean of 2 seeds (30.02 to 30.02 at 36/255)"


def test_seeds_with_a_time_limit_have_a_range_of_epochs() -> None:
    runs = [
        result(str(seed), config={"seed": seed}, record={"epochs": epochs, "planned_epochs": None})
        for seed, epochs in enumerate((71, 79, 75))
    ]
    (row,) = rows_of(results_tables(runs, []))
    assert row[-2] == "71 to 79 epochs; 2.5 h of 2 threads of P"
    (row,) = rows_of(results_tables([*runs[:2], result("2", record={"epochs": 60, "finished": False})], []))
    assert row[-2] == "71 epochs, 79 epochs, cut short at 60 of 200 epochs; 2.5 h of 2 threads of P"


def test_patches_and_mirror_images_are_named() -> None:
    name = describe(result("one", config={"model": {"patch_rotation": 2, "mirror": True}}).config)
    assert name.startswith("LipConvNet-15, patches of 2 x 2, 32 channels, GSSOC")
    assert name.endswith(", CrossEntropyLoss, mirror images")
    assert "patches" not in describe(result("one", config={"model": {"patch_rotation": True}}).config)


def test_settings_of_the_display_make_no_difference() -> None:
    quiet = result("two", config={"seed": 1, "callbacks": {"progress_bar": None, "run_record": {"seed": 1}}})
    shown = result("one", config={"callbacks": {"progress_bar": {"refresh_rate": 10}, "run_record": {"seed": 0}}})
    assert len(group_by_settings([shown, quiet])) == 1


def test_other_settings_are_another_row() -> None:
    other = result("two", config={"loss": {"label_smoothing": 0.1}})
    assert len(group_by_settings([result("one"), other])) == 2


def test_a_row_says_that_its_run_was_cut_short_or_certified_in_part() -> None:
    cut = result("cut", record={"epochs": 60, "finished": False}, summary={"n_samples": 2000})
    (row,) = rows_of(results_tables([cut], []))
    assert row[-2].startswith("cut short at 60 of 200 epochs; ")
    assert row[-1] == "[cut](results/cut), seed 0, first 2,000 test images"


def test_an_accelerator_is_named() -> None:
    start = {**RECORD["starts"][0], "hardware": {**RECORD["starts"][0]["hardware"], "accelerator": "NVIDIA H200"}}
    (row,) = rows_of(results_tables([result("one", record={"starts": [start, start]})], []))
    assert row[-2] == "200 epochs; 2.5 h of 1 NVIDIA H200"


@pytest.mark.parametrize(("seconds", "expected"), [(42.0, "42 s"), (1620.0, "27 min"), (30000.0, "8.3 h")])
def test_a_duration_has_two_digits(seconds: float, expected: str) -> None:
    (row,) = rows_of(results_tables([result("one", record={"seconds": seconds})], []))
    assert row[-2] == f"200 epochs; {expected} of 2 threads of P"


def test_the_time_of_teachers_is_stated() -> None:
    def taught(name: str, run: Any) -> Result:
        config = {"distillation": {"teacher": "TEACHER", "weight": 0.5}}
        return result(name, config=config, record={"teacher": {"sha256": "0" * 64, "run": run}})

    teachers = [{**RECORD, "seconds": 360.0}, {**RECORD, "seconds": 480.0}]
    (row,) = rows_of(results_tables([taught(str(seed), run) for seed, run in enumerate(teachers)], []))
    assert row[0].endswith("CrossEntropyLoss, labels of a teacher**")
    assert row[-2] == "200 epochs; 2.5 h of 2 threads of P; and 7 min for its teacher"
    learned = {**teachers[0], "teacher": {"sha256": "1" * 64, "run": teachers[1]}}
    (row,) = rows_of(results_tables([taught("one", learned)], []))
    assert row[-2].endswith("; and 6 min for its teacher; and 8 min for its teacher")
    (row,) = rows_of(results_tables([taught("one", None)], []))
    assert row[-2].endswith("2 threads of P; and a teacher of unknown time")


def test_each_data_set_has_a_table() -> None:
    digits = result("quick", summary={"dataset": "digits", "n_samples": 359})
    text = results_tables([digits], PUBLISHED)
    assert text.index("Test images of CIFAR-100") < text.index("Test images of scikit-learn's digits")


def test_the_description_names_the_published_layer_and_a_transfer() -> None:
    published = result("one", config={"model": {"conv": {"scaling": "reshaped"}}})
    assert "GSSOC (4,-) paired as published, MaxMinPermuted" in describe(published.config)
    soc = {"model": {"depth": 15, "initial_channels": 32, "conv": {"_target_": "lipnet.layers.SOC"}}}
    assert describe(soc) == "LipConvNet-15, 32 channels, SOC"
    block = {"_target_": "lipnet.layers.LiRes"}
    liresnet = {"model": {"_target_": "lipnet.models.LiResNet", "depth": 12, "channels": 512, "block": block}}
    assert describe(liresnet) == "LiResNet-12, 512 channels, LiRes"
    transfer = {"task_name": "transfer/halves", "model": {"adapter": None}, "loss": {"_target_": "torch.nn.Hinge"}}
    assert describe(transfer) == "transfer/halves, Hinge"


def test_an_unknown_data_set_and_a_missing_radius_are_errors() -> None:
    with pytest.raises(ValueError, match=r"dataset must be one of cifar100, .*, got letters"):
        results_tables([result("one", summary={"dataset": "letters"})], [])
    with pytest.raises(ValueError, match=r"must be certified at 72/255, got 36/255"):
        results_tables([result("one", summary={"certified_accuracy": {"36/255": 0.3}})], [])
