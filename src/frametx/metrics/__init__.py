"""What evaluation reports, one idea per file.

`sdr` ratios of whole tracks, uSDR and SI-SDR; `windowed_sdr` cSDR as papers on MUSDB18 quote it;
`scores` applies all three to a track and to its mixture; `bootstrap` says how far a mean over
tracks can be trusted; `summary` and `report` make the tables. Numbers of two protocols must never
be compared.
"""
