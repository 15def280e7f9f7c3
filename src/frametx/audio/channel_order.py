"""Channel order: WAVE's inside this package, Xiph's in Vorbis and Opus files.

libsndfile hands channels over as the file has them. WAV, FLAC and FFmpeg's decoders agree on WAVE's
order (the bits of WAVEFORMATEXTENSIBLE); Vorbis and Opus have one of their own for 3 and for 5 to 8
channels (Vorbis I specification, section 4.3.9; RFC 7845, section 5.1.1.2).
"""

XIPH = {  # the Xiph channel at each WAVE place
    3: (0, 2, 1),  # L C R -> L R C
    5: (0, 2, 1, 3, 4),  # L C R BL BR -> L R C BL BR
    6: (0, 2, 1, 5, 3, 4),  # L C R BL BR LFE -> L R C LFE BL BR
    7: (0, 2, 1, 6, 5, 3, 4),  # L C R SL SR BC LFE -> L R C LFE BC SL SR
    8: (0, 2, 1, 7, 5, 6, 3, 4),  # L C R SL SR BL BR LFE -> L R C LFE BL BR SL SR
}


def to_wave(subtype: str, num_channels: int) -> tuple[int, ...] | None:
    """The file's channel at each place of WAVE's order; None where the orders agree."""
    return XIPH.get(num_channels) if subtype in ("VORBIS", "OPUS") else None


def from_wave(subtype: str, num_channels: int) -> tuple[int, ...] | None:
    """WAVE's channel at each place of the file's order; None where the orders agree."""
    order = to_wave(subtype, num_channels)
    return None if order is None else tuple(order.index(place) for place in range(num_channels))
