"""RedisStreamProducer: publishes messages to the stream that consumers process."""

from shared_sync.redis_producer.handles import JobHandle
from shared_sync.redis_producer.job import Job
from shared_sync.redis_producer.producer import RedisStreamProducer
from shared_sync.redis_producer.schedule import ScheduledJob

__all__ = ["Job", "JobHandle", "RedisStreamProducer", "ScheduledJob"]
