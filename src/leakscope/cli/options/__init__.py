"""What several commands ask for, as groups of options."""
