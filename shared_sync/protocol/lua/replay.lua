-- Move a dead letter back to its stream, as a new message with the original fields.
-- KEYS: stream, dead
-- ARGV: dead letter id
-- Returns the new message's id, nil if there is no such dead letter, or the text of the refusal.

local letter = redis.call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
if not letter then return false end

local fields = {}
for i = 1, #letter[2], 2 do
  local name, value = letter[2][i], letter[2][i + 1]
  if name == 'dead.fields' then
    return redis.error_reply('ERR this message has too many fields to be replayed by the server')
  end
  if name:sub(1, 5) ~= 'dead.' then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end

local id = redis.call('XADD', KEYS[1], '*', unpack(fields))
redis.call('XDEL', KEYS[2], ARGV[1])
return id
