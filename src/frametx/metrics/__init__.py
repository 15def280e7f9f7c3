"""What evaluation reports, one idea per file."""
