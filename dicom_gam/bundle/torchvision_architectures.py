"""Torchvision's classifiers, offered through the same entry point as anyone's own.

A module of its own, because importing torchvision takes as long as importing torch and the default bundle needs none.
"""

from __future__ import annotations

from typing import cast

import torchvision.models
from torch import nn


def resnet18(num_classes: int) -> nn.Module:
    """Torchvision's ResNet-18; attention layer `layer4`."""
    return cast(nn.Module, torchvision.models.resnet18(weights=None, num_classes=num_classes))


def resnet50(num_classes: int) -> nn.Module:
    """Torchvision's ResNet-50; attention layer `layer4`."""
    return cast(nn.Module, torchvision.models.resnet50(weights=None, num_classes=num_classes))


def densenet121(num_classes: int) -> nn.Module:
    """Torchvision's DenseNet-121; attention layer `features`."""
    return cast(nn.Module, torchvision.models.densenet121(weights=None, num_classes=num_classes))


def efficientnet_b0(num_classes: int) -> nn.Module:
    """Torchvision's EfficientNet-B0; attention layer `features`."""
    return cast(nn.Module, torchvision.models.efficientnet_b0(weights=None, num_classes=num_classes))


def mobilenet_v3_small(num_classes: int) -> nn.Module:
    """Torchvision's MobileNetV3-Small; attention layer `features`."""
    return cast(nn.Module, torchvision.models.mobilenet_v3_small(weights=None, num_classes=num_classes))
