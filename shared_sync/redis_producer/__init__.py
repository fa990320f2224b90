"""RedisStreamProducer: publishes messages to the stream that consumers process."""

from shared_sync.redis_producer.job import Job
from shared_sync.redis_producer.producer import RedisStreamProducer

__all__ = ["Job", "RedisStreamProducer"]
