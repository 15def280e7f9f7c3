"""SepFormer: masks over a basis that is learned, by transformers within and across chunks.

    waveform -> encoder -> frames -> chunks -> dual-path blocks -> overlap-add -> masks
                             |                                                      |
                             '------------------------- * --------------------------'
                                                        '-> decoder -> stems

There is no STFT: the encoder is a convolution over samples, and the decoder its transpose. Nothing
here is of the family; it is what the family is measured against.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.dual_path import (
    DualPathBlock,
    GlobalNorm,
    PathTransformer,
    into_chunks,
    overlap_add,
)


class SepFormer(nn.Module):
    """Waveforms to waveforms of stems, each channel by itself, of any length.

    Its level says nothing to it: a mixture twice as loud gives estimates twice as loud.

    The paper's down-sampling of the encoded signal by 8 is the encoder's `stride`; systems before
    it had strides of 1 or 2. Smaller strides make more frames, and everything dearer by as much.

    Args:
        stems: names of the separator's stems: each but the `complement` has a mask.
        complement: the stem that the separator makes of the others; None is none.
        num_features: filters of the encoder, and features of all that follows.
        kernel_size: of the encoder and the decoder, samples.
        stride: of both, samples.
        chunk_frames: frames of the chunks, which overlap by half.
        num_blocks: dual-path blocks.
        num_intra_layers: of each block's transformer within chunks.
        num_inter_layers: of each block's transformer across chunks.
        num_heads: of every attention.
        hidden_features: of every feed-forward.
        dropout: probability in every transformer.

    Attributes:
        num_stems: S of what `forward` returns.

    Raises:
        ValueError: if the stride leaves samples out, a chunk cannot be halved, the features cannot
            be split into the heads, or no stem has a mask.

    Source: Subakan et al., "Attention is All You Need in Speech Separation", 2021,
        arXiv:2010.13154; where the paper is silent (biases, epsilons, the gate before the masks,
        initial weights), the authors' recipe in SpeechBrain, recipes/WSJ0Mix. Written anew.
    """

    def __init__(
        self,
        *,
        stems: Sequence[str],
        complement: str | None,
        num_features: int,
        kernel_size: int,
        stride: int,
        chunk_frames: int,
        num_blocks: int,
        num_intra_layers: int,
        num_inter_layers: int,
        num_heads: int,
        hidden_features: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if not 1 <= stride <= kernel_size:
            raise ValueError(
                f"stride={stride} must be between 1 and kernel_size={kernel_size}, or samples "
                "between two frames are heard by none"
            )
        if chunk_frames < 2 or chunk_frames % 2:
            raise ValueError(
                f"chunk_frames={chunk_frames} must be even and at least 2: chunks overlap by half"
            )
        if num_features % num_heads:
            raise ValueError(
                f"num_features={num_features} cannot be split into {num_heads} heads: take a "
                "number of heads that divides it"
            )
        self.num_stems = sum(stem != complement for stem in stems)
        if not self.num_stems:
            raise ValueError(
                f"stems={list(stems)} without complement={complement} leave nothing to separate"
            )
        self.kernel_size = kernel_size
        self.stride = stride
        self.chunk_frames = chunk_frames

        def transformer(num_layers: int) -> PathTransformer:
            return PathTransformer(
                num_layers=num_layers,
                num_features=num_features,
                num_heads=num_heads,
                hidden_features=hidden_features,
                dropout=dropout,
            )

        self.encoder = nn.Conv1d(1, num_features, kernel_size, stride=stride, bias=False)
        self.norm = GlobalNorm(num_features=num_features)
        self.bottleneck = nn.Linear(num_features, num_features, bias=False)
        self.blocks = nn.ModuleList(
            DualPathBlock(
                intra=transformer(num_intra_layers),
                inter=transformer(num_inter_layers),
                num_features=num_features,
            )
            for _ in range(num_blocks)
        )
        self.activation = nn.PReLU()
        self.to_stems = nn.Linear(num_features, self.num_stems * num_features)
        self.value = nn.Linear(num_features, num_features)
        self.gate = nn.Linear(num_features, num_features)
        self.to_mask = nn.Linear(num_features, num_features, bias=False)
        self.decoder = nn.ConvTranspose1d(num_features, 1, kernel_size, stride=stride, bias=False)

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The stems that have a mask.

        Raises:
            ValueError: if the mixture is empty.
        """
        num_items, _, num_samples = mixture.shape
        if not num_samples:
            raise ValueError("an empty mixture has no stems: give at least one sample")
        encoded = self.encode(rearrange(mixture, "b c l -> (b c) l"))
        masked = self.masks(encoded) * encoded.unsqueeze(1)
        estimates = self.decode(masked, num_samples=num_samples)
        return rearrange(estimates, "(b c) s l -> b s c l", b=num_items).to(mixture.dtype)

    def encode(self, waveform: Float[Tensor, "B L"]) -> Float[Tensor, "B T F"]:
        """Frames of the learned basis, none below 0; zeros fill the last one up."""
        missing = max(0, self.kernel_size - waveform.shape[1])
        missing += -(waveform.shape[1] + missing - self.kernel_size) % self.stride
        # In full precision, as an STFT would be: samples rounded to 8 bits are audible.
        with torch.autocast(waveform.device.type, enabled=False):
            padded = F.pad(waveform, (0, missing)).to(self.encoder.weight.dtype)
            return self.encoder(padded.unsqueeze(1)).relu().transpose(1, 2)

    def masks(self, encoded: Float[Tensor, "B T F"]) -> Float[Tensor, "B S T F"]:
        """What each stem has of every filter in every frame; not below 0, with no upper bound."""
        chunks = into_chunks(self.bottleneck(self.norm(encoded)), chunk_frames=self.chunk_frames)
        for block in self.blocks:
            chunks = block(chunks)
        of_stems = self.to_stems(self.activation(chunks))
        of_stems = rearrange(of_stems, "b n k (s f) -> (b s) n k f", s=self.num_stems)
        joined = overlap_add(of_stems, num_frames=encoded.shape[1])
        gated = self.value(joined).tanh() * self.gate(joined).sigmoid()
        return rearrange(self.to_mask(gated).relu(), "(b s) t f -> b s t f", s=self.num_stems)

    def decode(
        self, frames: Float[Tensor, "B S T F"], *, num_samples: int
    ) -> Float[Tensor, "B S L"]:
        """Frames as filters that overlap and add up to waveforms."""
        with torch.autocast(frames.device.type, enabled=False):
            given = rearrange(frames, "b s t f -> (b s) f t").to(self.decoder.weight.dtype)
            waveform = self.decoder(given)[:, 0, :num_samples]
        return rearrange(waveform, "(b s) l -> b s l", s=self.num_stems)
