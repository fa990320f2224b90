-- The last command of a consumer: hand back a step of the messages that are still its own, and
-- after the last of them remove the consumer. To be called again while there is more.
-- KEYS: stream, history, due, presence, holders, outage, paused
-- ARGV: group, consumer, identity, ms at which this process claimed its name, '1' if another program
--       had the name before
-- Returns {how many went back, of how many the entry was gone, 1 if there is more or 0}.

local STEP = 100  -- most messages of one call, so that none takes long

local stream, history, due, presence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holders, outage, paused = KEYS[5], KEYS[6], KEYS[7]
local group, consumer, identity = ARGV[1], ARGV[2], ARGV[3]
local since, predecessor_is_foreign = tonumber(ARGV[4]), ARGV[5] == '1'
local now, returned, gone = now_ms(), 0, 0

if claimed_by_another(holders, consumer, identity) then return {0, 0, 0} end

local rows = redis.call('XPENDING', stream, group, '-', '+', STEP, consumer)
local age = age_at(now_ms(), since)
for _, row in ipairs(rows) do
  local deliveries = row[4]
  if row[3] > age then  -- not taken over yet: that ended in a crash, or was another program's
    deliveries =
      (predecessor_is_foreign and deliveries_in(redis.call('HGET', history, row[1])) or deliveries) + 1
  end
  if hand_back(stream, due, group, row[1], deliveries, now) then
    returned = returned + 1
  else
    redis.call('HDEL', history, row[1])
    gone = gone + 1
  end
end
if #rows == STEP then return {returned, gone, 1} end

-- If the right to do so is missing, which heartbeats report, the name stays in the group.
remove_consumer(stream, group, consumer)
redis.call('ZREM', presence, consumer)
redis.call('HDEL', holders, consumer)
redis.pcall('HDEL', paused, 'consumer:' .. consumer)
if redis.call('ZCARD', presence) == 0 then
  redis.call('ZREM', outage, 'last heartbeat', 'forgiven until')
end
return {returned, gone, 0}
