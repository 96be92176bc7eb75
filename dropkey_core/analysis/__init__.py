"""What trained and untrained attention does, in numbers and pictures."""
