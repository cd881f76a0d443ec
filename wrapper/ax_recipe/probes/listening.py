"""What Axolotl's modules warn of while they judge a config; for the probes beside it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def listening(records: list[str]) -> Iterator[None]:
    """Collect the warnings that Axolotl's modules log."""

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    handler = Collect(logging.WARNING)
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith("axolotl")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
