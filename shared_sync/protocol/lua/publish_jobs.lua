-- Add messages in order as publish.lua does; some have a deduplicate key, or are scheduled.
-- KEYS: stream, scheduled, the messages of scheduled jobs, then `published` of each deduplicate key
-- ARGV: most entries the stream may hold ('' for no limit), then for each message: index of its
--       `published` behind the first three KEYS or 0, how many ms that is kept, id of the scheduled job
--       or '', when to publish it in ms since 1970 or '+' and ms from now, number of items, field,
--       value, ...
-- Returns {ids of the accepted messages, '' or the text of the refusal}. If the key of a message was
-- used before, its id is that of the earlier message. The limit does not apply to scheduled jobs.

local SHARED_KEYS = 3
local stream, scheduled, messages = KEYS[1], KEYS[2], KEYS[3]
local arguments, pcall = ARGV, redis.pcall
local limit = tonumber(arguments[1])
local room = limit and limit - redis.call('XLEN', stream) or math.huge
local now

local function refusal_of(reply) return type(reply) == 'table' and reply.err or nil end

-- Return the time in ms at which a job is published. It may have passed.
local function time_of(due)
  if due:sub(1, 1) ~= '+' then return due end
  now = now or now_ms()
  return now + tonumber(due)
end

-- Keep a job until its time. Returns the refusal of the server, after which nothing has changed.
local function schedule(id, due, items)
  local refusal = refusal_of(pcall('ZADD', scheduled, 'XX', 0, ''))
    or refusal_of(pcall('HSET', messages, id, cmsgpack.pack(items)))
  if not refusal then redis.call('ZADD', scheduled, time_of(due), id) end
  return refusal
end

-- Return the id of the message, or nil and the refusal, which is '' if there is no room.
local function accept(published, kept_ms, id, due, items)
  if published then
    local before = pcall('GET', published)
    if before then return not refusal_of(before) and before or nil, refusal_of(before) end
    -- Try whether the key may be written, before anything is written. This changes nothing.
    local refusal = refusal_of(pcall('SET', published, '', 'XX', 'PX', kept_ms))
    if refusal then return nil, refusal end
  end
  local refusal
  if id ~= '' then
    refusal = schedule(id, due, items)
  elseif room <= 0 then
    refusal = ''
  else
    id = pcall('XADD', stream, '*', unpack(items))
    refusal, room = refusal_of(id), room - 1
  end
  if refusal then return nil, refusal end
  if published then redis.call('SET', published, id, 'PX', kept_ms) end
  return id
end

local ids, count = {}, 2
while arguments[count] do
  local place, kept_ms = tonumber(arguments[count]), arguments[count + 1]
  local job_id, due, length = arguments[count + 2], arguments[count + 3], arguments[count + 4]
  count = count + 5
  local items = {unpack(arguments, count, count + length - 1)}
  local id, refusal = accept(place > 0 and KEYS[SHARED_KEYS + place], kept_ms, job_id, due, items)
  if not id then return {ids, refusal} end
  ids[#ids + 1] = id
  count = count + length
end
return {ids, ''}
