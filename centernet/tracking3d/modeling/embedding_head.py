"""The quasi-dense embedding head: a vector for each box that is alike for boxes of one object.

Source: QDTrack (arXiv 2006.06664) section 3.2.
"""

from dataclasses import dataclass

from detectron2.layers import Conv2d, get_norm
from torch import Tensor, nn
from torch.nn.functional import relu

__all__ = ["EmbeddingHead", "EmbeddingHeadOptions"]


@dataclass(frozen=True)
class EmbeddingHeadOptions:
    """Sizes of the head.

    Attributes:
        convs: how many.
        channels: of the convs.
        norm: after each of them, a name of detectron2's ``get_norm``; '' for none.
        hidden: features of the layer before the last.
        size: of the embeddings.
    """

    convs: int = 4
    channels: int = 256
    norm: str = "GN"
    hidden: int = 1024
    size: int = 256


class EmbeddingHead(nn.Module):
    """Convs with norms, a hidden layer, the embedding without activation or normalisation."""

    def __init__(self, in_channels: int, resolution: int, options: EmbeddingHeadOptions | None = None):
        super().__init__()
        options = options or EmbeddingHeadOptions()
        layers, channels = [], in_channels
        for _ in range(options.convs):
            norm = get_norm(options.norm, options.channels)
            conv = Conv2d(channels, options.channels, 3, padding=1, bias=norm is None, norm=norm, activation=nn.ReLU())
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers.append(conv)
            channels = options.channels
        self.convs = nn.Sequential(*layers)
        self.fc = nn.Linear(channels * resolution**2, options.hidden)
        self.fc_embed = nn.Linear(options.hidden, options.size)
        nn.init.xavier_uniform_(self.fc.weight)
        nn.init.normal_(self.fc_embed.weight, std=0.01)
        for layer in (self.fc, self.fc_embed):
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> Tensor:
        """``[R, channels, resolution, resolution]`` to ``[R, size]``."""
        return self.fc_embed(relu(self.fc(self.convs(pooled).flatten(1))))
