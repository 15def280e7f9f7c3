"""What frametx is measured against."""
