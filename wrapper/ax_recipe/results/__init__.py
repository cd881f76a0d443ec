"""What came of a run: what was measured of its model, how sure that is, its story, and what to try next."""
