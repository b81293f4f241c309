-- Counters of one group, all in one slot of a cluster. Times are in microseconds.
--
-- ARGV[1]  what is done
-- ARGV[2]  the time; 0 to read this server's clock
-- ARGV[3]  the cost, or what is settled: below zero to give back
-- ARGV[4]  the node that asks
-- ARGV[5]  when what is settled was admitted
-- then seven for each of KEYS: kind, amount, shadow, and four that depend on the kind.
--
-- A window is a sorted set. Its members are grains, as `end:hits`, scored by their end. Two members
-- score below zero: `used`, the sum of all hits, and `reset`, the time of the last reset.

local action = ARGV[1]
local now = tonumber(ARGV[2])
local cost = tonumber(ARGV[3])
local node = ARGV[4]
local admitted_at = tonumber(ARGV[5])

if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function expire(key, micros)
  redis.call('PEXPIRE', key, string.format('%.0f', math.ceil(micros / 1000) + 1000))
end

local function int(number)
  return string.format('%.0f', number)
end

local NEVER = -1

-- The window that a rule goes by. Time never runs backwards in it. a: its length, b: its grain.

local function newest(rule)
  local last = redis.call('ZREVRANGE', rule.key, 0, 0, 'WITHSCORES')
  if last[2] and tonumber(last[2]) > 0 then
    return last[1], tonumber(last[2])
  end
end

local function hits(member)
  return tonumber(string.match(member, ':(%d+)$'))
end

local window = {}

function window.load(rule)
  rule.length, rule.grain = rule.a, rule.b
  rule.newest, rule.newest_at = newest(rule)
  rule.now = now
  if rule.newest then
    rule.now = math.max(now, rule.newest_at - rule.grain)
  end
  rule.used = -tonumber(redis.call('ZSCORE', rule.key, 'used') or 0)
  local gone_until = int(rule.now - rule.length)
  local gone = redis.call('ZRANGEBYSCORE', rule.key, '(0', gone_until)
  if #gone > 0 then
    local count = 0
    for _, member in ipairs(gone) do
      count = count + hits(member)
    end
    redis.call('ZREMRANGEBYSCORE', rule.key, '(0', gone_until)
    redis.call('ZINCRBY', rule.key, count, 'used')
    rule.used = rule.used - count
    if rule.newest_at <= rule.now - rule.length then
      rule.newest, rule.newest_at = nil, nil
    end
  end
end

function window.record(rule, amount)
  local ends_at = math.ceil(rule.now / rule.grain) * rule.grain
  local count = amount
  if rule.newest and rule.newest_at >= ends_at then
    ends_at = rule.newest_at
    count = count + hits(rule.newest)
    redis.call('ZREM', rule.key, rule.newest)
  end
  local member = int(ends_at) .. ':' .. int(count)
  redis.call('ZADD', rule.key, int(ends_at), member)
  redis.call('ZINCRBY', rule.key, -amount, 'used')
  rule.used = rule.used + amount
  rule.newest, rule.newest_at = member, ends_at
  expire(rule.key, rule.length + rule.grain)
end

-- Takes back hits of the grain in which they were admitted, as far as they still count.
function window.refund(rule, amount)
  local reset = -tonumber(redis.call('ZSCORE', rule.key, 'reset') or 0)
  if reset >= admitted_at then
    return
  end
  local ends_at = math.ceil(admitted_at / rule.grain) * rule.grain
  -- Where time stood still for a while, hits were counted in a later grain.
  local member = redis.call('ZRANGEBYSCORE', rule.key, int(ends_at), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  if not member[1] then
    return
  end
  local count = hits(member[1])
  amount = math.min(amount, count)
  redis.call('ZREM', rule.key, member[1])
  if count > amount then
    redis.call('ZADD', rule.key, member[2], int(tonumber(member[2])) .. ':' .. int(count - amount))
  end
  redis.call('ZINCRBY', rule.key, amount, 'used')
end

function window.settle(rule)
  if cost > 0 then
    window.record(rule, cost)
  else
    window.refund(rule, -cost)
  end
end

function window.room_in(rule, takes)
  local excess = rule.used + takes - rule.amount
  local from = 0
  while excess > 0 do
    local oldest = redis.call('ZRANGEBYSCORE', rule.key, '(0', '+inf', 'WITHSCORES', 'LIMIT', from, 64)
    if #oldest == 0 then
      return NEVER
    end
    for i = 1, #oldest, 2 do
      excess = excess - hits(oldest[i])
      if excess <= 0 then
        return tonumber(oldest[i + 1]) + rule.length - rule.now
      end
    end
    from = from + 64
  end
  return 0
end

function window.grows_in(rule)
  local oldest = redis.call('ZRANGEBYSCORE', rule.key, '(0', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
  return oldest[2] and tonumber(oldest[2]) + rule.length - rule.now or 0
end

function window.reset(rule)
  redis.call('DEL', rule.key)
  redis.call('ZADD', rule.key, -now, 'reset')
  expire(rule.key, rule.length + rule.grain)
end

-- A day, a month or credits, as `used:at:reset`. `at` is in milliseconds, as it is stored elsewhere:
-- when a day or month ends, or since when credits are coming back.

local balance = {}

function balance.load(rule)
  local text = redis.call('GET', rule.key) or rule.c
  local used, at, reset = string.match(text, '^(%d+):(%d+):(%d+)$')
  rule.used, rule.at, rule.reset_at = tonumber(used), tonumber(at), tonumber(reset)
end

function balance.save(rule, keep)
  local text = int(rule.used) .. ':' .. int(rule.at) .. ':' .. int(rule.reset_at)
  redis.call('SET', rule.key, text, 'PX', int(keep + 86400000))
end

function balance.settle(rule)
  if cost > 0 then
    rule.record(rule, cost)
  elseif rule.reset_at < admitted_at and rule.includes(rule) then
    rule.used = math.max(0, rule.used + cost)
    rule.keep(rule)
  end
end

function balance.reset(rule)
  rule.used, rule.reset_at = 0, now
  rule.keep(rule)
end

-- a: when the day or month ends, b: when the next one does, d: when that of the admission did, all in
-- milliseconds by the asker's calendar. c: the balance where there is none here.
local quota = { settle = balance.settle, reset = balance.reset }

function quota.load(rule)
  balance.load(rule)
  local millis = now / 1000
  if millis >= rule.at then
    rule.used = 0
    rule.at = millis < rule.a and rule.a or rule.b
  end
end

function quota.keep(rule)
  balance.save(rule, math.max(0, rule.at - now / 1000))
end

function quota.record(rule, amount)
  rule.used = rule.used + amount
  quota.keep(rule)
end

-- Whether what was admitted then was taken from the day or month that is running.
function quota.includes(rule)
  return rule.d >= rule.at
end

function quota.room_in(rule, takes)
  return rule.used + takes > rule.amount and quota.grows_in(rule) or 0
end

function quota.grows_in(rule)
  return math.max(0, rule.at * 1000 - now)
end

-- a: how many credits come back, 0 for none, b: how often, in milliseconds.
local credits = { settle = balance.settle, reset = balance.reset }

function credits.load(rule)
  balance.load(rule)
  if rule.a > 0 and rule.used > 0 then
    local times = math.max(0, math.floor((math.floor(now / 1000) - rule.at) / rule.b))
    rule.used = math.max(0, rule.used - times * rule.a)
    rule.at = rule.at + times * rule.b
  end
end

function credits.keep(rule)
  -- What is not asked for in a month is read from where it is stored.
  balance.save(rule, 30 * 86400000)
end

function credits.record(rule, amount)
  if rule.used == 0 then
    rule.at = math.floor(now / 1000)
  end
  rule.used = rule.used + amount
  credits.keep(rule)
end

function credits.includes()
  return true
end

local function returns_in(rule, amount)
  if rule.a == 0 then
    return NEVER
  end
  return math.max(0, (rule.at + math.ceil(amount / rule.a) * rule.b) * 1000 - now)
end

function credits.room_in(rule, takes)
  local excess = rule.used + takes - rule.amount
  return excess > 0 and returns_in(rule, excess) or 0
end

function credits.grows_in(rule)
  return returns_in(rule, 1)
end

-- Requests in flight: by node how many, and until when that holds. a: for how long it does.
local slots = {}

function slots.load(rule)
  rule.used, rule.own = 0, 0
  local all = redis.call('HGETALL', rule.key)
  for i = 1, #all, 2 do
    local count, until_ = string.match(all[i + 1], '^(%d+):(%d+)$')
    if tonumber(until_) <= now then
      redis.call('HDEL', rule.key, all[i])
    else
      rule.used = rule.used + tonumber(count)
      if all[i] == node then
        rule.own = tonumber(count)
      end
    end
  end
end

function slots.set(rule, count)
  if count > 0 then
    redis.call('HSET', rule.key, node, int(count) .. ':' .. int(now + rule.a))
    expire(rule.key, rule.a)
  else
    redis.call('HDEL', rule.key, node)
  end
end

function slots.record(rule, amount)
  slots.set(rule, rule.own + amount)
  rule.used = rule.used + amount
end

function slots.release(rule)
  slots.set(rule, rule.own - 1)
end

-- Says how many there are, for as long as that holds.
function slots.renew(rule)
  slots.set(rule, cost)
end

function slots.settle() end

function slots.reset() end

function slots.room_in(rule, takes)
  return rule.used + takes > rule.amount and NEVER or 0
end

function slots.grows_in()
  return NEVER
end

-- The names of all counters of a network, which hold for as long as one of them may. a: for how long.
local index = {}

function index.load(rule)
  rule.used, rule.amount = 0, 0
  rule.takes = 0
end

function index.record(rule)
  for _, key in ipairs(KEYS) do
    if key ~= rule.key then
      redis.call('SADD', rule.key, key)
    end
  end
  if redis.call('PTTL', rule.key) < rule.a / 1000 then
    expire(rule.key, 2 * rule.a)
  end
end

function index.forget(rule)
  for _, key in ipairs(redis.call('SMEMBERS', rule.key)) do
    redis.call('DEL', key)
  end
  redis.call('DEL', rule.key)
end

function index.room_in()
  return 0
end

function index.grows_in()
  return 0
end

local kinds = { w = window, q = quota, c = credits, s = slots, i = index }

local rules = {}
for i, key in ipairs(KEYS) do
  local at = 6 + (i - 1) * 7
  local rule = {
    key = key,
    kind = kinds[ARGV[at]],
    amount = tonumber(ARGV[at + 1]),
    shadow = ARGV[at + 2] == '1',
    a = tonumber(ARGV[at + 3]),
    b = tonumber(ARGV[at + 4]),
    c = ARGV[at + 5],
    d = tonumber(ARGV[at + 6]),
  }
  setmetatable(rule, { __index = rule.kind })
  rule.takes = rule.kind == slots and 1 or cost
  rule.load(rule)
  rules[i] = rule
end

local reply = { now, 1 }
if action == 'admit' then
  for _, rule in ipairs(rules) do
    rule.has_room = rule.used + rule.takes <= rule.amount
    if not rule.has_room and not rule.shadow then
      reply[2] = 0
    end
  end
  if reply[2] == 1 then
    for _, rule in ipairs(rules) do
      if rule.has_room then
        rule.record(rule, rule.takes)
      end
    end
  end
elseif action ~= 'look' then
  -- settle, reset, release, renew or forget
  for _, rule in ipairs(rules) do
    local act = rule[action]
    if act then
      act(rule)
    end
  end
end

for _, rule in ipairs(rules) do
  local taken = action == 'admit' and reply[2] == 1 and rule.has_room
  reply[#reply + 1] = math.max(0, rule.amount - rule.used)
  reply[#reply + 1] = rule.grows_in(rule)
  reply[#reply + 1] = taken and 0 or rule.room_in(rule, rule.takes)
  reply[#reply + 1] = rule.used
  reply[#reply + 1] = rule.at or 0
end
return reply
