"""The comparison of layers trains each row once, chooses the rate, and writes its table from the files of the rows."""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir

from benchmarks.layer_list import CONF, layer_class, layer_factory, layer_names, over_groups
from benchmarks.layers_compared import EPOCHS, GROUPS, RATES, Comparison, Entry, curve_of, entries, length_of
from benchmarks.layers_report import MARK, draw, readme, table, write_report
from benchmarks.rows import ROOT
from benchmarks.sweep import Row, overrides_of
from benchmarks.timed_sweep import Length
from lipnet.data import DATAMODULES
from lipnet.layers import SOC, GroupAndShuffle
from lipnet.models import build_model
from lipnet.workflows.training import model_config

TINY = ("data=digits", "model.stages=3", "model.depth=3", "model.initial_channels=8")
NAMES = [entry.name for entry in entries()]


def figures(name: str, certified: float, **changes: Any) -> dict[str, Any]:
    """Return the content of the file of a finished row."""
    return {
        "name": name,
        "overrides": ["conv=soc", "callbacks=[default,ema]"],
        "validated": {"0.03": certified, "0.3": certified / 2},
        "rate": 0.03,
        "summary": {
            "dataset": "cifar100",
            "split": "test",
            "n_samples": 10_000,
            "dtype": "float64",
            "clean_accuracy": 0.4,
            "certified_accuracy": {"36/255": certified, "72/255": 0.1, "108/255": 0.05, "1": 0.0},
            "parameters": 12345,
            "lipschitz_bound": 3.75,
        },
        "run": {"epochs": 7, "seconds": 500.0, "steps": 100, "starts": []},
        "minutes": 6.0,
        "images_per_second": 1234.4,
        "memory_bytes": 3 * 2**20,
        "curve": [[180.0, certified / 2], [360.0, certified]],
        **changes,
    }


def test_every_layer_has_a_row_and_one_with_group_and_shuffle() -> None:
    assert "soc" in layer_names()
    assert sorted(NAMES) == sorted(f"{prefix}{name}" for name in layer_names() for prefix in ("", "gs_"))
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", layer_names())
def test_the_list_makes_layers_with_the_options_of_their_files(name: str) -> None:
    with torch.device("meta"):
        layer, grouped = layer_factory(name)(8, 8), over_groups(name, (2, None))(8, 16)
    assert type(layer) is layer_class(name)
    assert isinstance(grouped, GroupAndShuffle)
    assert (type(grouped.spatial), grouped.spatial.groups) == (type(layer), 2)


def test_the_list_has_the_names_of_the_files() -> None:
    assert all((CONF / "conv" / f"{name}.yaml").is_file() for name in layer_names())
    assert layer_class("soc") is SOC
    assert not {"gs", "gs_soc", "soc_published"} & set(layer_names())


@pytest.mark.cover(0)
@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_row_is_a_training_of_a_network_with_its_layer(entry: Entry) -> None:
    row = entry.training(RATES[1])
    comparison = Comparison(Path("work"), Path("output"), Length(6, {row.name: 0.9}, 45_000, EPOCHS))
    assert row.name == f"{entry.name}_lr_0.3"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", overrides=comparison.sweep.overrides_of(row))
    assert (config.certify.split, config.optimizer.lr) == ("validation", 0.3)
    assert (config.trainer.max_epochs, config.trainer.limit_train_batches) == (6, 67), "400 steps"
    assert config.trainer.check_val_every_n_epoch == 1
    with torch.device("meta"):
        network = build_model(model_config(config, DATAMODULES["cifar100"].spec))
    kind = layer_class(entry.name.removeprefix("gs_"))
    layers = [module for module in network.modules() if type(module) is kind]
    grouped = [module for module in network.modules() if isinstance(module, GroupAndShuffle)]
    assert (len(layers), len(grouped)) == ((10, 5) if entry.name.startswith("gs_") else (5, 0))
    if grouped:
        assert GROUPS == "[4,1]"
        assert (grouped[1].spatial.groups, grouped[1].pointwise.groups) == (4, 1)


def test_the_sweep_keeps_its_own_base() -> None:
    assert "conv=gs_soc" in overrides_of(Row("base", "base"))
    assert overrides_of(Row("base", "base", ("a=1",)), ["b=2"], base=["a=0", "c=3"])[0] == "c=3"


def test_the_curve_has_the_time_of_each_validation(tmp_path: Path) -> None:
    (tmp_path / "csv").mkdir()
    text = "step,val/certified_36_255,train/loss\n4,,2.0\n9,0.25,\n14,,1.0\n19,0.5,\n"
    (tmp_path / "csv" / "metrics.csv").write_text(text)
    assert curve_of(tmp_path, 3.0) == [(30.0, 0.25), (60.0, 0.5)]


def test_the_table_is_sorted_by_certified_accuracy() -> None:
    lines = table([figures("aol", 0.2), figures("gs_aol", 0.25)])
    assert lines[2] == "| `gs_aol` | 40.00 | 25.00 | 10.00 | 5.00 | 12,345 | 1234 | 3 | 3.750000 | 0.03 | 7 |"
    assert lines[3].startswith("| `aol` | 40.00 | 20.00 |")
    assert {line.count("|") for line in lines} == {12}


def test_the_page_names_missing_rows_and_failed_trainings() -> None:
    failed = figures("aol", 0.2, validated={"0.03": 0.2, "0.3": None})
    text = readme([failed], ["gs_aol", "bro"], "2 threads of P")
    assert "trained for as many steps as 2 threads of P make in 6 minutes." in text
    assert "Not run yet: `gs_aol`, `bro`." in text
    assert "These trainings failed: `aol` at 0.3." in text
    assert "python train.py conv=soc 'callbacks=[default,ema]'" in text
    assert "failed" not in readme([figures("aol", 0.2)], [], "2 threads of P")


def test_the_plot_has_a_panel_with_and_one_without_groups() -> None:
    panels = draw([figures("aol", 0.2), figures("gs_aol", 0.25), figures("gs_bro", 0.3)]).axes
    assert [len(axes.lines) for axes in panels] == [1, 2]
    assert panels[0].lines[0].get_color() == panels[1].lines[0].get_color()
    assert list(panels[0].lines[0].get_xdata()) == [3.0, 6.0]


def test_a_report_replaces_the_table_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "layers.md"
    page.write_text(f"# Layers\n\n<!-- {MARK}:begin -->\nold\n<!-- {MARK}:end -->\n\nThe rest.\n")
    write_report(tmp_path, ["aol", "bro"], page)
    assert "old" in page.read_text(), "without rows nothing is written"
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "aol.json").write_text(json.dumps(figures("aol", 0.2)))
    (tmp_path / "step_times.json").write_text(json.dumps({"device": "cpu (A (B) C)", "threads": 2}))
    write_report(tmp_path, ["aol", "bro"], page)
    assert "old" not in page.read_text()
    assert "| `aol` | 40.00 |" in page.read_text()
    assert "Not run yet: `bro`." in (tmp_path / "README.md").read_text()
    assert "as many steps as 2 threads of A (B) C make" in (tmp_path / "README.md").read_text()
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_a_row_for_each_layer_and_the_table_of_the_files(tmp_path: Path) -> None:
    page = ROOT / "docs" / "convolutions.md"
    text = page.read_text()
    assert all(f"| `{name}` |" in text for name in (*layer_names(), "gs"))
    copied = tmp_path / page.name
    copied.write_text(text)
    results = tmp_path / "results"
    if (ROOT / "results" / MARK).is_dir():
        shutil.copytree(ROOT / "results" / MARK, results)
    write_report(results, NAMES, copied)
    assert copied.read_text() == text, "stale: python -m benchmarks.layers_compared --render"


def test_a_row_waits_for_a_training_that_another_process_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = Entry("soc", ("conv=soc",))
    comparison = Comparison(tmp_path / "work", tmp_path / "output", Length(6, {}, 45_000, EPOCHS))
    finished, locked = (entry.training(rate) for rate in RATES)
    comparison.sweep.file_of(finished).parent.mkdir(parents=True)
    comparison.sweep.file_of(finished).write_text(json.dumps(figures("soc", 0.2)))
    certified: list[Path] = []
    monkeypatch.setattr(comparison, "_certified", certified.append)
    (tmp_path / "work" / locked.name).mkdir()
    with (tmp_path / "work" / locked.name / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert not comparison.perform([entry])
        assert f"{locked.name}: locked by another process" in capsys.readouterr().out
        assert certified == []
        comparison.sweep.failed.add(locked.name)
        comparison.perform([entry])
    assert certified == [comparison.work / finished.name]


@pytest.mark.slow
def test_a_row_is_trained_and_certified_once(tmp_path: Path) -> None:
    """At a rate that diverges, the other one counts."""
    entry, rates = Entry("soc", ("conv=soc",)), (0.1, 1e30)
    length = length_of([entry], rates, TINY, 1 / 30, tmp_path / "step_times.json")
    assert length.images == 1295, "a tenth of 1,438 is held out"
    settings: dict[str, Any] = {"length": length, "more": TINY, "rates": rates}
    comparison = Comparison(tmp_path / "work", tmp_path / "output", **settings)
    assert comparison.perform([entry])
    file = comparison.file_of(entry)
    content = json.loads(file.read_text())
    assert content["rate"] == 0.1
    assert content["validated"]["1e+30"] is None
    assert (content["summary"]["split"], content["summary"]["dtype"]) == ("test", "float64")
    assert content["summary"]["n_samples"] == 359
    seconds = content["seconds_per_step"]
    assert content["images_per_second"] == 128 / seconds
    assert content["run"]["steps"] * seconds == pytest.approx(2, abs=EPOCHS * seconds)
    assert content["memory_bytes"] > 4 * content["summary"]["parameters"]
    assert content["curve"][-1][0] == content["run"]["steps"] * seconds
    assert str(tmp_path) not in file.read_text(), "paths of the machine are no result"
    written = file.stat().st_mtime_ns
    assert Comparison(tmp_path / "work", tmp_path / "output", **settings).perform([entry])
    assert file.stat().st_mtime_ns == written
