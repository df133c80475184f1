"""What can be judged from text alone, before anything heavy is imported."""
