-- Look at a stream and group as a whole, for what takes messages away or hides them. Only reads.
-- KEYS: stream
-- ARGV: group
-- Returns {entries that were ever added, or -1 if the server does not count them, as before 7.0;
-- entries in the stream; entries that the group has read, or -1; id of the oldest message that
-- nobody has read, or ''; id of the first entry if no group is going to read it, or ''; now;
-- the refusal of what is left unknown, or ''; messages that the group has pending}. Fails if there
-- is no stream.
--
-- A script, since the reply of XINFO STREAM contains the first and the last entry as a whole.

local stream, group, refusal = KEYS[1], ARGV[1], ''

local facts = facts_of(redis.call('XINFO', 'STREAM', stream))
local first, read, waiting, skipped = facts['first-entry'], -1, '', ''
local is_needed, pending = false, 0
for _, info in ipairs(groups_of(stream)) do
  local last = info['last-delivered-id']
  is_needed = is_needed or first
    and (id_is_after(first[1], last) or pending_entry(stream, info['name'], first[1]) ~= nil)
  if info['name'] == group then
    read, pending = info['entries-read'] or -1, info['pending']
    if first and id_is_after(first[1], last) then
      waiting = first[1]
    else
      local next_entry = redis.pcall('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)
      refusal = next_entry.err or ''
      waiting = next_entry[1] and next_entry[1][1] or ''
    end
  end
end
if first and not is_needed then skipped = first[1] end
return {facts['entries-added'] or -1, facts['length'], read, waiting, skipped, now_ms(), refusal,
  pending}
