"""List of lipnet's convolutions for benchmarks and tests, made from the files of the configuration group ``conv``.

A layer joins the benchmarks and the tests of all layers once `lipnet/conf/conv/NAME.yaml` exists.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from torch import nn

import lipnet
from lipnet.layers import GroupAndShuffle

CONF = Path(lipnet.__file__).parent / "conf"

Factory = Callable[..., nn.Module]


def layer_names() -> list[str]:
    """Return the sorted names of the layers, without the published variants of SOC and without group-and-shuffle.

    LiRes is left out, too: it cannot change channels or size, which LipConvNet needs.
    """
    names = sorted(file.stem for file in (CONF / "conv").glob("*.yaml"))
    return [name for name in names if not name.startswith("gs") and not name.endswith("_published") and name != "lires"]


@cache
def layer_factory(name: str) -> Factory:
    """Return the factory of a layer, with the options of its file: ``layer_factory("soc")(16, 32, kernel_size=3)``."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        factory: Factory = instantiate(compose("train", overrides=[f"conv={name}"]).conv, _convert_="all")
    return factory


@cache
def layer_class(name: str) -> type[nn.Module]:
    """Return the class of a layer."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found: type[nn.Module] = get_class(compose("train", overrides=[f"conv={name}"]).conv._target_)
    return found


def over_groups(name: str, groups: tuple[int, int | None], paired: bool = True) -> Factory:
    """Return the factory of group-and-shuffle over a layer."""
    return partial(GroupAndShuffle, layer=layer_factory(name), groups=groups, paired=paired)
