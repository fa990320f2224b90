-- Return messages. Any consumer may take them at once; nothing is charged.
-- KEYS: stream, history, due, holders
-- ARGV: group, consumer, identity, id ...
-- Returns {how many went back, of how many the entry was gone}. A message that is no longer this
-- consumer's is left alone.

local stream, history, due, holders = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer, identity = ARGV[1], ARGV[2], ARGV[3]
local now, returned, gone = now_ms(), 0, 0

if claimed_by_another(holders, consumer, identity) then return {0, 0} end

for i = 4, #ARGV do
  local owner, deliveries = pending_entry(stream, group, ARGV[i])
  if not owner then
    deliveries = 1 + failures_in(redis.call('HGET', history, ARGV[i]))  -- as if without a crash
    if restore(stream, group, groups_of(stream), ARGV[i], consumer, deliveries) then
      owner = consumer
    end
  end
  if owner == consumer then
    if hand_back(stream, due, group, ARGV[i], deliveries, now) then
      returned = returned + 1
    else
      redis.call('HDEL', history, ARGV[i])
      gone = gone + 1
    end
  end
end
return {returned, gone}
