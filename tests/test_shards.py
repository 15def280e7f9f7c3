from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from frametx.config import conf_dir
from frametx.data.library import Library
from frametx.data.synthetic import write_synthetic_libraries
from frametx.shards import pack

RATE = 8_000


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    write_synthetic_libraries(tmp_path / "in", seconds=1, num_files=3, sample_rate=RATE, seed=0)
    return tmp_path


def run(folders: Path, *overrides: str) -> Path:
    given = [
        f"data.vocals={folders}/in/vocals",
        f"data.instrumental={folders}/in/instrumental",
        f"output={folders}/out",
        f"paths.cache_dir={folders}/cache",
        "paths.output_dir=none",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return pack(compose("shards", overrides=[*given, *overrides]))


def names(folder: Path, cache: Path) -> list[str]:
    return [file.name for file in Library.open(folder, role="v", cache_dir=cache).files]


def test_two_libraries_become_two_folders_of_shards(folders: Path) -> None:
    pytest.importorskip("litdata", reason="pip install frametx[litdata]")
    output = run(folders)
    for role in ("vocals", "instrumental"):
        packed = names(output / role, folders / "other")
        assert packed == names(folders / "in" / role, folders / "cache")
    with pytest.raises(ValueError, match="holds shards already: overwrite=true replaces them"):
        run(folders)
    (folders / "in" / "vocals" / "voice_000.wav").unlink()
    run(folders, "overwrite=true")
    assert names(output / "vocals", folders / "other") == ["voice_001.wav", "voice_002.wav"]


def test_files_of_several_roots_keep_apart(folders: Path) -> None:
    pytest.importorskip("litdata", reason="pip install frametx[litdata]")
    roots = f"[{folders}/in/vocals,{folders}/in/instrumental]"
    output = run(folders, f"data.vocals={roots}")
    found = names(output / "vocals", folders / "other")
    assert found == [
        *(f"00_vocals/voice_00{n}.wav" for n in range(3)),
        *(f"01_instrumental/music_00{n}.wav" for n in range(3)),
    ]


def test_a_folder_with_anything_else_in_it_is_left_alone(folders: Path) -> None:
    (folders / "out" / "vocals").mkdir(parents=True)
    kept = folders / "out" / "vocals" / "chunk-notes.txt"
    kept.write_text("mine")
    with pytest.raises(ValueError, match=r"holds chunk-notes\.txt, which is no shard"):
        run(folders, "overwrite=true")
    assert kept.read_text() == "mine"


def test_tracks_are_refused(tmp_path: Path) -> None:
    overrides = [f"output={tmp_path}", f"data.root={tmp_path}", "data.test=null"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("shards", overrides=["data=tracks", "paths.output_dir=none", *overrides])
    with pytest.raises(ValueError, match="shards are made of libraries of single stems"):
        pack(cfg)
