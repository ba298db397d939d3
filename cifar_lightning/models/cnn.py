"""The small network of the Keras image classification tutorial (https://www.tensorflow.org/tutorials/images/cnn)."""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F


class PooledFlatten(nn.Flatten):
    """Flatten feature maps to vectors, after average pooling if the maps do not have the given size.

    Args:
        size: Height and width of the flattened maps, in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C · size²)."""
        if x.shape[-2:] != (self.size, self.size):  # Pooling to the same size would change nothing but take time.
            x = F.adaptive_avg_pool2d(x, self.size)
        return super().forward(x)


def cnn(num_classes: int = 10) -> nn.Sequential:
    """Build three unpadded 3×3 convolutions with two max-pools and two linear layers; 122,570 parameters.

    Weights are initialised as in Keras (Glorot and Bengio 2010: uniform weights, biases of 0), with which the network
    learns faster than with torch's default.

    Shapes, for B images: (B, 3, 32, 32) → (B, 32, 15, 15) → (B, 64, 6, 6) → (B, 64, 4, 4) → (B, 1024) → (B, 64)
    → logits (B, num_classes). Feature maps of images of another size, at least 18 × 18, are pooled to 4 × 4.

    Args:
        num_classes: Number of classes K, >= 1.
    """
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.MaxPool2d(2),  # before the ReLU, which commutes with it and then sees a quarter of the values
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        PooledFlatten(4),
        nn.Linear(1024, 64),
        nn.ReLU(),
        nn.Linear(64, num_classes),
    )
    for layer in network:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(cast(Tensor, layer.bias))
    return network
