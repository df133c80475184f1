"""What was found, on disk. No torch: records are read where nothing else is installed."""
