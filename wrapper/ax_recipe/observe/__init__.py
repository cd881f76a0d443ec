"""Watching a run: log lines and plugin lines become events, and events fold into one state."""
