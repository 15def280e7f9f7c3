"""How MUSDB18 is divided: 86 tracks to train on, 14 to validate on, 50 to test with.

Train and test are folders of the data set. Which of the 100 songs in train/ are validated on is a
list that everybody took over, so that results can be compared. It is that of the `musdb` package
(configs/mus.yaml of version 0.4); the names of the others are those of the data set's folders,
compared with tracklist.csv of sigsep.github.io.
"""

import re
from collections.abc import Iterable

VALIDATION_TRACKS = (
    "Actions - One Minute Smile",
    "Alexander Ross - Goodbye Bolero",
    "ANiMAL - Rockshow",
    "Clara Berry And Wooldog - Waltz For My Victims",
    "Fergessen - Nos Palpitants",
    "James May - On The Line",
    "Johnny Lokke - Promises & Lies",
    "Leaf - Summerghost",
    "Meaxic - Take A Step",
    "Patrick Talbot - A Reason To Leave",
    "Skelpolu - Human Mistakes",
    "Traffic Experiment - Sirens",
    "Triviul - Angelsaint",
    "Young Griffo - Pennies",
)
TRAINING_TRACKS = (
    "A Classic Education - NightOwl",
    "Actions - Devil's Words",
    "Actions - South Of The Water",
    "Aimee Norwich - Child",
    "Alexander Ross - Velvet Curtain",
    "Angela Thomas Wade - Milk Cow Blues",
    "ANiMAL - Clinic A",
    "ANiMAL - Easy Tiger",
    "Atlantis Bound - It Was My Fault For Waiting",
    "Auctioneer - Our Future Faces",
    "AvaLuna - Waterduct",
    "BigTroubles - Phantom",
    "Bill Chudziak - Children Of No-one",
    "Black Bloc - If You Want Success",
    "Celestial Shore - Die For Us",
    "Chris Durban - Celebrate",
    "Clara Berry And Wooldog - Air Traffic",
    "Clara Berry And Wooldog - Stella",
    "Cnoc An Tursa - Bannockburn",
    "Creepoid - OldTree",
    "Dark Ride - Burning Bridges",
    "Dreamers Of The Ghetto - Heavy Love",
    "Drumtracks - Ghost Bitch",
    "Faces On Film - Waiting For Ga",
    "Fergessen - Back From The Start",
    "Fergessen - The Wind",
    "Flags - 54",
    "Giselle - Moss",
    "Grants - PunchDrunk",
    "Helado Negro - Mitad Del Mundo",
    "Hezekiah Jones - Borrowed Heart",
    "Hollow Ground - Left Blind",
    "Hop Along - Sister Cities",
    "Invisible Familiars - Disturbing Wildlife",
    "James May - All Souls Moon",
    "James May - Dont Let Go",
    "James May - If You Say",
    "Jay Menon - Through My Eyes",
    "Johnny Lokke - Whisper To A Scream",
    "Jokers, Jacks & Kings - Sea Of Leaves",
    "Leaf - Come Around",
    "Leaf - Wicked",
    "Lushlife - Toynbee Suite",
    "Matthew Entwistle - Dont You Ever",
    "Meaxic - You Listen",
    "Music Delta - 80s Rock",
    "Music Delta - Beatles",
    "Music Delta - Britpop",
    "Music Delta - Country1",
    "Music Delta - Country2",
    "Music Delta - Disco",
    "Music Delta - Gospel",
    "Music Delta - Grunge",
    "Music Delta - Hendrix",
    "Music Delta - Punk",
    "Music Delta - Reggae",
    "Music Delta - Rock",
    "Music Delta - Rockabilly",
    "Night Panther - Fire",
    "North To Alaska - All The Same",
    "Patrick Talbot - Set Me Free",
    "Phre The Eon - Everybody's Falling Apart",
    "Port St Willow - Stay Even",
    "Remember December - C U Next Time",
    "Secret Mountains - High Horse",
    "Skelpolu - Together Alone",
    "Snowmine - Curfews",
    "Spike Mullings - Mike's Sulking",
    "St Vitus - Word Gets Around",
    "Steven Clark - Bounty",
    "Strand Of Oaks - Spacestation",
    "Sweet Lights - You Let Me Down",
    "Swinging Steaks - Lost My Way",
    "The Districts - Vermont",
    "The Long Wait - Back Home To Blue",
    "The Scarlet Brand - Les Fleurs Du Mal",
    "The So So Glos - Emergency",
    "The Wrong'Uns - Rothko",
    "Tim Taler - Stalker",
    "Titanium - Haunted Age",
    "Traffic Experiment - Once More (With Feeling)",
    "Triviul - Dorothy",
    "Voelund - Comfort Lives In Belief",
    "Wall Of Death - Femme",
    "Young Griffo - Blood To Bone",
    "Young Griffo - Facade",
)
NUM_TEST_TRACKS = 50


def as_key(name: str) -> str:
    """A track's name without case, spaces and punctuation, in which editions of the set differ.

    "Jokers, Jacks & Kings - Sea Of Leaves" and "Jokers Jacks & Kings - Sea Of Leaves" are one song,
    and so are MedleyDB's "AvaLuna_Waterduct" and "AvaLuna - Waterduct".
    """
    return re.sub(r"[\W_]+", "", name.casefold())


VALIDATION_KEYS = frozenset(map(as_key, VALIDATION_TRACKS))
TRAINING_KEYS = frozenset(map(as_key, TRAINING_TRACKS))


def is_validation_track(name: str) -> bool:
    """Whether the song is one of the 14 that are validated on."""
    return as_key(name) in VALIDATION_KEYS


def is_in_training_part(name: str) -> bool:
    """Whether the song is one of the 100 in train/, those that are validated on among them."""
    return as_key(name) in VALIDATION_KEYS | TRAINING_KEYS


def count(part: str, names: Iterable[str]) -> list[str]:
    """How many of a part's official tracks are there, as a line; no line if all are.

    Args:
        part: train, valid or test.
        names: of the tracks that are there.
    """
    there = set(map(as_key, names))
    role, num_there, num_all = {
        "train": ("training", len(there & TRAINING_KEYS), len(TRAINING_KEYS)),
        "valid": ("validation", len(there & VALIDATION_KEYS), len(VALIDATION_KEYS)),
        "test": ("test", len(there), NUM_TEST_TRACKS),
    }[part]
    if num_there >= num_all:
        return []
    return [f"MUSDB18: {num_there} of the {num_all} {role} tracks are there"]
