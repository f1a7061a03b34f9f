"""A vision transformer takes small images (Dosovitskiy et al. 2021, arXiv 2010.11929)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_lowrank.errors import UserError
from robust_lowrank.models.normalize import InputShape, Normalize

PATCH, WIDTH, DEPTH, HEADS, EXPANSION = 4, 192, 6, 3, 4
POSITION_STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention whose projections are linear layers of their own, so that each can be factored."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query: nn.Linear = nn.Linear(width, width)
        self.key: nn.Linear = nn.Linear(width, width)
        self.value: nn.Linear = nn.Linear(width, width)
        self.out: nn.Linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, tokens, width)` to the same shape."""
        query, key, value = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for projection in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Attention and a perceptron, each after layer normalisation and with a connection around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1: nn.LayerNorm = nn.LayerNorm(width)
        self.attention: Attention = Attention(width, heads)
        self.norm2: nn.LayerNorm = nn.LayerNorm(width)
        self.fc1: nn.Linear = nn.Linear(width, EXPANSION * width)
        self.fc2: nn.Linear = nn.Linear(EXPANSION * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `(N, tokens, width)` to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class VisionTransformer(nn.Module):
    """Patches of 4 x 4, a class token, learned positions, six blocks of width 192 with three heads, and a linear layer.

    Example:
        >>> VisionTransformer((3, 32, 32), 10)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Raises:
        UserError: the sides of the images are no multiples of 4.
    """

    def __init__(self, input_shape: InputShape, num_classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        if height % PATCH or width % PATCH:
            raise UserError(f"vit cuts images into patches of {PATCH} x {PATCH}: {height} x {width} is no multiple: pad them")
        tokens = (height // PATCH) * (width // PATCH) + 1
        self.normalize: Normalize = Normalize(input_shape)
        self.patches: nn.Conv2d = nn.Conv2d(channels, WIDTH, PATCH, stride=PATCH)
        self.token: nn.Parameter = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, WIDTH), std=POSITION_STD))
        self.positions: nn.Parameter = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, WIDTH), std=POSITION_STD))
        self.blocks: nn.Sequential = nn.Sequential(*(EncoderBlock(WIDTH, HEADS) for _ in range(DEPTH)))
        self.norm: nn.LayerNorm = nn.LayerNorm(WIDTH)
        self.linear: nn.Linear = nn.Linear(WIDTH, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images in [0, 1] to logits."""
        patches = self.patches(self.normalize(x)).flatten(2).mT
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), patches], dim=1) + self.positions
        return self.linear(self.norm(self.blocks(tokens))[:, 0])
