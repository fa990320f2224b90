-- Acknowledge done messages, publish their results, delete their entries.
-- KEYS: stream, history, due, and the result stream if there is one
-- ARGV: group, then for each message: id, 1 if it was delivered before and may have left notes,
--       number of result items, field, value, ..., channel, payload
-- Returns 1 for each message that this call ended, 0 for each that was ended before.
--
-- The result is written before XACK although only the winner of XACK may publish: whether the
-- entry is pending decides the same thing, and a write that the server refuses then leaves the
-- message pending instead of acknowledged without a result.

local stream, history, due, results = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group = ARGV[1]
local outcomes, finished, refusal = {}, {}, nil

local i = 2
while ARGV[i] do
  local id, noted, items = ARGV[i], ARGV[i + 1] == '1', tonumber(ARGV[i + 2])
  local first = i + 3
  local channel, payload = ARGV[first + items], ARGV[first + items + 1]
  if items > 0 and pending_entry(stream, group, id) then
    local added = redis.pcall('XADD', results, '*', unpack(ARGV, first, first + items - 1))
    if type(added) == 'table' and added.err then
      refusal = added
      break
    end
  end
  local ended = redis.call('XACK', stream, group, id)
  if ended == 1 then
    if channel ~= '' then redis.pcall('PUBLISH', channel, payload) end
    if noted then forget(history, due, id) end
    finished[#finished + 1] = id
  end
  outcomes[#outcomes + 1] = ended
  i = first + items + 2
end

if #finished > 0 then delete_finished(stream, group, finished) end
return refusal or outcomes
