-- Renew a consumer's presence, tidy up, and report the queue's figures.
-- KEYS: stream, due, presence, dead, holders
-- ARGV: group, consumer, holder, lease ms, grace ms
-- Returns {entries in the stream, pending, parked, dead letters, '' or what was refused of it};
-- -1 where a figure is unknown. An error HELD when the name has gone to another holder meanwhile.

local stream, due, presence, dead, holders = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, holder = ARGV[1], ARGV[2], ARGV[3]
local lease, grace = tonumber(ARGV[4]), tonumber(ARGV[5])
local now, refusal = now_ms(), nil

local current = redis.call('HGET', holders, consumer)
if current and current ~= holder and lease_end_of(presence, consumer) > now then
  return redis.error_reply('HELD ' .. current)
end

write_even_when_full(presence)
forgive_outage(presence, now, lease, grace)
redis.call('ZADD', presence, now + lease, consumer)
if current ~= holder then redis.call('HSET', holders, consumer, holder) end

local summary = redis.call('XPENDING', stream, group)
local pending_of = {}
for _, row in ipairs(summary[4] or {}) do pending_of[row[1]] = tonumber(row[2]) end
local parked = pending_of[PARKED] or 0

-- Consumers that ended and left nothing behind. The count was seen in this very script.
for _, name in ipairs(redis.call('ZRANGEBYSCORE', presence, '-inf', now)) do
  if not pending_of[name] then
    refusal = remove_consumer(stream, group, name) or refusal
    redis.call('ZREM', presence, name)
    redis.call('HDEL', holders, name)
  end
end

-- Holders whose presence was lost with the key or ended.
if redis.call('HLEN', holders) > redis.call('ZCARD', presence) then
  for _, name in ipairs(redis.call('HKEYS', holders)) do
    if not redis.call('ZSCORE', presence, name) then redis.call('HDEL', holders, name) end
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
  if type(length) == 'number' then return length end
  refusal = length.err
  return -1
end

return {length_of(stream), summary[1], parked, length_of(dead), refusal or ''}
