"""All that is in Redis: keys, commands, replies, and the Lua scripts."""
