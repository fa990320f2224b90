-- Publish the results of messages that are done, acknowledge these and delete their entries.
-- KEYS: stream, history, due, and the result stream if there is one
-- ARGV: group, number of messages, 'channels' or '', the shape of all results or '', id ...,
--       then for each message: the shape of its result unless all have one, field, value, ...,
--       and with 'channels': channel, payload
-- A shape is the number of items of a result, with a '+' if message_id and status go in front of them.
-- Returns {outcomes, '' or the refusal of a result, '' or that of a channel}. An outcome is 1 for a
-- message that this call ended, 0 for one that had ended before, and the refusal of the server as
-- text for one whose result was refused. That message stays pending; those behind it go on. If this
-- call ended all messages, as nearly always, their number stands in place of the outcomes.
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
local ids = {unpack(ARGV, 5, count + 4)}
local outcomes, ended_here, refusal, unpublished = {}, 0, '', ''

local MOST_BYTES = 1048576
local FULL = 'OOM the server is full, and this result is larger than the message that it frees'
local is_full = is_server_full(due)  -- only known before the first write
local groups, has_history = prepare_to_end(stream, group, history, due)

-- If the messages of this call lie together in the pending list, one XPENDING finds all of them.
local rows = id_is_after(ids[1], ids[count]) and {}
  or redis.call('XPENDING', stream, group, ids[1], ids[count], count)
local all_pending = #rows == count
for n, row in ipairs(rows) do
  if row[1] ~= ids[n] then
    all_pending = false
    break
  end
end
local is_pending = {}  -- by id, unless all are, each named once
if not all_pending then
  for _, row in ipairs(rows) do is_pending[row[1]] = true end
  for _, id in ipairs(ids) do
    if not is_pending[id] then
      is_pending[id] = pending_entry(stream, group, id) ~= nil
        or restore(stream, group, groups, id, PARKED, 1)
    end
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

local function parse_shape(shape) return shape:sub(1, 1) == '+', tonumber(shape) end

local i, shape = count + 5, ARGV[4]
local adds_header, items = parse_shape(shape)
for n, id in ipairs(ids) do
  if shape == '' then
    adds_header, items = parse_shape(ARGV[i])
    i = i + 1
  end
  local pending, added = all_pending or is_pending[id], nil
  if pending and (adds_header or items > 0) then
    if is_full and needs_room(id, #table.concat(ARGV, '', i, i + items - 1)) then
      added = {err = FULL}
    elseif adds_header then
      added = redis.pcall('XADD', results, '*', 'message_id', id, 'status', 'done',
        unpack(ARGV, i, i + items - 1))
    else
      added = redis.pcall('XADD', results, '*', unpack(ARGV, i, i + items - 1))
    end
  end
  i = i + items
  if type(added) == 'table' and added.err then
    refusal = added.err
    outcomes[n] = refusal
  elseif pending then
    if not all_pending then is_pending[id] = false end  -- a message that is named twice ends once
    ended_here = ended_here + 1
    outcomes[n] = 1
    if has_channels and ARGV[i] ~= '' then unpublished = publish(ARGV[i], ARGV[i + 1]) end
  else
    outcomes[n] = 0
  end
  if has_channels then i = i + 2 end
end

local ended, settled = ids, ids
if ended_here < count then
  ended, settled = {}, {}
  for n, id in ipairs(ids) do
    if outcomes[n] == 1 then ended[#ended + 1] = id end
    if type(outcomes[n]) == 'number' then settled[#settled + 1] = id end
  end
end
-- Histories of messages that were not pending any more go too, as their group may have been lost.
if has_history and #settled > 0 and redis.call('HDEL', history, unpack(settled)) > 0 then
  redis.call('ZREM', due, unpack(settled))
end
if #ended > 0 then
  redis.call('XACK', stream, group, unpack(ended))
  delete_finished(stream, group, ended, true, groups)
end
return {ended_here == count and count or outcomes, refusal, unpublished}
