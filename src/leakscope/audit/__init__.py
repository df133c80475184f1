"""A plan becomes records: resumable, shardable, and never without its controls."""
