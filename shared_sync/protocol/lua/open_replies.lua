
-- Create the reply stream of one process, or renew it.
-- KEYS: the stream
-- ARGV: how long it lives, ms
-- Returns 1 if it was made, so that what was in an earlier one is lost; 0 if it was there.

if redis.call('PEXPIRE', KEYS[1], ARGV[1]) == 1 then return 0 end
redis.call('XADD', KEYS[1], 'MAXLEN', 0, '*', 'status', 'open')  -- leaves an empty stream
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
