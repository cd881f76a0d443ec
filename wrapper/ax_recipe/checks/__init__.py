"""What neither the schema nor Axolotl sees in a config, each found by a small function with a code of its own."""
