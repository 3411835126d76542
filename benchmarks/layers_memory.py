"""Print the peak of live bytes in a training step of a checkpoint's network, as `benchmarks.memory` measures it.

    python -m benchmarks.layers_memory RUN/checkpoints/best.ckpt 128

`benchmarks.layers_compared` runs this command, with the batch size, in its own process.
"""

import sys

import torch

from benchmarks.memory import peak_of
from lipnet.models import build_model, load_checkpoint


def peak_of_checkpoint(path: str, batch: int) -> int:
    """Return the peak of live bytes in a training step on random images."""
    config = load_checkpoint(path).model_config
    images = torch.rand(batch, config["in_channels"], config["image_size"], config["image_size"])
    labels = torch.randint(config["num_classes"], (batch,))
    return int(peak_of(lambda: build_model(config), images, labels)["live"])


if __name__ == "__main__":
    print(peak_of_checkpoint(sys.argv[1], int(sys.argv[2])))
