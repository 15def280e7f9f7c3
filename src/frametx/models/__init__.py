"""Whole networks, one file each: magnitude B C F T in, logits B (S C) F T out."""
