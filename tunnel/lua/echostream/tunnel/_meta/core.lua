---@meta
--- The C module echostream.tunnel.core. Nothing in it waits or calls Lua from inside a library; `engine:step()` runs the functions
--- given here, each of which must not raise (engine.lua guards them).

---@class echostream.tunnel.core
local core = {}

core.version = "" ---@type string  with the versions of llhttp, nghttp2 and GnuTLS

---@param on_problem? fun(text: string)  takes what a function raised that a step called; without it the step raises it at its end
---@return echostream.tunnel.engine  sockets, listeners and their timers, on one pollable descriptor
function core.engine(on_problem) end

---@class echostream.tunnel.engine
local engine = {}
---@return integer  to be watched for reading
function engine:fd() end
---@param budget? integer
---@return boolean more  call again soon
function engine:step(budget) end
--- The first half of a step: takes what came and tells it. What is written then waits for `flush`.
---@param budget? integer
---@return boolean more
function engine:receive(budget) end
--- From now on what is written waits for `flush`, and the descriptor is not touched for it. Harmless twice.
function engine:hold() end
--- The second half: sends what was written.
---@param last? boolean  what is to be told may wait for the next step
---@return boolean pending  something came of it that is to be told now
function engine:flush(last) end
--- Tells what is pending; what is written then waits for `flush`.
function engine:tell() end
--- Bytes, sockets, exchanges that there are now and were.
---@return table<string, integer>
function engine:stats() end
---@return boolean  there is a socket or a listener
function engine:alive() end
function engine:close() end

---@class echostream.tunnel.listen
---@field ip? string            numeric, with `port`
---@field port? integer         0: any free one
---@field path? string          a unix socket, instead
---@field tls? echostream.tunnel.tls_server
---@field kind "http"|"raw"|"tls_name"   http: exchanges (HTTP/1.1 and HTTP/2, by ALPN or by the preface); raw: sockets; tls_name: `on_name` decides
---@field limits? table<string, number>  fields of struct et_http_limits; times in seconds
---@field max_connections? integer
---@field handshake_timeout? number
---@field on_exchange? fun(x: echostream.tunnel.core_exchange, head: echostream.tunnel.head, fin: boolean)
---@field on_socket? fun(s: echostream.tunnel.socket)
---@field on_name? fun(s: echostream.tunnel.socket, name: string)  the ClientHello's server name; then s:start_tls() (→ as kind http) or s:take_raw()
---@field on_refused? fun(peer: string, status: integer, why: string)  a malformed request that the codec answered itself

---@param options echostream.tunnel.listen
---@return echostream.tunnel.listener?, echostream.error?
function engine:listen(options) end

---@class echostream.tunnel.listener
local listener = {}
---@return string  "127.0.0.1:8080"
function listener:address() end
function listener:close() end
--- No new connections; each connection of it ends when its exchanges have (GOAWAY, Connection: close).
function listener:drain() end

---@class echostream.tunnel.dial
---@field ip? string
---@field port? integer
---@field path? string
---@field timeout? number       seconds for connect and handshake, 10
---@field tls? echostream.tunnel.tls_client
---@field name? string          SNI and verified name
---@field codec "http/1.1"|"h2"|"auto"|"raw"   auto: by ALPN
---@field limits? table<string, number>
---@field on_open fun(c: echostream.tunnel.connection|echostream.tunnel.socket)
---@field on_closed fun(c: echostream.tunnel.connection|echostream.tunnel.socket, err: echostream.error?)  also when it never opened
---@field on_ready? fun(c: echostream.tunnel.connection)  room or draining changed

---@param options echostream.tunnel.dial
---@return echostream.tunnel.connection|echostream.tunnel.socket|nil, echostream.error?
function engine:dial(options) end

---@class echostream.tunnel.connection  to a backend
local connection = {}
---@param head echostream.tunnel.head
---@param fin boolean
---@param notify fun(x: echostream.tunnel.core_exchange, what: string)
---@return echostream.tunnel.core_exchange?, echostream.error?
function connection:request(head, fin, notify) end
---@return integer  requests that may begin now
function connection:room() end
---@return integer
function connection:count() end
---@return string  "http/1.1" or "h2"
function connection:protocol() end
function connection:drain() end
function connection:close() end

--- One exchange. `notify(x, what)` is called from engine:step(): "head" (a response's head: x:head()), "data" (take() has something),
--- "room", "reset" (x:failure()), "gone". Signals are edges and may be spurious; look at what is there.
---@class echostream.tunnel.core_exchange
local x = {}
---@param fn fun(x: echostream.tunnel.core_exchange, what: string)
function x:notify(fn) end
--- The next head that came and was not taken: the request's; informational ones and the response's.
---@return echostream.tunnel.head?, boolean? fin
function x:head() end
--- Parts (tunnel/DESIGN.md) of what came of body, trailers and end, ready to be sent on a data stream; nil: nothing now.
--- `over`: the end is in it (or was taken before). Consumes: the peer gets credit.
---@param max? integer  bytes of body, 65536
---@return string? message, boolean over
function x:take(max) end
--- The same as plain bytes, for who is no data stream.
---@param max? integer
---@return string? bytes, boolean over, echostream.tunnel.head? trailers
function x:read(max) end
--- Sends a head: informational, final response, or nothing else.
---@param head echostream.tunnel.head
---@param fin? boolean
---@return boolean? ok, echostream.error?
function x:send_head(head, fin) end
--- Sends what the parts of a message of a data stream say (BODY, TRAILERS, END; HEAD and INFORMATIONAL too). False: it is queued, but wait for "room" before
--- the next. `over`: an END, TRAILERS or RESET was in it.
---@param message string
---@return boolean? room, echostream.error|boolean over_or_err
function x:put(message) end
---@param bytes string
---@param fin? boolean
---@return boolean? room, echostream.error?
function x:write(bytes, fin) end
---@param trailers? echostream.tunnel.head
---@return boolean? ok, echostream.error?
function x:finish(trailers) end
---@return integer  bytes not yet with the kernel
function x:queued() end
---@return boolean  as write and put say it
function x:room() end
--- "cancel", "refused", "protocol", "truncated", "timeout", "internal", "enhance_calm", "no_error"
---@param why? string
function x:reset(why) end
---@return string? why, string? text  after "reset"
function x:failure() end
---@return { peer: string, local_address: string, protocol: string, tls: boolean, sni: string, received: integer, sent: integer }
function x:info() end

--- A raw byte stream. `notify(s, what)`: "data", "room", "eof", "closed".
---@class echostream.tunnel.socket
local socket = {}
---@param fn fun(s: echostream.tunnel.socket, what: string)
function socket:notify(fn) end
---@param max? integer  65536
---@return string? bytes, boolean eof
function socket:read(max) end
---@param bytes string
---@return boolean? room, echostream.error?
function socket:write(bytes) end
function socket:finish() end
---@return boolean  as write says it
function socket:room() end
---@param graceful? boolean
function socket:close(graceful) end
---@return table  as of x:info()
function socket:info() end
---@param tls echostream.tunnel.tls_server
function socket:start_tls(tls) end
function socket:take_raw() end
---@return echostream.error?
function socket:failure() end

---@class echostream.tunnel.tls_server
local tls_server = {}
--- New connections use these; on error the old ones stay.
---@param certs { cert: string, key: string, names?: string[] }[]  PEM texts
---@return boolean? ok, echostream.error?
function tls_server:swap(certs) end

---@param options { certs: { cert: string, key: string, names?: string[] }[], alpn?: string[], strict?: boolean }
---@return echostream.tunnel.tls_server?, echostream.error?
function core.tls_server(options) end

---@param options { ca?: string, pin?: string, verify?: boolean, cert?: string, key?: string, alpn?: string[] }
---@return echostream.tunnel.tls_client?, echostream.error?
function core.tls_client(options) end

--- struct et_head. Names are lowered; wrong bytes give nil, err.
---@class echostream.tunnel.head
local head = {}
head.kind = "request" ---@type "request"|"response"|"trailers"
head.method = "" ---@type string?     fields by name are read and written: head.path = "/new"
head.scheme = "" ---@type string?
head.authority = "" ---@type string?
head.path = "" ---@type string?
head.protocol = "" ---@type string?
head.status = 200 ---@type integer?
head.length = 0 ---@type integer?     of the body, when it is known
---@param name string
---@return string? value  several are joined by ", "
function head:get(name) end
---@param name string
---@return string[]
function head:all(name) end
---@param name string
---@param value string
---@return boolean? ok, echostream.error?
function head:set(name, value) end
---@param name string
---@param value string
---@return boolean? ok, echostream.error?
function head:add(name, value) end
---@param name string
---@return integer removed
function head:remove(name) end
---@return fun(): string?, string?  for name, value in head:each()
function head:each() end
---@return echostream.tunnel.head
function head:copy() end
--- A HEAD (or INFORMATIONAL, TRAILERS by kind and status) part, then END if `fin`.
---@param fin? boolean
---@return string
function head:part(fin) end

---@param kind "request"|"response"|"trailers"
---@param fields? table  method, scheme, authority, path, protocol, status; and a list of { name, value }
---@return echostream.tunnel.head?, echostream.error?
function core.head(kind, fields) end

--- The parts of a message in order: for kind, value in core.parts(message): kind "head"|"informational"|"trailers" with a head,
--- "body" with bytes, "end" with true, "reset" with { why, text } (a list), "note" with bytes. Nothing of a malformed message is given: nil, err.
---@param message string
---@return fun(): string?, any|nil, echostream.error?
function core.parts(message) end
--- The first part when it is a head, also an informational one, and the rest of the message. NOTEs before it are left out; the payload of the last
--- one is told. Of NOTEs alone: nil, "", note.
---@param message string
---@return echostream.tunnel.head?, string|echostream.error rest, string? note
function core.split(message) end
---@param kind "body"|"end"|"reset"|"note"
---@param value? any
---@return string
function core.part(kind, value) end

--- HMAC-SHA-256 (RFC 2104): 32 bytes.
---@param key string
---@param text string
---@return string
function core.hmac_sha256(key, text) end

--- SHA-256: 32 bytes.
---@param text string
---@return string
function core.sha256(text) end

--- PBKDF2 with HMAC-SHA-256 (RFC 8018): 32 bytes. 100,000 rounds take about 40 ms.
---@param password string
---@param salt string
---@param rounds integer
---@return string
function core.pbkdf2_sha256(password, salt, rounds) end

--- A regular expression: POSIX extended, of bytes. Refused are patterns over 1 KiB, with back-references, counts over 1000 or more than 9 groups.
---@param pattern string
---@param ignore_case? boolean
---@return echostream.tunnel.regex? regex, string? why
function core.regex(pattern, ignore_case) end

---@class echostream.tunnel.regex
local regex = {}
--- Texts over 64 KiB match nothing.
---@param text string
---@return boolean
function regex:test(text) end
--- Where the leftmost match begins and ends, and its groups; false for one that took no part. Nil: there is none.
---@param text string
---@return integer? first, integer? last, ...
function regex:exec(text) end

return core
