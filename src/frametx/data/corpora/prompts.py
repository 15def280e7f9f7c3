"""The telephone prompts of the Asterisk packages: G.722 at 16 kHz, one person per package.

libsndfile knows no G.722, so ffmpeg decodes it; nothing else here needs ffmpeg.
"""

import shutil
import subprocess
from pathlib import Path

import numpy as np
from jaxtyping import Float32

SAMPLE_RATE = 16_000
SINGLE_WORDS = frozenset({"digits", "letters", "phonetic"})
NOT_SPEECH = frozenset(
    {
        "ascending-2tone",
        "beep",
        "beeperr",
        "confbridge-join",
        "confbridge-leave",
        "descending-2tone",
    }
    | {"tt-monkeys"}  # screams, not words
)


def have_ffmpeg() -> bool:
    """Whether prompts can be decoded here."""
    return shutil.which("ffmpeg") is not None


def spoken_prompts(folder: Path, *, with_single_words: bool) -> list[Path]:
    """Files of an unpacked package in which somebody speaks, sorted by name."""
    left_out = {"silence"} if with_single_words else {"silence"} | SINGLE_WORDS
    return sorted(
        path
        for path in folder.rglob("*.g722")
        if path.stem not in NOT_SPEECH and path.parent.name not in left_out
    )


def read_prompt(path: Path) -> Float32[np.ndarray, " L"]:
    """Samples of one prompt at 16 kHz."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-f", "g722", "-i", path, "-f", "f32le", "-"]
    decoded = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(decoded.stdout, dtype=np.float32)
