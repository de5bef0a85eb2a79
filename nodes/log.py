"""One line per event: time, level, what happened, and ``key=value`` fields."""

import logging
import sys

PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.:/@+")


class Log:
    """A logger whose keyword arguments become fields: ``log.info("done", object="disk:a", dispatch=3)``."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, **fields: object) -> None:
        self._logger.debug("%s", _line(event, fields))

    def info(self, event: str, **fields: object) -> None:
        self._logger.info("%s", _line(event, fields))

    def warning(self, event: str, **fields: object) -> None:
        self._logger.warning("%s", _line(event, fields))

    def error(self, event: str, **fields: object) -> None:
        self._logger.error("%s", _line(event, fields))

    def exception(self, event: str, **fields: object) -> None:
        """For what nobody foresaw: the traceback is wanted."""
        self._logger.exception("%s", _line(event, fields))


def _line(event: str, fields: dict[str, object]) -> str:
    return " ".join([event, *(f"{name}={_value(value)}" for name, value in fields.items() if value is not None)])


def _value(value: object) -> str:
    text = str(value)
    return text if text and PLAIN.issuperset(text) else repr(text)


def setup(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s", "%FT%T"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Celery names every message that it takes; our own line says more.
    for name in ("celery.worker.strategy", "celery.app.trace", "kombu"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))
