"""PyTorch optimizers that learn their learning rate from the hypergradient while they train.

``hypergrad.SGD`` and ``hypergrad.Adam`` replace ``torch.optim.SGD`` and ``torch.optim.Adam``.
``hypergrad.create("adam-adam", params)`` makes an optimizer by a name in ``hypergrad.NAMES``.
``hypergrad.functional`` takes the same steps without optimizer objects, also for many models that are stacked
along one axis.
"""

from hypergrad._optimizers import NAMES, SGD, Adam, create

__all__ = ["NAMES", "SGD", "Adam", "__version__", "create"]

__version__ = "0.1.0"
