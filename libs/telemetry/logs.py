"""Logs as one JSON object a line, with the ids that tie a line to its trace, order and saga."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO

import msgspec

from libs.telemetry.tracing import current_ids

# What logging itself puts on a record; everything else came from `extra` and belongs in the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _JsonLines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        trace_id, span_id = current_ids()
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace_id:
            line |= {"trace_id": trace_id, "span_id": span_id}
        for name, value in vars(record).items():
            if name not in _STANDARD:
                line.setdefault(name, value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return msgspec.json.encode(line, enc_hook=str).decode()
        except UnicodeEncodeError:
            # Text that is not Unicode, as file names may be, is no reason to lose a line.
            return json.dumps(line, default=str)


def configure_logging(service: str, level: str, stream: TextIO = sys.stderr) -> None:
    """Sends every log line of this process to `stream` as JSON."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_JsonLines(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Their info lines say what ours say already.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "alembic", "grpc"):
        logging.getLogger(name).handlers[:] = []
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level)))


def get_logger(name: str) -> logging.Logger:
    return logging.getLogger(name)
