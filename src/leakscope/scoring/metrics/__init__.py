"""One number per private item, with unit and direction."""
