"""How a run goes on: what counts as proven, which checkpoint it stands on, and what may be made smaller."""
