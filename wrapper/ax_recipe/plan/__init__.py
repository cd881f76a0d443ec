"""Every decision of a run, each with where it came from, and the Axolotl YAML that says them."""
