-- Find the group of a stream that needs the oldest entry, and so keeps the stream full. Only reads.
-- KEYS: stream
-- Returns {now, name, number of pending messages, number of unread messages or -1 if the server does
-- not know it, id of the oldest entry that the group needs or '' if this user may not read it}, or
-- {now} if the stream has no group.

local stream = KEYS[1]

local slowest, from, is_pending
for _, info in ipairs(groups_of(stream)) do
  local needed, pending = needed_from(stream, info)
  if not from or id_is_after(from, needed) then slowest, from, is_pending = info, needed, pending end
end
if not slowest then return {now_ms()} end

local oldest = from
if not is_pending then
  local entries = redis.pcall('XRANGE', stream, from, '+', 'COUNT', 1)
  oldest = entries[1] and entries[1][1] or ''
end
return {now_ms(), slowest['name'], slowest['pending'], slowest['lag'] or -1, oldest}
