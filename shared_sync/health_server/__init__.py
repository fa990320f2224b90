"""HealthServer: answers /health, /metrics, probes and a dashboard over HTTP."""

from shared_sync.health_server.server import HealthServer

__all__ = ["HealthServer"]
