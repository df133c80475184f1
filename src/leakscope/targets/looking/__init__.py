"""What running a model shows of its layers."""
