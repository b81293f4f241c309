-- Asks KeyGuard about a request, before HAProxy forwards it.

local AUTH = "http://127.0.0.1:8700/auth"
local TIMEOUT_MS = 1000

-- What the application gets, in the place of what a client sends by these names.
local IDENTITY = {
    "x-keyguard-key-id", "x-keyguard-org-id", "x-keyguard-org", "x-keyguard-scopes", "x-keyguard-ip",
}

-- Fields of the client that are about its connection or its body, or that say what only this proxy knows.
local NOT_COPIED = {
    ["connection"] = true, ["content-length"] = true, ["expect"] = true, ["forwarded"] = true,
    ["host"] = true, ["keep-alive"] = true, ["te"] = true, ["transfer-encoding"] = true,
    ["upgrade"] = true, ["x-forwarded-for"] = true, ["x-forwarded-method"] = true,
    ["x-forwarded-uri"] = true, ["x-original-method"] = true, ["x-original-uri"] = true,
}

-- Fields of a refusal that are for the client.
local OF_REFUSAL = {
    "content-type", "retry-after", "www-authenticate", "x-ratelimit-limit", "x-ratelimit-remaining",
    "ratelimit", "ratelimit-policy",
}

local function question(txn)
    local fields = {
        ["host"] = { "localhost" },
        ["x-forwarded-for"] = { txn.f:src() },
        ["x-forwarded-method"] = { txn.f:method() },
        ["x-forwarded-uri"] = { txn.f:pathq() },
    }
    for name, values in pairs(txn.http:req_get_headers()) do
        if not NOT_COPIED[name] then
            local copies = {}
            for _, value in pairs(values) do
                table.insert(copies, value)
            end
            fields[name] = copies
        end
    end
    return fields
end

local function first(response, name)
    local values = response.headers and response.headers[name]
    return values and values[0]
end

local function refuse(txn, status, response)
    local reply = txn:reply({ status = status })
    for _, name in ipairs(OF_REFUSAL) do
        local value = first(response, name)
        if value then
            reply:add_header(name, value)
        end
    end
    reply:set_body(response.body or "")
    txn:done(reply)
end

core.register_action("keyguard", { "http-req" }, function(txn)
    local client = core.httpclient()
    local response = client:get({ url = AUTH, headers = question(txn), timeout = TIMEOUT_MS })
    if not response or not response.status or response.status == 0 then
        -- KeyGuard does not answer: nobody gets in.
        return refuse(txn, 503, {})
    end
    if response.status ~= 200 then
        return refuse(txn, response.status, response)
    end
    for _, name in ipairs(IDENTITY) do
        txn.http:req_set_header(name, first(response, name) or "")
    end
    txn:set_var("txn.keyguard_limit", first(response, "x-ratelimit-limit"))
    txn:set_var("txn.keyguard_remaining", first(response, "x-ratelimit-remaining"))
end)
