"""A loss that does not learn from the worst of a batch, where labels may be wrong."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.losses.precision import full_precision


class TrimmedSquaredError(nn.Module):
    """Mean squared difference of samples over all pieces but those with the largest error.

    Of n pieces of a stem in a batch, the floor(quantile * (n - 1)) + 1 with the smallest errors
    count. A stem that bleeds into another, or is mislabelled, gives a large error that no good
    network can lower; the pieces where that is so are the ones left out. A batch is what the
    network sees at once, so the micro-batch of a step on one device.

    Args:
        quantile: of the errors, in (0, 1); above it they are left out.
        piece_samples: length of a piece; null takes each excerpt as one piece.
        weight: factor of the result.

    Raises:
        ValueError: if `quantile` or `piece_samples` is out of range, or a batch has a single piece,
            of which nothing can be left out.

    Source: specs/peers_features.md section 3 (the `masked` loss of MSST, quantile .95), made for
    the label noise of Fabbro et al., "The Sound Demixing Challenge 2023 - Music Demixing Track".
    MSST divides by the number of all pieces and not of those that count.
    """

    def __init__(self, *, quantile: float, piece_samples: int | None, weight: float) -> None:
        super().__init__()
        if not 0 < quantile < 1:
            raise ValueError(f"loss.quantile={quantile} must be between 0 and 1")
        if piece_samples is not None and piece_samples < 1:
            raise ValueError(f"loss.piece_samples={piece_samples} must be at least 1, or null")
        self.quantile = quantile
        self.piece_samples = piece_samples
        self.weight = weight

    def forward(
        self, estimates: Float[Tensor, "B S C L"], stems: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """The weighted mean over stems and the pieces that count."""
        squares = (full_precision(estimates) - full_precision(stems)).square().mean(dim=2)
        errors = self._by_piece(squares).transpose(0, 1).flatten(1)  # S, pieces of the batch
        num_pieces = errors.shape[1]
        if num_pieces == 1:
            raise ValueError(
                f"loss.piece_samples={self.piece_samples} makes one piece of a batch, and none is "
                "left when the worst goes: take shorter pieces or a larger batch_size"
            )
        num_kept = int(self.quantile * (num_pieces - 1)) + 1
        return self.weight * errors.sort(dim=1).values[:, :num_kept].mean()

    def _by_piece(self, squares: Float[Tensor, "B S L"]) -> Float[Tensor, "B S N"]:
        """Mean of each piece; the last one may be shorter."""
        length = squares.shape[-1]
        piece = length if self.piece_samples is None else min(self.piece_samples, length)
        pieces = F.pad(squares, (0, -length % piece)).unflatten(-1, (-1, piece))
        num_samples = squares.new_full(pieces.shape[-2:-1], piece)
        num_samples[-1] = piece - (-length % piece)
        return pieces.sum(dim=-1) / num_samples
