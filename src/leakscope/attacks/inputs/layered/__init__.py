"""Inputs peeled layer by layer from the output down."""
