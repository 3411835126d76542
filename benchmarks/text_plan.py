"""Plan of the text study: parameters of each row, and an estimate of its time from measured training steps."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoTokenizer

from benchmarks.common import figure_table, write_json
from benchmarks.rows import ROOT
from benchmarks.text_data import TASKS, Job, Settings, load, split
from benchmarks.text_methods import ALL_METHODS, parameter_groups
from benchmarks.text_row import counts, network, step

if TYPE_CHECKING:
    from benchmarks.text_study import Row, Study

# Tokens of each sentence in the measured batch.
TOKENS = 12


def measure(model: str, method: str, budget: str, settings: Settings) -> dict[str, Any]:
    """Return a method's trained parameters, and its processor seconds for a token in training and in evaluation."""
    built = network(Job("cola", method, budget, 0, 1e-5, False, 0, model, ""))
    ids = torch.randint(1, built.config.vocab_size, (settings.batch, TOKENS))
    batch = {"input_ids": ids, "labels": torch.arange(settings.batch) % 2}
    optimizer = torch.optim.Adam(parameter_groups(ALL_METHODS[method], built, rate=1e-5))
    times = []
    for _ in range(3):
        start = time.process_time()
        step(built.train(), optimizer, batch)
        times.append(time.process_time() - start)
    start = time.process_time()
    with torch.no_grad():
        built.eval()(input_ids=ids)
    evaluation = time.process_time() - start
    figures = {"training": min(times) / ids.numel(), "evaluation": evaluation / ids.numel()}
    return {"parameters": counts(built, peft=False)["trained_parameters"], **figures}


def measured(study: "Study", rows: Iterable["Row"]) -> dict[str, dict[str, Any]]:
    """Return the figures of `measure` by method and budget, and the seconds in which a row's process starts.

    work/step_seconds.json keeps them; only missing ones are measured.
    """
    path = study.work / "step_seconds.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    torch.set_num_threads(study.threads)
    if "start" not in found:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([sys.executable, "-c", "import benchmarks.text_row"], cwd=ROOT, check=True)
        found["start"] = {"seconds": resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before}
    for method, budget in dict.fromkeys((row.method, row.budget) for row in rows):
        if (key := f"{method}-{budget}") not in found:
            found[key] = measure(str(study.model), method, budget, study.settings)
    write_json(path, found)
    return found


def tokens(study: "Study") -> dict[str, dict[str, int]]:
    """Return the numbers of tokens of each task's training, validation and dev sentences."""
    tokenizer = AutoTokenizer.from_pretrained(study.model)
    found = {}
    for task in TASKS:
        pool, dev = (load(task, part, study.data, tokenizer, study.settings.max_length) for part in ("train", "dev"))
        training, validation = split(pool, study.sentences[task])
        parts = {"training": training, "validation": validation, "dev": dev}
        found[task] = {name: sum(map(len, part.tokens)) for name, part in parts.items()}
    return found


def seconds_of(row: "Row", found: dict[str, dict[str, Any]], tokens: dict[str, int], epochs: int) -> float:
    """Estimate the seconds of a row from the figures of `measured` and the tokens of its task."""
    figures = found[f"{row.method}-{row.budget}"]
    seconds = float(found["start"]["seconds"])
    if not row.tried:
        seconds += epochs * (tokens["training"] * figures["training"] + tokens["validation"] * figures["evaluation"])
    return seconds if row.trial is not None else seconds + tokens["dev"] * figures["evaluation"]


def show(study: "Study", rows: Sequence["Row"], jobs: int, every_row: bool) -> float:
    """Print the estimated time of the unfinished rows, of each one on demand, and return the sum in hours."""
    rows = [row for row in rows if not study.file_of(row).is_file()]
    if not rows:
        study.console.print("all rows are finished")
        return 0.0
    found, lengths = measured(study, rows), tokens(study)
    table, total = figure_table("row", "trained parameters", "minutes", title="unfinished rows"), 0.0
    for row in rows:
        seconds = seconds_of(row, found, lengths[row.task], study.settings.epochs)
        total += seconds
        table.add_row(row.name, f"{found[f'{row.method}-{row.budget}']['parameters']:,}", f"{seconds / 60:.1f}")
    if every_row:
        study.console.print(table)
    hours = total / 3600 / jobs
    study.console.print(
        f"{len(rows)} rows are unfinished: about {hours:.1f} hours with {jobs} trainings at a time on idle cores",
        soft_wrap=True,
    )
    return hours
