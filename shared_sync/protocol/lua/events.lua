-- Put in front of the scripts that record events.

local MOST_EVENTS = 300  -- about so many are kept
local KEPT_MS = 604800000  -- a week

-- Add an event, given as field names and values in turn: `kind` and `text`, and perhaps `worker`,
-- whom it is about or who has noticed it, and `who`, who has done it. `protocol/events.py` reads it,
-- and makes the text of those events that only a script can notice.
local function record_event(events, ...)
  redis.call('XADD', events, 'MAXLEN', '~', MOST_EVENTS, '*', ...)
end

-- Let a key expire a week from now. Returns whether this user may; the right is optional.
local function keep_for_a_week(key)
  return type(redis.pcall('PEXPIRE', key, KEPT_MS)) == 'number'
end
