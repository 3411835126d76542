"""A table of an adapter's parameters."""

from collections.abc import Iterable

from torch import Tensor, nn

from lipnet.structured.adapters.state import attachment_of, base_parameters, name_or_active, updates_of


def describe(model: nn.Module, name: str | None = None) -> str:
    """Return a table of adapted weights: shape, number of trained parameters, number of saved values.

    Orthogonal adapters save fewer numbers than they train: they train a matrix A, and save the upper triangle of
    K = A - A^T.

    Args:
        model: a model with adapters.
        name: the adapter; the one in use by default.

    Returns:
        Lines of text; the last one compares the adapter with the model.

    Raises:
        ValueError: if the model has no such adapter, or none is in use and no name is given.

    Example:
        >>> from lipnet.structured.adapters import LoRAConfig, attach
        >>> model = attach(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)), LoRAConfig(4))
        >>> print(describe(model))
        adapter 'default': LoRAConfig(rank=4, alpha=16.0)
        weight      shape  trained  saved
        0.weight  32 x 16      192    192
        2.weight   8 x 32      160    160
        total                  352    352
        The model has 808 parameters of its own; the adapter trains 43.56 % of that number.
    """
    name = name_or_active(model, name)
    attachment, updates = attachment_of(model), updates_of(model, name)
    counts = [(_count(update.parameters()), _count(update.compact_state().values())) for _, update in updates]
    trained, saved = (sum(column) for column in zip(*counts, strict=True))
    rows: list[tuple[str, ...]] = [("weight", "shape", "trained", "saved")]
    for (site, _), count in zip(updates, counts, strict=True):
        rows.append((site.name, " x ".join(map(str, site.original.shape)), *(f"{number:,}" for number in count)))
    rows.append(("total", "", f"{trained:,}", f"{saved:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]
    own = _count(base_parameters(model).values())
    return "\n".join(
        [
            f"adapter {name!r}: {attachment.configs[name]}",
            *(f"{weight}: {config}" for weight, config in attachment.special[name].items()),
            *table,
            f"The model has {own:,} parameters of its own; the adapter trains {100 * trained / own:.2f} % of that "
            "number.",
        ]
    )


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)
