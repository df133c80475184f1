"""What more than one attack reads off an update."""
