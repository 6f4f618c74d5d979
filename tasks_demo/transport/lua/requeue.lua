-- requeue: move messages that an owner holds to their queues.
--
-- KEYS[1]    held by that owner    KEYS[2]  unacknowledged    KEYS[3]  index    (see claim.lua)
-- KEYS[4…]   for each message: its list, and its queue's wake marker
-- ARGV[1]    RPUSH: first in line, in the order of the arguments, so that the last one is handed out next. LPUSH: last in line
-- ARGV[2…]   for each message: token, message
--
-- Replies how many were moved. A token that the owner does not hold any more is skipped: two watchers may requeue at once.

local moved = 0
for i = 1, (#ARGV - 1) / 2 do
  local token, message = ARGV[2 * i], ARGV[2 * i + 1]
  local list, wake = KEYS[2 + 2 * i], KEYS[3 + 2 * i]
  if redis.call('ZREM', KEYS[1], token) == 1 then
    redis.call('ZREM', KEYS[3], token)
    if redis.call('HDEL', KEYS[2], token) == 1 then
      redis.call(ARGV[1], list, message)
      if redis.call('EXISTS', wake) == 0 then
        redis.call('LPUSH', wake, '1')
        redis.call('EXPIRE', wake, 60)
      end
      moved = moved + 1
    end
  end
end
return moved
