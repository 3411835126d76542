"""Train one row of the text study in its own process.

    python -m benchmarks.text_row FOLDER

FOLDER/job.json describes the training, see `Job` and `Settings`. The result goes to FOLDER/result.json. A training that
does not score the dev sentences also writes FOLDER/best.pt, so that another row can score them.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from math import inf, isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

import lipnet
from benchmarks.common import resident_bytes, write_json
from benchmarks.text_data import Job, Sentences, Settings, batches, load, padded, score, split
from benchmarks.text_methods import ALL_METHODS, apply, parameter_groups
from lipnet.files import atomic_write
from lipnet.functional.autocast import multiplies_bfloat16_fast


def network(job: Job) -> PreTrainedModel:
    """Return the pretrained network with a new head from the job's seed, prepared for the job's method."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(job.seed)
    model = AutoModelForSequenceClassification.from_pretrained(job.model, num_labels=2)
    return apply(ALL_METHODS[job.method], job.budget, model)


def precision() -> AbstractContextManager[Any]:
    """Return an autocast context: bfloat16 if the processor multiplies it fast, else float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16_fast(torch.device("cpu")))


@torch.no_grad()
def evaluate(model: PreTrainedModel, task: str, data: Sentences, size: int) -> tuple[float, float]:
    """Return the score and the mean loss; a loss that is not finite counts as infinite."""
    model.eval()
    ordered = data.subset(sorted(range(len(data)), key=lambda i: len(data.tokens[i])))
    logits, labels = [], torch.tensor(ordered.labels)
    # Compute each adapted weight once for all batches.
    with parametrize.cached(), precision():
        for start in range(0, len(data), size):
            batch = padded(ordered.tokens[start : start + size], model.config.pad_token_id)
            logits.append(model(**batch).logits.float())
    loss = float(nn.functional.cross_entropy(torch.cat(logits), labels))
    return score(task, ordered.labels, torch.cat(logits).argmax(1).tolist()), loss if isfinite(loss) else inf


def epoch(data: Sentences, size: int, pad: int, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """Yield the batches of an epoch, as keyword arguments of the model."""
    for chosen in batches([len(each) for each in data.tokens], size, generator):
        batch = data.subset(chosen)
        yield padded(batch.tokens, pad) | {"labels": torch.tensor(batch.labels)}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    """Make a training step and return the loss."""
    optimizer.zero_grad()
    with precision():
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    value: float = loss.item()
    return value


def train(
    model: PreTrainedModel, job: Job, training: Sentences, validation: Sentences, settings: Settings
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Train by Adam; return the figures of each epoch, and the trained parameters after the best epoch."""
    optimizer = torch.optim.Adam(parameter_groups(ALL_METHODS[job.method], model, job.rate))
    total = settings.epochs * -(-len(training) // settings.batch)
    warmup = max(1, round(settings.warmup * total))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min((done + 1) / warmup, (total - done) / max(1, total - warmup))
    )
    torch.manual_seed(job.seed)  # for the same dropout in all methods
    generator = torch.Generator().manual_seed(job.seed)
    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    for _ in range(settings.epochs):
        model.train()
        losses = []
        for batch in epoch(training, settings.batch, model.config.pad_token_id, generator):
            losses.append(step(model, optimizer, batch))
            schedule.step()
        validated, loss = evaluate(model, job.task, validation, settings.evaluation_batch)
        history.append({"score": validated, "loss": loss, "training_loss": fmean(losses)})
        if best_epoch(history) == len(history) - 1:
            best = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    return history, best


def best_epoch(history: list[dict[str, float]]) -> int:
    """Return the index of the epoch with the best validation score; of equal scores, the one with the lower loss."""
    return max(range(len(history)), key=lambda epoch: (history[epoch]["score"], -history[epoch]["loss"]))


def perform(job: Job, settings: Settings, folder: Path) -> None:
    """Train, or take the parameters from the finished training ``job.trained``, and write the result.

    Raises:
        ValueError: if the finished training has other parameters than this network.
    """
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    pool = load(job.task, "train", Path(job.data), tokenizer, settings.max_length)
    training, validation = split(pool, job.sentences)
    start, cpu_start = time.perf_counter(), time.process_time()
    model = network(job)
    if job.trained:
        result = json.loads((Path(job.trained) / "result.json").read_text())
        best = torch.load(Path(job.trained) / "best.pt", weights_only=True)
    else:
        history, best = train(model, job, training, validation, settings)
        result = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - cpu_start,
            "peak_bytes": resident_bytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss),
            "history": history,
            "epoch": best_epoch(history) + 1,
            **counts(model, ALL_METHODS[job.method].peft),
        }
    if job.dev:
        unknown = model.load_state_dict(best, strict=False).unexpected_keys
        if unknown:
            raise ValueError(f"parameters in {job.trained} must be the network's, got {unknown} besides")
        dev = load(job.task, "dev", Path(job.data), tokenizer, settings.max_length)
        found, _ = evaluate(model, job.task, dev, settings.evaluation_batch)
        result |= {"dev": found, "dev_sentences": len(dev)}
    else:
        with atomic_write(folder / "best.pt") as file:
            torch.save(best, file)
    write_json(folder / "result.json", result)


def counts(model: nn.Module, peft: bool) -> dict[str, Any]:
    """Return the numbers of trained parameters, and the versions of the packages."""
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "lipnet": lipnet.__version__}
    if peft:
        import peft as package

        versions["peft"] = package.__version__
    return {
        "trained_parameters": sum(trained.values()),
        "head_parameters": sum(number for name, number in trained.items() if name.startswith("classifier.")),
        "versions": versions,
    }


def main(folder: Path) -> None:
    plain = json.loads((folder / "job.json").read_text())
    perform(Job(**plain["job"]), Settings(**plain["settings"]), folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
