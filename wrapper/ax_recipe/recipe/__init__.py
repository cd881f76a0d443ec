"""The person's file: its text, its schema, what must not be in it, and the frozen value it becomes."""
