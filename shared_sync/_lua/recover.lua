-- Take over one message that nobody works on: a parked one whose time has come, or else one of a
-- dead consumer, or one of this consumer's own that no reader holds. One at a time, so that a
-- message that kills its process takes no other along.
-- KEYS: stream, history, due, presence
-- ARGV: group, consumer, lease ms, idle ms after which an own message without a reader counts as
--       left behind, age of this consumer in ms, held id ...
-- Returns {taken, bodies gone, ms until the next parked message is due or -1}; taken is nil or
-- {id, fields, deliveries, history or nil, 1 if its owner was dead and 0 if it was parked}.

local STALE_BATCH = 100
local stream, history, due, presence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, consumer = ARGV[1], ARGV[2]
local lease, own_idle, age = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local held = {}
for i = 6, #ARGV do held[ARGV[i]] = true end

local now, taken, gone = now_ms(), false, 0

local function take(id, deliveries, charged, died)
  local claim = {'XCLAIM', stream, group, consumer, 0, id}
  if charged then
    deliveries = deliveries + 1
  else
    claim[7], claim[8] = 'RETRYCOUNT', deliveries
  end
  local entry = redis.call(unpack(claim))[1]
  redis.call('ZREM', due, id)
  if entry then
    taken = {id, entry[2], deliveries, redis.call('HGET', history, id), died and 1 or 0}
  else
    redis.call('XACK', stream, group, id)
    redis.call('HDEL', history, id)
    gone = gone + 1
  end
end

-- Parked messages whose time has come; a due time of one that is not parked any more is stale.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, STALE_BATCH)) do
  if taken then break end
  local owner, deliveries = pending_entry(stream, group, id)
  if owner == PARKED then
    take(id, deliveries, true, false)
  else
    redis.call('ZREM', due, id)
    if not owner then forget(history, due, id) end
  end
end

local function take_first_of(name, idle)
  repeat
    local row = redis.call('XPENDING', stream, group, 'IDLE', idle, '-', '+', 1, name)[1]
    if row then take(row[1], row[4], true, true) end
  until taken or not row
end

-- This consumer's own: a reply that was lost on its way, or what an earlier process of this name
-- left. Only the latter had it in its hands, so only then is the delivery charged.
local function take_first_of_own()
  local rows = redis.call(
    'XPENDING', stream, group, 'IDLE', own_idle, '-', '+', #ARGV - 4, consumer)
  for _, row in ipairs(rows) do
    if not held[row[1]] then
      local left_by_predecessor = row[3] > age
      take(row[1], row[4], left_by_predecessor, true)
      if taken then return end
    end
  end
end

if not taken then
  for _, row in ipairs(redis.call('XPENDING', stream, group)[4] or {}) do
    local name = row[1]
    if name == consumer then
      take_first_of_own()
    elseif name ~= PARKED then
      local lease_end = redis.call('ZSCORE', presence, name)
      if not lease_end then
        take_first_of(name, lease)
      elseif tonumber(lease_end) <= now then
        take_first_of(name, 0)
      end
    end
    if taken then break end
  end
end

local next_due = redis.call('ZRANGE', due, 0, 0, 'WITHSCORES')[2]
return {taken, gone, next_due and math.max(0, math.ceil(next_due - now)) or -1}
