---@meta echostream.core
--- The C module `echostream.core`: what the Lua files of echostream stand on. Users never call it.
---
--- Conventions: durations and times are seconds (floats); sizes are bytes. Misuse raises. What the network, the peer or time
--- does returns `nil, err` where `err` is an error object (see errors.lua: a table { code, message, processed, retry_after, details }
--- with the metatable `core.error_mt`). Methods on a closed object return `nil, err` with code "connection_closed".
--- Functions given to C (hooks, handlers, callbacks) always run in a task of their own, so they may block; an error in one is logged
--- through `core.set_log` and ends only that task.

---@class echostream.core
---@field version string            "scm-1"
---@field libraries table            { ngtcp2 = "0.12.1", gnutls = "3.7.9", lua = "Lua 5.4" }
---@field null userdata              the MessagePack/JSON null inside tables (lightuserdata NULL)
---@field error_mt table             metatable of error objects; errors.lua fills in __tostring and __index
local core = {}

-- Histograms ------------------------------------------------------------------------------------------------

---@class echostream.core.histogram: userdata
local histogram = {}

--- An empty histogram of non-negative integers; a bucket is at most an eighth of its lower bound wide.
---@return echostream.core.histogram
function core.histogram() end
---@param value number  below 0 counts as 0
---@param n? integer    how often (default 1)
function histogram:add(value, n) end
--- The buckets that are not empty: the largest value that falls into one and how many did, in turns.
---@return integer[]
function histogram:buckets() end
---@return integer count, integer sum, integer max
function histogram:totals() end
---@param share number  0 to 1
---@return number
function histogram:quantile(share) end
--- How many values were at most `bound`; exact for powers of two.
---@param bound integer
---@return integer
function histogram:at_most(bound) end
---@param other echostream.core.histogram
function histogram:merge(other) end

-- Loop ------------------------------------------------------------------------------------------------------

--- Whether somebody listens at the path of a unix socket.
---@param path string
---@return boolean|nil answers  false: nobody does, or there is nothing
---@return string? err  it cannot be known
function core.socket_answers(path) end

---@class echostream.core.lock: userdata
local lock = {}

--- Takes the lock on a file, which is made and stays. It ends with `release`, with its scope, and with the process.
---@param path string
---@return echostream.core.lock|nil lock, string? err  somebody else has it, for longer than a second
function core.lock_file(path) end

--- Lets others have it; harmless twice.
function lock:release() end

---@class echostream.core.loop: userdata
local loop = {}

--- The real loop; one per Lua state is enough. Raises when epoll or timerfd cannot be had.
---@return echostream.core.loop
function core.loop() end

--- A loop over a simulated network with a virtual clock. Same methods; `fd` is -1, `step` jumps to the next thing due.
---@param options echostream.options.sim  without limit and trace
---@return echostream.core.loop
function core.sim(options) end

---@return integer fd the one pollable fd (readable means: call step), -1 in a simulation
function loop:fd() end
---@return number seconds monotonic (or virtual) time
function loop:now() end
---@return number seconds since 1970 (virtual in a simulation: starts at 1700000000)
function loop:wall() end
--- Receives (at most `budget` datagrams, default 64), fires timers, runs what became ready, sends. Runs handlers and tasks.
--- Raises only for misuse (called from inside itself).
---@param budget? integer
---@return integer n how much was done; 0 = nothing was there (in a simulation: nothing will ever happen)
---@return boolean alive as alive()
function loop:step(budget) end
--- Sends what is queued and runs ready tasks' writes; cheap when nothing is.
function loop:flush() end
--- Calls `fn(...)` as a part of a step without the network: the tasks that it makes ready run when it returned, and what they write is
--- sent, without the descriptor's being touched. Raises what `fn` raises, afterwards.
---@param fn function
---@return boolean alive as alive()
function loop:run(fn, ...) end
---@return integer turn another number each time that a task was resumed: who reads the same one twice has not waited between
function loop:turn() end
---@return number|nil seconds until step has something to do by the clock; nil: only network input can wake it. 0: now (tasks are ready)
function loop:next() end
---@return boolean alive an endpoint, a timer or a task that is not finished exists
function loop:alive() end
---@param seconds number
---@param fn fun() runs in a task
---@return echostream.core.timer
function loop:timer(seconds, fn) end
--- Closes its endpoints (CONNECTION_CLOSE to every peer) and frees everything.
function loop:close() end
--- Simulation only. Changes the path from now on. `from`, `to`: IP texts or nil for every.
function loop:path(options, from, to) end
--- Simulation only: nothing passes between these virtual times (seconds from now).
function loop:blackout(after, duration) end
--- Simulation only. The endpoint's address changes as behind a NAT; nil: another port.
---@param endpoint echostream.core.endpoint
---@param address? string
---@return true|nil, table|nil
function loop:sim_move(endpoint, address) end
--- Simulation only. { sent, delivered, lost, duplicated, reordered, corrupted, marked, queue_dropped, no_listener }
function loop:sim_stats() end
--- Simulation only. From now on every datagram's fate is written into the file, or kept for sim_records. Raises when there is no
--- such file, or a trace already.
---@param file? string
function loop:sim_trace(file) end
--- Simulation only. What was kept since the last call; nil: there is no trace. A file is flushed. Raises when the trace is not whole.
---@return echostream.sim.record[]?
function loop:sim_records() end

---@class echostream.core.timer: userdata
local timer = {}
---@return boolean was_running
function timer:stop() end

-- Tasks -----------------------------------------------------------------------------------------------------

---@class echostream.core.task: userdata
local task = {}

--- Makes a task; it starts in the loop's next step (or flush), not inside this call.
---@param loop echostream.core.loop
---@param fn function
---@return echostream.core.task
function core.spawn(loop, fn, ...) end

--- "ready" (not started or about to go on), "running", "suspended", "done", "failed", "cancelled"
---@return string
function task:status() end
--- Once not ready, running or suspended: true, results... or false, error (what the function raised, or an error object "cancelled").
--- Before: nil.
---@return boolean|nil ok
function task:result() end
--- fn(task) runs (inside C, must not block or raise: use it to wake somebody) when the task ends; at once when it has ended.
function task:on_end(fn) end
--- Asks it to end: what it waits for returns nil, err "cancelled" (again at every later wait). A task not started never starts.
---@return boolean asked false when it had ended already
function task:cancel() end
---@return boolean
function task:cancelled() end

--- The task whose coroutine is running now; nil on the main thread and in foreign coroutines.
---@return echostream.core.task|nil
function core.current() end

--- Announces that the running task will park; returns it and a ticket. nil when not in a task.
---@return echostream.core.task|nil task, integer ticket
function core.prepare() end
--- Yields the running task until core.wake(task, ticket, ...) (which may have happened already) and returns its values. When the task
--- was or gets cancelled, returns nil, err "cancelled" instead. Only task.lua calls this.
---@param ticket integer
---@return any ...
function core.park(ticket) end
--- Ends a park. A stale ticket or a second wake is ignored. The task continues in the loop's current or next step, not inside this call.
---@return boolean taken
function core.wake(task, ticket, ...) end

-- Hosts: what a server or client offers ------------------------------------------------------------------------

---@class echostream.core.host: userdata
local host = {}

---@class echostream.core.hooks
---@field open fun(session_ud, incoming: boolean, credentials: table|nil): table makes the Lua session object for the handle and returns it; must not block.
--- Handlers get that object as their first argument. Called before anything else for that session.
---@field accept? fun(session) incoming sessions only, in a task; the peer's calls are held until session_ud:accept(). nil: accepted at once.
---@field closed fun(session, err, opened: boolean) once; err = error object
---@field goaway? fun(session, grace, retry_after, reason)
---@field moved? fun(session, from: string, to: string, of_the_peer: boolean) the path changed, validated
---@field idle? fun(session) after session_ud:goaway(): nothing is under way any more

---@param loop echostream.core.loop
---@param options { max_message?: integer, max_metadata?: integer, max_calls?: integer, max_named_streams?: integer, max_pending?: integer, request_timeout?: number, assembly_timeout?: number, agent?: string, hooks: echostream.core.hooks }
---@return echostream.core.host
function core.host(loop, options) end
--- kind: "rpc", "event", "stream". For "rpc": fn(session, ...) -> results; for "event": fn(session, ...); for "stream": fn(session, channel_ud).
--- stream makes an "rpc" a streaming one: fn(session, channel_ud, ...) -> results.
---@param options? { idempotent?: boolean, concurrent?: integer, stream?: "in"|"out"|"both" }
---@return true|nil ok, table|nil err code already_exists; a bad name raises
function host:add(kind, name, fn, options) end
--- Another function for a name that is there; its options stay, and what was queued for the old function goes to the new one.
---@return boolean replaced
function host:replace(kind, name, fn, options, version) end

---The versions of what is behind a name, the last first; earlier ones while calls run that began with them.
---@param kind "rpc"|"event"|"stream"
---@param name string
---@return { version: integer, running: integer }[]
function host:versions(kind, name) end
---@return boolean removed
function host:remove(kind, name) end
--- Whether sessions to come may open on early data, before on_connect hooks could be sure that nobody replays it.
---@param on boolean
function host:early_open(on) end
--- nil, or what core.middleware's `incoming` made: it runs instead of every handler.
function host:set_wrapper(fn) end
--- How many calls and streams ended how so far: { ok = n, timeout = n, … } by gRPC's codes.
---@return table<string, integer> incoming, table<string, integer> outgoing
function host:outcomes() end
--- Calls that may be sent again get a fingerprint of their arguments: see core.call_key.
---@param on boolean
function host:fingerprints(on) end
--- An id for a request of a client whose next session is still to come. `first`: ids go on from there, for clients that share
--- an instance.
---@param first? integer
---@return integer
function host:request_id(first) end
--- The parts of middleware.lua that every call passes through; `helpers` are its functions and metatables for all that is not
--- the common case (csrc/lua/middleware.c lists them). `incoming(fn, next)` makes a wrapper (see host:set_wrapper), `outgoing(fn, next)`
--- a function(owner, kind, final, name, options, ...) -> results; `handle(call)` and `send(call)` are the innermost `next`.
---@param helpers table<string, function|table>
---@return { incoming: function, outgoing: function, handle: function, send: function, new: function }
function core.middleware(helpers) end
---@return table counters of csrc/dispatch/dispatcher.h's es_host_stats
function host:stats() end

-- TLS -------------------------------------------------------------------------------------------------------

---@class echostream.core.tls: userdata
local tls = {}
---@param options { server?: boolean, cert_file?: string, key_file?: string, cert_pem?: string, key_pem?: string, trust?: "none"|"system"|"ca"|"pin"|"skip", ca_file?: string, pins?: string[], server_name?: string, certs?: table[], client_optional?: boolean, priority?: string, keylog?: string }
--- pins: raw 32-byte strings. certs: { name = , cert_file | cert_pem = , key_file | key_pem = } for clients that ask for other names
---@return echostream.core.tls|nil tls, table|nil err
function core.tls(options) end
---@return string spki, string der raw 32 bytes each; nil when it has no certificate
function tls:pin() end
---@return string pem
function core.key_generate() end
---@param key_pem string
---@param names string[]
---@param days integer
---@return string|nil pem, table|nil err
function core.cert_self_sign(key_pem, names, days) end
--- Any certificate. Times are seconds since 1970. Without an issuer it is signed with its own key.
---@param options { key: string, names: string[], not_before: integer, not_after: integer, issuer_cert?: string, issuer_key?: string, servers?: boolean, clients?: boolean, authority?: boolean }  PEM text
---@return string|nil pem, table|nil err
function core.cert_issue(options) end
---@class echostream.core.certificate
---@field spki string  SHA-256 of the public key, 32 bytes
---@field der string   SHA-256 of the certificate
---@field not_before integer
---@field not_after integer
---@field subject string
---@field issuer string
---@field serial string
---@field names string[]
---@return echostream.core.certificate|nil info, table|nil err
function core.cert_inspect(pem) end
---@return string n unpredictable bytes
function core.random(n) end
--- Whether two texts are the same, in a time that depends on the length of the first alone.
---@param given string
---@param secret string
---@return boolean
function core.same(given, secret) end

-- Endpoints -------------------------------------------------------------------------------------------------

---@class echostream.core.transport
---@field idle_timeout? number
---@field keep_alive? number|false
---@field handshake_timeout? number
---@field max_streams_bidi? integer
---@field max_streams_uni? integer
---@field stream_window? integer
---@field connection_window? integer
---@field max_datagram? integer
---@field glitch_budget? integer
---@field memory_cap? integer
---@field hold_cap? integer
---@field stall_timeout? number
---@field batch_bytes? integer
---@field batch_delay? number
---@field congestion_control? "cubic"|"bbr"|"newreno"
---@field version? 1|2
---@field enable_0rtt? boolean
---@field key_update_packets? integer

---@class echostream.core.endpoint: userdata
local endpoint = {}
--- apps: in order of preference, { alpn = "echostream/1", host = host } or { alpn = "x", raw = fn(conn_ud) } (quic.lua; fn runs when
--- a connection is established). Without tls it can only dial.
--- secret: 32 bytes or more (hashed); the other fields as the options of servers.
---@param options { bind: string, tls?: echostream.core.tls, apps?: table[], transport?: echostream.core.transport, worker?: integer, secret?: string, qlog?: string, preferred?: string[], retry?: "auto"|"always"|"never", retry_above?: integer, max_half_open?: integer, max_half_open_per_address?: integer, tcp?: true|string }
---@return echostream.core.endpoint|nil endpoint, table|nil err code io
function core.endpoint(loop, options) end
---@return string address "127.0.0.1:5000"
function endpoint:address() end
---@return string? address where it accepts sessions over TCP
function endpoint:tcp_address() end
function endpoint:accepting(yes) end
---@return true|nil, table|nil
function endpoint:set_tls(tls) end
---@return table { connections, accepted, dialled, refused, half_open, retries, retrying, tokens_accepted, tokens_rejected, version_negotiations, resets_sent, forgotten, datagrams_in, datagrams_out, bytes_in, bytes_out, batches_in, batches_out, dropped_datagrams, gso, gro, ecn, pktinfo, rcvbuf, sndbuf }
function endpoint:stats() end
--- CONNECTION_CLOSE to every peer left; idempotent.
function endpoint:close() end
--- Moves it to another local port without telling the peers, as a NAT does (tests).
---@return true|nil, table|nil
function endpoint:rebind() end

--- Starts a session; the `open` hook has made its object before this returns. `done(ok, err)` (in a task) when the handshake is
--- over: true, or nil and the reason. `remote` is a numeric address.
---@param endpoint echostream.core.endpoint
---@param options { remote: string, tls: echostream.core.tls, host: echostream.core.host, ticket?: string, on_ticket?: fun(ticket: string), credentials?: table<string,string>, instance?: string, transport?: echostream.core.transport, webtransport?: { authority: string, path: string, origin?: string }, tcp?: boolean, done: fun(ok: true|nil, err: table|nil) }
---@return echostream.core.session|nil session, table|nil err
function core.dial(endpoint, options) end

--- A session whose peer speaks another protocol, which the caller understands: a server's session (`door` "h3", from `peer_addr`), and this
--- end of it, which makes the peer's calls. Both are joined in memory.
---@param loop echostream.core.loop
---@param options { host: echostream.core.host, server: echostream.core.host, peer_addr: string, local_addr?: string,
---  credentials?: table<string, string>, instance?: string, done: fun(ok: true?, err: echostream.error?) }
---@return echostream.core.session?, echostream.error?  of the calling end, after the `open` hook of `host`
function core.door(loop, options) end

-- Sessions --------------------------------------------------------------------------------------------------

---@class echostream.core.session: userdata
local session = {}
--- Of a session over WebTransport: how it came; nothing for others.
---@return string? name, string? path, string? origin, string? authority
function session:door() end
---@return integer id, string peer_addr, number created_at, string agent
function session:info() end
---@return boolean
function session:is_open() end
function session:accept() end
--- code: a number of csrc/base/err.h es_app_error (default 0x14); the `closed` hook follows
function session:close(code, reason) end
---@return true|nil, table|nil
function session:goaway(grace, retry_after, reason) end
---@return integer|nil id to be sent with every attempt of a request (options [1]; [2]: the number of the attempt, [3]: an earlier one may have run), table|nil err
function session:request_id() end
---@return integer n calls, events and streams under way
function session:in_flight() end
---@return boolean everything written was acknowledged
function session:flushed() end
--- fn() once, when flushed() becomes true or the session ends (at once when it is)
function session:on_flushed(fn) end
---@return table csrc/link/link.h's es_link_stats: rtt_latest, rtt_min, rtt_smoothed, handshake_time, idle_timeout in seconds, ...
function session:stats() end
---@return string|nil spki of the peer's certificate, raw 32 bytes
function session:peer_pin() end
---@return echostream.core.certificate|nil certificate
function session:peer_cert() end
--- Changes the packet keys.
---@return true|nil ok, table|nil err  failed_precondition
function session:update_key() end
--- TLS exporter.
---@param label string
---@param length integer  1 to 1024
---@param context? string
---@return string|nil key, table|nil err  failed_precondition
function session:export_key(label, length, context) end
--- Bytes that its connection may hold from now on.
---@param bytes integer
---@return boolean done  false: it is closed
function session:set_hold_cap(bytes) end
function session:keep_alive(on) end
--- Moves to another local address; done(ok, err) in a task when it is over. true: it began.
---@return true|nil, table|nil
function session:migrate(bind, done) end

---@class echostream.core.call_options  (a table the caller may reuse; fields are read, never kept)
---@field timeout? number|false seconds; false: no deadline; default the host's request_timeout; a handler's own deadline bounds it
---@field priority? integer 0-7, default 3
---@field idempotent? boolean
---@field metadata? table<string,string>
---@field codec? "msgpack"|"json"|"raw"   raw: exactly one string argument and result

--- In a task: sends, yields, returns the results (a handler without results: true) or nil, err. Elsewhere, or when the last
--- argument is a function, it calls what set_elsewhere was given with the same arguments and returns what that returns.
---@param options? echostream.core.call_options
---@return any ...
function session:request(method, options, ...) end
---@param fn fun(session_ud, method: string, options: table|nil, ...): any ...
---@param home string  what the chunk names of our own files begin with: misuse is never blamed on these
function core.set_elsewhere(fn, home) end
--- The same, with done(...) run in a task instead of yielding. Returns a handle for cancel, or nil, err.
---@return integer|nil handle, table|nil err
function session:request_cb(done, method, options, ...) end
--- Cancels a request_cb: `done` runs with nil, err "cancelled". False when it had ended.
---@return boolean
function session:cancel(handle) end
--- Queues one event. `again` = the lane is full: wait for on_writable.
---@param options? { unreliable?: boolean, lane?: integer, metadata?: table<string,string>, wall_time?: number, codec?: string }
---@return true|nil ok, table|"again"|nil err
function session:emit(name, options, ...) end
--- Values encoded once, for any number of sessions.
---@param options? { codec?: string }
---@return echostream.core.encoded
function core.encode(options, ...) end
---@class echostream.core.encoded: userdata  `#encoded` is its length in bytes

--- As emit, of what core.encode made: the bytes are shared, not copied, when they are many. options without codec.
---@return true|nil ok, table|"again"|nil err
function session:emit_encoded(name, options, encoded) end
--- n events of a lane (nil: unreliable ones) were dropped before they were sent: their numbers are left out.
---@param lane? integer
---@param n integer
function session:skip_events(lane, n) end
--- fn() once when emit would not say "again" (at once when it would not now) or the session ended
function session:on_writable(fn) end
---@param options? echostream.core.call_options
---@return echostream.core.channel|nil channel, table|nil err
function session:open_channel(name, options) end

--- Calls a streaming method. "again": the arguments are over 64 KiB and the peer's HELLO has not come.
---@param options? echostream.core.call_options
---@return echostream.core.channel|nil channel, table|"again"|nil err
function session:open_call(name, options, ...) end

--- Of the call that the running handler serves, when caller and method both say that it is idempotent: what stands for it
--- through every attempt (a secret of its caller), what its arguments are like (0 unless host:fingerprints is on), which attempt.
---@return string|nil key, integer? fingerprint, integer? attempt
function core.call_key() end
--- When the caller of the running handler is lost without having cancelled, `fn(code)` runs in a task and the handler goes on;
--- task:give_up(code) cancels it later as if the caller were lost then.
---@param fn fun(code: integer)
function core.keep_call(fn) end
--- The incoming call that the running task serves: nil outside handlers.
---@return { id: integer, kind: string, name: string, session: table|nil, metadata: table<string,string>, deadline: number|nil, attempt: integer }|nil info deadline on loop:now()'s clock
function core.call_info() end
--- Bytes of its payload on the wire; of a stream, of the messages that came and went until now. What a call answers is not known yet.
---@return integer|nil came, integer|nil went
function core.call_bytes() end
--- Replaces the metadata that call_info shows in the running handler.
---@param metadata table<string,string>
function core.set_call_metadata(metadata) end
--- Metadata that goes with the answer of the running handler: the table is read when the answer is sent. Raises for what is no
--- table of strings.
---@param trailers table<string,string>
---@return boolean answers false: nothing is answered here (an event, no handler)
function core.set_call_trailers(trailers) end
---@return table<string,string>|nil trailers the table that was set
function core.call_trailers() end
--- What came with the answer to the running task's last request.
---@return table<string,string>|nil trailers nil: nothing did, or it was taken already
function core.take_trailers() end
---@return boolean|nil cancelled nil outside handlers
function core.call_cancelled() end
--- fn(code) when the running task's call is cancelled (at once when it was); several are run in order.
function core.call_on_cancel(fn) end

-- Channels: named streams and streaming calls -----------------------------------------------------------------------------------

---@class echostream.core.channel: userdata
local channel = {}
---@return integer id
function channel:id() end
--- Marks of its send queue, in bytes.
---@param high integer
---@param low integer
function channel:queue(high, low) end
--- It fails when nothing came or went for so long; 0: never.
---@param seconds number
function channel:idle_timeout(seconds) end
--- One message. "again": full, nothing taken; use on_writable.
---@param wall_time? number seconds since 1970
---@return true|nil ok, table|"again"|nil err
function channel:send(data, seq, wall_time) end
--- data, seq|nil, wall_time|nil, codec (a number); or nil (the end); or nil, "again"; or nil, err
---@return string|nil data, any
function channel:recv() end
--- fn() once, when recv would not say "again" (at once when it would not now)
function channel:on_readable(fn) end
function channel:on_writable(fn) end
--- fn() once, when nothing more can be sent or received (at once when that is so)
function channel:on_closed(fn) end
--- How it failed; nothing when it did not.
---@return table|nil err
function channel:error() end
--- Our streaming call: its results (true when there are none); nil, "again"; nil, err
---@return any ...
function channel:result() end
---@return boolean of a streaming method, not a named stream
function channel:is_call() end
--- The codec of the messages that are sent, after setting it when a name is given.
---@param name? "raw"|"msgpack"|"json"
---@return string
function channel:codec(name) end
--- A handler of a streaming method: no more messages; its answer is still to come.
---@return true|nil, table|nil
function channel:finish() end
--- user code n >= 0 (sent as 0x100 + n); nil: cancelled
function channel:reset(code) end
--- Both directions over or given up: finish() if not done, stop reading; idempotent. Also done by __gc and __close.
function channel:close() end
---@return { messages_in: integer, messages_out: integer, bytes_in: integer, bytes_out: integer, queued: integer, unread: integer, idle: number, finished: boolean, peer_finished: boolean, open: boolean }
function channel:stats() end
---@return table<string,string> metadata the opener's
function channel:metadata() end

-- HTTP/3 -----------------------------------------------------------------------------------------------------

---@class echostream.core.h3: userdata
local h3 = {}
---@param options { remote: string, tls: echostream.core.tls, ticket?: string, on_ticket?: fun(ticket: string), transport?: echostream.core.transport, limits?: { max_header_bytes?: integer, max_header_fields?: integer } }
---@return echostream.core.h3|nil conn, table|nil err
function core.h3_dial(endpoint, options) end
--- fn(what), not in a task, must not block: what = "early" (safe requests may be sent), "open", "credit" (more requests may be), "goaway",
--- "idle" (after our goaway: nothing is under way any more), "closed".
function h3:notify(fn) end
--- fields: { name, value, name, value, … }; fin: there is no body. nil, "again": not yet; see "early", "open" and "credit".
---@param target { method: string, scheme: string, authority: string, path: string, protocol?: string }
---@return echostream.core.exchange|nil x, "again"|table|nil err
function h3:request(target, fields, fin) end
--- Takes no more requests.
function h3:goaway() end
function h3:close(code, reason) end
---@return table|nil err nil: it lives
function h3:closed() end
---@return echostream.stats|nil, table|nil
function h3:stats() end
---@return string|nil, table|nil
function h3:peer_addr() end
---@return integer number  of its connection, unlike that of any other
---@return boolean alive   also after `release`
function h3:connection() end
---@return integer requests that were not released
function h3:in_flight() end

---@class echostream.core.exchange: userdata one request with its answer, of either side; nobody holds it: it is cancelled
local exchange = {}
--- Whether it came, or went, before the end of the handshake.
---@return boolean
function exchange:early() end

--- Undoes a content coding. decode(bytes): at most 64 KiB of what comes of them, and whether there is more to be had with decode(); nil, err `data_loss`.
--- finish(): true, or nil, err when it ends in the middle.
---@param coding "gzip"|"zstd"
---@return { decode: (fun(self, bytes?: string): string|nil, boolean|table), finish: (fun(self): true|nil, table|nil) }|nil, table|nil
function core.decoder(coding) end

-- Raw QUIC --------------------------------------------------------------------------------------------------

---@class echostream.core.conn: userdata
local conn = {}
---@param options { remote: string, tls: echostream.core.tls, alpn: string, ticket?: string, on_ticket?: fun(ticket: string), transport?: echostream.core.transport }
---@return echostream.core.conn|nil conn, table|nil err
function core.quic_dial(endpoint, options) end
--- "connecting", "open", or "closed" and the close information { cause, app, code, reason } and the same as an error object
---@return string status, table|nil close, table|nil err
function conn:status() end
--- Keepalive by this side; on for the dialling side unless transport.keep_alive is false.
function conn:keep_alive(on) end
--- Moves to another local address; notify says "moved" when it is over. true: it began.
---@return true|nil, table|nil
function conn:migrate(bind) end
--- The last move, of the peer or of ours, once: from, to, true; or from, to, nil, err; or nothing.
---@return string|nil from, string|nil to, true|nil ok, table|nil err
function conn:moved(of_the_peer) end
--- fn(what), not in a task, must not block: what = "open", "bidi" (a stream to accept), "uni", "datagram", "credit" (more streams may be opened), "moved", "closed".
function conn:notify(fn) end
---@param dir "bidi"|"uni"
---@return echostream.core.qstream|nil stream, table|"again"|nil err "again": the peer's allowance is used up, wait for "credit"
function conn:open(dir) end
---@return echostream.core.qstream|nil stream that the peer opened; nil: none waits
function conn:accept(dir) end
---@return true|nil, table|nil err
function conn:send_datagram(data) end
---@return string|nil
function conn:recv_datagram() end
function conn:close(code, reason) end
---@return table as session:stats()
function conn:stats() end
---@return string
function conn:peer_addr() end
---@return string|nil
function conn:peer_pin() end
---@return echostream.core.certificate|nil certificate
function conn:peer_cert() end
---@return true|nil ok, table|nil err  failed_precondition
function conn:update_key() end
--- TLS exporter.
---@param label string
---@param length integer  1 to 1024
---@param context? string
---@return string|nil key, table|nil err  failed_precondition
function conn:export_key(label, length, context) end

---@class echostream.core.qstream: userdata
local qstream = {}
---@return integer QUIC stream id
function qstream:id() end
--- "again": more than 256 KiB wait; nothing was taken; notify says "writable"
---@return true|nil, table|"again"|nil
function qstream:write(data, fin) end
--- Up to max bytes (default 64 KiB): data; nil = the end; nil, "again"; nil, err (reset: err.code "cancelled", err.details = { reset = code })
function qstream:read(max) end
function qstream:reset(code) end
function qstream:stop(code) end
--- fn(what), not in a task, must not block: "readable", "writable", "closed"
function qstream:notify(fn) end
--- Gives up both directions if still open; also by __gc.
function qstream:close() end

-- Codecs ----------------------------------------------------------------------------------------------------

---@class echostream.core.codec
---@field msgpack { encode: fun(...): string, decode: fun(data: string, from?: integer): ..., pack: fun(value): string, unpack: fun(data: string, from?: integer): any, integer }
--- encode(...) = an array of exactly its arguments; decode gives them back; pack/unpack one value (unpack also returns the next position).
--- Failures return nil, err (code serialization).
---@field json table the same four functions
core.codec = {}

--- Adds a codec or changes its functions, and gives its table in core.codec. Raises on a bad or a built-in name.
---@param name string
---@param encode fun(...): string
---@param decode fun(bytes: string): ...
---@return echostream.core.codec
function core.codec_register(name, encode, decode) end

--- Gives values with the metatable a MessagePack extension type, 0 to 127. nil, number: it has another one already.
---@param type integer
---@param metatable table
---@param pack fun(value: any): string
---@param unpack fun(bytes: string): any
---@return true|nil ok, integer? other
function core.codec_extend(type, metatable, pack, unpack) end

--- The metatable of timestamps.
---@type table
core.timestamp_mt = {}

---@class echostream.core.frame
--- encode{ type = "request", ... } -> bytes; decode(bytes, from?) -> frame, next | nil, "again" | nil, err; decode_datagram(bytes) -> frame;
--- reader(max) -> reader:feed(bytes) -> iterator over frames (a failure comes last, as false, err), reader:missing() -> missing, held;
--- varint(n) -> bytes; read_varint(bytes, from?) -> n, next | nil, "again". The fields are listed in frame.lua.
core.frame = {}

--- Marks a table: array keeps an empty table an array; map makes a sequence a map.
function core.array(t) end
function core.map(t) end

--- record = { level = "error"|"warn"|"info"|"debug", message, traceback?, session?, method? }; nil: stderr
---@param fn fun(record: table)|nil
function core.set_log(fn) end
--- Installs fn as readline's rl_event_hook of this process when its interpreter links readline; fn() must not block.
---@return boolean installed
function core.set_idle_hook(fn) end

return core
