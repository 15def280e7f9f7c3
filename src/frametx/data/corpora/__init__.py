"""Real recordings to train on, built from Debian packages: `python -m frametx.data.corpora`.

catalogue   which packages hold music and which hold voices, with their licences and their split
packages    download and unpack a package without installing it
voices      pure functions on clips of speech: trim, level, join with gaps
builders    one package -> finished audio files, skipped where they are finished already
demo        the small library that ships in data/demo, rebuilt from the same packages
"""
