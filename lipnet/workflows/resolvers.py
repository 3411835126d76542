"""OmegaConf resolvers of the configurations, which name the folders of runs.

Each imports its function when a configuration is resolved: ``--help`` resolves none and does not wait for Lightning.
"""

from collections.abc import Callable
from importlib import import_module

from omegaconf import OmegaConf


def _importing(name: str) -> Callable[..., str]:
    """Return a resolver that imports the function of this name at each call."""

    def resolver(*arguments: object) -> str:
        folder: str = getattr(import_module("lipnet.workflows.folders"), name)(*arguments)
        return folder

    return resolver


# Cached, since the name of a new folder depends on the time of day.
for name in ("run_folder", "sweep_folder", "resumption"):
    OmegaConf.register_new_resolver(name, _importing(name), replace=True, use_cache=True)
OmegaConf.register_new_resolver("output_folder", _importing("output_folder"), replace=True)
