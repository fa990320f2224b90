-- Record an event.
-- KEYS: events
-- ARGV: the names and values of its fields in turn

record_event(KEYS[1], unpack(ARGV))
keep_for_a_week(KEYS[1])
return 1
