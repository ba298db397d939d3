"""The one place where pictures become what a network sees."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Preprocess(nn.Module):
    """Turns uint8 pictures into normalised floats.

    A module, so that an exported network can carry it and it follows the device.

    Args:
        mean: Mean of each of the C channels, in [0, 1].
        std: Standard deviation of each channel, in (0, 1].
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # (pixel / 255 - mean) / std, as one multiplication and one addition
        scale = 1 / (255 * torch.tensor(std))
        self.scale = nn.Buffer(scale.view(1, -1, 1, 1))
        self.shift = nn.Buffer((-255 * torch.tensor(mean) * scale).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalises a batch.

        Args:
            images: (B, C, H, W) uint8.

        Returns:
            (B, C, H, W) float32, channels-last.
        """
        return images.to(torch.float32, memory_format=torch.channels_last).mul_(self.scale).add_(self.shift)
