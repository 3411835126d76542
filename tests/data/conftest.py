"""Stand-ins for the CIFAR files."""

from tests.fake_cifar import write_fake_cifar

__all__ = ["write_fake_cifar"]
