"""Start-up imports only what is used: heavy packages stay out where nothing needs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Packages that take from a few tenths of a second to several seconds to import.
PLOTS_AND_DATA = {"matplotlib", "PIL", "scipy", "sklearn", "tensorboard", "torchmetrics", "torchvision"}
HEAVY = PLOTS_AND_DATA | {"lightning", "rich", "sympy", "torch._dynamo", "torch._inductor", "hydra"}


def modules_after(code: str) -> set[str]:
    """Run a program in a new interpreter and return the modules that it has imported at its end."""
    report = f"import atexit, json, sys\natexit.register(lambda: print(json.dumps(list(sys.modules))))\n{code}"
    result = subprocess.run([sys.executable, "-c", report], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    modules: list[str] = json.loads(result.stdout.splitlines()[-1])
    return set(modules)


@pytest.mark.slow
def test_layers_and_models_import_torch_alone() -> None:
    assert not modules_after("import lipnet.functional, lipnet.layers, lipnet.structured, lipnet.models") & HEAVY


@pytest.mark.slow
def test_certificates_need_neither_lightning_nor_torchmetrics() -> None:
    assert not modules_after("import lipnet.certify") & (HEAVY - {"rich"})


@pytest.mark.parametrize("command", ["train", "certify", "export"])
def test_the_help_of_a_command_imports_neither_torch_nor_lightning(command: str) -> None:
    code = f"import sys; sys.argv = ['{command}.py', '--help']; from lipnet.commands.{command} import main; main()"
    loaded = modules_after(code)
    assert "hydra" in loaded
    assert not loaded & ({"torch", "lightning"} | PLOTS_AND_DATA)


@pytest.mark.slow
def test_data_modules_do_not_import_scikit_learn() -> None:
    assert "sklearn" not in modules_after("import lipnet.data")


def test_lazy_names_are_those_that_are_listed() -> None:
    """The names for type checkers, `__all__` and the table of each lazy package agree."""
    import lipnet.metrics
    import lipnet.workflows

    for package in (lipnet.metrics, lipnet.workflows):
        for name in package.__all__:
            assert getattr(package, name).__name__ == name
        with pytest.raises(AttributeError, match="no attribute 'absent'"):
            package.absent  # noqa: B018
