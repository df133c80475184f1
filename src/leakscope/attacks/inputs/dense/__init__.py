"""Inputs of dense layers, read or solved for from one layer's gradient."""
