-- Publish the results of messages that are done, acknowledge these and delete their entries.
-- KEYS: stream, history, due, and the result stream if there is one
-- ARGV: group, number of messages, 'channels' or '', id ...,
--       then for each message: number of result items, field, value, ...,
--       and with 'channels': channel, payload
-- With a '+' in front of the number, message_id and status go in front of the items.
-- Returns {outcomes, '' or the refusal of a result, '' or that of a channel}. An outcome is 1 for a
-- message that this call ended, 0 for one that had ended before, and the refusal of the server as
-- text for one whose result was refused. That message stays pending; those behind it go on.
--
-- On a full server, which does not refuse the writes of a script that has written before, a result
-- is refused in here if it is larger than the entry that its message frees. Otherwise results that
-- nobody reads would grow beyond every limit. If the result stream is empty, a call writes results of
-- MOST_BYTES all the same, so that whoever reads and deletes them keeps the workers going.
--
-- A result is written before its message is acknowledged, if the message is pending: a result that
-- the server refuses then leaves the message pending instead of acknowledged without a result.

local stream, history, due, results = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, count, has_channels = ARGV[1], tonumber(ARGV[2]), ARGV[3] ~= ''
local ids = {unpack(ARGV, 4, count + 3)}
local outcomes, settled, ended, refusal, unpublished = {}, {}, {}, '', ''

local MOST_BYTES = 1048576
local FULL = 'OOM the server is full, and this result is larger than the message that it frees'
local is_full = is_server_full(due)  -- only known before the first write
local groups, has_history = prepare_to_end(stream, group, history, due)

-- If the messages of this call lie together in the pending list, one XPENDING finds all of them.
local is_pending = {}
if not id_is_after(ids[1], ids[count]) then
  for _, row in ipairs(redis.call('XPENDING', stream, group, ids[1], ids[count], count)) do
    is_pending[row[1]] = true
  end
end
for _, id in ipairs(ids) do
  if not is_pending[id] then
    is_pending[id] = pending_entry(stream, group, id) ~= nil
      or restore(stream, group, groups, id, PARKED, 1)
  end
end

local allowance = is_full and results and redis.call('XLEN', results) == 0 and MOST_BYTES or 0

-- Whether a result of so many bytes needs more than the entry of its message frees. An entry that
-- another group needs frees nothing.
local function needs_room(id, bytes)
  if allowance > 0 then
    allowance = allowance - bytes
    return false
  end
  if #groups ~= 1 then return true end
  local found = redis.pcall('XRANGE', stream, id, id)
  return bytes > (found[1] and #table.concat(found[1][2]) or 0)
end

local i = count + 4
for n, id in ipairs(ids) do
  local items = tonumber(ARGV[i])
  local adds_header = ARGV[i]:sub(1, 1) == '+'
  local pending, added = is_pending[id], nil
  if pending and (adds_header or items > 0) then
    if is_full and needs_room(id, #table.concat(ARGV, '', i + 1, i + items)) then
      added = {err = FULL}
    elseif adds_header then
      added = redis.pcall('XADD', results, '*', 'message_id', id, 'status', 'done',
        unpack(ARGV, i + 1, i + items))
    else
      added = redis.pcall('XADD', results, '*', unpack(ARGV, i + 1, i + items))
    end
  end
  i = i + items + 1
  if type(added) == 'table' and added.err then
    refusal = added.err
    outcomes[n] = refusal
  else
    if pending then
      is_pending[id] = false  -- a message that is named twice ends once
      ended[#ended + 1] = id
      if has_channels and ARGV[i] ~= '' then unpublished = publish(ARGV[i], ARGV[i + 1]) end
    end
    settled[#settled + 1] = id
    outcomes[n] = pending and 1 or 0
  end
  if has_channels then i = i + 2 end
end

-- Histories of messages that were not pending any more go too, as their group may have been lost.
if has_history and #settled > 0 and redis.call('HDEL', history, unpack(settled)) > 0 then
  redis.call('ZREM', due, unpack(settled))
end
if #ended > 0 then
  redis.call('XACK', stream, group, unpack(ended))
  delete_finished(stream, group, ended, true, groups)
end
return {outcomes, refusal, unpublished}
