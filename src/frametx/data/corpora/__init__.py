"""Real recordings to train on, built from Debian packages: `python -m frametx.data.corpora`.

catalogue   which packages hold music, voices or noises, with their licences and their split
plan        what there is to do, its size, and whether the disk has room
packages    download and unpack a package without installing it
build       one package -> finished files: music copies tracks, speakers and noise join clips;
            files of an earlier split move to where they belong now
voices      pure functions on clips of speech: trim, level, join with gaps
melody      pure functions: keys and notes drawn by chance, and the pitch a singer makes of them
singing     pure functions: speech -> synthetic singing, by the vocoder WORLD
singers     finished files of speech -> files of synthetic singing
prompts     clips in G.722, decoded by ffmpeg
writing     files that exist only when they are complete
credits     whose work it is
demo        the small library that ships in data/demo, rebuilt from the same packages
"""
