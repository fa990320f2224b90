"""Cancellation, expiry and progress of messages."""
