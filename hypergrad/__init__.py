"""PyTorch optimizers that learn their learning rate from the hypergradient while they train.

``hypergrad.SGD``, ``Adam``, ``AdamW`` and ``Muon`` replace those of ``torch.optim``.
``hypergrad.create("adam-adam", params)`` makes an optimizer by a name in ``hypergrad.NAMES``.
``hypergrad.functional`` takes the same steps without optimizer objects, also for many models that are stacked
along one axis.
"""

from hypergrad._adam import Adam, AdamW
from hypergrad._muon import Muon
from hypergrad._optimizers import NAMES, create
from hypergrad._rules import default_hypergrad_lr
from hypergrad._sgd import SGD

__all__ = ["NAMES", "SGD", "Adam", "AdamW", "Muon", "__version__", "create", "default_hypergrad_lr"]

__version__ = "0.1.0"
