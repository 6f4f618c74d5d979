-- register: become a living owner, or name a new connection.
--
-- KEYS[1]  owners    KEYS[2]  beats: hash, owner -> counter    KEYS[3]  dead owners that may still hold messages: set
-- ARGV[1]  owner
-- ARGV[2]  how it is watched: ID of its connection (0: not listed), run ID of the server, heartbeat timeout in seconds
-- ARGV[3]  '1': a new owner, '0': one that was registered before
--
-- Replies 1, or 0 if the owner was declared dead: it must start again under a new name.

if redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1 then
  return 0
end
if ARGV[3] == '0' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HDEL', KEYS[1], '')  -- changes nothing: a full Redis would refuse HSET as the first write
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
return 1
