-- Return which messages are cancelled, and remove marks that are not needed any more, in steps.
-- KEYS: stream, cancelled
-- ARGV: rank of the mark at which to continue removing, or -1 to remove none; then ids of messages
-- Returns {the ids that are marked, rank at which to continue}.

local STEP = 100  -- most marks that a call visits

local stream, cancelled, rank = KEYS[1], KEYS[2], tonumber(ARGV[1])
local marked = {}
for n = 2, #ARGV do
  if redis.call('ZSCORE', cancelled, ARGV[n]) then marked[#marked + 1] = ARGV[n] end
end
if rank < 0 then return {marked, rank} end

-- Marks are in the order of their expiry. Marks that stay keep their ranks.
local now, groups = now_ms(), redis.call('XLEN', stream) > 0 and groups_of(stream) or {}
local marks = redis.call('ZRANGE', cancelled, rank, rank + STEP - 1, 'WITHSCORES')
for i = 1, #marks, 2 do
  local id = marks[i]
  local is_needed = tonumber(marks[i + 1]) > now
    and (not id:find('^%d+%-%d+$') or state_of(stream, groups, id, false) ~= 'ended')
  if is_needed then rank = rank + 1 else redis.call('ZREM', cancelled, id) end
end
return {marked, #marks == 2 * STEP and rank or 0}
