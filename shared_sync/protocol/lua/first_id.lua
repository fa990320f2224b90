-- The id of the first entry from an id on. Only reads.
-- KEYS: stream
-- ARGV: id
-- Returns the id, or ''. A script, because the server can only return whole entries.

local entry = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', 1)[1]
return entry and entry[1] or ''
