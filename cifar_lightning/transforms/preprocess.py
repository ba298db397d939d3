"""The one place where images become what a network sees."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Preprocess(nn.Module):
    """Turns uint8 images into normalised floats of the size that a network wants.

    A module, so that an exported network can carry it and it follows the device.

    Args:
        mean: Mean of each of the C channels, in [0, 1].
        std: Standard deviation of each channel, in (0, 1].
        size: Height and width that the images are resized to, in pixels, bilinearly and without aliasing; None
            leaves them as they are.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], size: int | None = None) -> None:
        super().__init__()
        self.size = size
        # (pixel / 255 - mean) / std, as one multiplication and one addition
        scale = 1 / (255 * torch.tensor(std))
        self.scale = nn.Buffer(scale.view(1, -1, 1, 1))
        self.shift = nn.Buffer((-255 * torch.tensor(mean) * scale).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Resizes and normalises a batch.

        Args:
            images: (B, C, H, W) uint8.

        Returns:
            (B, C, H, W) float32, channels-last; H and W are ``size``, if there is one.
        """
        pixels = images.to(torch.float32, memory_format=torch.channels_last)
        if self.size is not None:
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        # as wide as a row: else each loop of the CPU would be over the channels of one pixel
        scale, shift = (
            channels.expand(-1, -1, -1, pixels.shape[-1]).contiguous(memory_format=torch.channels_last)
            for channels in (self.scale, self.shift)
        )
        return pixels.mul_(scale).add_(shift)

    def restore(self, images: Tensor) -> Tensor:
        """Turns what ``forward`` returned into images for people, (B, C, H, W) uint8."""
        return ((images.float() - self.shift) / self.scale).round().clamp(0, 255).to(torch.uint8)
