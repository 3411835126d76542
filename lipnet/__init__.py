"""1-Lipschitz robust vision: orthogonal convolutions, networks made of them, and certificates that hold."""

__version__ = "0.1.0"
