"""The perceptron and the multi-layer perceptron with hand-written, proved gradients, in PyTorch."""

__version__ = "0.1.0"
