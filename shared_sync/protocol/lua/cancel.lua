-- Cancel a message, or only return its state.
-- KEYS: stream, cancelled, scheduled, `published` of this id (the entry of a scheduled job), the
--       cancelled forwarded jobs, then `due` of each group in ARGV
-- ARGV: id, how many ms the mark is kept or '' to change nothing, the same for a job that may have
--       been forwarded to another stream, group ...
-- Returns the state: 'scheduled', 'waiting', 'parked', 'running' or 'ended'; 'unknown' if the stream
-- has no such message, or if there is no stream.
--
-- This only marks the message; the worker that takes it ends it. A parked or scheduled message becomes
-- due now, so that it ends soon. A job that has left the stream may have been forwarded: then the
-- workers of the other stream read the mark.

local STEP = 100  -- most expired marks that a call removes

local stream, cancelled, scheduled, published = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local forwarded, id, keep, keep_forwarded = KEYS[5], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()

local function add_mark(key, marked, lasts)
  write_even_when_full(key)
  local expired = redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, STEP)
  if #expired > 0 then redis.call('ZREM', key, unpack(expired)) end
  redis.call('ZADD', key, now + lasts, marked)
  local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', key, last)
end

local function mark(marked) add_mark(cancelled, marked, keep) end

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

local has_entries = redis.call('XLEN', stream) > 0
local groups = has_entries and groups_of(stream) or {}
local state = state_of(stream, groups, entry_id, true)
if keep and state ~= 'ended' then
  mark(entry_id)
  for n = 4, #ARGV do
    local due = KEYS[n + 2]
    local at = redis.call('ZSCORE', due, entry_id)
    if at and tonumber(at) > now then redis.call('ZADD', due, now, entry_id) end
  end
end
if keep_forwarded and state == 'ended' then add_mark(forwarded, id, keep_forwarded) end
if state == 'ended' and not has_entries then
  local reply = redis.pcall('XINFO', 'GROUPS', stream)
  if reply.err and reply.err:find('no such key', 1, true) then return 'unknown' end
end
return state
