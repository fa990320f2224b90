-- Claim a consumer's name, unless a live process has it.
-- KEYS: due, presence, holders
-- ARGV: consumer, identity, lease ms, an identity that is known to have ended or ''
-- Returns {who had the name or '', now} if the name is claimed from now on, and if it is not,
-- {who has it or '', now, end of that lease}.

local due, presence, holders = KEYS[1], KEYS[2], KEYS[3]
local consumer, identity, lease, ended = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local now = now_ms()

local current = redis.call('HGET', holders, consumer) or ''
local lease_end = lease_end_of(presence, consumer)
if lease_end > now and current ~= identity and (current == '' or current ~= ended) then
  return {current, now, lease_end}
end

write_even_when_full(due)
-- In this order: an identity without presence claims nothing, should the second right be missing.
redis.call('HSET', holders, consumer, identity)
redis.call('ZADD', presence, now + lease, consumer)
return {current, now}
