-- Take a consumer's name, unless a live consumer has it.
-- KEYS: due, presence, holders
-- ARGV: consumer, holder, lease ms, a holder that is known to be gone or ''
-- Returns {its holder so far or '', now} when the name is held from now on, and when it is not,
-- {its holder or '', now, end of its lease}.

local due, presence, holders = KEYS[1], KEYS[2], KEYS[3]
local consumer, holder, lease, gone = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = now_ms()

local current = redis.call('HGET', holders, consumer) or ''
local lease_end = lease_end_of(presence, consumer)
if lease_end > now and current ~= holder and (current == '' or current ~= gone) then
  return {current, now, lease_end}
end

write_even_when_full(due)
-- In this order: a holder without presence is none, should the right to the second be missing.
redis.call('HSET', holders, consumer, holder)
redis.call('ZADD', presence, now + lease, consumer)
return {current, now}
