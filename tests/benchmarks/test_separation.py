"""The originals' loop written down plainly, beside our own, with a network of a few weights."""

import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

CHECKOUT = Path(__file__).parents[2]
if not (CHECKOUT / "benchmarks" / "separation.py").is_file():
    pytest.skip(f"no benchmarks in {CHECKOUT}: not a checkout", allow_module_level=True)
if not Path("/proc/self/clear_refs").exists():
    pytest.skip("the script reads memory from Linux' /proc", allow_module_level=True)
sys.path.insert(0, str(CHECKOUT))

from benchmarks import separation as script  # noqa: E402
from benchmarks.measure import built  # noqa: E402
from benchmarks.plain.inference import separate_file  # noqa: E402

# librosa looks for decoders of the standard library, which are on their way out of it
pytestmark = pytest.mark.filterwarnings("ignore:'(aifc|audioop|sunau)' is deprecated")
CASE = {"n_fft": 32, "channels": 2, "num_heads": 2, "num_layers": 1, "dropout": 0.0}
SHAPE = {"crop": 100, "padding": 20, "batch_size": 2}


@pytest.fixture(autouse=True)
def _small_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(script.CASES, "v3", CASE)


@pytest.mark.parametrize("num_samples", [1_584, 4_416])
def test_the_plain_loop_gives_the_numbers_of_faithful_separation(
    tmp_path: Path, num_samples: int
) -> None:
    song = tmp_path / "song.flac"
    script.write_song(song, num_samples / 44_100)
    windows = separate_file(
        built("v3", "plain", None).eval(),
        song,
        tmp_path,
        n_fft=32,
        hop_length=16,
        crop_frames=100,
        padding_frames=20,
        suffix=".wav",
        subtype="FLOAT",
    )
    num_frames = num_samples // 16 + 1  # of whole hops: else ours would have one more
    assert windows == num_frames // 100 + 1  # a whole one too many where the crop divides
    network = built("v3", "ours", None).eval()
    faithful = script.pipeline_of(network, "faithful", n_fft=32, **SHAPE)
    ours = faithful.separate(song)
    for stem in ("vocals", "instrumental"):
        plain, _ = soundfile.read(tmp_path / f"{stem}.wav", dtype="float32")
        assert plain.shape == (num_samples, 2)
        assert np.abs(plain).max() > 0.01
        np.testing.assert_allclose(plain.T, ours[stem], atol=2e-5)


def test_each_loop_shows_the_network_the_windows_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    forward = script.Counted.forward

    def noted(self: script.Counted, magnitude: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(magnitude.shape[1:]))
        return forward(self, magnitude)

    monkeypatch.setattr(script.Counted, "forward", noted)
    threads = torch.get_num_threads()
    windows = {}
    for loop in script.LOOPS:
        shapes.clear()
        row = script.measure(
            "v3", loop, song_seconds=0.22, threads=threads, repeats=2, crop=100, padding=20,
            batch_size=1,
        )  # fmt: skip
        assert shapes[-1] == (2, 16, 140)
        assert row["cpu_seconds"] > 0
        assert row["peak_mb"] >= row["rest_mb"] > 50
        windows[loop] = row["windows"]
    # 607 frames are seven crops; ours takes 139 hops, and 99 more with each chunk
    assert windows == {"plain": 7, "ours": 6, "faithful": 7}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loop", "plain", "--crop", "0"], "--crop (0)"),
        (["--loop", "ours", "--batch-size", "0"], "--batch-size (0)"),
        (["--loop", "ours", "--song-seconds", "0"], "--song-seconds"),
        (["--loop", "ours", "--variant", "v9_patch"], "v9_patch"),
    ],
)
def test_an_option_out_of_range_is_refused(
    options: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["separation.py", *options])
    with pytest.raises(SystemExit):
        script.main()
    assert message in capsys.readouterr().err
