"""The text study runs each row once, at equal budgets, chooses by held-out sentences, and reports what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.studies import matching
from benchmarks.text_data import TASKS, Job, Sentences, Settings, batches, padded, read, score, split
from benchmarks.text_methods import ALL_METHODS, METHODS, NO_BUDGET, PEERS, TARGETS, UNITS, RowBlocks, apply
from benchmarks.text_report import entries_of, write_report
from benchmarks.text_study import SEEDS, Row, Study, finals, peers, trials
from benchmarks.text_verdict import Entry, expectation
from lipnet.structured.adapters import CirculantConfig

transformers = pytest.importorskip(
    "transformers", reason="transformers is not installed (extra study)", exc_type=ImportError
)

from benchmarks import text_plan, text_row  # noqa: E402

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", *(f"w{number}" for number in range(20))]
SETTINGS = Settings(batch=8, max_length=12)
MINILM = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}


def bert(**settings: Any) -> nn.Module:
    """Return a randomly initialised BERT with a head for two classes, like the study's but tiny."""
    sizes = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.BertConfig(**({"vocab_size": len(WORDS), **sizes} | settings), num_labels=2)
    torch.manual_seed(0)
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return folders of sentences, labelled by the words good and bad, and of a tiny network with its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    data, model = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("model")
    generator = torch.Generator().manual_seed(0)
    for task, about in TASKS.items():
        for part, count in (("train", 160), ("dev", 40)):
            lines = []
            for number in range(count):
                others = torch.randint(20, (2 + number % 5,), generator=generator).tolist()
                cells = [" ".join(["[CLS]", ("bad", "good")[number % 2], *(f"w{i}" for i in others)]), str(number % 2)]
                lines.append("\t".join(cells if about.sentence_column == 0 else cells[::-1]) + "\n")
            (data / f"{task}-{part}.tsv").write_text("".join(lines))
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(model)
    bert().save_pretrained(model)  # type: ignore[operator]
    return data, model


class InProcess(Study):
    """A study that trains in this process, and counts."""

    started: list[str]
    origin = {"commit": "0" * 40, "machine": {"processor": "P", "cores": 2, "threads": 1}}  # noqa: RUF012

    def _run(self, command: Sequence[str], folder: Path, lock: int) -> int:
        self.started.append(folder.name)
        text_row.main(Path(command[-1]))
        return 0


def study(places: tuple[Path, Path], folder: Path, settings: Settings = SETTINGS) -> InProcess:
    data, model = places
    found = InProcess(folder / "work", folder / "output", data, model, 1, settings, dict.fromkeys(TASKS, 96))
    found.started = []
    return found


def rows_of(*methods: str) -> list[Row]:
    return [row for row in (*trials(), *finals()) if row.method in methods]


def test_rows_are_distinct_and_cover_tasks_budgets_and_seeds() -> None:
    names = [row.name for row in (*trials(), *finals(), *peers())]
    assert len(set(names)) == len(names)
    assert len(trials()) == 3 * len(METHODS)
    for task in TASKS:
        for name, method in METHODS.items():
            found = [(row.budget, row.seed) for row in finals() if (row.task, row.method) == (task, name)]
            wanted = [("large", seed) for seed in SEEDS] + [("small", SEEDS[0])]
            assert sorted(found) == (sorted(wanted) if method.config else [(NO_BUDGET, seed) for seed in SEEDS])


@pytest.mark.parametrize("budget", UNITS)
def test_every_adapter_meets_the_budget(budget: str) -> None:
    counted = {}
    for name, method in METHODS.items():
        if method.config is None:
            continue
        # One layer: all six have the same shapes.
        model = apply(method, budget, bert(**MINILM | {"vocab_size": 9}))
        trained = [value.numel() for key, value in model.named_parameters() if value.requires_grad]
        counted[name] = 6 * (sum(trained) - 2 * 385)
    with torch.device("meta"):
        total = sum(value.numel() for value in bert(**MINILM, num_hidden_layers=6).parameters())
    wanted = UNITS[budget] * 384 * 24
    assert wanted / total == pytest.approx({"small": 0.003, "large": 0.01}[budget], rel=0.1)
    assert all(count == pytest.approx(wanted, rel=0.15) for count in counted.values()), counted


@pytest.mark.parametrize("name", METHODS)
def test_a_method_trains_its_adapter_and_the_head_and_starts_at_the_base(name: str) -> None:
    base, model, method = bert().eval(), bert().eval(), METHODS[name]
    batch = padded([[2, 4, 7, 8], [2, 5, 9]], pad=0)
    apply(method, method.largest_budget, model)
    torch.testing.assert_close(model(**batch).logits, base(**batch).logits)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=3e-3)
    labelled = batch | {"labels": torch.tensor([1, 0])}
    losses = [text_row.step(model, optimizer, labelled) for _ in range(4)]
    assert losses[-1] < losses[0]
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert {"classifier.weight", "classifier.bias"} <= moved
    if method.everything:
        assert any("word_embeddings" in key for key in moved)
    else:
        adapted = moved - {"classifier.weight", "classifier.bias"}
        assert all(".updates.default." in key and any(target in key for target in TARGETS) for key in adapted)
        assert bool(adapted) == (method.config is not None)


def test_rows_are_trained_once_and_dev_is_scored_by_the_chosen_trainings(
    places: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So few steps need higher rates.
    monkeypatch.setitem(METHODS, "full", replace(METHODS["full"], rates=(1e-5, 3e-3)))
    rows = [row for row in rows_of("full") if row.seed == 0]
    first = study(places, tmp_path)
    assert first.run(rows)
    assert sorted(first.started) == sorted(row.name for row in rows)
    contents = {row: json.loads(first.file_of(row).read_text()) for row in rows}
    assert all(("dev" in content) == (row.trial is None) for row, content in contents.items())
    assert all(content["dev"] > 0.9 for row, content in contents.items() if row.task == "cola" and "dev" in content)
    trained = Row("cola", "full", NO_BUDGET, 0)
    rate = contents[trained]["rate"]
    assert rate > 1e-5
    twin = contents[replace(trained, trial=rate)]
    assert {key: contents[trained][key] for key in ("history", "cpu_seconds")} == {
        k: twin[k] for k in ("history", "cpu_seconds")
    }
    text = first.file_of(trained).read_text()
    assert not any(str(place) in text for place in (tmp_path, *places)), "paths of the machine are no result"
    again = study(places, tmp_path)
    assert again.run(rows)
    assert again.started == []
    again.file_of(rows[-1]).unlink()
    assert again.run(rows)
    assert again.started == [rows[-1].name]
    assert json.loads(again.file_of(rows[-1]).read_text())["dev"] == contents[rows[-1]]["dev"]


def test_a_row_waits_for_the_trials_of_its_rate(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, row = study(places, tmp_path, replace(SETTINGS, epochs=1)), Row("sst2", "lora", "small", 0)
    assert not found.run([row])
    assert f"{row.name}: waits for the trials" in capsys.readouterr().out
    figures = {3e-4: (0.5, 0.1), 1e-3: (0.6, 0.3), 3e-3: (0.6, 0.2)}
    for trial in trials():
        if trial.method == "lora" and trial.trial is not None:
            value, loss = figures[trial.trial]
            found.file_of(trial).parent.mkdir(parents=True, exist_ok=True)
            history = [{"score": value, "loss": loss}, {"score": 0.0, "loss": 0.0}]
            found.file_of(trial).write_text(json.dumps({"epoch": 1, "history": history}))
    assert found.rate_of(row) == 3e-3, "the lower loss decides between equal scores"
    assert found.rate_of(Row("cola", "peft_lora", "large", 0)) == 3e-3, "peft takes lipnet's rate"
    assert found.run([row])
    assert json.loads(found.file_of(row).read_text())["rate"] == 3e-3


def test_the_plan_prints_rows_and_trains_nothing(
    places: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, rows = study(places, tmp_path), rows_of("lora", "head")
    found.work.mkdir()
    (found.work / "step_seconds.json").write_text('{"start": {"seconds": 3600}}')
    hours = text_plan.show(found, rows, jobs=2, every_row=True)
    assert len(rows) / 2 < hours < len(rows) / 2 + 1
    printed = capsys.readouterr().out
    assert all(row.name in printed for row in rows)
    assert f"{48 * 2 + 2:,}" in printed
    assert f"{4 * 48 * 8 + 48 * 2 + 2:,}" in printed
    assert "about " in printed
    assert found.started == []
    assert not found.output.exists()


def test_sentences_are_split_apart_and_batched_by_length() -> None:
    data = Sentences([[number] * (1 + number % 7) for number in range(100)], [number % 2 for number in range(100)])
    training, validation = split(data, 60)
    assert (len(training), len(validation)) == (60, 10)
    assert not {each[0] for each in training.tokens} & {each[0] for each in validation.tokens}
    lengths = [len(each) for each in data.tokens]
    found = list(batches(lengths, 8, torch.Generator().manual_seed(1)))
    assert sorted(position for batch in found for position in batch) == list(range(100))
    assert max(map(len, found)) == 8
    assert found == list(batches(lengths, 8, torch.Generator().manual_seed(1)))
    assert max(max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in found) <= 2
    with pytest.raises(ValueError, match="must be at most 90, got 91"):
        split(data, 91)


def test_padding_is_masked() -> None:
    batch = padded([[5, 6, 7], [8]], pad=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_scores_are_those_of_their_tasks() -> None:
    labels, predicted = [1, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1]
    # From the counts: 3 true positives, 1 true negative, 1 false positive, 1 false negative.
    assert score("cola", labels, predicted) == pytest.approx((3 * 1 - 1 * 1) / (4 * 4 * 2 * 2) ** 0.5)
    assert score("cola", labels, [1] * 6) == 0
    assert score("sst2", labels, predicted) == pytest.approx(4 / 6)


@pytest.mark.parametrize("line", ["a sentence", "a sentence\t2", "a\tb\t1"])
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "train.tsv").write_text(f"fine\t1\n{line}\n")
    with pytest.raises(ValueError, match="line 2, must be a sentence and a label 0 or 1, got"):
        read(tmp_path / "train.tsv", sentence_column=0)


def test_blocks_of_rows_must_divide_the_rows() -> None:
    assert RowBlocks(CirculantConfig(), 4).build(8, 12).shape == (8, 12)
    with pytest.raises(ValueError, match="parts must divide the 8 rows of the weight, got 3"):
        RowBlocks(CirculantConfig(), 3).build(8, 12)


def finished(row: Row, dev: float, trained: int = 1000, sentences: int = 96) -> dict[str, Any]:
    """Return the content of a finished row's file."""
    about = {"name": row.name, "task": row.task, "method": row.method, "budget": row.budget, "seed": row.seed}
    result = {"rate": 1e-3, "sentences": sentences, "epoch": 2, "cpu_seconds": 90.0, "peak_bytes": 2**30, "dev": dev}
    machine = {"processor": "P", "cores": 2, "threads": 1}
    more = {"trained_parameters": trained, "settings": {"epochs": 3, "batch": 16}, "machine": machine}
    return {**about, **result, **more, "versions": {"torch": "2"}}


def written(folder: Path, contents: Sequence[dict[str, Any]]) -> str:
    """Write the files of rows and return the page made of them."""
    (folder / "rows").mkdir(parents=True, exist_ok=True)
    for content in contents:
        (folder / "rows" / f"{content['name']}.json").write_text(json.dumps(content))
    write_report(folder, [row.name for row in (*finals(), *peers())])
    return (folder / "README.md").read_text()


def test_the_page_says_what_the_rows_say(tmp_path: Path) -> None:
    levels = {"lora": 0.40, "gsoft": 0.41, "oft": 0.30, "boft": 0.42, "head": 0.10, "peft_lora": 0.40, "full": 0.5}
    rows = [row for row in (*finals(), *peers()) if row.method in levels and row.budget != "small"]
    contents = [finished(row, levels[row.method] + 0.01 * (row.seed - 1)) for row in rows]
    text = written(tmp_path, contents)
    assert "| LoRA | 1,000 | 40.0 ± 1.0 | 40.0 ± 1.0 | 40.0 |" in text
    assert "- CoLA, compared with LoRA: level: BOFT (m = 2), GSOFT; below: OFT." not in text
    assert "- CoLA, compared with LoRA: above: BOFT (m = 2); level: GSOFT; below: OFT." in text
    assert "On CoLA, the expectation holds: GSOFT is above OFT, level with BOFT (m = 2), level with LoRA." in text
    assert "| LoRA | 40.0 ± 1.0 | 40.0 ± 1.0 | 1.5 | 1.5 | 1,024 | 1,024 |" in text
    assert "By two standard errors: LoRA: lipnet is level." in text
    assert "is the lowest or the highest for: head alone." in text
    missing = text.partition("Not run yet: ")[2].partition("\n")[0]
    assert "`cola-circulant-large-seed0`" in missing
    assert "`cola-lora-large-seed0`" not in missing
    assert (tmp_path / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_an_expectation_that_fails_is_said_to_fail() -> None:
    levels = {"lora": 0.40, "gsoft": 0.25, "oft": 0.30, "boft": 0.30}
    rows = [row for row in finals() if row.method in levels and row.budget == "large"]
    entries = entries_of([finished(row, levels[row.method] + 0.01 * (row.seed - 1)) for row in rows])
    (said,) = expectation(entries)
    assert "On SST-2, the expectation does not hold: GSOFT is below OFT, below BOFT (m = 2), below LoRA." in said


def test_a_single_seed_has_no_spread_and_is_not_compared() -> None:
    single = Entry((finished(finals()[0], 0.5),))
    assert str(single) == "50.0"
    with pytest.raises(ValueError, match="needs two seeds of each, got 1 and 1"):
        single.compared(single)


def test_rows_of_other_settings_are_refused(tmp_path: Path) -> None:
    rows = [row for row in finals() if row.task == "cola"][:2]
    with pytest.raises(ValueError, match="must have the same settings"):
        written(tmp_path, [finished(rows[0], 0.5), finished(rows[1], 0.5, sentences=90)])


def test_nothing_is_written_without_a_score(tmp_path: Path) -> None:
    write_report(tmp_path, [row.name for row in finals()])
    assert not list(tmp_path.iterdir())
    assert entries_of([{"task": "cola"}]) == {}


def test_rows_are_chosen_by_patterns() -> None:
    chosen = {row.name for row in matching(finals(), ["cola-gsoft-*", "*-head-*seed2"])}
    gsoft = {"cola-gsoft-small-seed0", *(f"cola-gsoft-large-seed{seed}" for seed in SEEDS)}
    assert chosen == gsoft | {"cola-head-none-seed2", "sst2-head-none-seed2"}


@pytest.mark.filterwarnings("ignore")  # from peft, about its CUDA extension
@pytest.mark.parametrize("structure", ["oft", "boft"])
def test_the_rotations_of_peft_train_as_those_of_lipnet(structure: str) -> None:
    pytest.importorskip("peft", reason="peft is not installed (extra study)", exc_type=ImportError)
    found = []
    for name in PEERS[structure]:
        method = ALL_METHODS[name]
        model = apply(method, "large", bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).double()
        job = Job("cola", name, "large", 0, 1e-2, False, 0, "", "")
        data = Sentences([[2, 4 + number % 2, 6 + number] for number in range(16)], [n % 2 for n in range(16)])
        history, _ = text_row.train(model, job, data, data, replace(SETTINGS, batch=4))
        found.append(torch.tensor([[each["training_loss"], each["loss"]] for each in history], dtype=torch.float64))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=0)
