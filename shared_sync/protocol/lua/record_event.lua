-- Record an event.
-- KEYS: events
-- ARGV: the names and values of its fields in turn

record_event(KEYS[1], unpack(ARGV))
return 1
