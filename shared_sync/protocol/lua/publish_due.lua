-- Publish scheduled jobs whose time has come.
-- KEYS: stream, scheduled, the messages of scheduled jobs, cancelled, then `published` of each job
-- ARGV: how many ms `published` is kept, ids of the first jobs, some of which may not be due yet
-- Returns {number of published jobs, ms until the next job or -1, '' or a refusal, ids of jobs whose
-- message is gone or cannot be read}.
--
-- A job that is not scheduled any more was published by another consumer. This also runs on a full
-- server, because it frees the memory that it needs at once.

local MOST_BYTES = 4 * 1024 * 1024  -- a call ends with the message that reaches this size
local FIRST = 4  -- keys in front of those of the jobs

local stream, scheduled, messages, cancelled = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local kept_ms = ARGV[1]
local now, count, bytes, refusal, lost = now_ms(), 0, 0, '', {}

write_even_when_full(scheduled)  -- this and the next must not be refused below
redis.call('HDEL', messages, '')

-- A cancelled job is marked in its options, the last field, because a reader that has blocked for a
-- message has not read the marks. Returns whether the mark was added.
local function add_mark(items, id)
  local mark, added = redis.pcall('ZSCORE', cancelled, id), 0
  if type(mark) == 'string' then
    items[#items], added = items[#items]:gsub('^{', '{"cancelled": true, ', 1)
  end
  return added > 0
end

for n = 2, #ARGV do
  local id = ARGV[n]
  local time = redis.call('ZSCORE', scheduled, id)
  if time and tonumber(time) <= now then
    local packed = redis.call('HGET', messages, id)
    local is_readable, items = pcall(cmsgpack.unpack, packed or '')
    local entry_id, has_mark
    if is_readable and type(items) == 'table' and #items > 0 then
      has_mark = add_mark(items, id)
      entry_id = redis.pcall('XADD', stream, '*', unpack(items))
    else
      lost[#lost + 1] = id
    end
    if type(entry_id) == 'table' then  -- those behind it may be taken
      refusal = entry_id.err
    else
      if entry_id then
        redis.pcall('SET', KEYS[FIRST + n - 1], entry_id, 'PX', kept_ms)  -- an optional right
        if has_mark then redis.pcall('ZREM', cancelled, id) end  -- else it stays for a day
        count, bytes = count + 1, bytes + #packed
      end
      redis.call('ZREM', scheduled, id)
      redis.call('HDEL', messages, id)
    end
  end
  if bytes >= MOST_BYTES then break end
end

local next_job = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
local wait = next_job[2] and math.max(0, tonumber(next_job[2]) - now) or -1
return {count, wait, refusal, lost}
