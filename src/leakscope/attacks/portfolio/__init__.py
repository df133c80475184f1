"""Which attacks for which update, in which order, and what one hands on to the next."""
