"""Ground: the blocks that networks are made of."""
