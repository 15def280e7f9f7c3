"""Ground: audio files, spectrograms, chunks; knows no network."""
