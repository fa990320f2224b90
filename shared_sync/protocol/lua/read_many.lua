-- Note that a process reads several messages at a time from now on.
-- KEYS: holders, due
-- ARGV: consumer, identity
-- Returns 1 if that was noted, 0 if it stood there already or the name is another's.

local holders, consumer, identity = KEYS[1], ARGV[1], ARGV[2]

if redis.call('HGET', holders, consumer) ~= identity .. ONE_BY_ONE then return 0 end
write_even_when_full(KEYS[2])
redis.call('HSET', holders, consumer, identity)
return 1
