-- Remove the report of a worker that leaves, and record that it has left.
-- KEYS: holders, reports, events
-- ARGV: consumer, identity, then the names and values of the fields of the event in turn
-- Returns 1, or 0 if there is no report, or another process has claimed the name.

local holders, reports, events = KEYS[1], KEYS[2], KEYS[3]

if claimed_by_another(holders, ARGV[1], ARGV[2]) then return 0 end
if redis.call('HDEL', reports, ARGV[1]) == 0 then return 0 end
record_event(events, unpack(ARGV, 3))
keep_for_a_week(events)
return 1
