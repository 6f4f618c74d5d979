-- publish: put a message on a queue's list and wake one waiting consumer.
--
-- KEYS[1]    the list: queue and priority, as kombu names it
-- KEYS[2]    the queue's wake marker, a list of 0 or 1 elements that idle consumers block on
-- KEYS[3…]   only with ARGV[2]: every list of the queue
-- ARGV[1]    the message, JSON text
-- ARGV[2]    milliseconds until the queue expires (x-expires), or empty
--
-- The marker is a hint. If it is lost, the message is found by the next poll.

redis.call('LPUSH', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('LPUSH', KEYS[2], '1')
  redis.call('EXPIRE', KEYS[2], 60)
end
if ARGV[2] ~= '' then
  for i = 3, #KEYS do
    redis.call('PEXPIRE', KEYS[i], ARGV[2])
  end
end
