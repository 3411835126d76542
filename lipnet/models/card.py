"""Model card of a pretrained network: its README.md, with the certified accuracy."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from lipnet.functional.margins import round_down

_CARD = """---
library_name: lipnet
pipeline_tag: image-classification
tags:
- certified-robustness
- lipschitz
---

# {title}

{intro}

```python
from lipnet.models import load_pretrained

model = load_pretrained({text})  # pixels in [0, 1] in, logits out
```
{figures}
To certify the network yourself:

```bash
lipnet-certify {arguments}
```
"""

MOST_NAMES = 10
"""Number of classes whose names the card states."""

_NO_FILES = "digits"
"""The dataset whose images come with scikit-learn. Others need ``paths.data_dir``."""


def model_card(name: str, description: Mapping[str, Any], parameters: int, summary: Mapping[str, Any] | None) -> str:
    """Return the model card of a network as Markdown.

    Args:
        name: the argument of `load_pretrained`: a name, a folder or a repository.
        description: the description in the network's checkpoint.
        parameters: number of parameters.
        summary: the content of summary.json; None leaves out the figures.
    """
    name = " ".join(name.replace("`", "").split())
    kind = str(description["model"].get("_target_", "network")).rpartition(".")[2]
    intro = (
        f"A {_plain(kind)} with {parameters:,} parameters, trained on {_images(description['dataset'])} with "
        f"lipnet {description['version']}. Its Lipschitz bound certifies a radius around each image within which the "
        "prediction cannot change."
    )
    place = [] if description["dataset"]["name"] == _NO_FILES else ["paths.data_dir=DATA"]
    return _CARD.format(
        title=_plain(name),
        intro=intro,
        text=json.dumps(name),
        arguments=shlex.join([f"pretrained={name}", *place]),
        figures="" if summary is None else _figures(summary),
    )


def _images(dataset: Mapping[str, Any]) -> str:
    """Say in words what the training images were: a dataset, or a folder of images with its classes."""
    if dataset["name"] != "folder":
        return _plain(dataset["name"])
    classes = dataset.get("classes", [])
    names = ", ".join(_plain(name) for name in classes[:MOST_NAMES]) + (", ..." if len(classes) > MOST_NAMES else "")
    return f"a folder of images with {len(classes)} classes ({names})"


def _figures(summary: Mapping[str, Any]) -> str:
    """Return the section with the certified table."""
    shares = {"clean": summary["clean_accuracy"], **summary["certified_accuracy"]}
    average = summary["average_certified_radius"]
    rows = [
        f"| {' | '.join(shares)} | average certified radius |",
        f"|{' ---: |' * (len(shares) + 1)}",
        f"| {' | '.join(f'{100 * share:.2f}' for share in shares.values())} | "
        f"{'-' if average is None else round_down(average, 3)} |",
    ]
    bounds = f"K = {summary['lipschitz_bound']:.6g}"
    if not summary["rounding"]["covered"]:
        basis = f"{bounds}; {summary['dtype']}, computed as if arithmetic were exact."
    elif summary["rounding_bound"] is None:
        basis = f"{bounds}; {summary['dtype']}; no bound on the rounding is known, so all radii are 0."
    else:
        basis = f"{bounds}; {summary['dtype']}, and the radii cover rounding (E = {summary['rounding_bound']:.2g})."
    images = f"{summary['n_samples']:,} {summary.get('split', '')} images of {_plain(summary.get('dataset', ''))}"
    title = (
        f"\n## Certified accuracy\n\nAccuracy in %, clean and certified at L2 radii (pixels in [0, 1]), {images}:\n\n"
    )
    return title + "\n".join(rows) + f"\n\nThe certificates rest on the Lipschitz bound {basis}\n"


def _plain(text: Any) -> str:
    """Return a text in one line, with Markdown and HTML escaped."""
    line = " ".join(str(text).split())
    return "".join("\\" + letter if letter in "\\`*_[]<>|#" else letter for letter in line)
