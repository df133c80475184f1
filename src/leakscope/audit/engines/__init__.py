"""Where the cells of a plan run: in this process, or in several."""
