"""What the adversary believes of an input before it sees the update. Priors add and scale: `0.1 * TotalVariation()`."""
