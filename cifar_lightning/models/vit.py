"""A vision transformer for small images, built by torchvision."""

from torch import nn
from torchvision.models import VisionTransformer


def vit(
    num_classes: int = 10,
    image_size: int = 32,
    patch_size: int = 4,
    depth: int = 9,
    hidden_dim: int = 192,
    num_heads: int = 3,
    mlp_dim: int = 384,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a small vision transformer; 2,697,610 parameters for 10 classes.

    torchvision's network (Dosovitskiy et al. 2020, https://arxiv.org/abs/2010.11929) with the depth and width of
    "Vision Transformer for Small-Size Datasets" (Lee et al. 2021, https://arxiv.org/abs/2112.13492). The head is
    initialised with zeros, so an untrained network gives every class the same logit.

    Shapes, for B images, P = (image_size / patch_size)² patches and D = hidden_dim: (B, 3, 32, 32) → (B, P + 1, D)
    → class token (B, D) → logits (B, num_classes). Images must be image_size × image_size.

    Args:
        num_classes: Number of classes K, >= 1.
        image_size: Height and width of the images, in pixels.
        patch_size: Height and width of a patch, in pixels; a divisor of image_size.
        depth: Number of encoder blocks.
        hidden_dim: Number of features of a token, a multiple of num_heads.
        num_heads: Number of attention heads; by default each has 64 features, as is usual (the paper has 12 of 16).
        mlp_dim: Number of features between a block's two linear layers.
        dropout: Fraction of the features set to 0 after each layer, in [0, 1].

    Raises:
        ValueError: If a size is not divisible as required.
    """
    for whole, part, sizes in [
        (image_size, patch_size, "image_size and patch_size"),
        (hidden_dim, num_heads, "hidden_dim and num_heads"),
    ]:
        if part < 1 or whole % part:
            raise ValueError(f"{sizes} are {whole} and {part}; the second must divide the first")
    return VisionTransformer(  # type: ignore[no-any-return]
        image_size=image_size,
        patch_size=patch_size,
        num_layers=depth,
        num_heads=num_heads,
        hidden_dim=hidden_dim,
        mlp_dim=mlp_dim,
        dropout=dropout,
        num_classes=num_classes,
    )
