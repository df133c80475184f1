"""What a client does with its batch: protocols that compute an update, defenses that change it. All of it is public."""
