-- Claim a consumer's name, unless a live process has it.
-- KEYS: due, presence, holders, outage
-- ARGV: consumer, identity, lease ms, grace ms, an identity that is known to have ended or '', '1' if
--       the process reads one message at a time for now, or ''
-- Returns {who had the name, now} if the name is claimed from now on: '' if that is not known, nil if
-- neither a claim nor a lease of the name was on record; and if it is not claimed,
-- {who has it or '', now, end of that lease}.

local due, presence, holders, outage = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local consumer, identity = ARGV[1], ARGV[2]
local lease, grace, ended = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local mark = ARGV[6] == '1' and ONE_BY_ONE or ''
local now = now_ms()

local current = redis.call('HGET', holders, consumer) or ''
write_even_when_full(due)
local lease_end = believable_lease_end(presence, holders, consumer, now, grace)
if lease_end > now and not is_of(current, identity) and (current == '' or current ~= ended) then
  return {current, now, lease_end}
end

local is_on_record = current ~= '' or lease_end > 0
-- Before the new lease hides that all others have ended.
forgive_outage(presence, outage, now, lease, grace)
-- In this order: an identity without presence claims nothing, should the second right be missing.
redis.call('HSET', holders, consumer, identity .. mark)
renew_lease(presence, outage, consumer, now, lease)
return {is_on_record and current, now}
