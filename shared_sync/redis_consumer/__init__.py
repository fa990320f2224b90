"""RedisStreamConsumer: a pool of threads that processes a Redis Stream and loses nothing."""

from shared_sync.redis_consumer.consumer import RedisStreamConsumer

__all__ = ["RedisStreamConsumer"]
