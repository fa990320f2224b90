-- Store what a worker reports of itself, and record events: those that it brings, and those that
-- only the group as a whole can notice. Sent behind a heartbeat, in its round trip.
-- KEYS: presence, holders, outage, reports, events
-- ARGV:
--   1 to 3  consumer, identity, token of the process
--   4       release, or ''
--   5       who it is, in one line: if the worker dies, the event says so
--   6       the rest of the report
--   7       the number of its first event: 1 for the first that the process has
--   8       '1' to let the keys expire in a week, or ''
--   9       lease ms
--   10      how many events there are; for each then ms within which the group needs only one of its
--           kind, or 0 for all; the number of its items; and these, with `kind` and its value first
-- Returns 1; 2 if this user may not let keys expire; or 0 if another process has claimed the name.
--
-- A report is stored as `<ms> <token> <number of its last event>`, who it is, and the rest, each in
-- a line. So events are recognized that are sent again because the reply was lost.
--
-- A worker has died if its report is there and its lease has ended, or nobody knows it any more: one
-- that leaves removes its report first.

local STEP = 100  -- most names that one call visits, so that none takes long
local LONGEST_NAME = 200

local presence, holders, outage, reports, events = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local consumer, identity, token, release = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local who, rest, first_event, count = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[10])
local now = now_ms()

if claimed_by_another(holders, consumer, identity) then return 0 end
write_even_when_full(presence)

local function record_death(name, stored)
  local reported_at, died = stored:match('^(%d+) [^\n]*\n([^\n]*)\n')
  record_event(events, 'kind', 'gone', 'worker', name:sub(1, LONGEST_NAME),
    'reported', reported_at or '', 'report', (died or ''):sub(1, 2000))
end

-- Fields that are about the group as a whole, each beginning with a '~', as no consumer's name does.
local function remembered(name) return redis.call('HGET', reports, '~' .. name) end

local own = redis.call('HGET', reports, consumer)
local own_token, last_event = (own or ''):match('^%d+ (%x+) (%d+)\n')
local known_events = own_token == token and tonumber(last_event) or 0
if own and own_token ~= token then record_death(consumer, own) end
local line = ('%d %s %d'):format(now, token, first_event + count - 1)
redis.call('HSET', reports, consumer, table.concat({line, who, rest}, '\n'))

local before = remembered('release')
if release ~= '' and first_event == 1 and before ~= release then
  redis.call('HSET', reports, '~release', release)
  if before then
    record_event(events, 'kind', 'release', 'worker', consumer:sub(1, LONGEST_NAME),
      'release', release, 'before', before:sub(1, LONGEST_NAME))
  end
end

local lease = tonumber(ARGV[9])
local next_argument = 11
for number = first_event, first_event + count - 1 do
  local within, items = tonumber(ARGV[next_argument]), tonumber(ARGV[next_argument + 1])
  local first, kind = next_argument + 2, ARGV[next_argument + 3]
  next_argument = first + items
  local last = within > 0 and tonumber(remembered(kind) or 0) or nil
  local is_known = number <= known_events or (last and last <= now and now - last < within)
  if not is_known then
    if last then redis.call('HSET', reports, '~' .. kind, now) end
    record_event(events, unpack(ARGV, first, next_argument - 1))
  end
end

local function remove_report(name, stored)
  redis.call('HDEL', reports, name)
  record_death(name, stored)
end

local function find_deaths()
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', presence, '-inf', now, 'LIMIT', 0, STEP)) do
    local stored = redis.call('HGET', reports, name)
    if stored then remove_report(name, stored) end
  end
  -- Those that were removed from the group before they were found to be dead. If the presence was
  -- lost, their reports are newer than that.
  local of_group = (remembered('release') and 1 or 0) + (remembered('redis_back') and 1 or 0)
  if redis.call('HLEN', reports) <= redis.call('ZCARD', presence) + of_group then return end
  local names = redis.call('HKEYS', reports)
  for i = 1, math.min(#names, STEP) do
    local name = names[(now + i) % #names + 1]  -- so every name gets its turn
    if name:sub(1, 1) ~= '~' and not redis.call('ZSCORE', presence, name) then
      local stored = redis.call('HGET', reports, name)
      local reported_at = tonumber(stored:match('^(%d+) ') or 0)
      if now - reported_at >= lease or reported_at > now then remove_report(name, stored) end
    end
  end
end

-- After an outage nobody is taken for dead until living workers had time to report.
if not is_forgiven(outage, now) then find_deaths() end
if ARGV[8] == '' then return 1 end
local may_expire = keep_for_a_week(reports)
if may_expire then keep_for_a_week(events) end
return may_expire and 1 or 2
