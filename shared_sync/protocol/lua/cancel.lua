-- Cancel a message, or only say how far it is.
-- KEYS: stream, cancelled, scheduled, the key with the id of the entry that a job of this id has been
--       published as, then the due times of each group that is named
-- ARGV: id, for how many ms the mark is kept or '' to change nothing, group ...
-- Returns how far it is: 'scheduled', 'waiting', 'parked', 'running' or 'ended'; 'unknown' if no entry
-- is known for the id.
--
-- The message is marked, and whichever worker meets it ends it. Until then it stays where it is, but for
-- one that waits for its time: a parked message is due now, and so is a scheduled one.

local STEP = 100  -- most expired marks that a call removes

local stream, cancelled, scheduled, published = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, keep = ARGV[1], tonumber(ARGV[2])
local now = now_ms()

local function mark(marked)
  write_even_when_full(cancelled)
  local expired = redis.call('ZRANGEBYSCORE', cancelled, '-inf', now, 'LIMIT', 0, STEP)
  if #expired > 0 then redis.call('ZREM', cancelled, unpack(expired)) end
  redis.call('ZADD', cancelled, now + keep, marked)
  local last = redis.call('ZRANGE', cancelled, -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', cancelled, last)
end

if redis.call('ZSCORE', scheduled, id) then
  if keep then
    mark(id)
    redis.call('ZADD', scheduled, 'XX', now, id)
  end
  return 'scheduled'
end

local entry_id = redis.pcall('GET', published)
if type(entry_id) ~= 'string' then
  if not id:find('^%d+%-%d+$') then
    if keep then mark(id) end
    return 'unknown'
  end
  entry_id = id
end

local groups = redis.call('XLEN', stream) > 0 and groups_of(stream) or {}
local place = place_of(stream, groups, entry_id, true)
if keep and place ~= 'ended' then
  mark(entry_id)
  for n = 3, #ARGV do
    local due = KEYS[n + 2]
    local at = redis.call('ZSCORE', due, entry_id)
    if at and tonumber(at) > now then redis.call('ZADD', due, now, entry_id) end
  end
end
return place
