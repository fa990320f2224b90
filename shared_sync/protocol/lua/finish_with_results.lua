-- Publish the results of messages that are done, acknowledge these and delete their entries.
-- KEYS: stream, history, due, and the result stream if there is one
-- ARGV: group, then for each message:
--       id, number of result items, field, value, ..., channel, payload
-- Returns {outcomes, '' or the refusal of a result, '' or that of a channel}. An outcome is 1 for a
-- message that this call ended, and 0 for one that had ended before. A refused message and those
-- behind it have none.
--
-- A result is written before its message is acknowledged, if the message is pending: a result that
-- the server refuses then leaves the message pending instead of acknowledged without a result.

local stream, history, due, results = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group = ARGV[1]
local outcomes, visited, ended, refusal, unpublished = {}, {}, {}, '', ''

write_even_when_full(due)

-- If the messages of this call lie together in the pending list, one XPENDING finds all of them.
local first, last, count = ARGV[2], ARGV[2], 0
local i = 2
while ARGV[i] do
  count, last = count + 1, ARGV[i]
  i = i + ARGV[i + 1] + 4
end
local is_pending = {}
if not id_is_after(first, last) then
  for _, row in ipairs(redis.call('XPENDING', stream, group, first, last, count)) do
    is_pending[row[1]] = true
  end
end

i = 2
while ARGV[i] do
  local id, items = ARGV[i], tonumber(ARGV[i + 1])
  local channel, payload = ARGV[i + items + 2], ARGV[i + items + 3]
  local pending = is_pending[id]
  if pending == nil then pending = pending_entry(stream, group, id) ~= nil end
  if pending and items > 0 then
    local added = redis.pcall('XADD', results, '*', unpack(ARGV, i + 2, i + 1 + items))
    if type(added) == 'table' and added.err then
      refusal = added.err
      break
    end
  end
  if pending then
    is_pending[id] = false  -- a message that is named twice ends once
    ended[#ended + 1] = id
    if channel ~= '' then unpublished = publish(channel, payload) end
  end
  outcomes[#outcomes + 1] = pending and 1 or 0
  visited[#visited + 1] = id
  i = i + items + 4
end

-- Histories of messages that were not pending any more go too, as their group may have been lost.
if #visited > 0 and redis.call('HLEN', history) > 0
  and redis.call('HDEL', history, unpack(visited)) > 0 then
  redis.call('ZREM', due, unpack(visited))
end
if #ended > 0 then
  redis.call('XACK', stream, group, unpack(ended))
  delete_finished(stream, group, ended, true)
end
return {outcomes, refusal, unpublished}
