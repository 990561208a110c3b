"""The paper's models: logistic regression, a multilayer perceptron, VGG-16 with batch normalisation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

from torch import nn

__all__ = ["logreg", "mlp", "vgg16"]

_VGG16: tuple[tuple[int, ...], ...] = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)
"""Channels of the convolutions between max-pools: configuration D of Simonyan and Zisserman (2015)."""


def logreg(inputs: int, classes: int) -> nn.Linear:
    """Return logistic regression, (n, inputs) → logits (n, classes), in torch's initialisation."""
    return nn.Linear(inputs, classes)


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return a perceptron with the given layer widths, inputs first, in torch's initialisation.

    Args:
        widths: Widths of the inputs, the hidden layers and the outputs, in this order.
        activation: Creates the function that follows every layer but the last.
    """
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def vgg16(classes: int, size: int = 32) -> nn.Sequential:
    """Return VGG-16 with batch normalisation for small pictures, (n, 3, size, size) → logits (n, classes).

    Simonyan and Zisserman's configuration D (2015), with batch normalisation after every convolution and
    two hidden layers of 512 in place of 4096, as the paper trains it: 15.25 million parameters for 10
    classes at ``size`` 32. Convolutions start from N(0, 2/(k² · channels out)) (He et al., 2015, fan-out)
    with zero biases, the rest in torch's initialisation.

    Args:
        classes: Number of classes.
        size: Height and width of the pictures in pixels; at least 32, as five max-pools halve it.
    """
    features: list[nn.Module] = []
    channels = 3
    for block in _VGG16:
        for width in block:
            features += [_convolution(channels, width), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        features.append(nn.MaxPool2d(2))
    classifier: list[nn.Module] = [nn.Flatten()]
    for before, after in ((channels * (size // 32) ** 2, 512), (512, 512)):
        classifier += [nn.Dropout(), nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*features, *classifier, nn.Linear(512, classes))


def _convolution(before: int, after: int) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, kernel_size=3, padding=1)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (3 * 3 * after)))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer
