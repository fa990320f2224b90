-- Read how a group is: its sizes, its consumers, and whether it is paused. Only reads.
-- KEYS: stream, dead, presence, holders, due, scheduled, paused
-- ARGV: group, most consumers to return
-- Returns {now; 1 if the group exists, or 0; entries in the stream; dead letters or -1; pending; parked;
-- how many groups the stream has; messages that this one has not read, or -1 if the server does not
-- know; time at which the first parked message is due, or -1; scheduled jobs or -1; time of the first
-- of them, or -1; the pause as JSON, or ''; consumers whose lease runs; consumers in all; consumers}.
-- Each consumer is {name, lease end or -1, identity, pending, ms since its oldest pending message was
-- delivered or -1, 1 if it has confirmed the pause or 0}. Those of other programs come first, then the
-- others in the order in which their leases end, so that the dead are in front.

local MOST_NAMES = 1000  -- consumers that are visited
-- Longer texts are cut, in bytes.
local LONGEST_TEXT = 2000
local LONGEST_IDENTITY = 1000

local stream, dead, presence, holders = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local due, scheduled, paused = KEYS[5], KEYS[6], KEYS[7]
local group, most = ARGV[1], tonumber(ARGV[2])
local now = now_ms()

-- A number, or -1 if the command was refused.
local function count_of(command, key)
  local count = redis.pcall(command, key)
  return type(count) == 'number' and count or -1
end

-- The lowest score of a sorted set, or -1.
local function first_score(key)
  local first = redis.pcall('ZRANGE', key, 0, 0, 'WITHSCORES')
  return math.floor(tonumber(first[2] or -1))
end

local summary = redis.pcall('XPENDING', stream, group)
local has_group = not summary.err
if not has_group and not summary.err:find('NOGROUP') then return summary end

local unread, last, groups, pending, parked = -1, '', {}, {}, 0
if has_group then
  groups = groups_of(stream)
  for _, info in ipairs(groups) do
    if info['name'] == group then unread, last = info['lag'] or -1, info['last-delivered-id'] end
  end
  -- A server that does not count may still have nothing behind the last entry that was delivered.
  if unread < 0 and redis.call('XLEN', stream) > summary[1] then
    local next_entry = redis.pcall('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)
    if not next_entry.err and #next_entry == 0 then unread = 0 end
  end
  for _, row in ipairs(summary[4] or {}) do pending[row[1]] = tonumber(row[2]) end
  parked, pending[PARKED] = pending[PARKED] or 0, nil
end

local pause = redis.pcall('HGET', paused, 'pause')
if type(pause) ~= 'string' then pause = '' end

local alive, names, leases = 0, {}, {}
local present = redis.call('ZRANGE', presence, 0, MOST_NAMES - 1, 'WITHSCORES')
for i = 1, #present, 2 do
  leases[present[i]] = tonumber(present[i + 1])
  if leases[present[i]] > now then alive = alive + 1 end
end
for name in pairs(pending) do
  if not leases[name] then names[#names + 1] = name end
end
table.sort(names)
for i = 1, #present, 2 do names[#names + 1] = present[i] end

local consumers = {}
for i = 1, math.min(#names, most) do
  local name, oldest = names[i], -1
  local row = pending[name] and redis.call('XPENDING', stream, group, '-', '+', 1, name)[1]
  if row then oldest = row[3] end
  local has_paused = pause ~= '' and redis.call('HGET', paused, 'consumer:' .. name)
  consumers[i] = {
    name:sub(1, LONGEST_TEXT), leases[name] or -1,
    (redis.call('HGET', holders, name) or ''):sub(1, LONGEST_IDENTITY),
    pending[name] or 0, oldest, has_paused and 1 or 0
  }
end

return {now, has_group and 1 or 0, redis.call('XLEN', stream), count_of('XLEN', dead),
  has_group and summary[1] or 0, parked, #groups, unread,
  parked > 0 and first_score(due) or -1, count_of('ZCARD', scheduled), first_score(scheduled),
  pause, alive, #names, consumers}
