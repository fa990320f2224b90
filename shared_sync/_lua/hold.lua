-- Take a consumer's name, unless a live consumer has it.
-- KEYS: due, presence, holders
-- ARGV: consumer, holder, lease ms, a holder that is known to be gone or ''
-- Returns now when the name is held from now on, else {its holder or '', end of its lease, now}.

local due, presence, holders = KEYS[1], KEYS[2], KEYS[3]
local consumer, holder, lease, gone = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = now_ms()

local current = redis.call('HGET', holders, consumer) or ''
local lease_end = lease_end_of(presence, consumer)
if lease_end > now and current ~= holder and (current == '' or current ~= gone) then
  return {current, lease_end, now}
end

write_even_when_full(due)
-- In this order: a holder without presence is none, should the right to the second be missing.
redis.call('HSET', holders, consumer, holder)
redis.call('ZADD', presence, now + lease, consumer)
return now
