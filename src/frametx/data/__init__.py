"""Libraries of audio, what is drawn from them, and how it is mixed."""
