"""CPV, CNV and CLTV in plain PyTorch, written from the specification: what we measure against.

Eager PyTorch in the order of operations the authors published: images channels first, query, key
and value one by one (CNV: fused), all random features kept for the backward pass, the score
matrices of Nyström attention multiplied from the left. Parameter names are the published ones, so
the stored goldens load. Batch-wide maxima as published.
"""

# ruff: noqa: D102

import math

import torch
from torch import Tensor, nn

HEAD_DIM = 32


class ChannelNorm(nn.Module):
    """Normalise each pixel over its channels; epsilon on the deviation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        std = torch.var(x, dim=1, unbiased=False, keepdim=True).sqrt()
        mean = torch.mean(x, dim=1, keepdim=True)
        return (x - mean) / (std + 1e-5) * self.g + self.b


def split_heads(x: Tensor, heads: int) -> Tensor:
    """``[batch, tokens, heads * 32]`` to ``[batch, heads, tokens, 32]``."""
    return x.view(*x.shape[:2], heads, HEAD_DIM).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """The inverse of :func:`split_heads`."""
    return x.transpose(1, 2).flatten(2)


class Favor(nn.Module):
    """FAVOR+ with a fixed projection."""

    def __init__(self) -> None:
        super().__init__()
        rows = int(HEAD_DIM * math.log(HEAD_DIM))
        blocks = [torch.linalg.qr(torch.randn(HEAD_DIM, HEAD_DIM))[0].T for _ in range(4)]
        matrix = torch.cat(blocks)[:rows] * torch.randn(rows, HEAD_DIM).norm(dim=1, keepdim=True)
        self.register_buffer("projection_matrix", matrix)

    def features(self, x: Tensor, is_query: bool) -> Tensor:
        scale = HEAD_DIM**-0.25
        scores = torch.einsum("bhnd,jd->bhnj", scale * x, self.projection_matrix)
        norm = (x**2).sum(-1, keepdim=True) / 2 * scale**2
        top = scores.amax(-1, keepdim=True) if is_query else scores.amax()
        return self.projection_matrix.shape[0] ** -0.5 * (torch.exp(scores - norm - top) + 1e-4)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = self.features(q, True), self.features(k, False)
        inverse = 1 / torch.einsum("bhnj,bhj->bhn", q, k.sum(2))
        context = torch.einsum("bhnj,bhne->bhje", k, v)
        return torch.einsum("bhje,bhnj,bhn->bhne", context, q, inverse)


class PerformerAttention(nn.Module):
    """CPV's mixer on images ``[batch, channels, height, width]``."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        inner = heads * HEAD_DIM
        self.heads = heads
        self.fast_attention = Favor()
        self.to_q = nn.Linear(channels, inner)
        self.to_k = nn.Linear(channels, inner)
        self.to_v = nn.Linear(channels, inner)
        self.to_out = nn.Linear(inner, channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (split_heads(to(tokens), self.heads) for to in (self.to_q, self.to_k, self.to_v))
        out = self.dropout(self.to_out(join_heads(self.fast_attention(q, k, v))))
        return out.transpose(1, 2).reshape(x.shape)


def pseudo_inverse(a: Tensor, iterations: int = 6) -> Tensor:
    """Iterative, started from maxima over the whole batch."""
    size = a.abs()
    z = a.transpose(-1, -2) / (size.sum(-1).max() * size.sum(-2).max())
    eye = torch.eye(a.shape[-1], device=a.device, dtype=a.dtype)
    for _ in range(iterations):
        az = a @ z
        z = 0.25 * z @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z


class NystromAttention(nn.Module):
    """CNV's mixer on images ``[batch, channels, height, width]``."""

    landmarks = 64

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        inner = heads * HEAD_DIM
        self.heads = heads
        self.to_qkv = nn.Linear(channels, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, channels), nn.Dropout(dropout))
        self.res_conv = nn.Conv2d(heads, heads, (33, 1), padding=(16, 0), groups=heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = (split_heads(y, self.heads) for y in self.to_qkv(tokens).chunk(3, dim=-1))
        q = q * HEAD_DIM**-0.5
        runs = tokens.shape[1] // self.landmarks
        ql, kl = (y.unflatten(2, (self.landmarks, runs)).mean(3) for y in (q, k))
        a1, a2, a3 = (
            torch.einsum("bhid,bhjd->bhij", a, b).softmax(-1)
            for a, b in ((q, kl), (ql, kl), (ql, k))
        )
        out = (a1 @ pseudo_inverse(a2)) @ (a3 @ v) + self.res_conv(v)
        return self.to_out(join_heads(out)).transpose(1, 2).reshape(x.shape)


class LinearAttention(nn.Module):
    """CLTV's mixer on images ``[batch, channels, height, width]``."""

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        inner = heads * HEAD_DIM
        self.heads = heads
        self.to_q = nn.Conv2d(channels, inner, 3, padding=1)
        self.to_k = nn.Conv2d(channels, inner, 3, padding=1)
        self.to_v = nn.Conv2d(channels, inner, 3, padding=1)
        self.to_out = nn.Conv2d(inner, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            to(x).reshape(x.shape[0], self.heads, HEAD_DIM, -1)  # [batch, heads, dim, tokens]
            for to in (self.to_q, self.to_k, self.to_v)
        )
        scale = HEAD_DIM**-0.25
        q, k = (q * scale).softmax(2), (k * scale).softmax(3)
        context = torch.einsum("bhdn,bhen->bhde", k, v)
        out = torch.einsum("bhdn,bhde->bhen", q, context)
        return self.to_out(out.reshape(x.shape[0], -1, *x.shape[2:]))


class FeedForward(nn.Module):
    """Two 1x1 convolutions."""

    def __init__(self, channels: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(channels, channels * ratio, 1),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(channels * ratio, channels, 1),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Mixing(nn.Module):
    """Attention and feed-forward, each with its residual; nested for the published names."""

    def __init__(self, attention: nn.Module, feed_forward: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleList([attention, feed_forward])])

    def forward(self, x: Tensor) -> Tensor:
        for attention, feed_forward in self.layers:
            x = attention(x) + x
            x = feed_forward(x) + x
        return x


MIXERS = {"cpv": PerformerAttention, "cnv": NystromAttention, "cltv": LinearAttention}


class CXV(nn.Module):
    """A convolutional X-former at the published size by default; images ``[batch, 3, 32, 32]``."""

    def __init__(
        self,
        name: str,
        num_classes: int = 10,
        embed_dim: int = 128,
        num_heads: int = 4,
        depth: int = 5,
        mlp_ratio: int = 2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        half, quarter = embed_dim // 2, embed_dim // 2 // 2
        self.conv = nn.Sequential(
            nn.Conv2d(3, quarter, 3, padding=1), nn.Conv2d(quarter, half, 3, padding=1)
        )
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Conv2d(embed_dim if i else half, embed_dim, 3, padding=1),
                    ChannelNorm(embed_dim),
                    Mixing(
                        MIXERS[name](embed_dim, num_heads, dropout),
                        FeedForward(embed_dim, mlp_ratio, dropout),
                    ),
                ]
            )
            for i in range(depth)
        )
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(embed_dim, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        for conv, norm, mixing in self.layers:
            x = mixing(norm(conv(x)))
        return self.head(x)
