"""A table of what an adapter trains."""

from collections.abc import Iterable

from torch import Tensor, nn

from lipnet.structured.adapters.state import adapted_sites, adapter_in_question, attachment_of, updates_of

_HEAD = ("weight", "shape", "trained", "saved")


def describe(model: nn.Module, name: str | None = None) -> str:
    """A table of an adapter's parameters: for every adapted weight its shape and how many are trained and saved.

    Fewer are saved where those that are trained count only up to a symmetry: of K = A - A^T all of A is trained, and
    the upper triangle of K saved.

    Args:
        model: a model with adapters.
        name: which adapter; the one in use if not given.

    Returns:
        Lines of text; the last one compares the adapter with the model.

    Raises:
        ValueError: if the model has no such adapter, or none is in use and no name is given.

    Example:
        >>> from lipnet.structured.adapters import GSOFTConfig, attach
        >>> model = attach(nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8)), GSOFTConfig(4))
        >>> print(describe(model))
        adapter 'default': GSOFTConfig(block_size=4, scale=True, block_map='cayley', side='input')
        weight      shape  trained  saved
        0.weight  32 x 16      160     80
        2.weight   8 x 32      264    104
        total                  424    184
        The model has 808 parameters of its own; the adapter trains 52.48 % of that number.
    """
    name = adapter_in_question(model, name)
    updates = updates_of(model, name)
    counts = [(_count(update.parameters()), _count(update.compact_state().values())) for _, update in updates]
    trained, saved = (sum(column) for column in zip(*counts, strict=True))
    rows = [
        (site.name, " x ".join(map(str, site.original.shape)), f"{of_trained:,}", f"{of_saved:,}")
        for (site, _), (of_trained, of_saved) in zip(updates, counts, strict=True)
    ]
    own = _count(model.parameters()) - sum(_count(adapted.parameters()) for _, adapted in adapted_sites(model))
    first = f"adapter {name!r}: {attachment_of(model).configs[name]}"
    last = (
        f"The model has {own:,} parameters of its own; the adapter trains {100 * trained / own:.2f} % of that number."
    )
    return "\n".join([first, *_aligned([_HEAD, *rows, ("total", "", f"{trained:,}", f"{saved:,}")]), last])


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))])
        for first, *rest in rows
    ]
