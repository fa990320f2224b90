"""RedisStreamProducer: publishes messages to the stream that consumers process."""

from shared_sync.redis_producer.job import Job, ScheduledJob
from shared_sync.redis_producer.producer import RedisStreamProducer

__all__ = ["Job", "RedisStreamProducer", "ScheduledJob"]
