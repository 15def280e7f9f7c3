"""What a training run is: its folder, how it goes on, its stages, its processes."""
