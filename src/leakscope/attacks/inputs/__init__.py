"""Attacks that claim the private inputs."""
