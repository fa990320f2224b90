-- What is known about one message. Only reads.
-- KEYS: stream, scheduled, scheduled messages, `published` of this id (the entry of a scheduled job), due,
--       history, progress
-- ARGV: group, id
-- Returns {now, state as cancel.lua returns it, id of the entry, names and values of its fields, when a
-- scheduled or parked message is due, owner in this group, deliveries, ms since the last one, failures,
-- progress}, with '' or -1 for what is not known.

local stream, scheduled, packed, published = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local due, history, progress, group, id = KEYS[5], KEYS[6], KEYS[7], ARGV[1], ARGV[2]
local now = now_ms()

local function or_nothing(reply, nothing)
  if not reply or type(reply) == 'table' and reply.err then return nothing end
  return reply
end

local at = redis.call('ZSCORE', scheduled, id)
if at then
  local is_readable, fields = pcall(cmsgpack.unpack, or_nothing(redis.pcall('HGET', packed, id), ''))
  return {now, 'scheduled', '', is_readable and type(fields) == 'table' and fields or {}, at, '', -1, -1, 0, ''}
end

local entry_id = or_nothing(redis.pcall('GET', published), id)
if not entry_id:find('^%d+%-%d+$') then
  return {now, 'unknown', '', {}, '', '', -1, -1, 0, ''}
end

local has_entries = redis.call('XLEN', stream) > 0
local groups = has_entries and groups_of(stream) or or_nothing(redis.pcall('XINFO', 'GROUPS', stream), nil)
local state = groups and state_of(stream, has_entries and groups or {}, entry_id, true) or 'unknown'
local entry = or_nothing(redis.pcall('XRANGE', stream, entry_id, entry_id), {})[1]

-- A group that does not exist has nothing pending.
local row = or_nothing(redis.pcall('XPENDING', stream, group, entry_id, entry_id, 1), {})[1]
local notes = or_nothing(redis.pcall('HGET', history, entry_id), nil)
return {
  now, state, entry_id, entry and entry[2] or {},
  or_nothing(redis.pcall('ZSCORE', due, entry_id), ''),
  row and row[2] or '', row and row[4] or -1, row and row[3] or -1,
  failures_in(notes), or_nothing(redis.pcall('HGET', progress, entry_id), ''),
}
