-- End messages that write to several streams or to a reply stream, or that are expired or cancelled.
-- KEYS: stream, history, due, holders, cancelled, then the streams that are written to
-- ARGV: group, consumer, identity, index in KEYS of the consumer's own result stream (0 for none),
--       then for each message: id, the id that its caller knows, 'owned' or '', number of entries,
--       for each entry: index in KEYS, 'existing' or '', number of items, field, value, ...;
--       then channel ('' for none), payload
-- Returns {outcomes, '' or the refusal of an entry, '' or the refusal of a channel}. The outcome of a
-- message is 1 if this call ended it, 2 if this call ended it and dropped its result, 0 if it had ended
-- before, or the refusal of an entry as text. A refused message stays pending, and the messages behind
-- it are settled.
--
-- The entries of a message are written all or none, in their order, so a repeated call writes nothing
-- twice. Only the entry for a reply stream may be dropped: its stream must be 'existing', because if
-- the stream is gone, its caller has ended.
--
-- A message that is 'owned' did not run: it ends only if it is still this consumer's. A message that is
-- done ends whichever consumer it is pending for now.
--
-- On a full server the entries of a message are refused if they are larger than the entry that it
-- frees; finish_with_results.lua gives the reason and the exception.

local FIRST_MESSAGE = 5
local MOST_BYTES = 1048576
local FULL = 'OOM the server is full, and what this message publishes is larger than what it frees'

local stream, history, due, holders, cancelled = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group, consumer, identity, own_results = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local outcomes, refusal, unpublished = {}, '', ''
local ended, gone, marks = {}, {}, {}

local is_full = is_server_full(due)  -- only known before the first write
local allowance = is_full and MOST_BYTES or 0
local groups, has_history = prepare_to_end(stream, group, history, due)
local name_is_lost  -- asked once, and only for messages that are 'owned'

-- Return the message at this index of ARGV, and the index behind it.
local function parse(i)
  local message = {id = ARGV[i], known_as = ARGV[i + 1], is_owned = ARGV[i + 2] ~= '', entries = {}}
  local count = tonumber(ARGV[i + 3])
  i = i + 4
  for n = 1, count do
    local last = i + 2 + tonumber(ARGV[i + 2])
    message.entries[n] = {
      key = tonumber(ARGV[i]), must_exist = ARGV[i + 1] ~= '', first = i + 3, last = last}
    i = last + 1
  end
  message.channel, message.payload = ARGV[i], ARGV[i + 1]
  return message, i + 2
end

-- Return whether the message is pending and this call may end it. If it is not pending, it has ended.
local function may_end(message)
  local id = message.id
  if message.is_owned and name_is_lost == nil then
    name_is_lost = claimed_by_another(holders, consumer, identity) ~= nil
  end
  local owner = pending_entry(stream, group, id)
  if owner then return not message.is_owned or (owner == consumer and not name_is_lost) end
  if message.is_owned then
    owner = not name_is_lost and restore(stream, group, groups, id, consumer, 1)
  else
    owner = restore(stream, group, groups, id, PARKED, 1)
  end
  if not owner then gone[#gone + 1] = id end
  return owner
end

local function needs_room(message)
  local bytes, is_read = 0, true
  for _, entry in ipairs(message.entries) do
    bytes = bytes + #table.concat(ARGV, '', entry.first, entry.last)
    is_read = is_read and redis.pcall('XLEN', KEYS[entry.key]) == 0
  end
  if bytes == 0 then return false end
  if is_read and allowance > 0 then
    allowance = allowance - bytes
    return false
  end
  if #groups ~= 1 then return true end
  local found = redis.pcall('XRANGE', stream, message.id, message.id)
  return bytes > (found[1] and #table.concat(found[1][2]) or 0)
end

-- Write an entry. Returns its id, false if it was dropped, or a table with the refusal.
local function add(entry)
  local key = KEYS[entry.key]
  if not entry.must_exist then
    local added = redis.pcall('XADD', key, '*', unpack(ARGV, entry.first, entry.last))
    if entry.key ~= own_results and type(added) == 'table'
      and added.err:find('WRONGTYPE', 1, true) then
      return {err = "ERR the key '" .. key .. "' is no stream, " .. NEVER_TAKEN}
    end
    return added
  end
  local added = redis.pcall('XADD', key, 'NOMKSTREAM', '*', unpack(ARGV, entry.first, entry.last))
  if type(added) == 'table' and (added.err:find('WRONGTYPE', 1, true)
      or added.err:find('exhausted the last possible ID', 1, true)) then
    return false  -- what was the caller's stream is of no use to anybody
  end
  return added
end

-- Write all entries of a message. Returns its outcome; none is left if it is a refusal.
local function write(message)
  local outcome, written = 1, {}
  for _, entry in ipairs(message.entries) do
    local added = add(entry)
    if type(added) == 'table' then
      for _, one in ipairs(written) do redis.pcall('XDEL', one.key, one.id) end
      return added.err
    end
    if added then
      written[#written + 1] = {key = KEYS[entry.key], id = added}
    else
      outcome = 2
    end
  end
  return outcome
end

local has_ended = {}  -- by id: a message that is named twice ends once
local i = FIRST_MESSAGE
while ARGV[i] do
  local message
  message, i = parse(i)
  local id, outcome = message.id, 0
  if not has_ended[id] and may_end(message) then
    outcome = is_full and needs_room(message) and FULL or write(message)
  end
  outcomes[#outcomes + 1] = outcome
  if type(outcome) == 'string' then
    refusal = outcome
  elseif outcome > 0 then
    has_ended[id] = true
    ended[#ended + 1] = id
    gone[#gone + 1] = id
    marks[#marks + 1] = id
    if message.known_as ~= '' then marks[#marks + 1] = message.known_as end
    if message.channel ~= '' then unpublished = publish(message.channel, message.payload) end
  end
end

-- Histories of messages that were not pending any more go too, as their group may have been lost.
if has_history and #gone > 0 and redis.call('HDEL', history, unpack(gone)) > 0 then
  redis.call('ZREM', due, unpack(gone))
end
if #ended > 0 then
  redis.call('XACK', stream, group, unpack(ended))
  delete_finished(stream, group, ended, true, groups)
  -- Another group may have to learn of it still. Marks that stay expire by themselves.
  if #groups == 1 then redis.pcall('ZREM', cancelled, unpack(marks)) end
end
return {outcomes, refusal, unpublished}
