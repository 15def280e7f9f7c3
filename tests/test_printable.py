import os

import pytest

from frametx.printable import printable


@pytest.mark.parametrize(
    "name",
    [
        "a.wav",
        "Größe - «été».flac",
        "夜に駆ける.mp3",
        "אבג.wav",
        "👩\u200d🎤 live.ogg",
        "a b [c] %s\\n",
    ],
)
def test_names_of_any_script_stay_as_they_are(name):
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("a\r\tb", r"a\r\tb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x9b31m", r"\x9b31m"),  # a terminal command of one character
        ("song\u202egnp.wav", r"song\u202egnp.wav"),
        ("a\u2066b\u2069", r"a\u2066b\u2069"),
        ("a\u2028b", r"a\u2028b"),
        ("\ufeffa", r"\ufeffa"),
        ("\U000e0041", r"\U000e0041"),  # an invisible tag
        (os.fsdecode(b"caf\xe9.wav"), r"caf\xe9.wav"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_obey_or_not_encode_is_escaped(name, shown):
    assert printable(name) == shown


def test_whatever_it_is_given_it_is_one_line_of_utf8():
    every = printable("".join(map(chr, range(0x110000))))
    assert len(every.splitlines()) == 1
    assert every.encode("utf-8").decode("utf-8") == every


def test_paths_and_errors_are_taken_as_well(tmp_path):
    assert printable(tmp_path / "a\n") == f"{tmp_path}/a\\n"
    assert printable(ValueError("no\n")) == r"no\n"
