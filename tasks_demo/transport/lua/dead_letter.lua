-- dead_letter: move one message that an owner holds to the dead letters.
--
-- KEYS[1]  held by that owner    KEYS[2]  unacknowledged    KEYS[3]  index    (see claim.lua)
-- KEYS[4]  dead letters: hash, token -> JSON text (dead_letters.py)
-- KEYS[5]  their index: sorted set, token -> Unix time
-- ARGV[1]  token    ARGV[2]  JSON text
--
-- Replies 1, or 0 if the owner does not hold it any more.

if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('ZREM', KEYS[3], ARGV[1])
if redis.call('HDEL', KEYS[2], ARGV[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[4], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[5], redis.call('TIME')[1], ARGV[1])
return 1
