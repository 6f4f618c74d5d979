-- declare_dead: end an owner's life, if nothing was heard of it since the caller looked.
--
-- KEYS[1]  owners    KEYS[2]  beats    KEYS[3]  the watcher's lease    KEYS[4]  dead owners    (see register.lua)
-- ARGV[1]  owner    ARGV[2]  how it was watched    ARGV[3]  its beat, both as the caller saw them
--
-- Replies 1 if this call declared it dead. From here on its claims, beats and registrations are refused; its acknowledgements
-- count for what was not requeued yet. It stays in the set of dead owners until it holds nothing, so that another watcher
-- goes on if this one dies.

if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] or redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[3] then
  return 0
end
redis.call('HDEL', KEYS[1], ARGV[1])  -- first: a full Redis would refuse SADD as the first write
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('SADD', KEYS[4], ARGV[1])
if redis.call('GET', KEYS[3]) == ARGV[1] then
  redis.call('DEL', KEYS[3])
end
return 1
