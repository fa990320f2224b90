"""ResultListener: receives the results of messages, as they are written to a stream."""

from shared_sync.result_listener.listener import ResultListener
from shared_sync.result_listener.result import Result

__all__ = ["Result", "ResultListener"]
