-- Remove the progress of messages that are not pending any more, up to 100 in a call.
-- KEYS: stream, progress
-- ARGV: group, at which of the messages to begin
-- Returns how many were removed, and how many are left.

local STEP = 100  -- most messages of one call, so that none takes long

local stream, progress, group, first = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

local ids = redis.call('HKEYS', progress)
local ended = {}
for i = 1, math.min(#ids, STEP) do
  local id = ids[(first + i) % #ids + 1]
  if not pending_entry(stream, group, id) then ended[#ended + 1] = id end
end
if #ended > 0 then redis.call('HDEL', progress, unpack(ended)) end
return {#ended, #ids - #ended}
