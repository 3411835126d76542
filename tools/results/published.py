"""Published figures, each with its source."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.results.folders import Result

FILE = Path(__file__).with_name("published.toml")


@dataclass(frozen=True)
class PublishedRow:
    """Row of a published table; accuracies are texts in per cent, with the digits of the source.

    Attributes:
        name: the network or the method.
        dataset: the dataset of training and certification.
        clean: clean accuracy.
        certified: certified accuracy by the text of the radius (L2, pixels in [0, 1]).
        source: the paper and its table.
        parameters: number of parameters, as the source states it.
        training: training conditions, where they matter for the comparison.
        headline: show the row even without a measured row of the same experiment and settings.
        experiment: the experiment that trains it here.
        settings: values of the experiment's configuration in this row, by dotted name.
    """

    name: str
    dataset: str
    clean: str
    certified: Mapping[str, str]
    source: str
    parameters: str = "-"
    training: str = "-"
    headline: bool = False
    experiment: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def matches(self, result: Result) -> bool:
        """Return whether the result is a training of this row."""
        if self.experiment is None or result.config.get("task_name") != self.experiment:
            return False
        return all(setting(result.config, name) == value for name, value in self.settings.items())


def published_rows() -> list[PublishedRow]:
    """Return the rows of published.toml."""
    return [PublishedRow(**row) for row in tomllib.loads(FILE.read_text())["rows"]]


def setting(config: Mapping[str, Any], name: str) -> Any:
    """Return the value of a dotted name such as ``"conv.paired"``, or None if there is none."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
