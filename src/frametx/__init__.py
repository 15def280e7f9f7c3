"""frametx: train and use frame transformers, networks that take voices out of music.

A frame transformer treats the frames of a spectrogram as the tokens of a transformer and keeps many
channels of them in parallel. Stems go in, a mixture is made of them on the device, a separator
takes it apart again, and the same separator later takes apart people's songs.

Dimension letters, the same everywhere: B batch, S stems, C audio channels (or feature maps inside a
network), L waveform samples, F frequency bins, T frames.
"""

__version__ = "0.1.0"
