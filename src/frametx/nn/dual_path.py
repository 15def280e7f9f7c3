"""Two short attentions in place of a long one: within chunks of a sequence, then across them.

Letters: N chunks, K frames of a chunk, F features of a frame.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.sinusoid import sinusoid_table

_NORM_EPS = 1e-6  # of the transformers' layer norms
_GLOBAL_EPS = 1e-8  # of the norms over a whole excerpt


def into_chunks(x: Float[Tensor, "B T F"], *, chunk_frames: int) -> Float[Tensor, "B N K F"]:
    """Chunks that overlap by half, an even number of them, every frame in exactly two.

    Zeros stand before the first frame and behind the last one. The public code of the SepFormer
    adds at least one frame of them at the end, and so does this one, for its weights' sake.

        frame          0   4   8   12
        chunk 0    ....----
        chunk 1        --------
        chunk 2            --------
        chunk 3                ----....
    """
    hop = chunk_frames // 2
    surplus = chunk_frames - (hop + x.shape[1]) % chunk_frames
    padded = F.pad(x, (0, 0, hop, surplus + hop))
    return padded.unfold(1, chunk_frames, hop).transpose(2, 3)


def overlap_add(chunks: Float[Tensor, "B N K F"], *, num_frames: int) -> Float[Tensor, "B T F"]:
    """The sum of chunks where they lay in the sequence: twice the sequence, if they are its own."""
    hop = chunks.shape[2] // 2
    first, second = chunks[:, 0::2].flatten(1, 2), chunks[:, 1::2].flatten(1, 2)
    return (first[:, hop:] + second[:, :-hop])[:, :num_frames]


class GlobalNorm(nn.Module):
    """Brings all features of all frames of an excerpt to mean 0 and variance 1, as one set.

    Args:
        num_features: each has a gain and an offset of its own.
    """

    def __init__(self, *, num_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Float[Tensor, "B *places F"]) -> Float[Tensor, "B *places F"]:
        """Normalise each excerpt of the batch by itself."""
        return F.layer_norm(x, x.shape[1:], eps=_GLOBAL_EPS) * self.weight + self.bias


class PathLayer(nn.Module):
    """One layer of a transformer, with the norms before its parts.

    Args:
        num_features: F.
        num_heads: of the attention.
        hidden_features: of the feed-forward.
        dropout: probability on the attention, inside the feed-forward, and on both branches.
    """

    def __init__(
        self, *, num_features: int, num_heads: int, hidden_features: int, dropout: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(num_features, eps=_NORM_EPS)
        self.to_qkv = nn.Linear(num_features, 3 * num_features)
        self.to_out = nn.Linear(num_features, num_features)
        self.feed_forward_norm = nn.LayerNorm(num_features, eps=_NORM_EPS)
        self.expand = nn.Linear(num_features, hidden_features)
        self.contract = nn.Linear(hidden_features, num_features)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch's own multi-head attention starts; the other layers start as they are made."""
        nn.init.xavier_uniform_(self.to_qkv.weight)
        nn.init.zeros_(self.to_qkv.bias)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, x: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        """Attend, then feed forward, each beside the stream."""
        x = x + self._dropped(self._attend(self.attention_norm(x)))
        hidden = self._dropped(self.expand(self.feed_forward_norm(x)).relu())
        return x + self._dropped(self.contract(hidden))

    def _attend(self, x: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        q, k, v = rearrange(self.to_qkv(x), "b t (qkv h f) -> qkv b h t f", qkv=3, h=self.num_heads)
        dropout = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.to_out(rearrange(attended, "b h t f -> b t (h f)"))

    def _dropped(self, x: Float[Tensor, "B T _"]) -> Float[Tensor, "B T _"]:
        return F.dropout(x, self.dropout, self.training)


class PathTransformer(Block):
    """Sinusoids that say where a frame is, layers, and a norm.

    Args:
        num_layers: how many.
        num_features: F.
        num_heads: of each attention.
        hidden_features: of each feed-forward.
        dropout: probability in every layer.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_features: int,
        num_heads: int,
        hidden_features: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            PathLayer(
                num_features=num_features,
                num_heads=num_heads,
                hidden_features=hidden_features,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(num_features, eps=_NORM_EPS)

    def forward(self, x: Float[Tensor, "B T F"]) -> Float[Tensor, "B T F"]:
        """Every frame in the light of all others of its path."""
        x = x + sinusoid_table(x.shape[1], x.shape[2], device=x.device).to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class DualPathBlock(nn.Module):
    """A transformer along each chunk, then one along each place across the chunks.

    Args:
        intra: of the frames of one chunk.
        inter: of the frames that have the same place in all chunks.
        num_features: F.

    Source: Luo et al., "Dual-path RNN", 2020; Subakan et al., 2021, where both are transformers.
    """

    def __init__(
        self, *, intra: PathTransformer, inter: PathTransformer, num_features: int
    ) -> None:
        super().__init__()
        self.intra = intra
        self.inter = inter
        self.intra_norm = GlobalNorm(num_features=num_features)
        self.inter_norm = GlobalNorm(num_features=num_features)

    def forward(self, chunks: Float[Tensor, "B N K F"]) -> Float[Tensor, "B N K F"]:
        """Each path normalised and beside the stream."""
        batch = chunks.shape[0]
        within = self.intra(rearrange(chunks, "b n k f -> (b n) k f"))
        chunks = chunks + self.intra_norm(rearrange(within, "(b n) k f -> b n k f", b=batch))
        across = self.inter(rearrange(chunks, "b n k f -> (b k) n f"))
        return chunks + self.inter_norm(rearrange(across, "(b k) n f -> b n k f", b=batch))
