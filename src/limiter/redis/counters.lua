-- Counters of one group, all in one slot of a cluster. Times are in microseconds.
--
-- ARGV[1]  the action
-- ARGV[2]  the time; 0 to read this server's clock
-- ARGV[3]  the cost; to settle, the correction, below zero for a refund
-- ARGV[4]  the calling node
-- ARGV[5]  when the settled request was admitted
-- then seven for each of KEYS: kind, amount, shadow, and four that depend on the kind.
--
-- Only the kinds in use are created, as creating all of them takes longer than a decision.

local call, floor, ceil, max, min = redis.call, math.floor, math.ceil, math.max, math.min
local action = ARGV[1]
local now = tonumber(ARGV[2])
local cost = tonumber(ARGV[3])
local node = ARGV[4]
local admitted_at = tonumber(ARGV[5])

local function server_time()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local is_given = now > 0
now = is_given and now or server_time()

local NEVER = -1
-- Whole numbers are exact up to here.
local MOST = 2 ^ 53

local function int(number)
  return string.format('%.0f', number)
end

local function expire(key, micros)
  call('PEXPIRE', key, int(ceil(micros / 1000) + 1000))
end

local kinds = {}

-- A window is a sorted set. Its members are grains, as `end:hits`, scored by their end. Two members
-- come before them, scored below zero: `reset`, the time of the last reset, and `used`, the sum of
-- all hits. Time never runs backwards in it. a: its length, b: its grain.
function kinds.w()
  local window = {}

  local function hits(member)
    return tonumber(string.match(member, ':(%d+)$'))
  end

  local function set_used(rule, used)
    rule.used = used
    return int(-used), 'used'
  end

  local function read_oldest(rule, first)
    rule.oldest_at = nil
    for i = 1, #first, 2 do
      if first[i] == 'used' then
        rule.used = -tonumber(first[i + 1])
      elseif first[i] == 'reset' then
        rule.reset_at = -tonumber(first[i + 1])
      elseif not rule.oldest_at then
        rule.oldest_at = tonumber(first[i + 1])
      end
    end
  end

  local function forget_gone(rule)
    local gone_until = int(rule.now - rule.a)
    local count = 0
    for _, member in ipairs(call('ZRANGEBYSCORE', rule.key, '(0', gone_until)) do
      count = count + hits(member)
    end
    call('ZREMRANGEBYSCORE', rule.key, '(0', gone_until)
    call('ZADD', rule.key, set_used(rule, max(0, rule.used - count)))
    read_oldest(rule, call('ZRANGE', rule.key, 0, 2, 'WITHSCORES'))
    if not rule.oldest_at then
      rule.newest, rule.newest_at = nil, nil
    end
  end

  function window.load(rule)
    rule.used, rule.reset_at, rule.now = 0, 0, now
    read_oldest(rule, call('ZRANGE', rule.key, 0, 2, 'WITHSCORES'))
    if not rule.oldest_at then
      return
    end
    local newest = call('ZRANGE', rule.key, -1, -1, 'WITHSCORES')
    rule.newest, rule.newest_at = newest[1], tonumber(newest[2])
    rule.now = max(now, rule.newest_at - rule.b)
    if rule.oldest_at + rule.a <= rule.now then
      forget_gone(rule)
    end
  end

  function window.consume(rule, amount)
    local ends_at = ceil(rule.now / rule.b) * rule.b
    local count = amount
    if rule.newest and rule.newest_at >= ends_at then
      ends_at = rule.newest_at
      count = count + hits(rule.newest)
      call('ZREM', rule.key, rule.newest)
    end
    rule.newest, rule.newest_at = int(ends_at) .. ':' .. int(count), ends_at
    rule.oldest_at = rule.oldest_at or ends_at
    call('ZADD', rule.key, int(ends_at), rule.newest, set_used(rule, rule.used + amount))
    expire(rule.key, rule.a + 2 * rule.b)
  end

  -- Removes hits from the grain in which they were admitted, as far as they still count.
  local function refund(rule, amount)
    local ends_at = int(ceil(admitted_at / rule.b) * rule.b)
    local member = call('ZRANGEBYSCORE', rule.key, ends_at, ends_at)[1]
    if rule.reset_at >= admitted_at or not member then
      return
    end
    local count = hits(member)
    amount = min(amount, count)
    call('ZREM', rule.key, member)
    if count > amount then
      call('ZADD', rule.key, ends_at, ends_at .. ':' .. int(count - amount))
    end
    call('ZADD', rule.key, set_used(rule, rule.used - amount))
  end

  function window.settle(rule)
    if cost < 0 then
      refund(rule, -cost)
    else
      local more = min(cost, 4294967295 - rule.used)
      if more > 0 then
        window.consume(rule, more)
      end
    end
  end

  function window.room_in(rule, takes)
    local excess = rule.used + takes - rule.amount
    local from = 0
    while excess > 0 do
      local oldest = call('ZRANGEBYSCORE', rule.key, '(0', '+inf', 'WITHSCORES', 'LIMIT', from, 64)
      if #oldest == 0 then
        return NEVER
      end
      for i = 1, #oldest, 2 do
        excess = excess - hits(oldest[i])
        if excess <= 0 then
          return tonumber(oldest[i + 1]) + rule.a - now
        end
      end
      from = from + 64
    end
    return 0
  end

  function window.grows_in(rule)
    return rule.oldest_at and rule.oldest_at + rule.a - now or 0
  end

  function window.reset(rule)
    call('DEL', rule.key)
    call('ZADD', rule.key, int(-now), 'reset')
    expire(rule.key, rule.a + 2 * rule.b)
  end

  return window
end

-- A day, a month or credits, as `used:at:reset`. `at` is in milliseconds, as in the store: the end of
-- a day or month, or the time from which credits refill. c: the balance if there is none here.
local function balance()
  local balance = {}

  function balance.read(rule)
    local text = call('GET', rule.key) or rule.c
    local used, at, reset_at = string.match(text, '^(%d+):(%d+):(%d+)$')
    rule.used, rule.at, rule.reset_at = tonumber(used), tonumber(at), tonumber(reset_at)
  end

  -- Expires a day after it has ended. The store seeds it then.
  function balance.keep(rule)
    local text = int(rule.used) .. ':' .. int(rule.at) .. ':' .. int(rule.reset_at)
    call('SET', rule.key, text, 'PX', int(rule.counts_for(rule) + 86400000))
  end

  function balance.consume(rule, amount)
    rule.used = min(MOST, rule.used + amount)
    balance.keep(rule)
  end

  function balance.settle(rule)
    if cost > 0 then
      rule.consume(rule, cost)
    elseif rule.reset_at < admitted_at and rule.includes(rule) then
      rule.used = max(0, rule.used + cost)
      balance.keep(rule)
    end
  end

  function balance.reset(rule)
    rule.used, rule.reset_at = 0, now
    balance.keep(rule)
  end

  return balance
end

-- a: the end of the day or month, b: that of the next one, d: that of the one of the admission, all in
-- milliseconds by the caller's calendar.
function kinds.q()
  local quota = balance()

  function quota.load(rule)
    quota.read(rule)
    local millis = now / 1000
    -- With a wrong calendar, now or when this began, it ends within one period.
    local period = rule.b - rule.a
    local longest = millis + 1.2 * period
    local ends_at = millis < rule.a and rule.a or rule.b
    if ends_at <= millis or ends_at > longest then
      ends_at = millis + period
    end
    if millis >= rule.at then
      rule.used, rule.at = 0, ends_at
    elseif rule.at > longest then
      rule.at = ends_at
    end
  end

  function quota.counts_for(rule)
    return max(0, rule.at - now / 1000)
  end

  -- Whether the request was admitted in the current day or month.
  function quota.includes(rule)
    return rule.d >= rule.at
  end

  function quota.grows_in(rule)
    return max(0, rule.at * 1000 - now)
  end

  quota.room_in = quota.grows_in

  return quota
end

-- a: the credits of a refill, 0 for none, b: the interval of refills in milliseconds.
function kinds.c()
  local credits = balance()
  local add = credits.consume

  function credits.load(rule)
    credits.read(rule)
    if rule.a > 0 and rule.used > 0 then
      rule.at = min(rule.at, floor(now / 1000))
      local times = max(0, floor((floor(now / 1000) - rule.at) / rule.b))
      rule.used = max(0, rule.used - times * rule.a)
      rule.at = rule.at + times * rule.b
    end
  end

  function credits.counts_for()
    return 30 * 86400000
  end

  function credits.consume(rule, amount)
    if rule.used == 0 then
      rule.at = floor(now / 1000)
    end
    add(rule, amount)
  end

  function credits.includes()
    return true
  end

  local function returns_in(rule, amount)
    if rule.a == 0 then
      return NEVER
    end
    return max(0, (rule.at + ceil(amount / rule.a) * rule.b) * 1000 - now)
  end

  function credits.room_in(rule, takes)
    return returns_in(rule, rule.used + takes - rule.amount)
  end

  function credits.grows_in(rule)
    return returns_in(rule, 1)
  end

  return credits
end

-- Requests in flight: their number by node, with the end of its lease by the clock of this server.
-- a: the length of a lease.
function kinds.s()
  local slots = {}
  local now = is_given and server_time() or now

  function slots.load(rule)
    rule.takes = 1
    rule.used, rule.own = 0, 0
    local all = call('HGETALL', rule.key)
    for i = 1, #all, 2 do
      local count, holds_until = string.match(all[i + 1], '^(%d+):(%d+)$')
      if tonumber(holds_until) <= now then
        call('HDEL', rule.key, all[i])
      else
        rule.used = rule.used + tonumber(count)
        if all[i] == node then
          rule.own = tonumber(count)
        end
      end
    end
  end

  local function set(rule, count)
    rule.used = rule.used + count - rule.own
    if count > 0 then
      call('HSET', rule.key, node, int(count) .. ':' .. int(now + rule.a))
      expire(rule.key, rule.a)
    else
      call('HDEL', rule.key, node)
    end
  end

  function slots.consume(rule, amount)
    set(rule, rule.own + amount)
  end

  function slots.release(rule)
    set(rule, max(0, rule.own - 1))
  end

  -- Sets the number of the node, and renews its lease.
  function slots.renew(rule)
    set(rule, cost)
  end

  -- Like renew, but the node may have taken more than it knows of.
  function slots.extend(rule)
    set(rule, max(rule.own, cost))
  end

  function slots.room_in()
    return NEVER
  end

  slots.grows_in = slots.room_in

  return slots
end

-- The names of all counters of an address. a: the longest lifetime of a counter.
function kinds.i()
  local index = {}

  function index.load(rule)
    rule.used, rule.amount, rule.takes = 0, 0, 0
  end

  function index.consume(rule)
    for _, key in ipairs(KEYS) do
      if key ~= rule.key then
        call('SADD', rule.key, key)
      end
    end
    if call('PTTL', rule.key) < rule.a / 1000 + 1000 then
      expire(rule.key, 2 * rule.a)
    end
  end

  function index.forget(rule)
    for _, key in ipairs(call('SMEMBERS', rule.key)) do
      call('DEL', key)
    end
    call('DEL', rule.key)
  end

  function index.grows_in()
    return 0
  end

  return index
end

local made = {}

local function load(i)
  local at = 6 + (i - 1) * 7
  local kind = ARGV[at]
  made[kind] = made[kind] or { __index = kinds[kind]() }
  local rule = {
    key = KEYS[i],
    amount = tonumber(ARGV[at + 1]),
    shadow = ARGV[at + 2] == '1',
    a = tonumber(ARGV[at + 3]),
    b = tonumber(ARGV[at + 4]),
    c = ARGV[at + 5],
    d = tonumber(ARGV[at + 6]),
    takes = cost,
  }
  setmetatable(rule, made[kind])
  rule.load(rule)
  rule.has_room = rule.used + rule.takes <= rule.amount
  return rule
end

local rules, is_admitted = {}, 1
for i = 1, #KEYS do
  rules[i] = load(i)
  if not rules[i].has_room and not rules[i].shadow then
    is_admitted = 0
  end
end

if action == 'admit' then
  for _, rule in ipairs(rules) do
    if is_admitted == 1 and rule.has_room then
      rule.consume(rule, rule.takes)
    end
  end
elseif action ~= 'peek' then
  -- settle, reset, release, renew, extend or forget
  local makes_room = action == 'reset' or action == 'forget'
  for _, rule in ipairs(rules) do
    if rule[action] then
      local was_full = rule.used >= rule.amount
      rule[action](rule)
      makes_room = makes_room or action == 'settle' and was_full and rule.used < rule.amount
    end
  end
  -- Callers cache refusals. Publishing may not be permitted.
  if makes_room and KEYS[1] then
    local channel = string.match(KEYS[1], '^{(kg:%x+):')
    redis.pcall('PUBLISH', channel, KEYS[1])
  end
end

-- The state of each rule. Only a rule that had room has a `room_in` of 0.
local reply = { now, is_admitted }
for _, rule in ipairs(rules) do
  local room_in = 0
  if not rule.has_room then
    room_in = rule.room_in(rule, rule.takes)
    room_in = room_in == NEVER and NEVER or max(1, room_in)
  end
  local n = #reply
  reply[n + 1] = max(0, min(MOST, rule.amount) - rule.used)
  reply[n + 2] = rule.grows_in(rule)
  reply[n + 3] = room_in
  reply[n + 4] = rule.used
  reply[n + 5] = rule.at or 0
end
return reply
