"""Change the sample rate: of a tensor where it lies, or of a stream of blocks."""

import soxr
import torch
from jaxtyping import Float
from torch import Tensor


def resampled_length(num_samples: int, orig: int, new: int) -> int:
    """ceil(num_samples * new / orig): the length that both ways of resampling here return."""
    return -(-num_samples * new // orig)


def resample(waveform: Float[Tensor, "*any L"], orig: int, new: int) -> Float[Tensor, "*any L_new"]:
    """Resample on the tensor's own device, differentiably.

    Its filter grows with the reduced rates: 44100 -> 16000 is small, 44101 -> 16000 is not.

    Args:
        waveform: samples in the last dimension.
        orig: Hz.
        new: Hz.
    """
    if orig == new:
        return waveform
    # Slow to load, and streams, all that separating a song needs, are resampled without it.
    import torchaudio.functional as AF

    return AF.resample(waveform, orig, new)


class StreamResampler:
    """Resamples blocks as they come; the result does not depend on how the stream is cut.

    Its delay is compensated: sample n of the input lies at n * new / orig of the output, and the
    whole output has `resampled_length` samples.

    Args:
        orig: Hz of what is pushed.
        new: Hz of what comes out.
        num_channels: C.
    """

    def __init__(self, *, orig: int, new: int, num_channels: int) -> None:
        self.orig = orig
        self.new = new
        self.num_channels = num_channels
        self._num_pushed = 0
        self._num_given = 0
        self._stream = soxr.ResampleStream(orig, new, num_channels, quality="VHQ")

    def push(self, block: Float[Tensor, "C L"]) -> Float[Tensor, "C L_new"]:
        """As many samples as are settled by now, perhaps none."""
        self._num_pushed += block.shape[1]
        return self._run(block, last=False)

    def finish(self) -> Float[Tensor, "C L_new"]:
        """The samples still owed after the last block."""
        # soxr rounds the length to the nearest; a little silence makes sure that ceil is reached.
        silence = torch.zeros(self.num_channels, -(-self.orig // self.new) + 1)
        owed = resampled_length(self._num_pushed, self.orig, self.new) - self._num_given
        rest = self._run(silence, last=True)
        assert rest.shape[1] >= owed
        return rest[:, :owed]

    def _run(self, block: Float[Tensor, "C L"], *, last: bool) -> Float[Tensor, "C L_new"]:
        settled = self._stream.resample_chunk(block.T.contiguous().numpy(), last=last)
        self._num_given += len(settled)
        return torch.from_numpy(settled).T
