"""What any adversary could do at most, whatever the attack."""
