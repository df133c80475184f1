"""Inputs that a classifier head on a public backbone was trained on, from its released weights."""
