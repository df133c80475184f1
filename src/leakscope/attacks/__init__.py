"""From an observation to a claim. First level: what is claimed; second: how."""
