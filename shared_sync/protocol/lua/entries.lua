-- Count the entries that were ever added to a stream, and those that it has. Writes nothing.
-- KEYS: stream
-- Returns {added, or -1 if the server does not count them, as before 7.0; entries in the stream}.
--
-- A script, since the reply of XINFO STREAM contains the first and the last entry as a whole.

local facts = facts_of(redis.call('XINFO', 'STREAM', KEYS[1]))
return {facts['entries-added'] or -1, redis.call('XLEN', KEYS[1])}
