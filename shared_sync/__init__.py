"""Blocking Python workers on Redis Streams: at least once, one result per message, nothing lost.

    shared_sync.redis_consumer   RedisStreamConsumer: a pool of threads that processes a stream
    shared_sync.redis_producer   RedisStreamProducer: publishes messages to a stream
    shared_sync.result_listener  ResultListener: receives results; Result
    shared_sync.dead_letters     DeadLetters: lists, replays, purges and exports dead letters
    shared_sync.group_actions    GroupActions: what operators may do from the dashboard
    shared_sync.metrics          WorkerMetrics: counters, gauges, durations, errors
    shared_sync.health_server    HealthServer: /health and /metrics over HTTP
    shared_sync.checks           ready-made health checks: Redis, disk, memory, consumer, metrics
    shared_sync.batching         Batching: how messages are collected for a batch processor
    shared_sync.policies         RetryPolicy: how often and when a failed message is tried again
    shared_sync.circuit_breaker  CircuitBreaker: stops calling what fails, and tries it again later
    shared_sync.logging          configure(): records that name their message, as text or JSON
    shared_sync.testing          run_once(), run_until_idle(), Faults: for tests of processors
    shared_sync.tracing          configure(): sets up OpenTelemetry; see the argument `tracing`
    shared_sync.message          Message, current_message()
    shared_sync.processors       ProcessorContext: what a processor factory is told
    shared_sync.errors           all errors, and Reject, Retry, CircuitOpen and WorkerBroken for
                                 processors

All names in `__all__` can also be imported from here. Each is loaded when it is first used, so a
program that only needs metrics loads neither Redis nor Flask.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from shared_sync.batching import Batching
    from shared_sync.circuit_breaker import CircuitBreaker
    from shared_sync.dead_letters import DeadLetters
    from shared_sync.errors import (
        CircuitOpen,
        ConfigurationError,
        ConsumerBroken,
        InvalidMessage,
        JobCancelled,
        JobFailed,
        QueueFull,
        RedisAccessDenied,
        RedisRefused,
        RedisUnavailable,
        Reject,
        ResultTimeout,
        Retry,
        SharedSyncError,
        WorkerBroken,
    )
    from shared_sync.health_server import HealthServer
    from shared_sync.message import Message, current_message
    from shared_sync.metrics import WorkerMetrics
    from shared_sync.policies import RetryPolicy
    from shared_sync.processors import ProcessorContext
    from shared_sync.redis_consumer import RedisStreamConsumer
    from shared_sync.redis_producer import Job, JobHandle, RedisStreamProducer
    from shared_sync.result_listener import Result, ResultListener

__all__ = [
    "Batching",
    "CircuitBreaker",
    "CircuitOpen",
    "ConfigurationError",
    "ConsumerBroken",
    "DeadLetters",
    "HealthServer",
    "InvalidMessage",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "Message",
    "ProcessorContext",
    "QueueFull",
    "RedisAccessDenied",
    "RedisRefused",
    "RedisStreamConsumer",
    "RedisStreamProducer",
    "RedisUnavailable",
    "Reject",
    "Result",
    "ResultListener",
    "ResultTimeout",
    "Retry",
    "RetryPolicy",
    "SharedSyncError",
    "WorkerBroken",
    "WorkerMetrics",
    "current_message",
]

_MODULES = {
    "Batching": "batching",
    "CircuitBreaker": "circuit_breaker",
    "CircuitOpen": "errors",
    "ConfigurationError": "errors",
    "ConsumerBroken": "errors",
    "DeadLetters": "dead_letters",
    "HealthServer": "health_server",
    "InvalidMessage": "errors",
    "Job": "redis_producer",
    "JobCancelled": "errors",
    "JobFailed": "errors",
    "JobHandle": "redis_producer",
    "Message": "message",
    "ProcessorContext": "processors",
    "QueueFull": "errors",
    "RedisAccessDenied": "errors",
    "RedisRefused": "errors",
    "RedisStreamConsumer": "redis_consumer",
    "RedisStreamProducer": "redis_producer",
    "RedisUnavailable": "errors",
    "Reject": "errors",
    "Result": "result_listener",
    "ResultListener": "result_listener",
    "ResultTimeout": "errors",
    "Retry": "errors",
    "RetryPolicy": "policies",
    "SharedSyncError": "errors",
    "WorkerBroken": "errors",
    "WorkerMetrics": "metrics",
    "current_message": "message",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
