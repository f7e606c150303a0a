"""Models for texts: a bag of tokens, a convolutional network, a transformer, and a small GPT; perplexity."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.process import group


class BagOfTokens(nn.Module):
    """The sum of the tokens' embeddings through a linear layer: [B, T] -> logits [B, num_classes]; 0 is padding.

    The sum is divided by the square root of the number of tokens, so that long and short texts weigh alike. Made for
    hashed n-grams of characters, as fastText is: Joulin et al., Bag of Tricks for Efficient Text Classification, 2016.
    """

    def __init__(self, vocab_size: int, num_classes: int, width: int = 16, dropout: float = 0.0):
        super().__init__()
        self.embedding = nn.EmbeddingBag(vocab_size, width, mode="sum", padding_idx=0)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.zeros_(self.embedding.weight[0])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        count = (tokens > 0).sum(dim=1, keepdim=True).clamp(min=1)
        return self.head(self.dropout(self.embedding(tokens) / count.sqrt()))


class TextCNN(nn.Module):
    """Convolutions of several lengths, and the maximum of each over the text: [B, T] -> logits [B, num_classes].

    0 is padding, which changes nothing. Kim, Convolutional Neural Networks for Sentence Classification, 2014.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        width: int = 64,
        lengths: tuple[int, ...] = (2, 3, 4, 5),
        dropout: float = 0.5,
    ):
        super().__init__()
        self.lengths = lengths
        self.embedding = nn.Embedding(vocab_size, width, padding_idx=0)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, length) for length in lengths)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width * len(lengths), num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).transpose(1, 2)  # [B, width, T]
        found = []
        for convolution, length in zip(self.convolutions, self.lengths, strict=True):
            y = F.relu(convolution(F.pad(x, (0, length - 1))))  # begins at each token; zeros follow the text
            found.append(y.masked_fill((tokens == 0)[:, None], 0).amax(dim=2))
        return self.head(self.dropout(torch.cat(found, dim=1)))


class TextTransformer(nn.Module):
    """Every token attends to all (Vaswani et al., 2017): [B, T] -> logits [B, num_classes], T <= max_length.

    0 is padding, which changes nothing. The mean of the tokens is classified.
    """

    def __init__(
        self,
        vocab_size: int,
        num_classes: int,
        max_length: int = 512,
        layers: int = 2,
        heads: int = 4,
        width: int = 64,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=0)
        self.positions = nn.Embedding(max_length, width)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        padding = tokens == 0
        padding[:, 0] = False  # of an empty text, so that it attends to something
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.encoder(self.tokens(tokens) + self.positions(places), src_key_padding_mask=padding)
        kept = (~padding)[:, :, None]
        return self.head((x * kept).sum(dim=1) / kept.sum(dim=1))


# --- a small GPT, built like GPT-2 (Radford et al., 2019) and nanoGPT


class GPT(nn.Module):
    """Predicts the next token at each place from those before it: [B, T] -> logits [B, vocab_size, T], T <= block_size.

    Padding at the end changes nothing before it. The last layer has the weights of the first: Press and Wolf, 2017.
    """

    def __init__(
        self,
        vocab_size: int,
        block_size: int,
        layers: int = 4,
        heads: int = 4,
        width: int = 128,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.block_size = block_size
        self.tokens = nn.Embedding(vocab_size, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:  # what layers add to their input starts smaller, as in GPT-2
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * layers) if name.endswith("out.weight") else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.dropout(self.tokens(tokens))
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.tokens.weight).transpose(1, 2)


class Block(nn.Module):
    """Attention and a two-layer network, each added to its input: [B, T, width]"""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.attention = CausalAttention(width, heads, dropout)
        self.mlp_in = nn.Linear(width, 4 * width, bias=False)
        self.mlp_out = nn.Linear(4 * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.dropout(self.mlp_out(F.gelu(self.mlp_in(self.norm2(x)))))


class CausalAttention(nn.Module):
    """Each place attends to itself and those before it, by how far away they are: [B, T, width]"""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        if width % (2 * heads):
            raise ValueError(f"width is {width} and heads {heads}; give a width that is a multiple of 2 x heads")
        self.heads, self.p = heads, dropout
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, heads, T, width / heads]
            for part in self.qkv(x).chunk(3, dim=2)
        )
        q, k = rotated(torch.stack([q, k]))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.p if self.training else 0.0)
        return self.dropout(self.out(y.transpose(1, 2).flatten(2)))


def rotated(x: Tensor) -> Tensor:
    """[..., T, size], each pair of numbers turned by an angle in proportion to its place: Su et al., RoFormer, 2021.

    The product of two such vectors depends on the distance of their places, which need not be learned.
    """
    half = x.shape[-1] // 2
    speeds = 10_000 ** (-torch.arange(half, device=x.device) / half)
    angles = torch.arange(x.shape[-2], device=x.device)[:, None] * speeds
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


class Perplexity:
    """e to the mean loss per token, over a whole evaluation: of logits [B, C, T]; targets of -100 do not count."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._total: Tensor | float = 0.0
        self._count: Tensor | int = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        self._total = self._total + F.cross_entropy(output, target, reduction="sum").double()
        self._count = self._count + (target != -100).sum()

    def sync(self) -> tuple[float, float]:
        """The loss and the number of tokens over all ranks."""
        total, count = group.sum_over_ranks([float(self._total), float(self._count)])
        return total, count

    def compute(self) -> float:
        total, count = self.sync()
        return math.exp(total / count) if count else math.nan
