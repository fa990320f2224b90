-- The last command of a consumer: hand back a step of the messages that are still its own, and
-- after the last of them remove the consumer. To be called again while there is more.
-- KEYS: stream, history, due, presence, holders
-- ARGV: group, consumer, identity
-- Returns {how many went back, of how many the entry was gone, 1 if there is more or 0}.

local STEP = 100  -- most messages of one call, so that none takes long

local stream, history, due, presence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holders = KEYS[5]
local group, consumer, identity = ARGV[1], ARGV[2], ARGV[3]
local now, returned, gone = now_ms(), 0, 0

if claimed_by_another(holders, consumer, identity) then return {0, 0, 0} end

local rows = redis.call('XPENDING', stream, group, '-', '+', STEP, consumer)
for _, row in ipairs(rows) do
  if hand_back(stream, due, group, row[1], row[4], now) then
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
return {returned, gone, 0}
