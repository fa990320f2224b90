-- The last act of a consumer: hand back all that is still its own and sign off.
-- KEYS: stream, history, due, presence, holders
-- ARGV: group, consumer, holder
-- Returns {handed back, bodies gone}.

local stream, history, due, presence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holders = KEYS[5]
local group, consumer, holder = ARGV[1], ARGV[2], ARGV[3]
local now, returned, gone = now_ms(), 0, 0

if held_by_another(holders, consumer, holder) then return {0, 0} end

repeat
  local rows = redis.call('XPENDING', stream, group, '-', '+', 100, consumer)
  for _, row in ipairs(rows) do
    if hand_back(stream, due, group, row[1], row[4], now) then
      returned = returned + 1
    else
      redis.call('HDEL', history, row[1])
      gone = gone + 1
    end
  end
until #rows == 0

-- Without the right to it the name stays in the group, as the keepers will have said.
remove_consumer(stream, group, consumer)
redis.call('ZREM', presence, consumer)
redis.call('HDEL', holders, consumer)
return {returned, gone}
