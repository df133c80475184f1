"""Federations that are played whole: rounds of many clients, what is kept of them, and what it costs in privacy."""
