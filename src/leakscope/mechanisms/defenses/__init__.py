"""What a client does to its inputs, its model or its update against leakage."""
