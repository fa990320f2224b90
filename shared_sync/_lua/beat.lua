-- Renew a consumer's presence, tidy up, and report the queue's figures.
-- KEYS: stream, due, presence, dead
-- ARGV: group, consumer, lease ms, grace ms
-- Returns {entries in the stream, pending, parked, dead letters}; -1 where a figure is unknown.

local stream, due, presence, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, lease = ARGV[1], ARGV[2], tonumber(ARGV[3])
local grace = tonumber(ARGV[4])
local now = now_ms()

write_even_when_full(presence)
forgive_outage(presence, now, lease, grace)
redis.call('ZADD', presence, now + lease, consumer)

local summary = redis.call('XPENDING', stream, group)
local pending_of = {}
for _, row in ipairs(summary[4] or {}) do pending_of[row[1]] = tonumber(row[2]) end
local parked = pending_of[PARKED] or 0

-- Consumers that ended and left nothing behind. The count was seen in this very script.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', presence, '-inf', now)) do
  if not pending_of[name] then
    redis.call('XGROUP', 'DELCONSUMER', stream, group, name)
    redis.call('ZREM', presence, name)
  end
end

-- Parked messages whose due time was lost are due now.
if parked > redis.call('ZCARD', due) then
  local from = '-'
  repeat
    local rows = redis.call('XPENDING', stream, group, from, '+', 1000, PARKED)
    for _, row in ipairs(rows) do
      redis.call('ZADD', due, 'NX', now, row[1])
      from = '(' .. row[1]
    end
  until #rows == 0
end

local function length_of(key)
  local length = redis.pcall('XLEN', key)
  return type(length) == 'number' and length or -1
end

return {length_of(stream), summary[1], parked, length_of(dead)}
