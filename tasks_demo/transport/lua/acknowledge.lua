-- acknowledge: remove messages that this owner holds.
--
-- KEYS[1]  held by this owner    KEYS[2]  unacknowledged    KEYS[3]  index    (see claim.lua)
-- ARGV     tokens
--
-- Replies the number of messages that this owner still held. The others were handed out again, or acknowledged before.

local removed = 0
for _, token in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[1], token) == 1 then
    removed = removed + redis.call('HDEL', KEYS[2], token)
    redis.call('ZREM', KEYS[3], token)
  end
end
return removed
