"""PyTorch optimizers that learn their learning rate from the hypergradient, as they train.

``hypergrad.SGD`` and ``hypergrad.Adam`` stand where ``torch.optim.SGD`` and ``torch.optim.Adam`` stood;
``hypergrad.create("adam-adam", params)`` makes any of those in ``hypergrad.NAMES``.
``hypergrad.functional`` is the same without objects, and trains many members stacked on one axis.
"""

from hypergrad._optimizers import NAMES, SGD, Adam, create

__all__ = ["NAMES", "SGD", "Adam", "create"]
