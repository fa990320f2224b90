-- Find the groups that keep entries in the stream which this group has finished. Only reads.
-- KEYS: stream
-- ARGV: group
-- Returns {now, entries in the stream, messages that this group has pending, that it has not read or
-- -1 if the server does not know, id up to which it has finished all, groups}. Each group is {name,
-- id of the first entry that it may need, '1' if that entry is pending there or ''}. The id is that
-- of an entry or lies before the entry.

local stream, group = KEYS[1], ARGV[1]

local froms, own = {}, nil
local groups = groups_of(stream)
for n, info in ipairs(groups) do
  local from, is_pending = needed_from(stream, info)
  froms[n] = {info['name'], from, is_pending and '1' or ''}
  if info['name'] == group then own = n end
end
local length = redis.call('XLEN', stream)
if not own then return {now_ms(), length, 0, -1, '0-0', {}} end

local behind = {}
for n, row in ipairs(froms) do
  if id_is_after(froms[own][2], row[2]) then behind[#behind + 1] = row end
end
return {now_ms(), length, groups[own]['pending'], groups[own]['lag'] or -1, froms[own][2], behind}
