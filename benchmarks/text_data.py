"""Data of the text study: its two tasks, jobs and settings, the split of the sentences, batches and scores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import accuracy_score, matthews_corrcoef
from torch import Tensor

# A batch consists of sentences of similar length from a random pool of this many batches.
POOL = 16


@dataclass(frozen=True)
class Task:
    """Task of two classes in NAME-train.tsv and NAME-dev.tsv: tab-separated, without header or quotes.

    Attributes:
        label: name of the task on the page.
        score: name of its score on the page.
        sentence_column: column of the sentence; the other one holds the label.
        sentences: number of training sentences, chosen for the time of the study.
    """

    label: str
    score: str
    sentence_column: int
    sentences: int


TASKS = {
    "cola": Task("CoLA", "Matthews correlation", sentence_column=0, sentences=3000),
    "sst2": Task("SST-2", "accuracy", sentence_column=1, sentences=800),
}


@dataclass(frozen=True)
class Settings:
    """Settings that all rows share.

    Attributes:
        epochs, batch: number of epochs, and of sentences in a batch.
        warmup: share of the steps in which the learning rate rises; then it falls linearly to zero.
        max_length: longer sentences are cut to this many tokens.
        evaluation_batch: number of sentences in a batch of evaluation.
    """

    epochs: int = 3
    batch: int = 16
    warmup: float = 0.1
    max_length: int = 64
    evaluation_batch: int = 128


@dataclass(frozen=True)
class Job:
    """Training of one row, as its process reads it.

    Attributes:
        task, method, budget: keys of `TASKS`, `ALL_METHODS` and `UNITS` (or "none").
        seed: seed of the new head, of dropout and of the order of the sentences.
        rate: peak learning rate.
        dev: score the dev sentences once, at the end.
        sentences: number of training sentences.
        model: folder of a Hugging Face model and its tokenizer.
        data: folder of the tasks' files.
        trained: folder in which a trial finished the same training; empty to train now.
    """

    task: str
    method: str
    budget: str
    seed: int
    rate: float
    dev: bool
    sentences: int
    model: str
    data: str
    trained: str = ""


@dataclass(frozen=True)
class Sentences:
    """Tokens of sentences and their labels, 0 or 1."""

    tokens: list[list[int]]
    labels: list[int]

    def subset(self, positions: Sequence[int]) -> "Sentences":
        return Sentences([self.tokens[i] for i in positions], [self.labels[i] for i in positions])

    def __len__(self) -> int:
        return len(self.labels)


def read(path: Path, sentence_column: int) -> tuple[list[str], list[int]]:
    """Return the sentences and labels of a file.

    Raises:
        ValueError: for a line without exactly a sentence and a label 0 or 1.
    """
    sentences, labels = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        cells = line.split("\t")
        label = cells[1 - sentence_column] if len(cells) == 2 else ""
        if label not in ("0", "1"):
            raise ValueError(f"{path}, line {number}, must be a sentence and a label 0 or 1, got {line!r}")
        sentences.append(cells[sentence_column])
        labels.append(int(label))
    return sentences, labels


def load(task: str, part: str, data_dir: Path, tokenizer: Any, max_length: int) -> Sentences:
    """Read and tokenize a part of a task: "train" or "dev"."""
    sentences, labels = read(data_dir / f"{task}-{part}.tsv", TASKS[task].sentence_column)
    tokens = tokenizer(sentences, truncation=True, max_length=max_length)["input_ids"]
    return Sentences(tokens, labels)


def split(data: Sentences, count: int) -> tuple[Sentences, Sentences]:
    """Return ``count`` sentences for training and another tenth of all sentences for validation.

    The split is the same for every row.

    Raises:
        ValueError: if fewer than ``count`` sentences are left for training.
    """
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    held_out = len(data) // 10
    if count > len(data) - held_out:
        raise ValueError(f"the number of training sentences must be at most {len(data) - held_out}, got {count}")
    return data.subset(order[held_out : held_out + count]), data.subset(order[:held_out])


def batches(lengths: Sequence[int], size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Yield the positions of every sentence once, in random batches of about equal lengths."""
    order = torch.randperm(len(lengths), generator=generator).tolist()
    found = []
    for start in range(0, len(order), POOL * size):
        pool = sorted(order[start : start + POOL * size], key=lambda i: lengths[i])
        found += [pool[i : i + size] for i in range(0, len(pool), size)]
    for number in torch.randperm(len(found), generator=generator).tolist():
        yield found[number]


def padded(tokens: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    """Return the inputs of a Hugging Face model: tokens (N, T), padded to the longest sentence, and their mask."""
    width = max(map(len, tokens))
    ids = torch.tensor([[*sentence, *[pad] * (width - len(sentence))] for sentence in tokens])
    mask = torch.tensor([[1] * len(sentence) + [0] * (width - len(sentence)) for sentence in tokens])
    return {"input_ids": ids, "attention_mask": mask}


def score(task: str, labels: Sequence[int], predicted: Sequence[int]) -> float:
    """Return the Matthews correlation for CoLA (0 if all predictions are equal), or the accuracy for SST-2."""
    return float((matthews_corrcoef if task == "cola" else accuracy_score)(labels, predicted))
