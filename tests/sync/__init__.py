"""The sync process against a real broker, with a scripted runtime and a scripted coordinator at its ends."""
