"""Which Debian 12 packages hold music, voices or noises worth training on, and who is held out.

There are three splits: `train`; `development`, to choose networks, steps and settings by; and
`validation`, for the figures that are reported. Composers and speakers never cross from one to
another: the composer of singularity-music (validation) and those of colobot-common-sounds
(development) are found in no other package here, and neither are the two people who speak in each
of these splits. The song and the speaker that data/demo validates on are held out of training too.
Noises of one package are on one side alone (development has none of its own), and no recording was
found on both: spectrograms of one here and one there correlate by 0.46 at most, and that by a
stretch of silence.

Left out on purpose: 0ad-data (wordless choirs), warzone2100-music (low bit rate, sung menus),
fretsonfire-songs-muldjord (growls), tuxpaint's `_es` voice (clipped), its `_lt`, `_nl` and `_ml` (a
minute each), and the supporting roles of fillets-ng (music and noises behind the voice).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, kw_only=True)
class Music:
    """A package of instrumental tracks; which of them are clean stands in clean_tracks.txt."""

    package: str
    split: str
    licence: str
    author: str
    disk_mb: int  # unpacked and built together

    @property
    def tracks(self) -> tuple[str, ...]:
        """Names of the tracks without voices."""
        return _listed("clean_tracks.txt")[self.package]


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """One person: the files of a package that match a pattern."""

    name: str
    split: str
    pattern: str
    sample_rate: int


@dataclass(frozen=True, kw_only=True)
class Voices:
    """A package of short clips, each spoken by one of its speakers."""

    package: str
    speakers: tuple[Speaker, ...]
    licence: str
    author: str
    disk_mb: int  # unpacked and built together

    @property
    def needs_ffmpeg(self) -> bool:
        """Whether libsndfile cannot read the clips."""
        return any(speaker.pattern.endswith(".g722") for speaker in self.speakers)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A package with recordings of neither speech nor music; which of them stands in noises.txt."""

    package: str
    split: str
    licence: str
    author: str
    disk_mb: int  # unpacked and built together

    @property
    def clips(self) -> tuple[str, ...]:
        """Patterns that match the recordings."""
        return _listed("noises.txt")[self.package]


def _stamps(language: str, split: str = "train") -> Speaker:
    name = f"tuxpaint_{language}"
    pattern = f"*_desc_{language}.ogg"
    return Speaker(name=name, split=split, pattern=pattern, sample_rate=44_100)


def _fish(language: str) -> tuple[Speaker, ...]:
    # The two leads: the small fish (m) is a woman, the big one (v) a man.
    return tuple(
        Speaker(
            name=f"fillets_{language}_{role}",
            split="train",
            pattern=f"*-{role}-*.ogg",
            sample_rate=22_050,
        )
        for role in ("m", "v")
    )


def _prompts(language: str, author: str, licence: str) -> Voices:
    speaker = Speaker(
        name=f"asterisk_{language}", split="train", pattern="*.g722", sample_rate=16_000
    )
    package = f"asterisk-core-sounds-{language}-g722"
    return Voices(package=package, speakers=(speaker,), licence=licence, author=author, disk_mb=55)


MUSIC = (
    Music(
        package="wesnoth-1.16-music",
        split="train",
        licence="GPL-2+",
        author="composers of The Battle for Wesnoth",
        disk_mb=280,
    ),
    Music(
        package="ufoai-music",
        split="train",
        licence="GPL-2+, CC-BY-SA-3.0, CC-BY-3.0, public domain, by track",
        author="composers of UFO: Alien Invasion",
        disk_mb=370,
    ),
    Music(
        package="supertux-data",
        split="train",
        licence="GPL-2+",
        author="composers of SuperTux",
        disk_mb=340,
    ),
    Music(
        package="nexuiz-music",
        split="train",
        licence="GPL-2+",
        author="composers of Nexuiz",
        disk_mb=160,
    ),
    Music(
        package="colobot-common-sounds",
        split="development",
        licence="GPL-3+",
        author="Epsitec SA and TerranovaTeam",
        disk_mb=120,
    ),
    Music(
        package="fretsonfire-songs-sectoid",
        split="train",
        licence="MIT-style",
        author="Carlos Viola Iborra (Sectoid)",
        disk_mb=100,
    ),
    Music(
        package="singularity-music",
        split="validation",
        licence="CC-BY-SA-3.0",
        author="Max McCracken",
        disk_mb=110,
    ),
)
VOICES = (
    Voices(
        package="tuxpaint-stamps-default",
        speakers=(
            *(_stamps(language) for language in ("ro", "ru", "bg", "ca")),
            *(_stamps(language, "development") for language in ("da", "el")),
            *(_stamps(language, "validation") for language in ("be", "fr")),
        ),
        licence="GPL-2",
        author="Bill Kendrick and the voices of Tux Paint",
        disk_mb=620,
    ),
    Voices(
        package="festvox-ru",
        speakers=(Speaker(name="festvox_ru", split="train", pattern="*.wav", sample_rate=16_000),),
        licence="BSD-like",
        author="Nickolay V. Shmyrev",
        disk_mb=360,
    ),
    Voices(
        package="fillets-ng-data-cs",
        speakers=_fish("cs"),
        licence="GPL-2",
        author="ALTAR interactive and the actors of Fish Fillets",
        disk_mb=180,
    ),
    Voices(
        package="fillets-ng-data-nl",
        speakers=_fish("nl"),
        licence="GPL-2",
        author="ALTAR interactive and the actors of Fish Fillets",
        disk_mb=110,
    ),
    _prompts("en", "Allison Smith", "CC-BY-SA-3.0"),
    _prompts("es", "Allison Smith", "CC-BY-SA-3.0"),
    _prompts("fr", "June Wallack", "CC-BY-SA-3.0"),
    _prompts("it", "Carlo Flora", "CC-BY-3.0"),
)
NOISE = (
    Noise(
        package="megaglest-data",
        split="train",
        licence="CC-BY-SA-3.0",
        author="the Glest and MegaGlest teams, Elimnator, dobroide",
        disk_mb=470,
    ),
    Noise(
        package="ufoai-sound",
        split="train",
        licence="CC-BY-SA-3.0, CC-BY-3.0, GPL-2, GPL-2+, by file",
        author="Marine Baklund, Gren, Christian Hoffmann, Slippycurb and the UFO:AI Team",
        disk_mb=50,
    ),
    Noise(
        package="minetest-data",
        split="train",
        licence="CC0 (water, lava, furnace), CC-BY-3.0 (fire, steps in water)",
        author="Yuval, Halion, iankath, dobroide, Dynamicell, AGFX (all of freesound.org)",
        disk_mb=30,
    ),
    Noise(
        package="bucklespring-data",
        split="train",
        licence="GPL-2+",
        author="Ico Doornekamp",
        disk_mb=15,
    ),
    Noise(
        package="flare-game",
        split="validation",
        licence="CC-BY-SA-3.0+",
        author="Clint Bellanger and the contributors of Flare",
        disk_mb=150,
    ),
    Noise(
        package="unknown-horizons",
        split="validation",
        licence="CC-BY-SA-3.0",
        author="the Unknown Horizons team, hazure",
        disk_mb=390,
    ),
)
Entry = Music | Voices | Noise
CATALOGUE: tuple[Entry, ...] = (*MUSIC, *VOICES, *NOISE)
SPLITS = ("train", "development", "validation")


def speakers_of(entries: Iterable[Entry]) -> tuple[Speaker, ...]:
    """Who speaks in these packages: those held out first, as they are few."""
    speakers = [
        speaker for entry in entries if isinstance(entry, Voices) for speaker in entry.speakers
    ]
    return tuple(sorted(speakers, key=lambda speaker: speaker.split == "train"))


@cache
def _listed(list_name: str) -> dict[str, tuple[str, ...]]:
    """Package -> names, from a list beside this file."""
    text = (files("frametx.data.corpora") / list_name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    names: dict[str, list[str]] = {}
    package = ""
    for line in lines:
        if line.startswith("["):
            package = line.strip("[]")
        else:
            names.setdefault(package, []).append(line)
    return {package: tuple(listed) for package, listed in names.items()}
