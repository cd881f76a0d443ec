"""A run on disk: its folder, its stages, its seal, the processes that are its own; and all runs at a glance."""
