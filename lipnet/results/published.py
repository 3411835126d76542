"""Published figures, each with its source."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from lipnet.results.folders import Result

FILE = "published.toml"


@dataclass(frozen=True)
class PublishedRow:
    """A row of somebody's table; accuracies in per cent, as texts, with the digits of the source.

    Attributes:
        name: of the network or the method.
        dataset: what it was trained and certified on.
        clean: accuracy.
        certified: certified accuracy by the text of the radius (L2, pixels in [0, 1]).
        source: where the figures stand.
        parameters: number of parameters, as the source says it.
        training: how it was trained, where it belongs to the comparison.
        headline: whether it is shown without a measured row of its kind.
        experiment: that trains it here.
        settings: by the dotted name of a setting, what an experiment's configuration has in this row.
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

    def is_of(self, result: Result) -> bool:
        """Whether a result is a training of this row."""
        if self.experiment is None or result.config.get("task_name") != self.experiment:
            return False
        return all(setting(result.config, name) == value for name, value in self.settings.items())


def published_rows() -> list[PublishedRow]:
    """The rows of published.toml.

    Example:
        >>> rows = {row.name: row for row in published_rows()}
        >>> rows["SOC + CR"].certified["36/255"]
        '34.8'
    """
    content = tomllib.loads((files("lipnet.results") / FILE).read_text())
    return [PublishedRow(**row) for row in content["rows"]]


def setting(config: Mapping[str, Any], name: str) -> Any:
    """The value of ``"conv.paired"`` and the like; None where there is none."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
