"""Plan of the vision study: parameters of each row, and an estimate of its time from measured steps."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from benchmarks.common import figure_table
from benchmarks.step_times import times_in_turn
from benchmarks.vision_methods import METHODS
from benchmarks.vision_row import BASE, BATCH, Job, accuracy, data_of, make_optimizer, parameters_of, prepared, step
from lipnet.data import DatasetSpec

if TYPE_CHECKING:
    from benchmarks.vision_study import Row, Study

ROUNDS = 2
EVALUATION = "evaluation"


def show(study: "Study", rows: Sequence["Row"], jobs: int) -> None:
    """Print the unfinished rows with their trained parameters and minutes of a core, and the sum in hours."""
    table, total = figure_table("row", "trained parameters", "minutes of a core", title="unfinished rows"), 0.0
    rows = [row for row in rows if not study.file_of(row).is_file()]
    for row, trained, minutes in estimates(study, rows):
        total += minutes
        table.add_row(row.name, f"{trained:,}", f"{minutes:.1f}")
    study.console.print(table)
    study.console.print(f"{len(rows)} rows are unfinished: about {total / 60 / jobs:.1f} hours of {jobs} cores")


def estimates(study: "Study", rows: Sequence["Row"]) -> list[tuple["Row", int, float]]:
    """Return rows with their trained parameters and estimated minutes, from steps with the threads of a row."""
    settings, data_dir = study.settings, str(study.data_dir)
    jobs = {
        BASE: Job(BASE, 0, 0.1, settings.base_epochs, settings.base_data, data_dir, ""),
        **{name: Job(name, 0, 0.1, settings.epochs, settings.data, data_dir, "") for name in METHODS},
    }
    data = {settings.base_data: data_of(jobs[BASE]), settings.data: data_of(jobs["head"])}
    torch.set_num_threads(study.threads)
    specs = {name: data[job.data].spec for name, job in jobs.items()}
    chosen = {row.method: specs[row.method] for row in rows}
    models = {name: prepared(name, 0, spec.num_classes, spec.in_channels) for name, spec in chosen.items()}
    steps = {name: measured_step(name, model, specs[name]) for name, model in models.items()}
    steps[EVALUATION] = measured_evaluation(data[settings.data].spec)
    seconds = times_in_turn(steps, ROUNDS)
    images = {
        name: (len(each.training_dataset()), len(each.evaluation_dataset("validation"))) for name, each in data.items()
    }
    found = []
    for row in rows:
        job, trained = jobs[row.method], parameters_of(models[row.method])["trained"]
        training, validation = images[job.data]
        epoch = (training * seconds[row.method] + validation * seconds[EVALUATION]) / BATCH
        found.append((row, trained, 0.0 if row.tried else job.epochs * epoch / 60))
    return found


def measured_step(method: str, model: nn.Module, spec: DatasetSpec) -> Callable[[], object]:
    """Return a function that performs a training step on random images."""
    optimizer = make_optimizer(method, model, rate=1e-3)
    images = torch.rand(BATCH, spec.in_channels, spec.image_size, spec.image_size)
    labels = torch.randint(spec.num_classes, (BATCH,))
    return lambda: step(method, model, optimizer, images, labels)


def measured_evaluation(spec: DatasetSpec) -> Callable[[], object]:
    """Return a function that evaluates a plain network on a batch of random images."""
    model = prepared(BASE, 0, spec.num_classes, spec.in_channels)
    images = torch.rand(BATCH, spec.in_channels, spec.image_size, spec.image_size)
    return lambda: accuracy(model, [(images, torch.zeros(BATCH, dtype=torch.long))])
