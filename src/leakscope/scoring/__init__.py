"""Claim and secret meet here, and nowhere else."""
