-- Publish the results of messages that are done, acknowledge these and delete their entries.
-- KEYS: stream, history, due, and the result stream if there is one
-- ARGV: group, number of messages, 'channels' or '', id ...,
--       then for each message: number of result items, field, value, ...,
--       and with 'channels': channel, payload
-- With a '+' in front of the number, message_id and status go in front of the items.
-- Returns {outcomes, '' or the refusal of a result, '' or that of a channel}. An outcome is 1 for a
-- message that this call ended, and 0 for one that had ended before. A refused message and those
-- behind it have none.
--
-- A result is written before its message is acknowledged, if the message is pending: a result that
-- the server refuses then leaves the message pending instead of acknowledged without a result.

local stream, history, due, results = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, count, has_channels = ARGV[1], tonumber(ARGV[2]), ARGV[3] ~= ''
local ids = {unpack(ARGV, 4, count + 3)}
local outcomes, ended, refusal, unpublished = {}, {}, '', ''

write_even_when_full(due)

-- If the messages of this call lie together in the pending list, one XPENDING finds all of them.
local is_pending = {}
if not id_is_after(ids[1], ids[count]) then
  for _, row in ipairs(redis.call('XPENDING', stream, group, ids[1], ids[count], count)) do
    is_pending[row[1]] = true
  end
end

local i = count + 4
for n, id in ipairs(ids) do
  local items = tonumber(ARGV[i])
  local adds_header = ARGV[i]:sub(1, 1) == '+'
  local pending = is_pending[id]
  if pending == nil then pending = pending_entry(stream, group, id) ~= nil end
  if pending and (adds_header or items > 0) then
    local added
    if adds_header then
      added = redis.pcall('XADD', results, '*', 'message_id', id, 'status', 'done',
        unpack(ARGV, i + 1, i + items))
    else
      added = redis.pcall('XADD', results, '*', unpack(ARGV, i + 1, i + items))
    end
    if type(added) == 'table' and added.err then
      refusal = added.err
      break
    end
  end
  i = i + items + 1
  if pending then
    is_pending[id] = false  -- a message that is named twice ends once
    ended[#ended + 1] = id
    if has_channels and ARGV[i] ~= '' then unpublished = publish(ARGV[i], ARGV[i + 1]) end
  end
  if has_channels then i = i + 2 end
  outcomes[n] = pending and 1 or 0
end

-- Histories of messages that were not pending any more go too, as their group may have been lost.
if #outcomes > 0 and redis.call('HLEN', history) > 0
  and redis.call('HDEL', history, unpack(ids, 1, #outcomes)) > 0 then
  redis.call('ZREM', due, unpack(ids, 1, #outcomes))
end
if #ended > 0 then
  redis.call('XACK', stream, group, unpack(ended))
  delete_finished(stream, group, ended, true)
end
return {outcomes, refusal, unpublished}
