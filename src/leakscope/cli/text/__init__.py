"""What can be judged from text alone: a misspelled name is answered before anything heavy is imported."""
