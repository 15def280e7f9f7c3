"""What training minimises, one idea per file."""
