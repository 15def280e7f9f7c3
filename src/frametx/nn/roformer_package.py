"""The RoFormers of the `bs-roformer` package, with what this framework needs of them changed.

The package builds the networks and keeps the names of their weights. Three of its parts give way to
ours, which return the same numbers in full precision:

    rotary positions   the package rounds a token's place with the precision around it, so that
                       under bfloat16 neighbours beyond the 256th are the same; its cache is a
                       buffer, which DDP overwrites
    attention          the package chooses kernels by the GPU's name, and an A100 has none left for
                       float32
    value residuals    its band-split network always has them beyond the first layer, and no paper
                       does
"""

import warnings
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.residual_scores import Backend
from frametx.nn.rotary import Rotary

_ATTENTIONS = ("Attention", "LinearAttention")  # names of the package's classes
_MIXES = ("to_value_residual_mix", "learned_value_residual_mix")


class Attend(nn.Module):
    """Softmax attention by whatever kernel PyTorch has, or with all scores in memory.

    Args:
        dropout: probability of the scores, in training.
        scale: of the scores; None is one over the square root of a query's features.

    Attributes:
        attention_backend: `materialised` writes the scores down; all others leave it to PyTorch.
    """

    def __init__(self, *, dropout: float, scale: float | None) -> None:
        super().__init__()
        self.dropout = dropout
        self.scale = scale
        self.attention_backend: Backend = "auto"

    def forward(
        self,
        q: Float[Tensor, "B H N D"],
        k: Float[Tensor, "B H N D"],
        v: Float[Tensor, "B H N D"],
    ) -> Float[Tensor, "B H N D"]:
        """What every query finds among the values."""
        if self.attention_backend == "materialised":
            scale = q.shape[-1] ** -0.5 if self.scale is None else self.scale
            scores = (scale * q @ k.mT).softmax(-1)
            return F.dropout(scores, self.dropout, self.training) @ v
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)


class Rotation(nn.Module):
    """Rotary positions under the name that the package calls.

    Args:
        num_features: of one head.
    """

    def __init__(self, *, num_features: int) -> None:
        super().__init__()
        self.rotary = Rotary(num_features=num_features)

    def rotate_queries_or_keys(self, x: Float[Tensor, "B H N D"]) -> Float[Tensor, "B H N D"]:
        """Queries or keys, turned by their place."""
        return self.rotary(x)


class RoformerBlock(Block):
    """A transformer of the package, along frames or along bands.

    Args:
        transformer: as the package built it.
    """

    def __init__(self, *, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x: Tensor, value_residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """What it makes of a sequence, and the values of its first attention."""
        return self.transformer(x, value_residual=value_residual)


def roformer_package() -> Any:
    """The `bs_roformer` package; only these networks need it, and it loads slowly.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        import bs_roformer
    except ImportError as error:
        raise ValueError(
            "BS-RoFormer and Mel-Band RoFormer need the bs-roformer package: "
            "pip install 'frametx[roformer]'"
        ) from error
    return bs_roformer


def build_roformer(
    name: str, *, n_fft: int, head_features: int, has_value_residual: bool, **arguments: Any
) -> nn.Module:
    """A network of the package, with our parts in it.

    Args:
        name: of the package's class.
        n_fft: of its STFT, samples.
        head_features: of one head.
        has_value_residual: keep the mixing of each layer's values with the first layer's.
        **arguments: others of the class.
    """
    with warnings.catch_warnings():
        # it tries its STFT once without a window, and says so
        warnings.filterwarnings("ignore", "A window was not provided", UserWarning)
        roformer = getattr(roformer_package(), name)(
            dim_head=head_features,
            stft_n_fft=n_fft,
            stft_win_length=n_fft,
            flash_attn=False,
            **arguments,
        )
    for part in list(roformer.modules()):
        if type(part).__name__ in _ATTENTIONS:
            dropout, scale = part.attend.dropout, part.attend.scale
            part.attend = Attend(dropout=dropout, scale=None if scale is None else float(scale))
            if getattr(part, "rotary_embed", None) is not None:
                part.rotary_embed = Rotation(num_features=head_features)
            if not has_value_residual:
                for mix in _MIXES:
                    if getattr(part, mix, None) is not None:
                        setattr(part, mix, None)
    for layer in roformer.layers:
        for place, transformer in enumerate(layer):
            if transformer is not None:
                layer[place] = RoformerBlock(transformer=transformer)
    for estimator in roformer.mask_estimators:
        estimator.register_forward_hook(_in_full_precision)
    return roformer


def separate_any_length(
    roformer: nn.Module, mixture: Float[Tensor, "B C L"], *, n_fft: int, hop_length: int
) -> Float[Tensor, "B S C L"]:
    """Stems as long as the mixture: zeros fill up what the network's own STFT would leave out.

    Raises:
        ValueError: if the mixture is empty.
    """
    num_samples = mixture.shape[-1]
    if not num_samples:
        raise ValueError("an empty mixture has no stems: give at least one sample")
    # its STFT reflects half a window at both ends, and wants more than that
    missing = max(0, n_fft // 2 + 1 - num_samples)
    missing += -(num_samples + missing) % hop_length
    estimates = cast(Tensor, roformer(F.pad(mixture, (0, missing))))
    if estimates.dim() == 3:  # it has no axis of stems where it gives one
        estimates = estimates.unsqueeze(1)
    return estimates[..., :num_samples]


def check_roformer(
    *,
    stems: int,
    num_channels: int,
    n_fft: int,
    hop_length: int,
    head_features: int,
) -> None:
    """Refuse what neither network can be built with.

    Raises:
        ValueError: naming the value and the rule.
    """
    if stems < 1:
        raise ValueError("every stem is the complement of the others: nothing is left to separate")
    if num_channels not in (1, 2):
        raise ValueError(f"num_channels={num_channels} must be 1 or 2: it knows mono and stereo")
    if n_fft % 2 or not 2 <= n_fft <= 8190:
        raise ValueError(f"n_fft={n_fft} must be even and below 8192, where the package stops")
    if not 1 <= hop_length <= n_fft // 2:
        raise ValueError(f"hop_length={hop_length} must be between 1 and n_fft // 2 = {n_fft // 2}")
    if head_features < 2 or head_features % 2:
        raise ValueError(
            f"head_features={head_features} must be even: rotary positions turn pairs of them"
        )


def _in_full_precision(_: nn.Module, __: Any, masks: Tensor) -> Tensor:
    """There are no complex numbers of bfloat16."""
    return masks.float() if masks.dtype in (torch.float16, torch.bfloat16) else masks
