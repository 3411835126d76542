"""The vision study chooses by validation images, resumes after an epoch, and makes its page from the rows' files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import vision_plan, vision_row
from benchmarks.vision_methods import METHODS, TARGETS, UNITS
from benchmarks.vision_report import by_method, draw, head_rate, table, verdict, write_report
from benchmarks.vision_row import BASE, Job, network, parameters_of, perform, prepared, step
from benchmarks.vision_study import Row, Settings, Study, finals, trials
from lipnet.structured.adapters import AdapterConfig

DIGITS = Settings("digits", "digits", base_epochs=1, epochs=2)
HEAD = 208 * 50 + 50


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "work", tmp_path / "output", tmp_path, settings=DIGITS)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of eight channels, in this process."""
    monkeypatch.setattr(vision_row, "WIDTHS", (8, 8))


def finish(study: Study, row: Row) -> dict[str, Any]:
    """Run a row in this process and write its file."""
    folder = study.work / row.name
    folder.mkdir(parents=True)
    study.command_of(row, folder)
    vision_row.main(folder)
    content = study.content_of(row, folder)
    study.file_of(row).parent.mkdir(parents=True, exist_ok=True)
    study.file_of(row).write_text(json.dumps(content))
    return content


def row_file(method: str, seed: int, test: float, rate: float = 1e-3) -> dict[str, Any]:
    """Return the content of a finished row."""
    each = METHODS[method]
    return {
        "name": f"{method}-seed{seed}",
        "method": method,
        "label": each.label,
        "setting": each.setting,
        "place": each.place,
        "seed": seed,
        "rate": rate,
        "epochs": 5,
        "validated": {"0.001": 0.31, "0.005": 0.3},
        "parameters": {"network": 974_674, "trained": 60_000, "head": HEAD},
        "validation": 0.31,
        "test": test,
        "history": [{"loss": 2.5, "validation": 0.31, "seconds": 60.0}],
        "seconds": 60.0,
        "machine": {"processor": "P", "cores": 2, "threads": 1},
    }


def test_the_network_has_about_a_million_parameters() -> None:
    assert parameters_of(network(50))["trained"] == pytest.approx(1e6, rel=0.05)


@pytest.mark.parametrize("name", METHODS)
def test_adapters_have_about_the_same_number_of_parameters_and_a_new_head(name: str) -> None:
    model = prepared(name, 0, 50)
    counts = parameters_of(model)
    assert counts["head"] == HEAD
    assert counts["network"] == parameters_of(network(50))["network"]
    adapter = {"head": 0, "everything": counts["network"] - HEAD}
    columns = sum(weight[0].numel() for path, weight in network(50).named_parameters() if ".conv" in path)
    within = 0.2 if name == "double_gsoft" else 0.05
    assert counts["trained"] - HEAD == pytest.approx(adapter.get(name, UNITS * columns), rel=within)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["head", "gsoft", "everything"])
def test_the_new_head_has_its_own_rate(name: str) -> None:
    model = prepared(name, 0, 50)
    optimizer = vision_row.make_optimizer(name, model, 1e-3)
    rates = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    trained = {path: each for path, each in model.named_parameters() if each.requires_grad}
    assert rates.keys() == {id(each) for each in trained.values()}
    for path, each in trained.items():
        head = vision_row.HEAD_RATE if name != "head" else 1e-3
        assert rates[id(each)] == (head if path.startswith("head.") else 1e-3)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["head", "gsoft", "everything"])
def test_a_step_leaves_the_rest_alone(name: str) -> None:
    model = prepared(name, 0, 50)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.Adam([each for each in model.parameters() if each.requires_grad])
    step(name, model, optimizer, torch.rand(8, 3, 16, 16), torch.arange(8))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {"head.weight", "head.bias"} <= changed
    if name == "everything":
        assert {"stem.weight", "norm.running_mean", "stage1.conv1.weight"} <= changed
    else:
        rest = changed - {"head.weight", "head.bias"}
        assert bool(rest) == (name == "gsoft")
        assert all(".updates." in key for key in rest), "frozen normalisations keep their statistics"


def test_an_adapter_starts_as_the_base_with_a_new_head(tmp_path: Path, small: None) -> None:
    base = network(10).eval()
    torch.save({"model": base.state_dict()}, tmp_path / "base.pt")
    adapted = prepared("kronecker", 3, 50, base=str(tmp_path / "base.pt")).eval()
    x = torch.rand(4, 3, 16, 16)
    features = [nn.Sequential(*list(model.children())[:-1])(x) for model in (base, adapted)]
    torch.testing.assert_close(*features)
    assert adapted(x).shape == (4, 50)


def test_targets_are_the_convolutions_of_the_blocks() -> None:
    model = prepared("lora", 0, 50)
    adapted = {path.split(".parametrizations")[0] for path, _ in model.named_modules() if ".updates." in path}
    assert adapted == {f"stage{stage}.conv{number}" for stage in (1, 2, 3, 4) for number in (1, 2)}
    assert TARGETS == "stage*.conv*"


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_training_resumes_after_an_epoch_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Job("lora", 0, 1e-3, 3, "digits", "", str(tmp_path / "whole.pt"), test=True)
    parts = replace(whole, state=str(tmp_path / "parts.pt"))
    expected, steps = perform(whole), []

    def interrupted(*arguments: Any) -> float:
        steps.append(arguments)
        if len(steps) == 20:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(vision_row, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        perform(parts)
    result = perform(parts)
    assert len(steps) == 20 + 2 * 11, "the first of three epochs of 11 steps is not repeated"
    for key in ("validation", "test", "parameters"):
        assert result[key] == expected[key]
    assert [epoch["loss"] for epoch in result["history"]] == [epoch["loss"] for epoch in expected["history"]]
    states = [torch.load(tmp_path / f"{name}.pt", weights_only=True)["model"] for name in ("whole", "parts")]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_rows_from_the_base_to_the_page(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    assert study.validated("head") is None
    with pytest.raises(ValueError, match="head-seed0 needs a learning rate: run the trials of head first"):
        study.job_of(Row("head"))
    base = finish(study, Row(BASE))
    assert "test" not in base
    tried = [finish(study, row) for row in trials() if row.method == "head"]
    assert all("test" not in each for each in tried)
    monkeypatch.setattr(vision_row, "step", None)  # the first seed is trained already
    final = finish(study, Row("head"))
    best = max(tried, key=lambda each: each["validation"])
    assert (final["rate"], final["validation"]) == (best["rate"], best["validation"])
    assert final["validated"] == {each["rate"]: each["validation"] for each in tried}
    assert 0 <= final["test"] <= 1
    write_report(study.output, [row.name for row in finals()])
    page = (study.output / "README.md").read_text()
    assert "| head alone | - | 90 | " in page
    assert "Not run yet: `lora-seed0`" in page
    assert (study.output / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_the_plan_trains_nothing(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row(BASE), Row("head", 0, 3e-3), Row("head", 0), Row("head", 1)]
    vision_plan.show(study, rows, jobs=2)
    out = capsys.readouterr().out
    lines = {line.split("│")[1].strip(): line.split("│")[2:4] for line in out.splitlines() if line.startswith("│")}
    assert list(lines) == [row.name for row in rows]
    assert lines["head-seed1"][0].strip() == "90"
    assert lines["head-seed0"][1].strip() == "0.0", "a trial has trained it"
    assert "4 rows are unfinished: about 0.0 hours of 2 cores" in out
    assert not study.work.exists()


def test_rows_have_names_of_their_own() -> None:
    rows = [Row(BASE), *trials(), *finals()]
    assert len({row.name for row in rows}) == len(rows) == 1 + 2 * len(METHODS) + 3 * len(METHODS)


def test_methods_behind_the_head_are_listed_with_their_facts() -> None:
    head = [row_file("head", seed, 0.30 + 0.01 * seed) for seed in (0, 1, 2)]
    lora = [row_file("lora", seed, 0.40 + 0.01 * seed) for seed in (0, 1, 2)]
    oft = [row_file("oft", seed, 0.31 + 0.01 * seed) for seed in (0, 1, 2)]
    text = verdict(by_method([*head, *lora, *oft]))
    (line,) = [each for each in text.splitlines() if each.startswith("- ")]
    place, figures = line.split(": ")
    assert place == "- OFT, b = 8, on 3 x 3 convolutions of all blocks"
    assert figures == "+1.00 points; 31.00 % at 0.001, 30.00 % at 0.005; loss 2.50."
    assert verdict(by_method([*head, *lora])).startswith("Every other method exceeds the head alone")
    assert head_rate(by_method(head)) == ""
    rated = [{**row, "head_rate": 0.015} for row in lora]
    expected = "With every other method, the new head has a learning rate of its own, 0.015. "
    assert head_rate(by_method([*head, *rated])) == expected
    lines = table(by_method([*head, *lora]))
    assert lines[2].startswith("| head alone | - | 60,000 | 6.2 % | 0.001 | 31.00 | 31.00 ± 1.00 | 3 | 1.0 |")
    (axes,) = draw(by_method([*head, *lora])).axes
    assert [each.get_text() for each in axes.get_yticklabels()] == ["head alone (60,000)", "LoRA (60,000)"]


@pytest.mark.slow
def test_a_row_runs_in_a_process_of_its_own(study: Study) -> None:
    assert study.run([], jobs=1)
    content = json.loads(study.file_of(Row(BASE)).read_text())
    assert (content["epochs"], len(content["history"])) == (1, 1)


def test_every_adapter_is_one_of_lipnets_configurations() -> None:
    configs = [method.config for method in METHODS.values() if method.config is not None]
    assert all(isinstance(config, AdapterConfig) for config in configs)
