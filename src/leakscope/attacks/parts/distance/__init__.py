"""How far a candidate's gradient is from the one that was seen."""
