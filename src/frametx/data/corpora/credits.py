"""CREDITS.md: whose work lies in a folder of corpora, and under which licence."""

from pathlib import Path

from frametx.data.corpora.build import built_files, built_version
from frametx.data.corpora.catalogue import CATALOGUE, Music, Noise, speakers_of
from frametx.data.corpora.singers import singing_files

INTRODUCTION = """\
# Credits

Built by `python -m frametx.data.corpora` from packages of Debian 12. The packages' own copyright
statements are in LICENSES/, word for word.

| files | work of | Debian package | version | licence |
|---|---|---|---|---|
"""
NOTES = """
## What was changed

Music was copied as it is, save that the stems of each song of fretsonfire-songs-sectoid were
summed and scaled to a peak of 0.855 of full scale. Only tracks in which a pretrained separator
found next to no voice were taken: a screen, not proof.

Voices were folded to mono, freed of everything below 50 Hz, trimmed of silence at both ends, set
to -20 dBFS (RMS over the 20 ms frames within 30 dB of the loudest), shuffled, joined with silences
of 0.1 to 0.6 s, and cut into files of ten minutes. Clips shorter than a quarter of a second, and
clips with more than 0.1 % of their samples at full scale, were left out.

Noises were cut to their first minute, folded to mono, resampled to 44.1 kHz, trimmed of silence at
both ends, set to the same level, faded over 10 ms, shuffled, joined with silences of up to 0.3 s,
and cut into files of ten minutes. Those with more than 0.1 % of their samples at full scale were
left out. Some were recorded at 22 or 24 kHz and have nothing above 11 or 12 kHz.

Singing is synthetic: the vocoder WORLD (pyworld) took phrases of the speech apart into pitch,
spectral envelope and aperiodicity, voiced syllables were stretched to notes of melodies drawn by
chance, with glides and vibrato, and WORLD put it together again, at the level of the voices.
Timbre, consonants and breath are the speaker's; pitch and rhythm are nobody's.

## Before training

- The voices speak, and what is called singing is synthetic. Voice and music are paired by chance,
  with no musical relation.
- The festvox, fillets and asterisk voices are sampled at 16 or 22 kHz. Alone at 44.1 kHz they
  teach that voices have no treble: give the tuxpaint ones (44.1 kHz) weight, or limit the band of
  the loss.
- Composers, speakers and noises' packages of validation/ and development/ are found in no other
  split; the song and the speaker that data/demo validates on are left out of train/ too. Choose by
  development/, and report validation/.
- Licences differ from file to file. Mix while training; do not publish mixtures of GPL voices with
  Creative Commons music.
"""


def write_credits(output: Path) -> Path:
    """Write CREDITS.md for every package that has been built into `output`."""
    rows = []
    for entry in CATALOGUE:
        version = built_version(entry.package, output)
        if version is None:
            continue
        if isinstance(entry, Music):
            files = f"{entry.split}/instrumental/{entry.package}/"
        elif isinstance(entry, Noise):
            files = f"{entry.split}/noise/{entry.package}_*.flac"
        else:
            written = {path.name for path in built_files(entry.package, output)}
            files = ", ".join(
                f"{speaker.split}/vocals/{speaker.name}_*.flac"
                for speaker in entry.speakers
                if f"{speaker.name}_01.flac" in written
            )
        work = f"{entry.author} | {entry.package} | {version} | {entry.licence} |\n"
        rows.append(f"| {files} | {work}")
        sung = ", ".join(
            f"{speaker.split}/singing/synthetic_singing_{speaker.name}_*.flac"
            for speaker in speakers_of([entry])
            if singing_files(speaker, output)
        )
        if sung:
            rows.append(f"| {sung} (synthetic: made of the speech above) | {work}")
    path = output / "CREDITS.md"
    path.write_text(INTRODUCTION + "".join(rows) + NOTES, encoding="utf-8")
    return path
