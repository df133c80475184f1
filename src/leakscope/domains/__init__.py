"""What an input is."""
