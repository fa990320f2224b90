-- List dead letters, oldest first, without their messages. Letters that are not in the index are read
-- and added to it; if these are large, the list ends early.
-- KEYS: dead, index
-- ARGV: id behind which to begin or '', most letters, most bytes to read (the last letter that is read
--       may exceed it)
-- Returns {1 if there may be more or 0, {id, bytes, which fields are left out, items} ...}. The items,
-- a list or netstrings, are the short fields of the message and the metadata.

local dead, index, cursor = KEYS[1], KEYS[2], ARGV[1]
local most, room = tonumber(ARGV[2]), tonumber(ARGV[3])
local prefix = cursor == '' or member_prefix(cursor)
if not prefix then return redis.error_reply('ERR Invalid stream ID specified') end

local from = cursor == '' and '-' or '[' .. prefix .. '!'
local members = redis.pcall('ZRANGE', index, from, '+', 'BYLEX', 'LIMIT', 0, most)
if members.err then members = {} end
local indexed = redis.pcall('ZCARD', index)
local checks = type(indexed) ~= 'number' or indexed > redis.call('XLEN', dead)

local function first(from_id, to_id)
  return redis.call('XRANGE', dead, from_id, to_id, 'COUNT', 1)[1]
end

local found, next_member = {1}, 1

local function add_row(id, items)
  local kept, left_out = summary_of(items)
  found[#found + 1] = {id, size_of(items), left_out, kept}
  room = room - size_of(items)
end

while #found <= most and room > 0 do
  local member = members[next_member]
  local id = member and letter_of(member)
  if member and not id then
    redis.pcall('ZREM', index, member)
    next_member = next_member + 1
  else
    -- Is there a letter in front of the next letter of the index? If not, this reads nothing.
    local letter =
      first(cursor == '' and '-' or '(' .. cursor, id and '(' .. id or '+')
    if letter then
      add_row(letter[1], letter[2])
      index_letter(index, letter[1], letter[2])
      cursor = letter[1]
    elseif not id then
      found[1] = 0
      break
    else
      local size, left_out, packed = member:match('^%S+ (%d+) ([012]) (.*)$')
      letter = (checks or not packed) and first(id, id)
      if letter then
        add_row(id, letter[2])
      elseif packed and not checks then
        found[#found + 1] = {id, tonumber(size), tonumber(left_out), packed}
      else
        redis.pcall('ZREM', index, member)
      end
      cursor, next_member = id, next_member + 1
    end
  end
end
return found
