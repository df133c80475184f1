"""leakscope measures what distributed training leaks."""
