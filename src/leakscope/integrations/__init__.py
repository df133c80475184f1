"""Adapters to other people's systems, each an optional extra: what runs there becomes an `Observation` here."""
