"""The audited model."""
