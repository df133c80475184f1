"""Many released heads trained at once, in closed form."""
