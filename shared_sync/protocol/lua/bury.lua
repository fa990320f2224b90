-- Make a message a dead letter: its fields and the reason move to the stream of dead letters.
-- KEYS: stream, history, due, dead, holders, index of the dead letters, and the stream of the error
--       result if there is one
-- ARGV: group, consumer, identity, id, failure (one JSON line, or ''), number of metadata items,
--       items ..., number of error result items, items ..., channel, payload, kind of
--       that stream: 'own' for the consumer's result stream, 'caller' for a reply stream, which must
--       exist, 'other' for any other
-- Returns {{outcome}, '', '' or the refusal of the error result or the channel}: 1 if it is a dead
-- letter now, 2 if its error result was dropped as well, 0 if it is no longer this
-- consumer's, -1 if its entry is gone. A message is buried without an error result that its stream
-- will never take.

local MAX_ITEMS = 4000  -- Lua's unpack ends at about 8000 values
local OURS = 'dead.'  -- what the names of the metadata begin with

-- Whether the fields of a message have to be packed into one: there are too many of them for a
-- script, or one could be taken for the metadata.
local function must_be_packed(items)
  if #items > MAX_ITEMS then return true end
  for i = 1, #items, 2 do
    if items[i]:sub(1, #OURS) == OURS then return true end
  end
  return false
end

local stream, history, due, dead = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local holders, index, results = KEYS[5], KEYS[6], KEYS[7]
local group, consumer, identity = ARGV[1], ARGV[2], ARGV[3]
local id, failure = ARGV[4], ARGV[5]
local meta_items = tonumber(ARGV[6])
local result_count = 7 + meta_items
local result_items = tonumber(ARGV[result_count])
local channel = ARGV[result_count + result_items + 1]
local payload = ARGV[result_count + result_items + 2]
local whose_results = ARGV[result_count + result_items + 3]

local unpublished, outcome = '', 1

-- Write the error result. Returns its id, nil if its stream will never take it, or another refusal.
local function add_result()
  local added
  if whose_results == 'caller' then
    added = redis.pcall('XADD', results, 'NOMKSTREAM', '*',
      unpack(ARGV, result_count + 1, result_count + result_items))
  else
    added = redis.pcall('XADD', results, '*',
      unpack(ARGV, result_count + 1, result_count + result_items))
  end
  if type(added) ~= 'table' then
    if not added then outcome = 2 end
    return added or nil
  end
  local is_no_stream = added.err:find('WRONGTYPE', 1, true) ~= nil
  if not is_final_refusal(added.err) and not (is_no_stream and whose_results ~= 'own') then
    return added
  end
  if whose_results == 'caller' then outcome = 2 else unpublished = added.err end
  return nil
end

local owner, deliveries = pending_entry(stream, group, id)
local name_is_lost = claimed_by_another(holders, consumer, identity) ~= nil
if not owner and not name_is_lost
  and restore(stream, group, groups_of(stream), id, consumer, 1) then
  owner, deliveries = consumer, 1
end
if not owner then forget(history, due, id) end
if owner ~= consumer or name_is_lost then
  return {{0}, '', ''}
end

local groups = prepare_to_end(stream, group, history, due)
forget(history, due, '')  -- these and the next must not be refused below
if result_items > 0 and whose_results == 'own' then redis.call('XDEL', results, NO_ID) end

-- The claim fetches the entry. The count stays, so that trying again is not taken for a crash.
local entry =
  redis.call('XCLAIM', stream, group, consumer, 0, id, 'RETRYCOUNT', deliveries)[1]
if entry then
  local items = entry[2]
  if must_be_packed(items) then
    local packed = {}
    for i, item in ipairs(items) do packed[i] = #item .. ':' .. item .. ',' end
    items = {'dead.fields', table.concat(packed)}
  end
  for i = 7, 6 + meta_items do items[#items + 1] = ARGV[i] end
  local failures = redis.call('HGET', history, id) or ''
  if failure ~= '' then failures = failures .. failure .. '\n' end
  items[#items + 1] = 'dead.history'
  items[#items + 1] = failures:sub(1 + faults_in(failures))
  -- Either both are written or neither, so that trying again writes nothing twice.
  local published = result_items > 0 and add_result() or nil
  if type(published) == 'table' then return published end
  local buried = redis.pcall('XADD', dead, '*', unpack(items))
  if type(buried) == 'table' and buried.err then
    if published then redis.call('XDEL', results, published) end
    return buried
  end
  index_letter(index, buried, items)
end

redis.call('XACK', stream, group, id)
forget(history, due, id)
delete_finished(stream, group, {id}, true, groups)
if not entry then return {{-1}, '', ''} end
if channel ~= '' then unpublished = publish(channel, payload) end
return {{outcome}, '', unpublished}
