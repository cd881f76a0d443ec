"""Why a run ended: its log searched for the first failure, the cause named from a table, and what to do about it."""

from ax_recipe.diagnose.cause import Diagnosis, Evidence, Fix
from ax_recipe.diagnose.diagnosis import diagnose, of_run

__all__ = ["Diagnosis", "Evidence", "Fix", "diagnose", "of_run"]
