"""Entry points for torch.hub: torch.hub.load(REPOSITORY, "pretrained", "digits-quickstart")."""

from torch import nn

dependencies = ["torch", "torchvision", "safetensors"]


def pretrained(name: str) -> nn.Module:
    """Return a pretrained network by its name in `lipnet.models.PRETRAINED`, or by its folder, in evaluation mode."""
    from lipnet.models import load_pretrained

    return load_pretrained(name)
