"""Residual attention: every layer adds its scores to those of the layers before it.

A chain of scores is a sum of products, and a sum of products is one product of longer vectors:

    S = Q1 K1^T + Q2 K2^T + ...  =  [Q1 Q2 ...] [K1 K2 ...]^T

So a chain can be carried in two forms: as the matrix S, which takes T x T numbers per head, or as
the queries and keys, which take T x D for each layer, and of which a fused kernel makes the scores
bit by bit without ever writing them all to memory. `ResidualScores` is either, and the result is
the same. Adding chains, and weighting the queries of one, works in both forms.

Source: He et al., "RealFormer: Transformer Likes Residual Attention", 2021, for the chain.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.blocked_attention import blocked_attention, blocked_residual_attention

Backend = Literal["auto", "fused", "materialised"]

# What `auto` decides by, measured on a CPU (8 heads, one thread). A matrix costs 2 to 6 ns a score
# for memory traffic, the more the less of it a cache holds, and the products of one layer; a fused
# kernel 3 ns, and the products of the whole chain: 0.02 ns a feature, in training 0.1.
_CPU_MIN_TOKENS = {"train": 1024, "infer": 768}
_CPU_MAX_EXTRA_FEATURES = {"train": 0, "infer": 128}  # of the chain beyond its last layer
_CPU_MIN_BLOCKED_TOKENS = 512  # with fewer the whole matrix stays in the cache
_EXACT = (torch.float32, torch.float64)
_GPU_MAX_FEATURES = 256  # of a head in the fast fused kernels; not measured by us


@dataclass(frozen=True)
class ResidualScores:
    """The sum of the scores of a chain of layers: as a matrix, or as queries and keys.

    Attributes:
        query: scaled queries of the last layer, for gates that decide by them.
        terms: pairs of scaled queries and keys whose products add up to the scores; empty if the
            scores are known as a matrix.
        matrix: the scores themselves, if they were written down.
    """

    query: Float[Tensor, "*batch T D"]
    terms: tuple[tuple[Float[Tensor, "*batch T _"], Float[Tensor, "*batch M _"]], ...] = ()
    matrix: Float[Tensor, "*batch T M"] | None = None

    @property
    def num_features(self) -> int:
        """Features of all queries behind one another; 0 for a matrix."""
        return sum(query.shape[-1] for query, _ in self.terms)

    def materialised(self) -> Float[Tensor, "*batch T M"]:
        """All scores, T x M numbers for every head."""
        if self.matrix is not None:
            return self.matrix
        queries, keys = self.joined()
        return queries @ keys.mT

    def joined(self) -> tuple[Float[Tensor, "*batch T W"], Float[Tensor, "*batch M W"]]:
        """Queries and keys of all terms behind one another."""
        assert self.terms, "a matrix has no queries and keys"
        queries, keys = zip(*self.terms, strict=True)
        if len(queries) == 1:
            return queries[0], keys[0]
        return torch.cat(queries, -1), torch.cat(keys, -1)

    def __add__(self, other: "ResidualScores") -> "ResidualScores":
        """Both chains summed; a layer that is in both enters the product once, not twice."""
        if self.matrix is not None or other.matrix is not None:
            return ResidualScores(self.query, matrix=self.materialised() + other.materialised())
        queries = {id(key): query for query, key in self.terms}
        keys = {id(key): key for _, key in self.terms}
        for query, key in other.terms:
            same = queries.get(id(key))
            queries[id(key)] = query if same is None else same + query
            keys[id(key)] = key
        terms = tuple((queries[at], keys[at]) for at in keys)
        return ResidualScores(self.query, terms=terms)

    def weighted(self, weight: Float[Tensor, "*batch T 1"]) -> "ResidualScores":
        """Every query's scores times a number of its own."""
        if self.matrix is not None:
            return ResidualScores(self.query, matrix=weight * self.matrix)
        terms = tuple((weight * query, key) for query, key in self.terms)
        return ResidualScores(self.query, terms=terms)


def residual_attention(
    q: Float[Tensor, "*batch T D"],
    k: Float[Tensor, "*batch M D"],
    v: Float[Tensor, "*batch M D_v"],
    *,
    scale: float,
    scores: ResidualScores | None,
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "*batch T D_v"], ResidualScores]:
    """Softmax attention over `scores + scale * q k^T`; returns what it attended to, and that sum.

    Args:
        q: queries, one per token.
        k: keys, one per token attended to.
        v: values, likewise.
        scale: factor of the products; the scores that come in are scaled already.
        scores: of the layers before, or None where the chain starts.
        backend: `materialised` writes the scores to memory, `fused` does not, `auto` takes what is
            expected to be faster for this device, mode, length and chain. A chain that was written
            down once stays so.
    """
    query = q * scale
    is_matrix = scores is not None and scores.matrix is not None
    width = q.shape[-1] + (scores.num_features if scores is not None else 0)
    if not is_matrix and (
        backend == "fused" or (backend == "auto" and _fused_is_faster(q, k, num_features=width))
    ):
        total = ResidualScores(query, terms=((query, k),))
        if scores is not None:
            total = ResidualScores(query, terms=(scores + total).terms)
        return _fused_attention(*total.joined(), v), total
    batch = q.shape[:-2]
    flat_q, flat_k, flat_v = (x.flatten(0, -3) for x in (query, k, v))
    before = None if scores is None else scores.materialised().flatten(0, -3)
    if _blocks_pay(q) and k.shape[-2] >= _CPU_MIN_BLOCKED_TOKENS:
        with torch.autocast("cpu", enabled=False):
            flat_k, flat_v = flat_k.to(q.dtype), flat_v.to(q.dtype)
            attended, matrix = blocked_residual_attention(flat_q, flat_k, flat_v, before)
    else:
        if before is None:
            matrix = torch.bmm(flat_q, flat_k.mT)
        else:  # sum and product are one kernel
            matrix = torch.baddbmm(before, flat_q, flat_k.mT)
        attended = torch.bmm(matrix.softmax(-1), flat_v)
    return attended.unflatten(0, batch), ResidualScores(query, matrix=matrix.unflatten(0, batch))


def use_backend(network: nn.Module, backend: str) -> None:
    """Let every attention of a network that has the choice use this backend.

    Raises:
        ValueError: if there is no such backend.
    """
    if backend not in get_args(Backend):
        raise ValueError(
            f"attention backend {backend} must be one of {', '.join(get_args(Backend))}"
        )
    for part in network.modules():
        if "attention_backend" in vars(part):
            vars(part)["attention_backend"] = backend


def _fused_is_faster(q: Tensor, k: Tensor, *, num_features: int) -> bool:
    if q.device.type != "cpu":
        return num_features <= _GPU_MAX_FEATURES
    mode = "train" if torch.is_grad_enabled() else "infer"
    extra = num_features - q.shape[-1]
    return k.shape[-2] >= _CPU_MIN_TOKENS[mode] and extra <= _CPU_MAX_EXTRA_FEATURES[mode]


def _blocks_pay(q: Tensor) -> bool:
    """Blocks fit a processor's cache; an exported graph would hold those of its example."""
    return q.device.type == "cpu" and q.dtype in _EXACT and not torch.compiler.is_exporting()


def _fused_attention(
    q: Float[Tensor, "*batch T W"], k: Float[Tensor, "*batch M W"], v: Float[Tensor, "*batch M D"]
) -> Float[Tensor, "*batch T D"]:
    """Attention of scaled queries by a kernel that does not write the scores to memory."""
    width, batch = v.shape[-1], q.shape[:-2]
    if _blocks_pay(q) and q.shape[-1] != width:
        with torch.autocast("cpu", enabled=False):
            flat = (x.to(q.dtype).flatten(0, -3) for x in (q, k, v))
            return blocked_attention(*flat).unflatten(0, batch)
    if q.device.type == "cpu":
        common = max(q.shape[-1], width)  # torch's kernel wants one width
        q, k, v = (F.pad(x, (0, common - x.shape[-1])) for x in (q, k, v))
    elif q.device.type == "cuda":  # its kernels want widths that fill whole memory words
        q, k, v = (F.pad(x, (0, -x.shape[-1] % 8)) for x in (q, k, v))
    q, k, v = (x.flatten(0, -4) if x.dim() > 4 else x for x in (q, k, v))
    attended = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    return attended.reshape(*batch, *attended.shape[-2:])[..., :width]
