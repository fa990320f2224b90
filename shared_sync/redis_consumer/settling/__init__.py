"""Telling Redis the outcomes: packed, sent, confirmed, and sent again."""
