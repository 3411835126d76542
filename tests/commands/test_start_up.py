"""Start-up imports only what is used, and the help of a command is short."""

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


def output_and_modules(code: str) -> tuple[list[str], set[str]]:
    """Run a program in a new interpreter; return the lines that it prints and the modules that it has imported."""
    report = f"import atexit, json, sys\natexit.register(lambda: print(json.dumps(list(sys.modules))))\n{code}"
    result = subprocess.run([sys.executable, "-c", report], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    *lines, modules = result.stdout.splitlines()
    return lines, set(json.loads(modules))


def modules_after(code: str) -> set[str]:
    return output_and_modules(code)[1]


@pytest.mark.slow
def test_layers_and_models_import_torch_alone() -> None:
    assert not modules_after("import lipnet.functional, lipnet.layers, lipnet.structured, lipnet.models") & HEAVY


@pytest.mark.slow
def test_certificates_need_neither_lightning_nor_torchmetrics() -> None:
    assert not modules_after("import lipnet.certify") & (HEAVY - {"rich"})


@pytest.mark.parametrize("command", ["train", "certify", "export"])
def test_the_help_of_a_command_fits_on_two_screens_and_imports_neither_torch_nor_lightning(command: str) -> None:
    name = f"lipnet-{command}"
    lines, modules = output_and_modules(
        f"import sys; sys.argv = [{name!r}, '--help']; from lipnet.commands.{command} import main; main()"
    )
    assert "hydra" in modules
    assert not modules & ({"torch", "lightning"} | PLOTS_AND_DATA)
    assert len(lines) <= 50
    assert any(f"{name} " in line for line in lines)
    assert any("SETTINGS (name=value" in line for line in lines)
    shown = {line.split(":")[0] for line in lines}
    if command == "train":
        assert {path.name for path in (ROOT / "lipnet/conf").iterdir() if path.is_dir()} - {
            "hydra",
            "__pycache__",
        } <= shown
    if command == "certify":
        assert {"attack", "data", "trainer"} <= shown


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
