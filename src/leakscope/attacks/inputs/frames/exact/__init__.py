"""One utterance solved for through the window of the first layer."""
