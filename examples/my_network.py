"""A network of your own: a GRU over frames that returns the logits of a mask.

    python -m frametx.train --config-dir examples experiment=my_network

at the root of the repository, where `examples.my_network` can be imported. To begin, copy this
file, examples/model/my_network.yaml and examples/experiment/my_network.yaml, rename all three, and
replace what stands between `squeeze` and `out`.

A network gets magnitudes B C F T, scaled to [0, 1] in every chunk, and returns logits B (S C) F T:
for each stem but the complement one map for each audio channel. The separator makes the STFT,
applies the sigmoid, multiplies the mixture by the mask, and gives the complement what is left.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class MyNetwork(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        features: of a frame inside the network.
        num_layers: of the GRU, which reads the frames in both directions.

    Attributes:
        num_bins: bins that `forward` takes and returns; the separator reads it.

    Raises:
        ValueError: if the features are odd.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, n_fft: int, features: int, num_layers: int
    ) -> None:
        super().__init__()
        if features % 2:
            raise ValueError(f"model.features={features} must be even: half for each direction")
        self.num_bins = n_fft // 2
        self.out_channels = out_channels
        self.squeeze = nn.Linear(in_channels * self.num_bins, features)
        self.norm = nn.LayerNorm(features)
        self.gru = nn.GRU(features, features // 2, num_layers, batch_first=True, bidirectional=True)
        self.out = nn.Linear(features, out_channels * self.num_bins)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask."""
        frames = magnitude.flatten(1, 2).transpose(1, 2)  # B T (C F): a token for each frame
        h = self.norm(torch.relu(self.squeeze(frames**0.5)))  # the root: quiet bins count too
        h, _ = self.gru(h)
        return self.out(h).transpose(1, 2).unflatten(1, (self.out_channels, self.num_bins))
