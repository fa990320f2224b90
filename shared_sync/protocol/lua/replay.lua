-- Move a dead letter back to its stream, as a new message with the original fields.
-- KEYS: stream, dead, index, record
-- ARGV: dead letter id, how long the record is kept, ms
-- Returns the new message's id, nil if there is no such dead letter, 0 if its fields are packed or
-- too many for a script, so that replay_large.lua has to move it, or the text of the refusal.
--
-- The record holds the ids of the dead letter and of the new message. If the reply is lost, the caller
-- calls this again with the same record and gets the same id; nil if it has no right to the record.

local MAX_ITEMS = 7000  -- Lua's unpack ends at about 8000 values

local stream, dead, index, record = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local letter_id = ARGV[1]

-- A right that is missing is noticed before anything is published. And a full server, which refuses
-- to publish in a script that has not written before, lets a message move.
redis.call('XDEL', dead, '0-0')
local letter = redis.call('XRANGE', dead, letter_id, letter_id)[1]
if not letter then return replayed_before(record, letter_id) end

-- The message ends where the metadata begin; see dead_letter_layout.py.
local items = letter[2]
local last = #items
for i = #items - 1, 1, -2 do
  if items[i] == 'dead.id' then
    last = i - 1
    break
  end
end
if last == 0 then return redis.error_reply('ERR this dead letter has no fields of a message') end
if last > MAX_ITEMS or last == 2 and items[1] == 'dead.fields' then return 0 end

local id = redis.call('XADD', stream, '*', unpack(items, 1, last))
redis.call('XDEL', dead, letter_id)
unindex_letter(index, letter_id)
record_replay(record, letter_id, id, ARGV[2])
return id
