"""Inputs searched for until their gradient matches; the recipes of published attacks."""
