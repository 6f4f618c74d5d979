-- revive: move a dead letter to its queue, last in line; or discard it.
--
-- KEYS[1]  dead letters    KEYS[2]  their index    (see dead_letter.lua)
-- KEYS[3]  its list    KEYS[4]  its queue's wake marker; both only to requeue
-- ARGV[1]  token    ARGV[2]  the message; only to requeue
--
-- Replies 1, or 0 if it is not there any more: somebody else has decided.

redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
if ARGV[2] then
  redis.call('LPUSH', KEYS[3], ARGV[2])
  if redis.call('EXISTS', KEYS[4]) == 0 then
    redis.call('LPUSH', KEYS[4], '1')
    redis.call('EXPIRE', KEYS[4], 60)
  end
end
return 1
