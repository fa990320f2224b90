-- Acknowledge done messages, publish their results, delete their entries.
-- KEYS: stream, history, due, and the result stream if there is one
-- ARGV: group, '1' if the server has XACKDEL, then for each message: id, number of result items,
--       field, value, ..., channel, payload
-- Returns {outcomes, '' or the refusal of a result, '' or that of a channel}: 1 for each message
-- that this call ended, 0 for each that was ended before, none for the refused one and those after it.
--
-- The result is written before XACK although only the winner of XACK may publish: whether the
-- entry is pending decides the same thing, and a write that the server refuses then leaves the
-- message pending instead of acknowledged without a result.

local stream, history, due, results = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, has_xackdel = ARGV[1], ARGV[2] == '1'
local outcomes, ended_ids, finished, refusal, unpublished = {}, {}, {}, '', ''

write_even_when_full(due)

local i = 3
while ARGV[i] do
  local id, items = ARGV[i], tonumber(ARGV[i + 1])
  local first = i + 2
  local channel, payload = ARGV[first + items], ARGV[first + items + 1]
  if items > 0 and pending_entry(stream, group, id) then
    local added = redis.pcall('XADD', results, '*', unpack(ARGV, first, first + items - 1))
    if type(added) == 'table' and added.err then
      refusal = added.err
      break
    end
  end
  local ended, deleted = acknowledge(stream, group, id, has_xackdel)
  if ended == 1 then
    if channel ~= '' then unpublished = publish(channel, payload) end
    if not deleted then finished[#finished + 1] = id end
  end
  outcomes[#outcomes + 1] = ended
  ended_ids[#ended_ids + 1] = id
  i = first + items + 2
end

-- Also about those that were not pending any more: their stream or group may have been deleted.
if #ended_ids > 0 and redis.call('HDEL', history, unpack(ended_ids)) > 0 then
  redis.call('ZREM', due, unpack(ended_ids))
end
if #finished > 0 then delete_finished(stream, group, finished) end
return {outcomes, refusal, unpublished}
