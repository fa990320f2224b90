-- Put behind common.lua in front of each script that writes, lists or removes dead letters.
--
-- The server can read a dead letter only as a whole, which takes 30 ms if it holds 10 MB of audio.
-- Therefore the index holds what a list shows of large letters. It is a sorted set whose scores are all
-- 0, so its members are in the order of their bytes. A member is
--   <id, each number with 20 digits> <bytes>                         for a small dead letter,
--   <id, each number with 20 digits> <bytes> <left out> <netstrings> for a large one: the names and
--                                    values of its short fields and of its metadata, packed
-- Workers of earlier releases do not write the index, and their tools remove letters without removing
-- them from it. So a letter that is missing in the index is read and added, and if the index has more
-- members than there are letters, each member is checked.

local SMALL_LETTER = 65536  -- bytes; a letter of this size is read in some 50 microseconds
local SHORT_FIELD = 256  -- bytes of a name and a value
local MOST_BYTES_OF_FIELDS = 4096

-- Which fields of a message are left out.
local NOTHING, LONG_FIELDS, ANY_FIELDS = 0, 1, 2

-- Return the beginning of the member of a letter, nil if this is not an id.
local function member_prefix(id)
  local ms, seq = id:match('^(%d+)-?(%d*)$')
  return ms and ('0'):rep(20 - #ms) .. ms .. '-' .. ('0'):rep(20 - #seq) .. seq
end

-- Return the id in a member, nil if another program has written the member.
local function letter_of(member)
  local ms, seq = member:match('^0*(%d+)-0*(%d+) ')
  return ms and ms .. '-' .. seq
end

local function size_of(items)
  local size = 0
  for _, item in ipairs(items) do size = size + #item end
  return size
end

-- Return the short fields and the metadata of a letter, and which fields are left out.
local function summary_of(items)
  local metadata = 1
  for i = 1, #items, 2 do
    if items[i] == 'dead.id' then metadata = i end
  end
  local kept, left_out, room = {}, NOTHING, MOST_BYTES_OF_FIELDS
  for i = 1, #items, 2 do
    local name, value = items[i], items[i + 1]
    local keeps
    if i >= metadata then
      keeps = name:find('^dead%.')
    else
      local length = #name + #value
      keeps = length <= SHORT_FIELD and length <= room and name ~= 'dead.fields'
      if keeps then
        room = room - length
      elseif length > SHORT_FIELD and name ~= 'dead.fields' then
        left_out = math.max(left_out, LONG_FIELDS)
      else
        left_out = ANY_FIELDS
      end
    end
    if keeps then
      kept[#kept + 1] = name
      kept[#kept + 1] = value
    end
  end
  return kept, left_out
end

local function index_letter(index, id, items)
  local size = size_of(items)
  local member = member_prefix(id) .. ' ' .. size
  if size > SMALL_LETTER then
    local kept, left_out = summary_of(items)
    local packed = {}
    for i, item in ipairs(kept) do packed[i] = #item .. ':' .. item .. ',' end
    member = member .. ' ' .. left_out .. ' ' .. table.concat(packed)
  end
  redis.pcall('ZADD', index, 0, member)
end

local function unindex_letter(index, id)
  local prefix = member_prefix(id)
  local members = redis.pcall('ZRANGE', index, '[' .. prefix .. ' ', '(' .. prefix .. '!', 'BYLEX')
  for _, member in ipairs(members) do redis.pcall('ZREM', index, member) end
end

-- Record the new id of a replayed message, for a call that is repeated after a lost reply.
local function record_replay(record, letter_id, id, kept_ms)
  redis.pcall('SET', record, letter_id .. ' ' .. id, 'PX', kept_ms)
end

-- Return the recorded id, false if there is none.
local function replayed_before(record, letter_id)
  local noted = redis.pcall('GET', record)
  local id = type(noted) == 'string' and noted:match('^(%S+) (%S+)$') == letter_id
  return id and noted:match('%S+$') or false
end
