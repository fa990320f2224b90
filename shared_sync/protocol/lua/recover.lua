-- Take over one message that nobody works on: a parked one whose time has come, or else one of a
-- dead consumer, or one of this consumer's own that no reader holds.
-- KEYS: stream, history, due, presence, holders
-- ARGV: group, consumer, holder, lease ms, grace ms, idle ms after which an own message without a reader
--       counts as left behind, ms at which this process took its name, 1 if who had the name before
--       told that its reads brought one message each or '', crashes after which a message is given
--       up on, crashes that a message may have to be started now, number of reads to keep apart, and
--       for each of these: consumer, ms of its delivery; then held id ...
-- Returns {taken, bodies gone, ms until the next parked message is due or -1}; taken is nil or
-- {id, fields, deliveries, history or nil}, for one that was left behind followed by the consumer
-- that left it and the ms of its delivery.

local LOOK_AHEAD = 100
local SKEW_MS = 2  -- of the two clocks that a delivery time is reckoned from
-- Deliveries of one read lie less apart. Servers up to 7.0 look at the clock for each of its messages
-- (100 MB of them took 63 ms), and for each command of a script.
local READ_MS = 250
local stream, history, due, presence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holders = KEYS[5]
local group, consumer, holder = ARGV[1], ARGV[2], ARGV[3]
local lease, grace = tonumber(ARGV[4]), tonumber(ARGV[5])
local own_idle, since = tonumber(ARGV[6]), tonumber(ARGV[7])
local predecessor_read_singly = ARGV[8] == '1'
local max_crashes, startable_crashes = tonumber(ARGV[9]), tonumber(ARGV[10])
local apart, first_held = {}, 12 + 2 * ARGV[11]
for i = 12, first_held - 1, 2 do
  apart[#apart + 1] = {consumer = ARGV[i], delivered = tonumber(ARGV[i + 1])}
end
local held, held_count = {}, #ARGV - first_held + 1
for i = first_held, #ARGV do held[ARGV[i]] = true end

local now, taken, gone = now_ms(), false, 0
-- What is idle for longer at that time, an earlier process had; nothing where the clock has been set
-- back since.
local function age_at(ms)
  return since <= ms and ms - since + SKEW_MS or math.huge
end

local other = held_by_another(holders, consumer, holder)
if other then
  if lease_end_of(presence, consumer) > now then return redis.error_reply('HELD ' .. other) end
  return {false, 0, -1}  -- the next beat takes the name back
end

-- A message that took processes down may have to wait until it can start without company; one
-- that is to be given up on never runs, and need not wait.
local function may_start(id, deliveries)
  local notes = redis.call('HGET', history, id)
  local failures = notes and select(2, notes:gsub('\n', '')) or 0
  local crashes = deliveries - 1 - failures
  return crashes <= startable_crashes or crashes >= max_crashes
end

-- Whether a dead consumer told that its reads brought one message each. One that did not may have
-- read more: another program, or one whose presence was lost.
local function read_singly(name)
  if name == consumer then return predecessor_read_singly end
  local understood, told = pcall(cjson.decode, redis.call('HGET', holders, name))
  return understood and type(told) == 'table' and told['prefetch'] == 1
end

-- Whichever message of one read took the process down, it shall not take the others of that read
-- along a second time: while one of them runs here again, the others wait, rather with those of a read
-- just before or after it than without their own. How the dead had read counts, and not how we do.
local function runs_beside_its_like(name, delivered)
  for _, read in ipairs(apart) do
    if read.consumer == name and math.abs(read.delivered - delivered) <= READ_MS then
      return not read_singly(name)
    end
  end
  return false
end

local function take(id, deliveries, name, delivered)
  local entry = redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries)[1]
  redis.call('ZREM', due, id)
  if entry then
    local notes = redis.call('HGET', history, id)
    taken = {id, entry[2], deliveries, notes, name, delivered}
  else
    redis.call('XACK', stream, group, id)
    forget(history, due, id)
    gone = gone + 1
  end
end

-- Parked messages whose time has come; a due time of one that is not parked any more is stale.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, LOOK_AHEAD)) do
  if taken then break end
  local owner, deliveries = pending_entry(stream, group, id)
  if not owner then
    forget(history, due, id)
  elseif owner ~= PARKED then
    redis.call('ZREM', due, id)
  elseif not held[id] and may_start(id, deliveries + 1) then
    take(id, deliveries + 1)
  end
end

-- What a consumer left behind. Of our own that is what an earlier process of this name had, which
-- is over at once, or a reply that was lost on its way, which is sure only when it can no longer
-- arrive; the latter nobody had in hand, so that delivery is not charged.
local function take_first_of(name, idle, look_at)
  local rows = redis.call('XPENDING', stream, group, 'IDLE', idle, '-', '+', look_at, name)
  local seen_at = now_ms()  -- not before: what the script did until here may have taken long
  local age = age_at(seen_at)
  for _, row in ipairs(rows) do
    local id, idle_ms, deliveries = row[1], row[3], row[4]
    local delivered = seen_at - idle_ms
    local charged = name ~= consumer or idle_ms > age
    if charged then deliveries = deliveries + 1 end
    if not held[id] and (charged or idle_ms >= own_idle) and may_start(id, deliveries)
      and not runs_beside_its_like(name, delivered) then
      take(id, deliveries, name, delivered)
      if taken then return end
    end
  end
end

if not taken then
  write_even_when_full(presence)
  forgive_outage(presence, now, lease, grace)
  for _, row in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
    local name = row[1]
    if name == consumer then
      take_first_of(name, math.min(own_idle, age_at(now) + 1), held_count + LOOK_AHEAD)
    elseif name ~= PARKED then
      local lease_end = redis.call('ZSCORE', presence, name)
      if not lease_end then
        take_first_of(name, lease, LOOK_AHEAD)
      elseif tonumber(lease_end) <= now then
        take_first_of(name, 0, LOOK_AHEAD)
      end
    end
    if taken then break end
  end
end

local later = redis.call('ZRANGEBYSCORE', due, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {taken, gone, later[2] and math.ceil(later[2] - now) or -1}
