import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.audio.io import read_audio
from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.library import Library
from frametx.data.speakers import DrawnSpeakers, SpeakerCrops, SpeakerMix
from frametx.data.synthetic import write_synthetic_libraries, write_synthetic_tracks
from frametx.data.tracks import Tracks
from frametx.data.trained_on import (
    KEY_BYTES,
    TrainedOn,
    content_key_of,
    key_of_file,
    song_key,
)

RATE = 8_000
STEMS = ("vocals", "instrumental")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    write_synthetic_libraries(folder, seconds=2.03, num_files=3, sample_rate=RATE, seed=0)
    return folder


def opened(folder: Path) -> Library:
    return Library.open(folder, role=folder.name, cache_dir=folder.parent / "cache")


def test_samples_at_hand_have_the_key_that_the_index_knows(root: Path) -> None:
    for folder in ("vocals", "instrumental"):
        library = opened(root / folder)
        keys = [key_of_file(file) for file in library.files]
        read = [content_key_of(read_audio(file.path), RATE) for file in library.files]
        assert keys == read
        assert None not in keys
        assert len(set(keys)) == 3


def test_a_file_is_known_in_another_folder_under_another_name_and_form(
    root: Path, tmp_path: Path
) -> None:
    library = opened(root / "vocals")
    samples, _ = soundfile.read(library.files[0].path, dtype="int16")
    (tmp_path / "other").mkdir()
    soundfile.write(tmp_path / "other" / "a.flac", samples, RATE)
    soundfile.write(tmp_path / "other" / "b.wav", samples / 32_768, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "other" / "shorter.wav", samples[:-1], RATE)
    soundfile.write(tmp_path / "other" / "louder.wav", samples * 1.5 / 32_768, RATE)
    copies = opened(tmp_path / "other").files
    known = {
        file.path.stem for file in copies if key_of_file(file) == key_of_file(library.files[0])
    }
    assert known == {"a", "b"}


def test_silence_is_no_content(tmp_path: Path) -> None:
    write_synthetic_tracks(tmp_path, seconds=0.5, num_tracks=1, sample_rate=RATE, seed=0)
    soundfile.write(tmp_path / "track_000" / "vocals.wav", np.zeros((4000, 2)), RATE)
    track = Tracks(tmp_path, stems=STEMS)[0]
    assert len(track.files) == 1


def test_what_is_stored_comes_back_and_is_small(root: Path) -> None:
    heard = TrainedOn.of_libraries([opened(root / "vocals")])
    assert TrainedOn.from_stored(json.loads(json.dumps(heard.stored()))) == heard
    assert TrainedOn.from_stored(None) == TrainedOn(is_all=False)
    many = TrainedOn(files=frozenset(n.to_bytes(KEY_BYTES) for n in range(20_000)))
    assert len(str(many.stored()["files"])) < 140_000
    assert TrainedOn.from_stored(many.stored()) == many


def test_two_checkpoints_have_heard_what_either_has(root: Path) -> None:
    voices, music = (TrainedOn.of_libraries([opened(root / name)]) for name in STEMS)
    both = voices | music
    assert both == TrainedOn.of_libraries([opened(root / name) for name in STEMS])
    assert len(both.files) == 6
    assert voices | TrainedOn() == voices


def test_a_track_is_known_by_one_of_its_files(root: Path, tmp_path: Path) -> None:
    """Trained on a library of voices; tested on a song with one of them."""
    write_synthetic_tracks(tmp_path, seconds=2.03, num_tracks=2, sample_rate=RATE, seed=9)
    voice, _ = soundfile.read(root / "vocals" / "voice_001.wav")
    soundfile.write(tmp_path / "track_001" / "vocals.wav", np.stack([voice, voice], 1), RATE)
    heard = TrainedOn.of_libraries([opened(root / "vocals")])
    untouched, known = (track for track in Tracks(tmp_path, stems=STEMS))
    assert heard.reason_against(untouched.name, untouched.files) is None
    assert heard.reason_against("any name", known.files) == "content"


def test_mixtures_of_held_out_files_are_untouched_and_of_others_are_not(root: Path) -> None:
    libraries = {name: opened(root / name).split(0.4) for name in STEMS}
    heard = TrainedOn.of_libraries(kept for kept, _ in libraries.values())
    settings = {"count": 4, "seconds": 0.5, "seed": 0, "sample_rate": RATE, "num_channels": 1}
    for which, reason in ((1, None), (0, "content")):
        drawn = DrawnMixtures(
            libraries={name: parts[which] for name, parts in libraries.items()}, **settings
        )
        for index in range(4):
            track = drawn[index]
            assert len(track.files) == 2
            assert heard.reason_against(track.name, track.files) == reason


@pytest.mark.parametrize(
    ("trained", "tested", "reason"),
    [
        ("Al James - Schoolboy Facination", "test/AlJames_SchoolboyFacination", "name"),
        ("Al James - Schoolboy Facination", "Al James - Another Song", None),
        ("track_001", "track_001", None),
        ("12 - 34", "12 - 34", None),
        ("Actions - Devil's Words", "train/ANiMAL - Rockshow", "MUSDB18"),  # validated on
        ("Actions - Devil's Words", "Zeno - Signs", None),
        ("songs of my own", "Actions - Devil's Words", None),
    ],
)
def test_a_song_is_known_by_a_name_that_says_enough(
    trained: str, tested: str, reason: str | None
) -> None:
    heard = TrainedOn.of_names([f"some/folder/{trained}"])
    assert heard.reason_against(tested, frozenset()) == reason


def test_what_does_not_say_all_it_heard_may_have_heard_musdb18s_training_part(root: Path) -> None:
    """Weights by others, what goes on from them, and an ensemble with them."""
    own = TrainedOn.of_libraries([opened(root / "vocals")])
    unknown = TrainedOn(is_all=False)
    on_top = TrainedOn.from_stored((unknown | own).stored())
    for heard in (unknown, unknown | own, own | unknown, on_top):
        assert heard.reason_against("Actions - Devil's Words", frozenset()) == "MUSDB18"
        assert heard.reason_against("Zeno - Signs", frozenset()) is None
    assert own.reason_against("Actions - Devil's Words", frozenset()) is None


def test_files_named_by_their_part_are_called_as_their_folder(tmp_path: Path) -> None:
    write_synthetic_libraries(tmp_path, seconds=0.2, num_files=1, sample_rate=RATE, seed=0)
    (tmp_path / "songs" / "My Own Song").mkdir(parents=True)
    shutil.copy(
        tmp_path / "vocals" / "voice_000.wav", tmp_path / "songs" / "My Own Song/vocals.wav"
    )
    shutil.copy(tmp_path / "vocals" / "voice_000.wav", tmp_path / "songs" / "Another One.wav")
    heard = TrainedOn.of_libraries([opened(tmp_path / "songs")])
    assert heard.songs == {song_key("My Own Song"), song_key("Another One")}
    assert song_key("instrumental") not in heard.songs


def test_mixtures_of_speakers_are_known_by_the_files_that_speak(root: Path) -> None:
    library = opened(root / "vocals")
    crops = SpeakerCrops(
        library=library,
        num_speakers=2,
        seed=0,
        stream="evaluation/speaker",
        sample_rate=RATE,
        num_channels=1,
        decode_cache_dir=None,
    )
    mix = SpeakerMix(
        seed=0,
        level_db=-25.0,
        spread_db=(0.0, 5.0),
        silence_probability=0.0,
        max_peak=None,
        transforms=[],
    )
    drawn = DrawnSpeakers(crops, mix, count=3, seconds=0.5)
    for index in range(3):
        track = drawn[index]
        speaking = [file for file in library.files if file.name in track.name]
        assert len(speaking) == 2
        assert track.files == {key_of_file(file) for file in speaking}
        assert TrainedOn.of_files(speaking[:1]).reason_against(track.name, track.files) == "content"
