"""The table of causes, a room for each part of a run."""
