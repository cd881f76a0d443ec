"""One stage that is done here and now, in this very process, and noted in its run as the runner would."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from ax_recipe.errors import AxRecipeError
from ax_recipe.launch.training import Outcome
from ax_recipe.run.rundir import RunDir, StageState
from ax_recipe.survive import proof


def by_hand(run: RunDir, name: str, work: Callable[[], Outcome]) -> Outcome:
    """Do one stage of ``run``, note how it went, and prove what it made.

    One that was done before, and of which what it made is still as it was, is not undone by failing now.

    :raises MissingError: a live runner works on this run.
    """
    with run.held():
        state = run.left_state()
        before = state.stage(name)
        again = replace(before, state="running", attempt=before.attempt + 1, detail="", worked=before.seconds)
        record = replace(again, started=time.time(), ended=None)

        def note(how: StageState, detail: str) -> None:
            ended = replace(record, state=how, detail=detail, ended=time.time())
            if how == "done":
                proof.take(run, run.read_json(run.orders), ended)
            elif before.state == "done" and not proof.flaw(run, name):
                ended = before
            run.write_state(state.with_stage(ended))

        run.write_state(state.with_stage(record))
        try:
            outcome = work()
        except AxRecipeError as error:
            note("failed", str(error))
            raise
        except BaseException:
            note("interrupted", "stopped by hand")
            raise
        note("skipped" if outcome.skipped else "done", outcome.detail)
        return outcome
