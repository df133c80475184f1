"""Plans of federations: persons are attacked by all that they send, and each row stands beside its controls."""
