// @ts-check
/**
 * echostream for browsers: calls, events and streams, both ways, over WebTransport. One ES module without dependencies; what is
 * on the wire is docs/PROTOCOL.md, and the names are those of the Lua client.
 *
 *     import { connect } from "./echostream.js";
 *
 *     const client = await connect("https://127.0.0.1:5000/echostream", {
 *       serverCertificateHashes: ["5f3a…"],  // SHA-256 of a self-signed certificate (ECDSA P-256, at most 14 days)
 *       reconnect: true,
 *     });
 *     await client.request("math.add", 10, 20);                        // 30
 *     await client.with({ timeout: 500 }).request("slow");             // EchoError "timeout"
 *     client.on("news", (info, text) => console.log(text));            // the server emits
 *     client.handle("page.title", () => document.title);               // the server calls
 *     for await (const price of client.stream("prices", "ACME").readable) draw(price);
 *
 * Times are milliseconds. What the network, the server or time does rejects with an EchoError, whose `code` is stable; misuse throws
 * TypeError. Handlers stay registered through every reconnection.
 *
 * Values are MessagePack. Of numbers, those that are whole become integers; `new Float(1)` stays a float. Integers beyond 2^53 are
 * BigInts, both ways. Lua's strings are bytes: those that are UTF-8 arrive as strings, others as Uint8Arrays (`toBytes` makes bytes of
 * either). Maps with keys that are not all strings arrive as Map. null stands for nil.
 */

/** @typedef {Record<string, string | Uint8Array>} Metadata */

// Errors ------------------------------------------------------------------------------------------------------

/** gRPC's numbers of the codes. @type {Record<string, number>} */
const STATUS = {
  cancelled: 1, unknown: 2, invalid_argument: 3, timeout: 4, not_found: 5, already_exists: 6, permission_denied: 7,
  resource_exhausted: 8, failed_precondition: 9, aborted: 10, out_of_range: 11, method_not_found: 12, internal: 13, unavailable: 14,
  data_loss: 15, unauthenticated: 16, serialization: 3, protocol: 13, connection_closed: 14, io: 14,
};

const PROCESSED = /** @type {const} */ (["no", "maybe", "yes"]);

/** Codes of streams and connections (docs/PROTOCOL.md, section 12). */
const Code = {
  NONE: 0x00, INTERNAL: 0x01, PROTOCOL: 0x02, TOO_LARGE: 0x03, CLOSED_CRITICAL: 0x04, EXCESSIVE_LOAD: 0x05, HELLO: 0x06,
  UNKNOWN_STREAM: 0x08, CANCELLED: 0x10, REFUSED: 0x11, DEADLINE: 0x12, NO_MORE_WANTED: 0x13, SESSION_CLOSED: 0x14, OWN: 0x100,
};

/** Every failure that is not misuse. A handler fails its call by throwing one; what else it throws arrives as `internal`. */
export class EchoError extends Error {
  /**
   * @param {string} code  stable: one of the protocol's, or the application's own
   * @param {string} [message]  one sentence; default the code
   * @param {{ details?: any, processed?: "no" | "maybe" | "yes", retryAfter?: number }} [more]
   *   `processed`: whether the other side ran the handler; `retryAfter`: milliseconds after which trying again makes sense
   */
  constructor(code, message, more = {}) {
    super(message ?? code);
    this.name = "EchoError";
    this.code = code;
    this.details = more.details;
    this.processed = more.processed ?? "no";
    this.retryAfter = more.retryAfter;
  }

  /** gRPC's number of the code. */
  get status() {
    return STATUS[this.code] ?? STATUS.unknown;
  }

  toString() {
    return `${this.code}: ${this.message}`;
  }
}

/** A peer that breaks the protocol: closes the connection with `closeCode`. */
class Violation extends Error {
  /** @param {string} message @param {number} [closeCode] */
  constructor(message, closeCode = Code.PROTOCOL) {
    super(message);
    this.closeCode = closeCode;
  }
}

/** @param {any} error @returns {EchoError} */
function asEchoError(error) {
  if (error instanceof EchoError) return error;
  return new EchoError("internal", error instanceof Error ? error.message : String(error));
}

/** @param {any} error  whatever was thrown */
function messageOf(error) {
  return String(error?.message ?? error);
}

/** The reason of an AbortSignal, as an error of ours. @param {AbortSignal} signal */
function aborted(signal) {
  return signal.reason instanceof EchoError ? signal.reason
    : new EchoError(signal.reason?.name === "TimeoutError" ? "timeout" : "cancelled", signal.reason?.message);
}

/**
 * An error for a stream's reset or stop, whose code travels. Browsers have eight bits for it; an application's own codes are larger and
 * travel in CANCEL, which is what the other side acts on.
 * @param {number} code
 */
function streamError(code) {
  const streamErrorCode = code < Code.OWN ? code : Code.CANCELLED, message = `code ${code}`;
  const Native = /** @type {any} */ (globalThis).WebTransportError;
  if (!Native) return Object.assign(new Error(message), { streamErrorCode });
  const error = new Native({ message, streamErrorCode }); // what browsers take; the standard has come to want the message first
  return error.streamErrorCode === streamErrorCode ? error : new Native(message, { source: "stream", streamErrorCode });
}

// Bytes -------------------------------------------------------------------------------------------------------

const utf8 = new TextEncoder();
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The bytes of a string (UTF-8), or those that are bytes already. @param {string | ArrayBuffer | ArrayBufferView} value */
export function toBytes(value) {
  if (typeof value === "string") return utf8.encode(value);
  if (value instanceof Uint8Array) return value;
  if (value instanceof ArrayBuffer) return new Uint8Array(value);
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  throw new TypeError("bytes or a string are wanted");
}

/** Text when the bytes are UTF-8, else a copy of the bytes. @param {Uint8Array} bytes */
function textOrBytes(bytes) {
  try {
    return strict.decode(bytes);
  } catch {
    return bytes.slice();
  }
}

class Writer {
  constructor(size = 128) {
    this.bytes = new Uint8Array(size);
    this.view = new DataView(this.bytes.buffer);
    this.length = 0;
  }

  /** Room for n more bytes; where they begin. @param {number} n */
  take(n) {
    const at = this.length;
    this.length += n;
    if (this.length > this.bytes.length) {
      const bigger = new Uint8Array(Math.max(this.length, 2 * this.bytes.length));
      bigger.set(this.bytes.subarray(0, at));
      this.bytes = bigger;
      this.view = new DataView(bigger.buffer);
    }
    return at;
  }

  /** @param {number} n */
  u8(n) {
    const at = this.take(1);
    this.bytes[at] = n;
  }

  /** A QUIC variable-length integer. @param {number | bigint} value */
  varint(value) {
    if (value < 0) throw new EchoError("invalid_argument", `out of range: ${value}`);
    if (value < 0x40) {
      this.u8(Number(value));
    } else if (value < 0x4000) {
      const at = this.take(2);
      this.view.setUint16(at, Number(value) | 0x4000);
    } else if (value < 0x40000000) {
      const at = this.take(4);
      this.view.setUint32(at, (Number(value) | 0x80000000) >>> 0);
    } else {
      const wide = BigInt(value);
      if (wide >= 1n << 62n) throw new EchoError("invalid_argument", `out of range: ${value}`);
      const at = this.take(8);
      this.view.setBigUint64(at, wide | 3n << 62n);
    }
  }

  /** @param {Uint8Array} bytes */
  raw(bytes) {
    const at = this.take(bytes.length);
    this.bytes.set(bytes, at);
  }

  /** A length and that many bytes. @param {string | Uint8Array} value */
  string(value) {
    const bytes = toBytes(value);
    this.varint(bytes.length);
    this.raw(bytes);
  }

  done() {
    return this.bytes.subarray(0, this.length);
  }
}

/** @param {number | bigint} value */
function sizeOfVarint(value) {
  return value < 0x40 ? 1 : value < 0x4000 ? 2 : value < 0x40000000 ? 4 : 8;
}

class Reader {
  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.pos = 0;
  }

  get left() {
    return this.bytes.length - this.pos;
  }

  /** Where n bytes begin, which are then behind. @param {number} n */
  take(n) {
    if (n > this.left) throw new RangeError("ends too early");
    const at = this.pos;
    this.pos += n;
    return at;
  }

  u8() {
    return this.bytes[this.take(1)];
  }

  /** A BigInt beyond 2^53. @returns {any} */
  wideVarint() {
    const first = this.bytes[this.take(1)];
    const size = 1 << (first >> 6);
    const at = this.take(size - 1) - 1;
    switch (size) {
      case 1: return first;
      case 2: return this.view.getUint16(at) & 0x3fff;
      case 4: return this.view.getUint32(at) & 0x3fffffff;
      default: {
        const wide = this.view.getBigUint64(at) & ((1n << 62n) - 1n);
        return wide <= Number.MAX_SAFE_INTEGER ? Number(wide) : wide;
      }
    }
  }

  /** Where nearly is good enough. */
  varint() {
    return Number(this.wideVarint());
  }

  /** @param {number} n */
  raw(n) {
    const at = this.take(n);
    return this.bytes.subarray(at, at + n);
  }

  blob() {
    return this.raw(this.varint());
  }

  text() {
    return new TextDecoder().decode(this.blob());
  }

  rest() {
    return this.raw(this.left);
  }
}

// MessagePack -------------------------------------------------------------------------------------------------

const MAX_DEPTH = 64;

/** A number that stays a float on the wire, though it is whole. */
export class Float {
  /** @param {number} value */
  constructor(value) {
    this.value = Number(value);
  }

  valueOf() {
    return this.value;
  }
}

/** MessagePack's timestamp (extension type −1). Dates are sent as one. */
export class Timestamp {
  /** @param {number | bigint} seconds  since 1970 @param {number} [nanoseconds]  0 to 999,999,999 */
  constructor(seconds, nanoseconds = 0) {
    this.seconds = seconds;
    this.nanoseconds = nanoseconds;
  }

  toDate() {
    return new Date(Number(this.seconds) * 1000 + this.nanoseconds / 1e6);
  }
}

/** Several results of a handler: `return new Results(1, 2)`. */
export class Results {
  /** @param {any[]} values */
  constructor(...values) {
    this.values = values;
  }
}

/**
 * @typedef {object} Extension
 * @property {new (...args: any[]) => any} class  whose instances are sent so
 * @property {(value: any) => any} pack  gives one other value
 * @property {(value: any) => any} unpack  takes it
 */

/** @type {Map<number, Extension>} */
const extensions = new Map();

/**
 * Gives instances of a class a MessagePack extension type, as codec.extend does in Lua: both sides must agree on the number.
 * @param {number} number  0 to 127
 * @param {Extension} extension
 */
export function extend(number, extension) {
  if (!Number.isInteger(number) || number < 0 || number > 127) throw new TypeError("extend: the number is 0 to 127");
  extensions.set(number, extension);
}

const refuse = (/** @type {string} */ why) => new EchoError("serialization", why);

/** @param {Writer} w @param {any} value @param {number} depth */
function put(w, value, depth) {
  switch (typeof value) {
    case "undefined":
      return w.u8(0xc0);
    case "boolean":
      return w.u8(value ? 0xc3 : 0xc2);
    case "number":
      return Number.isSafeInteger(value) && !Object.is(value, -0) ? putInteger(w, value) : putFloat(w, value);
    case "bigint":
      if (value < -(1n << 63n) || value >= 1n << 63n) throw refuse(`does not fit into 64 bits: ${value}`);
      return putInteger(w, value);
    case "string": {
      const bytes = utf8.encode(value);
      putHead(w, bytes.length, 0xa0, 31, 0xd9, 0xda, 0xdb);
      return w.raw(bytes);
    }
    case "object":
      return value === null ? w.u8(0xc0) : putObject(w, value, depth);
    default:
      throw refuse(`a ${typeof value} cannot be sent`);
  }
}

/** @param {Writer} w @param {number | bigint} n */
function putInteger(w, n) {
  const sized = (/** @type {number} */ tag, /** @type {number} */ size) => {
    w.u8(tag);
    return w.take(size);
  };
  let at;
  if (n >= 0) {
    if (n < 0x80) return w.u8(Number(n));
    if (n < 0x100) return at = sized(0xcc, 1), w.view.setUint8(at, Number(n));
    if (n < 0x10000) return at = sized(0xcd, 2), w.view.setUint16(at, Number(n));
    if (n < 0x100000000) return at = sized(0xce, 4), w.view.setUint32(at, Number(n));
    return at = sized(0xcf, 8), w.view.setBigUint64(at, BigInt(n));
  }
  if (n >= -0x20) return w.u8(0x100 + Number(n));
  if (n >= -0x80) return at = sized(0xd0, 1), w.view.setInt8(at, Number(n));
  if (n >= -0x8000) return at = sized(0xd1, 2), w.view.setInt16(at, Number(n));
  if (n >= -0x80000000) return at = sized(0xd2, 4), w.view.setInt32(at, Number(n));
  return at = sized(0xd3, 8), w.view.setBigInt64(at, BigInt(n));
}

/** @param {Writer} w @param {number} n */
function putFloat(w, n) {
  w.u8(0xcb);
  const at = w.take(8);
  w.view.setFloat64(at, n);
}

/**
 * The head of something that has a length. A tag of 0 is a form that does not exist.
 * @param {Writer} w @param {number} n @param {number} fix @param {number} most @param {number} t8 @param {number} t16 @param {number} t32
 */
function putHead(w, n, fix, most, t8, t16, t32) {
  let at;
  if (n <= most) return w.u8(fix | n);
  if (t8 && n < 0x100) return w.u8(t8), w.u8(n);
  if (n < 0x10000) return w.u8(t16), at = w.take(2), w.view.setUint16(at, n);
  return w.u8(t32), at = w.take(4), w.view.setUint32(at, n);
}

/** @param {Writer} w @param {number} type @param {Uint8Array} data */
function putExtension(w, type, data) {
  const fixed = [1, 2, 4, 8, 16].indexOf(data.length);
  if (fixed >= 0) w.u8(0xd4 + fixed);
  else putHead(w, data.length, 0, -1, 0xc7, 0xc8, 0xc9);
  w.u8(type & 0xff);
  w.raw(data);
}

/** @param {Writer} w @param {Timestamp} time */
function putTimestamp(w, { seconds, nanoseconds }) {
  const body = new Writer(12);
  if (seconds >= 0 && seconds < 0x400000000) {
    if (nanoseconds === 0 && seconds < 0x100000000) {
      body.take(4);
      body.view.setUint32(0, Number(seconds));
    } else {
      body.take(8);
      body.view.setBigUint64(0, BigInt(nanoseconds) << 34n | BigInt(seconds));
    }
  } else {
    body.take(12);
    body.view.setUint32(0, nanoseconds);
    body.view.setBigInt64(4, BigInt(seconds));
  }
  putExtension(w, -1, body.done());
}

/** @param {Writer} w @param {any} value @param {number} depth */
function putObject(w, value, depth) {
  if (value instanceof Float) return putFloat(w, value.value);
  if (value instanceof Timestamp) return putTimestamp(w, value);
  if (value instanceof Date) {
    const ms = value.getTime();
    if (Number.isNaN(ms)) throw refuse("an invalid Date cannot be sent");
    const seconds = Math.floor(ms / 1000);
    return putTimestamp(w, new Timestamp(seconds, Math.round((ms - seconds * 1000) * 1e6)));
  }
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) {
    const bytes = toBytes(value);
    putHead(w, bytes.length, 0, -1, 0xc4, 0xc5, 0xc6);
    return w.raw(bytes);
  }
  for (const [number, extension] of extensions) {
    if (value instanceof extension.class) return putExtension(w, number, pack(extension.pack(value)));
  }
  if (depth >= MAX_DEPTH) throw refuse(`nested deeper than ${MAX_DEPTH}`);
  if (Array.isArray(value)) {
    putHead(w, value.length, 0x90, 15, 0, 0xdc, 0xdd);
    for (let i = 0; i < value.length; i++) put(w, value[i], depth + 1);
    return;
  }
  const entries = value instanceof Map ? [...value] : Object.entries(value).filter(([, item]) => item !== undefined);
  putHead(w, entries.length, 0x80, 15, 0, 0xde, 0xdf);
  for (const [key, item] of entries) {
    if (key === null || key === undefined || Number.isNaN(key)) throw refuse(`${key} cannot be a key`);
    put(w, key, depth + 1);
    put(w, item, depth + 1);
  }
}

/** Encodes one value as MessagePack. @param {any} value @returns {Uint8Array} */
export function pack(value) {
  const w = new Writer();
  put(w, value, 0);
  return w.done();
}

/** @param {Reader} r @param {number} depth @returns {any} */
function get(r, depth) {
  const tag = r.u8();
  if (tag < 0x80) return tag;
  if (tag < 0x90) return getMap(r, tag & 0x0f, depth);
  if (tag < 0xa0) return getArray(r, tag & 0x0f, depth);
  if (tag < 0xc0) return textOrBytes(r.raw(tag & 0x1f));
  if (tag >= 0xe0) return tag - 0x100;
  const v = r.view;
  switch (tag) {
    case 0xc0: return null;
    case 0xc2: return false;
    case 0xc3: return true;
    case 0xc4: case 0xd9: return textOrBytes(r.raw(r.u8()));
    case 0xc5: case 0xda: return textOrBytes(r.raw(v.getUint16(r.take(2))));
    case 0xc6: case 0xdb: return textOrBytes(r.raw(v.getUint32(r.take(4))));
    case 0xc7: return getExtension(r, r.u8(), depth);
    case 0xc8: return getExtension(r, v.getUint16(r.take(2)), depth);
    case 0xc9: return getExtension(r, v.getUint32(r.take(4)), depth);
    case 0xca: return v.getFloat32(r.take(4));
    case 0xcb: return v.getFloat64(r.take(8));
    case 0xcc: return r.u8();
    case 0xcd: return v.getUint16(r.take(2));
    case 0xce: return v.getUint32(r.take(4));
    case 0xcf: {
      const wide = v.getBigUint64(r.take(8));
      if (wide >= 1n << 63n) throw refuse("an integer above 2^63 - 1");
      return narrow(wide);
    }
    case 0xd0: return v.getInt8(r.take(1));
    case 0xd1: return v.getInt16(r.take(2));
    case 0xd2: return v.getInt32(r.take(4));
    case 0xd3: return narrow(v.getBigInt64(r.take(8)));
    case 0xd4: case 0xd5: case 0xd6: case 0xd7: case 0xd8: return getExtension(r, 1 << (tag - 0xd4), depth);
    case 0xdc: return getArray(r, v.getUint16(r.take(2)), depth);
    case 0xdd: return getArray(r, v.getUint32(r.take(4)), depth);
    case 0xde: return getMap(r, v.getUint16(r.take(2)), depth);
    case 0xdf: return getMap(r, v.getUint32(r.take(4)), depth);
    default: throw refuse("a byte that MessagePack does not have");
  }
}

/** @param {bigint} wide */
function narrow(wide) {
  return wide >= Number.MIN_SAFE_INTEGER && wide <= Number.MAX_SAFE_INTEGER ? Number(wide) : wide;
}

/** @param {Reader} r @param {number} n @param {number} depth */
function getArray(r, n, depth) {
  if (depth >= MAX_DEPTH) throw refuse(`nested deeper than ${MAX_DEPTH}`);
  if (n > r.left) throw new RangeError("ends too early");
  const list = new Array(n);
  for (let i = 0; i < n; i++) list[i] = get(r, depth + 1);
  return list;
}

/** @param {Reader} r @param {number} n @param {number} depth */
function getMap(r, n, depth) {
  if (depth >= MAX_DEPTH) throw refuse(`nested deeper than ${MAX_DEPTH}`);
  if (2 * n > r.left) throw new RangeError("ends too early");
  const map = new Map();
  let plain = true;
  for (let i = 0; i < n; i++) {
    const key = get(r, depth + 1);
    if (key === null || Number.isNaN(key)) throw refuse(`${key} as a key`);
    if (map.has(key)) throw refuse("a key that comes twice");
    plain = plain && typeof key === "string";
    map.set(key, get(r, depth + 1));
  }
  // Defined, not assigned: a key "__proto__" is a key.
  return plain ? Object.fromEntries(map) : map;
}

/** @param {Reader} r @param {number} n @param {number} depth */
function getExtension(r, n, depth) {
  const type = r.u8() << 24 >> 24;
  const body = new Reader(r.raw(n));
  if (type !== -1) {
    const extension = extensions.get(type);
    if (!extension) throw refuse(`extension type ${type} is not known`);
    if (depth >= MAX_DEPTH) throw refuse(`nested deeper than ${MAX_DEPTH}`);
    return extension.unpack(unpack(body.bytes));
  }
  let time;
  if (n === 4) {
    time = new Timestamp(body.view.getUint32(0));
  } else if (n === 8) {
    const both = body.view.getBigUint64(0);
    time = new Timestamp(Number(both & 0x3ffffffffn), Number(both >> 34n));
  } else if (n === 12) {
    time = new Timestamp(narrow(body.view.getBigInt64(4)), body.view.getUint32(0));
  } else {
    throw refuse("a timestamp of a wrong length");
  }
  if (time.nanoseconds > 999999999) throw refuse("a timestamp with too many nanoseconds");
  return time;
}

/** Decodes exactly one value of MessagePack. Throws EchoError `serialization`. @param {Uint8Array} bytes @returns {any} */
export function unpack(bytes) {
  const r = new Reader(bytes);
  let value;
  try {
    value = get(r, 0);
  } catch (error) {
    throw error instanceof RangeError ? refuse("MessagePack that ends too early") : error;
  }
  if (r.left > 0) throw refuse("bytes behind the value");
  return value;
}

const RAW = 0, MSGPACK = 1, JSON_ = 2;
const CODECS = /** @type {Record<string, number>} */ ({ raw: RAW, msgpack: MSGPACK, json: JSON_ });

/** One value in a codec. @param {number} codec @param {any} value @returns {Uint8Array} */
function encodeValue(codec, value) {
  if (codec === RAW) return toBytes(value);
  return codec === MSGPACK ? pack(value) : utf8.encode(JSON.stringify(value ?? null));
}

/** @param {number} codec @param {Uint8Array} bytes @returns {any} */
function decodeValue(codec, bytes) {
  if (codec === RAW) return bytes.slice();
  if (codec === MSGPACK) return unpack(bytes);
  if (codec !== JSON_) throw refuse(`codec ${codec} is not known`);
  try {
    return JSON.parse(strict.decode(bytes));
  } catch (error) {
    throw refuse(`JSON: ${/** @type {Error} */ (error).message}`);
  }
}

/** Arguments or results. @param {number} codec @param {any[]} values */
function encodeValues(codec, values) {
  if (codec !== RAW) return encodeValue(codec, Array.from(values));
  if (values.length !== 1) throw refuse("the raw codec carries exactly one string");
  return toBytes(values[0]);
}

/** @param {number} codec @param {Uint8Array} bytes @returns {any[]} */
function decodeValues(codec, bytes) {
  const values = decodeValue(codec, bytes);
  if (codec === RAW) return [values];
  if (!Array.isArray(values)) throw refuse("arguments and results are an array");
  return values;
}

// Frames ------------------------------------------------------------------------------------------------------

const Type = {
  HELLO: 0x00, REQUEST: 0x02, RESPONSE: 0x04, HEAD: 0x06, DATA: 0x08, CANCEL: 0x0a, EVENT: 0x0c, GOAWAY: 0x0e, PING: 0x11, PONG: 0x13,
};

const Flag = { MORE: 0x01, STREAM: 0x02, IDEMPOTENT: 0x04, RETRY: 0x08, SEQ: 0x40, TIME: 0x80, METHOD_IDEMPOTENT: 0x100 };

/** Capabilities of ours: events in datagrams, and the clock. Nothing here compresses, or adds checksums to what QUIC guards. */
const DATAGRAMS = 4, CLOCK = 8;
const CAPABILITIES = DATAGRAMS | CLOCK;

const NAME = /^[A-Za-z0-9._/:-]{1,256}$/;
const KEY = /^[a-z0-9._/:-]{1,64}$/;
const MAX_METADATA = 16384;

/** @param {string} what @param {any} name */
function checkName(what, name) {
  if (typeof name !== "string" || !NAME.test(name)) {
    throw new TypeError(`${what} wants 1 to 256 characters of A-Z a-z 0-9 . _ / : -, got ${String(name).slice(0, 60)}`);
  }
}

/** @param {Writer} w @param {Metadata} [metadata] */
function putMetadata(w, metadata = {}) {
  const pairs = Object.entries(metadata);
  if (pairs.length > 64) throw new EchoError("invalid_argument", "metadata of more than 64 pairs");
  const began = w.length;
  w.varint(pairs.length);
  for (const [key, value] of pairs) {
    if (!KEY.test(key)) throw new EchoError("invalid_argument", `not a metadata key: ${key.slice(0, 64)}`);
    w.string(key);
    w.string(typeof value === "number" ? String(value) : value);
  }
  if (w.length - began > MAX_METADATA) throw new EchoError("resource_exhausted", `metadata of more than ${MAX_METADATA} bytes`);
}

/** @param {Reader} r @returns {Metadata} */
function getMetadata(r) {
  const count = r.varint();
  if (count > 64) throw new Violation("metadata of more than 64 pairs");
  /** @type {Map<string, string | Uint8Array>} */
  const pairs = new Map();
  for (let i = 0; i < count; i++) {
    const key = r.text();
    if (!KEY.test(key) || pairs.has(key)) throw new Violation("a metadata key that is malformed or comes twice");
    pairs.set(key, textOrBytes(r.blob()));
  }
  return Object.fromEntries(pairs);
}

/** @param {Reader} r @param {number} allowed */
function getFlags(r, allowed) {
  const flags = r.wideVarint();
  const low = Number(BigInt(flags) & 0xffffn);
  if (low & ~allowed) throw new Violation(`flags 0x${low.toString(16)} do not belong to this frame`);
  return low;
}

/** @param {Reader} r @param {string} what */
function getName(r, what) {
  const name = r.text();
  if (!NAME.test(name)) throw new Violation(`a malformed ${what}`);
  return name;
}

/**
 * A frame as an object: `type` and the fields of docs/PROTOCOL.md in camel case. Payloads are bytes.
 * @typedef {{ type: string, [field: string]: any }} Frame
 */

/** What each frame's body is. @type {Record<string, { type: number, put: (w: Writer, f: Frame) => void, get: (r: Reader) => any }>} */
const FRAMES = {
  hello: {
    type: Type.HELLO,
    put(w, f) {
      w.varint(f.minMinor ?? 0);
      w.varint(f.maxMinor ?? 0);
      w.varint(f.caps ?? 0);
      w.raw(f.instance);
      /** @type {[number, (w: Writer) => void][]} */
      const parameters = [];
      [[1, f.maxMessage], [2, f.maxMetadata], [3, f.maxCalls], [7, f.maxNamedStreams]].forEach(([id, value]) => {
        if (value !== undefined) parameters.push([id, (into) => into.varint(value)]);
      });
      if (f.agent !== undefined) parameters.push([5, (into) => into.raw(utf8.encode(f.agent))]);
      if (f.credentials !== undefined) parameters.push([6, (into) => putMetadata(into, f.credentials)]);
      parameters.sort(([a], [b]) => a - b);
      w.varint(parameters.length);
      for (const [id, putValue] of parameters) {
        const value = new Writer();
        putValue(value);
        w.varint(id);
        w.string(value.done());
      }
    },
    get(r) {
      /** @type {any} */
      const f = { minMinor: r.varint(), maxMinor: r.varint(), caps: r.varint(), instance: r.raw(16).slice() };
      const count = r.varint();
      if (count > 64) throw new Violation("too many parameters");
      const seen = new Set();
      for (let i = 0; i < count; i++) {
        const id = r.wideVarint();
        if (seen.has(id)) throw new Violation("a parameter that comes twice");
        seen.add(id);
        const value = new Reader(r.blob());
        const field = /** @type {Record<number, string>} */ ({ 1: "maxMessage", 2: "maxMetadata", 3: "maxCalls", 7: "maxNamedStreams" })[id];
        if (field) f[field] = value.varint();
        else if (id === 5) f.agent = new TextDecoder().decode(value.rest());
        else if (id === 6) f.credentials = getMetadata(value);
        else value.rest();
        if (value.left > 0) throw new Violation("bytes behind a parameter");
      }
      return f;
    },
  },
  request: {
    type: Type.REQUEST,
    put(w, f) {
      w.varint((f.more ? Flag.MORE : 0) | (f.stream ? Flag.STREAM : 0) | (f.idempotent ? Flag.IDEMPOTENT : 0) | (f.retry ? Flag.RETRY : 0));
      w.varint(f.codec ?? MSGPACK);
      w.varint(f.requestId);
      w.string(f.method);
      w.varint(f.deadlineMs ?? 0);
      w.varint(f.priority ?? 3);
      putMetadata(w, f.metadata);
      w.raw(f.payload ?? new Uint8Array());
    },
    get(r) {
      const flags = getFlags(r, Flag.MORE | Flag.STREAM | Flag.IDEMPOTENT | Flag.RETRY);
      const f = {
        more: (flags & Flag.MORE) !== 0, stream: (flags & Flag.STREAM) !== 0, idempotent: (flags & Flag.IDEMPOTENT) !== 0,
        retry: (flags & Flag.RETRY) !== 0, codec: r.varint(), requestId: r.wideVarint(), method: getName(r, "method"),
        deadlineMs: r.varint(), priority: r.varint(), metadata: getMetadata(r), payload: r.rest(),
      };
      if (f.requestId === 0) throw new Violation("request id 0");
      if (f.priority > 7) throw new Violation("a priority above 7");
      return f;
    },
  },
  response: {
    type: Type.RESPONSE,
    put(w, f) {
      w.varint(f.idempotent ? Flag.METHOD_IDEMPOTENT : 0);
      w.varint(f.codec ?? MSGPACK);
      w.varint(f.status ?? 0);
      putMetadata(w, f.trailers);
      if (f.status) {
        w.string(f.code);
        w.string(cutText(f.message ?? "", 1024));
        w.varint(PROCESSED.indexOf(f.processed ?? "no"));
        w.varint(f.retryAfterMs ?? 0);
      }
      w.raw((f.status ? f.details : f.payload) ?? new Uint8Array());
    },
    get(r) {
      const flags = getFlags(r, Flag.METHOD_IDEMPOTENT);
      const f = { idempotent: (flags & Flag.METHOD_IDEMPOTENT) !== 0, codec: r.varint(), status: r.varint(), trailers: getMetadata(r) };
      if (f.status === 0) return { ...f, payload: r.rest() };
      if (f.status > 16) throw new Violation("a status above 16");
      const failure = { code: getName(r, "code"), message: r.text(), processed: PROCESSED[r.varint()], retryAfterMs: r.varint(), details: r.rest() };
      if (!failure.processed) throw new Violation("processed above 2");
      return { ...f, ...failure };
    },
  },
  head: {
    type: Type.HEAD,
    put(w, f) {
      w.varint(0);
      putMetadata(w, f.metadata);
    },
    get(r) {
      getFlags(r, 0);
      return { metadata: getMetadata(r) };
    },
  },
  data: {
    type: Type.DATA,
    put(w, f) {
      w.varint((f.seq !== undefined ? Flag.SEQ : 0) | (f.wallTimeUs !== undefined ? Flag.TIME : 0));
      w.varint(f.codec ?? RAW);
      if (f.seq !== undefined) w.varint(f.seq);
      if (f.wallTimeUs !== undefined) w.varint(f.wallTimeUs);
      w.raw(f.payload ?? new Uint8Array());
    },
    get(r) {
      const flags = getFlags(r, Flag.SEQ | Flag.TIME);
      /** @type {any} */
      const f = { codec: r.varint() };
      if (flags & Flag.SEQ) f.seq = r.wideVarint();
      if (flags & Flag.TIME) f.wallTimeUs = r.wideVarint();
      f.payload = r.rest();
      return f;
    },
  },
  cancel: {
    type: Type.CANCEL,
    put(w, f) {
      w.varint(f.requestId);
      w.varint(f.code ?? Code.CANCELLED);
    },
    get: (r) => ({ requestId: r.wideVarint(), code: r.varint() }),
  },
  event: {
    type: Type.EVENT,
    put(w, f) {
      w.varint(f.wallTimeUs !== undefined ? Flag.TIME : 0);
      w.varint(f.codec ?? MSGPACK);
      w.varint(f.seq ?? 0);
      w.string(f.name);
      if (f.wallTimeUs !== undefined) w.varint(f.wallTimeUs);
      putMetadata(w, f.metadata);
      w.raw(f.payload ?? new Uint8Array());
    },
    get(r) {
      const flags = getFlags(r, Flag.TIME);
      /** @type {any} */
      const f = { codec: r.varint(), seq: r.wideVarint(), name: getName(r, "name") };
      if (flags & Flag.TIME) f.wallTimeUs = r.wideVarint();
      f.metadata = getMetadata(r);
      f.payload = r.rest();
      return f;
    },
  },
  goaway: {
    type: Type.GOAWAY,
    put(w, f) {
      w.varint(f.graceMs ?? 0);
      w.varint(f.retryAfterMs ?? 0);
      w.string(f.reason ?? "");
    },
    get: (r) => ({ graceMs: r.varint(), retryAfterMs: r.varint(), reason: r.text() }),
  },
  ping: { type: Type.PING, put: (w, f) => w.varint(f.t1), get: (r) => ({ t1: r.wideVarint() }) },
  pong: {
    type: Type.PONG,
    put(w, f) {
      w.varint(f.t1);
      w.varint(f.t2);
      w.varint(f.t3);
    },
    get: (r) => ({ t1: r.wideVarint(), t2: r.varint(), t3: r.varint() }),
  },
};

/** @type {Map<number, string>} */
const NAMES = new Map(Object.entries(FRAMES).map(([name, { type }]) => [type, name]));

/** @param {string} text @param {number} most  bytes of UTF-8 */
function cutText(text, most) {
  const bytes = utf8.encode(text);
  return bytes.length <= most ? text : new TextDecoder().decode(bytes.subarray(0, most)).replace(/\uFFFD$/, "").slice(0, most - 3);
}

/** The bytes of a frame, or of what a datagram carries. @param {Frame} frame @param {boolean} [datagram] @returns {Uint8Array} */
export function encodeFrame(frame, datagram = false) {
  const kind = FRAMES[frame.type];
  if (!kind) throw new TypeError(`no frame type is named ${frame.type}`);
  const body = new Writer();
  kind.put(body, frame);
  const w = new Writer(body.length + 9);
  w.varint(kind.type);
  if (!datagram) w.varint(body.length);
  w.raw(body.done());
  return w.done();
}

/** @param {number} type @param {Uint8Array} body @returns {Frame} */
function decodeBody(type, body) {
  const name = /** @type {string} */ (NAMES.get(type));
  const r = new Reader(body);
  try {
    const frame = { type: name, ...FRAMES[name].get(r) };
    if (r.left > 0) throw new Violation(`bytes behind the fields of ${name}`);
    return frame;
  } catch (error) {
    if (name === "hello") throw new Violation(`malformed HELLO: ${/** @type {Error} */ (error).message}`, Code.HELLO);
    throw error instanceof RangeError ? new Violation(`${name} ends before its last field`) : error;
  }
}

/** The event that a datagram carries; undefined for anything else. @param {Uint8Array} bytes @returns {Frame | undefined} */
export function decodeDatagram(bytes) {
  try {
    const r = new Reader(bytes);
    return r.varint() === Type.EVENT ? decodeBody(Type.EVENT, r.rest()) : undefined;
  } catch {
    return undefined;
  }
}

/** Thrown by FrameReader.next for a frame over its limit. */
export class TooLarge extends Error {
  /** @param {string | undefined} frame */
  constructor(frame) {
    super(`a frame over the limit: ${frame}`);
    this.frame = frame;
  }
}

/** Reads frames from a stream of bytes that are cut anywhere, one when it is asked for: what is not read holds the sender back. */
export class FrameReader {
  /** @param {ReadableStream<Uint8Array>} readable @param {number} limit  bytes of a frame's body */
  constructor(readable, limit) {
    this.source = readable.getReader();
    this.limit = limit;
    /** @type {Uint8Array} */
    this.held = new Uint8Array(0);
    this.ended = false;
  }

  /** Whether n bytes are held, after waiting for them. @param {number} n */
  async fill(n) {
    if (this.held.length >= n) return true;
    const parts = [this.held];
    let have = this.held.length;
    while (have < n && !this.ended) {
      const { done, value } = await this.source.read();
      if (done) {
        this.ended = true;
      } else {
        parts.push(value);
        have += value.length;
      }
    }
    this.held = new Uint8Array(have);
    let at = 0;
    for (const part of parts) {
      this.held.set(part, at);
      at += part.length;
    }
    return have >= n;
  }

  /** undefined at the end. @returns {Promise<number | undefined>} */
  async varint() {
    if (!await this.fill(1)) return undefined;
    const size = 1 << (this.held[0] >> 6);
    if (!await this.fill(size)) throw new Violation("a stream that ends in the middle of a frame");
    const value = new Reader(this.held.subarray(0, size)).varint();
    this.held = this.held.subarray(size);
    return value;
  }

  /** The next frame; undefined at the end of the stream. @returns {Promise<Frame | undefined>} */
  async next() {
    for (;;) {
      const type = await this.varint();
      if (type === undefined) return undefined;
      const length = await this.varint();
      if (length === undefined) throw new Violation("a stream that ends in the middle of a frame");
      if (!NAMES.has(type)) {
        if (type % 2 === 0) throw new Violation(`an unknown frame type 0x${type.toString(16)}`);
        await this.skip(length);
        continue;
      }
      if (length > this.limit) throw new TooLarge(NAMES.get(type));
      if (!await this.fill(length)) throw new Violation("a stream that ends in the middle of a frame");
      const body = this.held.subarray(0, length);
      this.held = this.held.subarray(length);
      return decodeBody(type, body);
    }
  }

  /** @param {number} length */
  async skip(length) {
    while (length > 0) {
      if (!await this.fill(1)) throw new Violation("a stream that ends in the middle of a frame");
      const n = Math.min(length, this.held.length);
      this.held = this.held.subarray(n);
      length -= n;
    }
  }

  /** Takes the end that must come now, so that the browser can forget the stream. */
  drain() {
    this.next().catch(() => {});
  }

  /** Asks that nothing more be sent. @param {number} code */
  stop(code) {
    this.source.cancel(streamError(code)).catch(() => {});
  }
}

// Streams of messages -----------------------------------------------------------------------------------------

/**
 * A named stream or a streaming call, of either side. `readable` gives the other side's messages, `writable` takes ours; closing
 * `writable` finishes our direction. Nothing is read ahead of the application but a few messages, so a slow reader slows the
 * sender down; likewise `await writer.ready` waits for a slow receiver.
 */
export class Channel {
  /**
   * @param {Session} session
   * @param {{ name: string, id: number | bigint, codec: number, writer: WritableStreamDefaultWriter<Uint8Array>, reader: FrameReader,
   *   caller: boolean, metadata?: Metadata, frames?: boolean, sends?: boolean }} parts
   */
  constructor(session, parts) {
    this.session = session;
    this.name = parts.name;
    this.id = parts.id;
    /** @type {Metadata} what the opener said */
    this.metadata = parts.metadata ?? {};
    /** @type {Metadata} what came with the end */
    this.trailers = {};
    /** Messages taken and given. */
    this.received = 0;
    this.sent = 0;
    this._codec = parts.codec;
    this._caller = parts.caller;
    /** @type {ReadableStreamDefaultController<any> | undefined} */
    this._incoming = undefined;
    /** @type {WritableStreamDefaultController | undefined} */
    this._outgoing = undefined;
    this._frames = parts.frames ?? false;
    this._writer = parts.writer;
    this._reader = parts.reader;
    this._finished = parts.sends === false;
    this._over = false;
    /** @type {(value: Metadata) => void} */
    this._tellHead = () => {};
    /** The responder's metadata, once it has accepted; {} when it never says. @type {Promise<Metadata>} */
    this.head = new Promise((resolve) => (this._tellHead = resolve));
    /** @type {(values: any[]) => void} */
    this._tellResult = () => {};
    /** @type {(error: EchoError) => void} */
    this._tellFailure = () => {};
    this._ended = new Promise((resolve, reject) => {
      this._tellResult = resolve;
      this._tellFailure = reject;
    });
    this._ended.catch(() => {}); // who wants to know asks
    /** @type {ReadableStream<any>} */
    this.readable = new ReadableStream({
      start: (controller) => void (this._incoming = controller),
      pull: () => this._pull(),
      cancel: (reason) => this.cancel(reason instanceof EchoError ? reason : undefined),
    }, { highWaterMark: 8 });
    /** @type {WritableStream<any>} */
    this.writable = new WritableStream({
      start: (controller) => void (this._outgoing = controller),
      write: (value) => this._send(value),
      close: () => this._finish(),
      abort: () => this.cancel(),
    });
  }

  /**
   * What the handler returned: its first result. The answer comes behind the messages: many unread ones hold it back.
   * @returns {Promise<any>}
   */
  result() {
    return this._ended.then((/** @type {any[]} */ values) => values[0]);
  }

  /** All results. @returns {Promise<any[]>} */
  results() {
    return this._ended;
  }

  /** Sends one message; resolves when there is room for the next. @param {any} value @param {{ seq?: number, wallTime?: number | Date }} [stamp] */
  async send(value, stamp) {
    const writer = this.writable.getWriter();
    try {
      await writer.write(stamp ? new Stamped(value, stamp) : value);
    } finally {
      writer.releaseLock();
    }
  }

  /** No more messages from this side. */
  async finish() {
    if (!this._finished) await this.writable.close();
  }

  /** Abandons both directions. @param {EchoError | number} [why]  a number of the application's own travels to the other side */
  cancel(why) {
    const code = typeof why === "number" ? Code.OWN + why : why?.code === "timeout" ? Code.DEADLINE : Code.CANCELLED;
    const error = why instanceof EchoError ? why
      : new EchoError("cancelled", typeof why === "number" ? `the stream was reset with code ${why}` : "the stream was cancelled");
    this._fail(error, code);
  }

  /** @param {any} value */
  async _send(value) {
    const stamped = value instanceof Stamped ? value : undefined;
    const payload = encodeValue(this._codec, stamped ? stamped.value : value);
    this.session._checkSize(payload);
    await this._writer.ready;
    await this._writer.write(encodeFrame({ type: "data", codec: this._codec, seq: stamped?.seq, wallTimeUs: stamped?.wallTimeUs, payload }));
    this.sent++;
  }

  async _finish() {
    this._finished = true;
    if (this._caller) await this._writer.close(); // a responder's end is its answer
  }

  /** @returns {Promise<void>} */
  async _pull() {
    try {
      const frame = await this._reader.next();
      if (this._over) return;
      switch (frame?.type) {
        case "head":
          this._tellHead(frame.metadata);
          return this._pull();
        case "data":
          return this._take(frame);
        case "response":
          if (this._caller) return this._answered(frame);
          break;
        case undefined:
          if (!this._caller) return this._incoming?.close();
          throw new EchoError("unavailable", "the stream ended without an answer", { processed: "maybe" });
      }
      throw new Violation(`${frame?.type} does not belong on this stream`);
    } catch (error) {
      if (error instanceof Violation) this.session._violated(error);
      this._fail(this.session._whatHappened(error), error instanceof TooLarge ? Code.TOO_LARGE : Code.CANCELLED);
    }
  }

  /** @param {Frame} frame */
  _take(frame) {
    this.received++;
    const data = decodeValue(frame.codec, frame.payload);
    this._incoming?.enqueue(!this._frames ? data
      : { data, seq: frame.seq, wallTime: frame.wallTimeUs === undefined ? undefined : Number(frame.wallTimeUs) / 1000 });
  }

  /** @param {Frame} frame */
  _answered(frame) {
    this._reader.drain();
    this._tellHead({});
    this.trailers = frame.trailers;
    if (frame.status !== 0) return this._fail(failureOf(frame));
    const values = frame.payload.length === 0 ? [] : decodeValues(frame.codec, frame.payload);
    this._over = true;
    this.session._forget(this);
    this._incoming?.close();
    this._tellResult(values);
    if (!this._finished) {
      this._finished = true;
      this._outgoing?.error(new EchoError("cancelled", "the stream has ended"));
      this._writer.abort(streamError(Code.NO_MORE_WANTED)).catch(() => {});
    }
  }

  /** @param {EchoError} error @param {number} [code]  undefined: the other side knows */
  _fail(error, code) {
    if (this._over) return;
    this._over = true;
    this.session._forget(this);
    this._tellHead({});
    this._tellFailure(error);
    try {
      this._incoming?.error(error);
    } catch { /* closed already */ }
    this._outgoing?.error(error);
    if (this._caller) {
      if (code !== undefined) this.session._sendCancel(this.id, code);
      this._writer.abort(streamError(code ?? Code.NO_MORE_WANTED)).catch(() => {});
      this._reader.stop(code ?? Code.NO_MORE_WANTED);
    }
  }
}

/** A message with a number and a time. */
class Stamped {
  /** @param {any} value @param {{ seq?: number, wallTime?: number | Date }} stamp */
  constructor(value, stamp) {
    this.value = value;
    this.seq = stamp.seq;
    this.wallTimeUs = stamp.wallTime === undefined ? undefined : Math.round(Number(stamp.wallTime) * 1000);
  }
}

/** @param {Frame} frame  a RESPONSE with a status */
function failureOf(frame) {
  let details;
  try {
    if (frame.details.length > 0) details = decodeValue(frame.codec, frame.details);
  } catch { /* the code says enough */ }
  return new EchoError(frame.code, frame.message, { details, processed: frame.processed, retryAfter: frame.retryAfterMs || undefined });
}

// Sessions ----------------------------------------------------------------------------------------------------

const SPARE = 4096; // bytes of a frame beside payload and metadata
const CONTROL_LIMIT = 65536;
const BEFORE_HELLO = 65536;
const DEFAULT_TIMEOUT = 30000;
const MAX_TIMER = 2 ** 31 - 1; // of setTimeout
const MAX_LANES = 8;
const REMEMBERED = 256; // cancelled before they came
const WINDOW = 1024; // datagrams that may come late

/**
 * What handlers get first, as Lua's handlers get the session.
 * @typedef {object} CallInfo
 * @property {Client} client
 * @property {string} name
 * @property {Metadata} metadata
 * @property {AbortSignal} signal  tells when the caller gave up, its time is over or the connection is lost
 * @property {number | undefined} deadline  as of performance.now()
 * @property {Metadata} trailers  to be filled: goes with the answer
 */

/**
 * What handlers of events get first.
 * @typedef {object} EventInfo
 * @property {Client} client
 * @property {string} name
 * @property {Metadata} metadata
 * @property {number} seq  its number in its lane, or among those in datagrams
 * @property {number | undefined} wallTime  the sender's clock, in milliseconds since 1970
 * @property {boolean} unreliable  it came in a datagram
 */

/** One connection: the protocol over a WebTransport. Users hold a Client, which makes a new one whenever the old one is lost. */
export class Session {
  /** @param {any} transport  a WebTransport @param {Client} client */
  constructor(transport, client) {
    this.transport = transport;
    this.client = client;
    /** @type {Frame | undefined} */
    this.hello = undefined;
    /** @type {Frame | undefined} the server is going away */
    this.goaway = undefined;
    /** @type {EchoError | undefined} why it is over */
    this.error = undefined;
    this.lastHeard = performance.now();
    this.datagrams = { sent: 0, received: 0, missing: 0, repeated: 0, highest: -1 };
    this._seen = new Set();
    this._laneSeq = 0;
    /** @type {Promise<any> | undefined} */
    this._lane = undefined;
    /** @type {Map<number | bigint, { cancel: (code: number) => void }>} calls of the other side */
    this._serving = new Map();
    /** @type {Set<number | bigint>} */
    this._cancelledEarly = new Set();
    /** @type {Set<(error: EchoError) => void>} calls of ours */
    this._calls = new Set();
    /** @type {Set<Channel>} */
    this._channels = new Set();
    /** @type {Map<number, (pong: Frame) => void>} */
    this._pings = new Map();
    this._lastPing = 0;
    this._lanesIn = 0;
    this._controlIn = false;
    /** @type {((hello: Frame) => void) | undefined} */
    this._greeted = undefined;
    /** @type {WritableStreamDefaultWriter<Uint8Array> | undefined} */
    this._datagramWriter = undefined;
    /** @type {WritableStreamDefaultWriter<Uint8Array> | undefined} */
    this._control = undefined;
    /** @type {(error: EchoError) => void} */
    this._tellOver = () => {};
    /** Resolves with the reason when it is over. @type {Promise<EchoError>} */
    this.over = new Promise((resolve) => (this._tellOver = resolve));
  }

  /** Resolves when both sides have said HELLO. @param {number} timeout */
  async start(timeout) {
    const { transport } = this;
    transport.closed.then(
      (/** @type {any} */ info) => this._closed(info?.closeCode ?? 0, info?.reason ?? ""),
      (/** @type {any} */ error) => this._end(new EchoError("connection_closed", `the connection was lost: ${messageOf(error)}`)));
    /** @type {(value: Frame) => void} */
    let greeted = () => {};
    const greeting = new Promise((resolve) => (greeted = resolve));
    this._greeted = greeted;
    const opened = transport.ready.then(() => this._open());
    const failed = this.over.then((error) => Promise.reject(error));
    const late = after(timeout, () => new EchoError("timeout", `no connection within ${timeout} ms`));
    try {
      await Promise.race([Promise.all([opened, greeting]), failed, late.promise]);
    } catch (error) {
      const why = error instanceof EchoError ? error : new EchoError("unavailable", `cannot connect: ${messageOf(error)}`);
      this._end(why);
      try {
        transport.close();
      } catch { /* it never was open */ }
      throw why;
    } finally {
      late.clear();
      failed.catch(() => {});
    }
  }

  async _open() {
    const writable = await this.transport.createUnidirectionalStream({ sendOrder: 100, waitUntilAvailable: true });
    const control = writable.getWriter();
    const hello = encodeFrame({
      type: "hello", caps: CAPABILITIES, instance: this.client.instance, maxMessage: this.client.maxMessage, maxCalls: this.client.maxCalls,
      agent: "echostream.js", credentials: this.client.credentials,
    });
    const first = new Uint8Array(hello.length + 1);
    first.set(hello, 1);
    control.write(first).catch(() => {});
    this._control = control;
    control.closed.catch(() => {});
    each(this.transport.incomingUnidirectionalStreams, (readable) => this._unidirectional(readable));
    each(this.transport.incomingBidirectionalStreams, (stream) => this._serve(stream));
    each(this.transport.datagrams.readable, (bytes) => this._datagram(bytes));
  }

  /** The longest payload that the other side takes. */
  get maxMessage() {
    return this.hello?.maxMessage ?? BEFORE_HELLO;
  }

  /** @param {Uint8Array} payload */
  _checkSize(payload) {
    if (payload.length > this.maxMessage) {
      throw new EchoError("resource_exhausted", `a message of ${payload.length} bytes; the other side takes ${this.maxMessage}`);
    }
  }

  get _frameLimit() {
    return this.client.maxMessage + MAX_METADATA + SPARE;
  }

  /** @param {Violation} violation */
  _violated(violation) {
    console.warn(`echostream: ${violation.message}`);
    this.close(violation.closeCode, violation.message, new EchoError("protocol", violation.message));
  }

  /** @param {number} code @param {string} reason */
  _closed(code, reason) {
    const refused = code === Code.REFUSED && /^([a-z0-9_.-]{1,64}): ([^]*)$/i.exec(reason);
    const error = refused ? new EchoError(refused[1], refused[2])
      : new EchoError(code === Code.PROTOCOL ? "protocol" : "connection_closed", reason || `the server closed the connection with code ${code}`);
    error.details = { closeCode: code, reason };
    this._end(error);
  }

  /** Ends the session from this side. @param {number} code @param {string} reason @param {EchoError} [error] */
  close(code = Code.NONE, reason = "", error = new EchoError("connection_closed", "closed here")) {
    if (this.error) return;
    try {
      this.transport.close({ closeCode: code, reason: cutText(reason, 1024) });
    } catch { /* closed already */ }
    this._end(error);
  }

  /** @param {EchoError} error */
  _end(error) {
    if (this.error) return;
    this.error = error;
    const maybe = new EchoError(error.code, error.message, { details: error.details, processed: "maybe" });
    for (const call of [...this._calls]) call(maybe);
    for (const channel of [...this._channels]) channel._fail(maybe);
    for (const serving of [...this._serving.values()]) serving.cancel(Code.SESSION_CLOSED);
    this._pings.clear();
    this._tellOver(error);
  }

  /** What a failed read or write means. @param {any} error @returns {EchoError} */
  _whatHappened(error) {
    if (error instanceof EchoError) return error;
    if (error instanceof TooLarge) return new EchoError("resource_exhausted", "the answer is longer than this side takes", { processed: "yes" });
    if (error instanceof Violation) return new EchoError("protocol", error.message, { processed: "maybe" });
    if (this.error) return new EchoError(this.error.code, this.error.message, { details: this.error.details, processed: "maybe" });
    const refused = error?.streamErrorCode === Code.REFUSED;
    return new EchoError("unavailable", `the stream failed: ${messageOf(error)}`, { processed: refused ? "no" : "maybe" });
  }

  // Streams that the other side opens -----------------------------------------------------------------------

  /** @param {ReadableStream<Uint8Array>} readable */
  async _unidirectional(readable) {
    const reader = new FrameReader(readable, this._frameLimit);
    try {
      const kind = await reader.varint();
      if (kind === 0) await this._controlStream(reader);
      else if (kind === 1) await this._eventLane(reader);
      else reader.stop(Code.UNKNOWN_STREAM);
    } catch (error) {
      if (error instanceof Violation) this._violated(error);
      else if (error instanceof TooLarge) this._violated(new Violation(error.message, Code.TOO_LARGE));
    }
  }

  /** @param {FrameReader} reader */
  async _controlStream(reader) {
    if (this._controlIn) throw new Violation("a second control stream");
    this._controlIn = true;
    reader.limit = CONTROL_LIMIT;
    for (;;) {
      let frame;
      try {
        frame = await reader.next();
      } catch (error) {
        // A reset of it, while the connection lives, is a violation; the end of the connection is none.
        if (!(error instanceof Violation || error instanceof TooLarge)) return;
        throw !this.hello ? new Violation(error.message, Code.HELLO) : error;
      }
      if (!frame) {
        if (this.error) return;
        throw new Violation("the control stream ended", Code.CLOSED_CRITICAL);
      }
      this.lastHeard = performance.now();
      this._controlFrame(frame);
    }
  }

  /** @param {Frame} frame */
  _controlFrame(frame) {
    if (!this.hello) {
      if (frame.type !== "hello" || frame.minMinor > 0) throw new Violation("no HELLO of this version", Code.HELLO);
      this.hello = frame;
      this._greeted?.(frame);
      return;
    }
    switch (frame.type) {
      case "cancel": {
        const serving = this._serving.get(frame.requestId);
        if (serving) return serving.cancel(frame.code);
        this._cancelledEarly.add(frame.requestId);
        if (this._cancelledEarly.size > REMEMBERED) this._cancelledEarly.delete(this._cancelledEarly.values().next().value ?? 0);
        return;
      }
      case "goaway":
        this.goaway = frame;
        this.client._goaway(this, frame);
        return;
      case "ping":
        if (this._has(CLOCK)) this._sendControl({ type: "pong", t1: frame.t1, t2: Date.now() * 1000, t3: Date.now() * 1000 });
        return;
      case "pong":
        this._pings.get(frame.t1)?.(frame);
        this._pings.delete(frame.t1);
        return;
      default:
        throw new Violation(`${frame.type} does not belong on the control stream`);
    }
  }

  /** @param {number} capability */
  _has(capability) {
    return ((this.hello?.caps ?? 0) & CAPABILITIES & capability) !== 0;
  }

  /** @param {Frame} frame */
  _sendControl(frame) {
    this._control?.write(encodeFrame(frame)).catch(() => {}); // the connection's end says why
  }

  /** @param {number | bigint} requestId @param {number} code */
  _sendCancel(requestId, code) {
    if (!this.error) this._sendControl({ type: "cancel", requestId, code });
  }

  /** Asks the other side for its clock. @returns {Promise<{ rtt: number, offset: number }>} milliseconds; how far its clock is ahead */
  ping(timeout = 5000) {
    if (!this._has(CLOCK)) return Promise.reject(new EchoError("failed_precondition", "the other side has no clock to ask for"));
    const t1 = this._lastPing = Math.max(Date.now() * 1000, this._lastPing + 1);
    const began = performance.now();
    const late = after(timeout, () => new EchoError("timeout", "no PONG came"));
    const answer = new Promise((resolve) => {
      this._pings.set(t1, (pong) => {
        const rtt = performance.now() - began;
        resolve({ rtt, offset: (pong.t2 + pong.t3) / 2000 - (t1 / 1000 + rtt / 2) });
      });
    });
    this._sendControl({ type: "ping", t1 });
    const lost = this.over.then((error) => Promise.reject(error));
    lost.catch(() => {});
    return Promise.race([answer, late.promise, lost]).finally(() => {
      late.clear();
      this._pings.delete(t1);
    });
  }

  // Events ----------------------------------------------------------------------------------------------------

  /** @param {FrameReader} reader */
  async _eventLane(reader) {
    if (++this._lanesIn > MAX_LANES) throw new Violation("a ninth event lane");
    for (;;) {
      const frame = await reader.next().catch((error) => {
        if (error instanceof Violation || error instanceof TooLarge) throw error;
        return undefined; // reset, or the connection ended
      });
      if (!frame) return;
      if (frame.type !== "event") throw new Violation(`${frame.type} does not belong on an event lane`);
      this.lastHeard = performance.now();
      await this._event(frame, false); // the next one waits: events of a lane are in order
    }
  }

  /** @param {Uint8Array} bytes */
  _datagram(bytes) {
    this.lastHeard = performance.now();
    const frame = decodeDatagram(bytes);
    if (!frame) return;
    const seq = Number(frame.seq), d = this.datagrams;
    if (this._seen.has(seq) || seq <= d.highest - WINDOW) {
      d.repeated++;
      return;
    }
    this._seen.add(seq);
    d.received++;
    if (seq > d.highest) {
      d.highest = seq;
      if (this._seen.size > 2 * WINDOW) this._seen.forEach((old) => old <= seq - WINDOW && this._seen.delete(old));
    }
    d.missing = d.highest + 1 - d.received;
    this._event(frame, true);
  }

  /** @param {Frame} frame @param {boolean} unreliable */
  async _event(frame, unreliable) {
    const handlers = this.client._events.get(frame.name);
    if (!handlers) return;
    try {
      const values = frame.payload.length === 0 ? [] : decodeValues(frame.codec, frame.payload);
      /** @type {EventInfo} */
      const info = {
        client: this.client, name: frame.name, metadata: frame.metadata, seq: Number(frame.seq), unreliable,
        wallTime: frame.wallTimeUs === undefined ? undefined : Number(frame.wallTimeUs) / 1000,
      };
      for (const handler of [...handlers]) await handler(info, ...values);
    } catch (error) {
      console.error(`echostream: the handler of event ${frame.name} failed:`, error);
    }
  }

  /** @param {string} name @param {any[]} values @param {CallOptions} options */
  async emit(name, values, options) {
    const codec = CODECS[options.codec ?? "msgpack"];
    const payload = encodeValues(codec, values);
    this._checkSize(payload);
    const frame = {
      type: "event", codec, name, payload, metadata: options.metadata, seq: 0,
      wallTimeUs: options.wallTime === undefined ? undefined : Math.round(Number(options.wallTime) * 1000),
    };
    if (options.unreliable) return this._emitDatagram(frame);
    this._lane ??= this.transport.createUnidirectionalStream({ waitUntilAvailable: true }).then(async (/** @type {WritableStream} */ writable) => {
      const writer = writable.getWriter();
      writer.closed.catch(() => {});
      writer.write(Uint8Array.of(1)).catch(() => {});
      return writer;
    });
    this._lane?.catch(() => (this._lane = undefined)); // none could be opened: the next event tries again
    try {
      const writer = await this._lane;
      frame.seq = this._laneSeq++;
      await Promise.all([writer.ready, writer.write(encodeFrame(frame))]);
    } catch (error) {
      throw this._whatHappened(error);
    }
  }

  /** @param {Frame} frame */
  async _emitDatagram(frame) {
    if (!this._has(DATAGRAMS)) throw new EchoError("failed_precondition", "the other side takes no datagrams");
    const { datagrams } = this.transport;
    /** @type {WritableStreamDefaultWriter<Uint8Array>} */
    const writer = this._datagramWriter ??= (datagrams.createWritable?.() ?? datagrams.writable).getWriter();
    frame.seq = this.datagrams.sent;
    const bytes = encodeFrame(frame, true);
    if (datagrams.maxDatagramSize && bytes.length > datagrams.maxDatagramSize) {
      throw new EchoError("resource_exhausted", `${bytes.length} bytes do not fit into a datagram of ${datagrams.maxDatagramSize}`);
    }
    this.datagrams.sent++;
    try {
      await writer.write(bytes);
    } catch (error) {
      throw this._whatHappened(error);
    }
  }

  // Calls of ours ---------------------------------------------------------------------------------------------

  /** @param {string} method @param {any[]} args @param {CallOptions} options @param {number} [deadline] @returns {Promise<any[]>} */
  request(method, args, options, deadline) {
    const codec = CODECS[options.codec ?? "msgpack"];
    const payload = encodeValues(codec, args);
    this._checkSize(payload);
    const requestId = this.client._nextId();
    const { signal } = options;
    return new Promise((resolve, reject) => {
      let settled = false, sent = false;
      /** @type {FrameReader | undefined} */
      let reader;
      const settle = (/** @type {() => void} */ tell) => {
        if (settled) return false;
        settled = true;
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        this._calls.delete(fail);
        tell();
        return true;
      };
      const fail = (/** @type {EchoError} */ error) => settle(() => reject(error));
      const giveUp = (/** @type {EchoError} */ error, /** @type {number} */ code) => {
        error.processed = sent ? "maybe" : "no";
        if (!fail(error) || !sent) return;
        this._sendCancel(requestId, code);
        reader?.stop(code);
      };
      const onAbort = () => giveUp(aborted(/** @type {AbortSignal} */ (signal)), Code.CANCELLED);
      /** @type {any} */
      let timer;
      const left = deadline === undefined ? 0 : Math.max(1, Math.ceil(deadline - performance.now()));
      if (deadline !== undefined) timer = setTimeout(() => giveUp(new EchoError("timeout", `no answer within ${left} ms`), Code.DEADLINE), Math.min(left, MAX_TIMER));
      signal?.addEventListener("abort", onAbort);
      this._calls.add(fail);

      const run = async () => {
        const stream = await this._bidirectional();
        if (settled) return void abandon(stream);
        reader = new FrameReader(stream.readable, this._frameLimit);
        sent = true;
        const writer = stream.writable.getWriter();
        writer.write(encodeFrame({
          type: "request", requestId, method, codec, payload, deadlineMs: left, priority: options.priority, metadata: options.metadata,
          idempotent: options.idempotent,
        })).catch(() => {});
        writer.close().catch(() => {});
        const frame = await reader.next();
        this.lastHeard = performance.now();
        if (frame === undefined) throw new EchoError("unavailable", "the stream ended without an answer", { processed: "maybe" });
        if (frame.type !== "response") throw new Violation(`${frame.type} is no answer to a call`);
        reader.drain();
        if (frame.status !== 0) throw failureOf(frame);
        const values = decodeValues(frame.codec, frame.payload);
        settle(() => resolve(values));
      };
      run().catch((error) => {
        if (error instanceof Violation) this._violated(error);
        if (error instanceof TooLarge) reader?.stop(Code.TOO_LARGE);
        const failure = this._whatHappened(error);
        if (!sent && !(error instanceof EchoError)) failure.processed = "no";
        fail(failure);
      });
    });
  }

  async _bidirectional() {
    try {
      return await this.transport.createBidirectionalStream({ waitUntilAvailable: true });
    } catch (error) {
      const failure = this._whatHappened(error);
      failure.processed = "no";
      throw failure;
    }
  }

  /** Opens a named stream (`args` undefined) or calls a streaming method. @param {string} name @param {any[] | undefined} args @param {CallOptions} options */
  async open(name, args, options) {
    const codec = CODECS[options.codec ?? (args ? "msgpack" : "raw")];
    const requestId = this.client._nextId();
    const payload = args && args.length > 0 ? encodeValues(MSGPACK, args) : undefined;
    if (payload) this._checkSize(payload);
    const stream = await this._bidirectional();
    const writer = stream.writable.getWriter();
    writer.closed.catch(() => {});
    const channel = new Channel(this, {
      name, id: requestId, codec, writer, reader: new FrameReader(stream.readable, this._frameLimit), caller: true,
      metadata: options.metadata, frames: options.frames,
    });
    this._channels.add(channel);
    writer.write(encodeFrame({
      type: "request", requestId, method: name, codec: payload ? MSGPACK : codec, payload, more: true, stream: true, priority: options.priority,
      metadata: options.metadata, deadlineMs: options.timeout ? Math.ceil(options.timeout) : 0,
    })).catch((/** @type {any} */ error) => channel._fail(this._whatHappened(error)));
    if (options.timeout) {
      const timer = setTimeout(() => channel.cancel(new EchoError("timeout", `the stream did not end within ${options.timeout} ms`)), Math.min(options.timeout, MAX_TIMER));
      channel.results().catch(() => {}).finally(() => clearTimeout(timer));
    }
    const { signal } = options;
    if (signal) {
      const stop = () => channel.cancel(aborted(signal));
      if (signal.aborted) stop();
      signal.addEventListener("abort", stop);
      channel.results().catch(() => {}).finally(() => signal.removeEventListener("abort", stop));
    }
    return channel;
  }

  /** @param {Channel} channel */
  _forget(channel) {
    this._channels.delete(channel);
  }

  // Calls of the other side -------------------------------------------------------------------------------------

  /** @param {{ readable: ReadableStream<Uint8Array>, writable: WritableStream<Uint8Array> }} stream */
  async _serve(stream) {
    const reader = new FrameReader(stream.readable, this._frameLimit);
    const writer = stream.writable.getWriter();
    writer.closed.catch(() => {});
    /** @type {Answer} */
    const answer = new Answer(writer, reader);
    try {
      const request = await reader.next();
      if (!request) return void answer.drop();
      if (request.type !== "request") throw new Violation(`${request.type} does not begin an exchange`);
      this.lastHeard = performance.now();
      await this._handle(request, reader, writer, answer);
    } catch (error) {
      if (error instanceof Violation) return this._violated(error);
      if (error instanceof TooLarge) {
        reader.stop(Code.TOO_LARGE);
        return answer.fail(new EchoError("resource_exhausted", "the request is longer than this side takes"));
      }
      answer.drop(); // reset by its caller, or the connection ended
    }
  }

  /** Why a request is not taken. @param {Frame} request @param {Method | undefined} method */
  _refusal(request, method) {
    if (this._cancelledEarly.delete(request.requestId)) return new EchoError("cancelled", "cancelled before it came");
    if (this._serving.has(request.requestId)) return new EchoError("already_exists", `request ${request.requestId} runs already`);
    const streaming = request.more || request.stream;
    if (!method) return new EchoError("method_not_found", `no ${streaming ? "stream" : "method"} ${request.method}`);
    if (streaming !== (method.kind !== "plain")) {
      return new EchoError("invalid_argument", `${request.method} is a ${method.kind === "plain" ? "plain method" : method.kind}`);
    }
    if (request.retry && !method.idempotent) return new EchoError("failed_precondition", `${request.method} is not idempotent: no retries`);
    if (this._serving.size >= this.client.maxCalls) return new EchoError("resource_exhausted", `${this.client.maxCalls} calls run already`);
    return undefined;
  }

  /** @param {Frame} request @param {FrameReader} reader @param {WritableStreamDefaultWriter<Uint8Array>} writer @param {Answer} answer */
  async _handle(request, reader, writer, answer) {
    const method = this.client._methods.get(request.method);
    const refusal = this._refusal(request, method);
    answer.codec = request.codec;
    answer.idempotent = method?.idempotent ?? false;
    if (refusal || !method) return answer.fail(/** @type {EchoError} */ (refusal));
    const controller = new AbortController();
    const cancel = (/** @type {number} */ code) => {
      const own = code >= Code.OWN ? { details: { reset: code - Code.OWN } } : {};
      controller.abort(new EchoError(code === Code.DEADLINE ? "timeout" : "cancelled", "the caller gave up", own));
      channel?._fail(controller.signal.reason);
      answer.fail(controller.signal.reason);
    };
    const timer = request.deadlineMs > 0 ? setTimeout(() => cancel(Code.DEADLINE), Math.min(request.deadlineMs, MAX_TIMER)) : undefined;
    this._serving.set(request.requestId, { cancel });
    /** @type {CallInfo} */
    const info = {
      client: this.client, name: request.method, metadata: request.metadata, signal: controller.signal, trailers: answer.trailers,
      deadline: request.deadlineMs > 0 ? performance.now() + request.deadlineMs : undefined,
    };
    /** @type {Channel | undefined} */
    let channel;
    try {
      const args = request.payload.length === 0 && method.kind !== "plain" ? [] : decodeValues(request.codec, request.payload);
      if (method.kind !== "plain") {
        channel = new Channel(this, {
          name: request.method, id: request.requestId, codec: method.codec ?? (method.kind === "stream" ? RAW : MSGPACK), writer, reader, caller: false,
          metadata: request.metadata, sends: request.stream,
        });
        this._channels.add(channel);
        if (method.kind === "stream") await writer.write(encodeFrame({ type: "head" }));
      }
      answer.processed = "maybe";
      const value = await (channel ? method.fn(info, channel, ...args) : method.fn(info, ...args));
      answer.processed = "yes";
      answer.give(value instanceof Results ? value.values : value === undefined ? [] : [value], this.maxMessage, channel !== undefined);
    } catch (error) {
      if (!(error instanceof EchoError)) console.error(`echostream: the handler of ${request.method} failed:`, error);
      if (answer.processed === "maybe") answer.processed = "yes";
      answer.fail(asEchoError(error));
    } finally {
      clearTimeout(timer);
      this._serving.delete(request.requestId);
      if (channel) {
        channel._over = true;
        this._forget(channel);
        reader.stop(Code.NO_MORE_WANTED);
      }
    }
  }
}

/** The answer to one request: given once, whatever happens. */
class Answer {
  /** @param {WritableStreamDefaultWriter<Uint8Array>} writer @param {FrameReader} reader */
  constructor(writer, reader) {
    this.writer = writer;
    this.reader = reader;
    this.codec = MSGPACK;
    this.idempotent = false;
    /** @type {"no" | "maybe" | "yes"} */
    this.processed = "no";
    /** @type {Metadata} */
    this.trailers = {};
    this.given = false;
  }

  /** @param {Record<string, any>} fields  of a RESPONSE */
  _write(fields) {
    if (this.given) return;
    this.given = true;
    this.writer.write(encodeFrame({ type: "response", idempotent: this.idempotent, trailers: this.trailers, ...fields })).catch(() => {});
    this.writer.close().catch(() => {});
  }

  /** @param {any[]} values @param {number} most @param {boolean} streamed */
  give(values, most, streamed) {
    const codec = streamed || this.codec > JSON_ ? MSGPACK : this.codec;
    const payload = streamed && values.length === 0 ? undefined : encodeValues(codec, values);
    if (payload && payload.length > most) throw new EchoError("resource_exhausted", `an answer of ${payload.length} bytes; the caller takes ${most}`);
    this._write({ codec, payload });
  }

  /** @param {EchoError} error */
  fail(error) {
    let details;
    try {
      if (error.details !== undefined) details = pack(error.details);
    } catch { /* the code says enough */ }
    this._write({
      status: error.status, code: /^[A-Za-z0-9._/:-]{1,256}$/.test(error.code) ? error.code : "unknown", message: error.message,
      processed: this.processed, retryAfterMs: error.retryAfter, details,
    });
  }

  drop() {
    this.given = true;
    this.writer.close().catch(() => {});
  }
}

/** Does something for everything that comes, without waiting for it. @param {ReadableStream} readable @param {(value: any) => void} fn */
async function each(readable, fn) {
  const reader = readable.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      fn(value);
    }
  } catch { /* the connection ended */ }
}

/** A promise that is rejected late. @param {number} ms @param {() => EchoError} what */
function after(ms, what) {
  /** @type {any} */
  let timer;
  const promise = new Promise((_, reject) => {
    if (ms > 0 && ms < Infinity) timer = setTimeout(() => reject(what()), Math.min(ms, MAX_TIMER));
  });
  promise.catch(() => {});
  return { promise, clear: () => clearTimeout(timer) };
}

/** @param {{ readable: ReadableStream, writable: WritableStream }} stream */
function abandon(stream) {
  stream.writable.abort(streamError(Code.CANCELLED)).catch(() => {});
  stream.readable.cancel(streamError(Code.CANCELLED)).catch(() => {});
}

// Clients -----------------------------------------------------------------------------------------------------

/**
 * @typedef {object} CallOptions
 * @property {number} [timeout]  milliseconds; 0: none. Default 30,000 for calls, none for streams
 * @property {AbortSignal} [signal]  gives the call up, and tells the server
 * @property {Metadata} [metadata]
 * @property {number} [priority]  0 (first) to 7, 3 by default
 * @property {boolean} [idempotent]  running it twice is harmless
 * @property {boolean} [unreliable]  events: in a datagram, which may be lost, come late, or twice (which is noticed)
 * @property {number | Date} [wallTime]  events: a time that travels with it
 * @property {"raw" | "msgpack" | "json"} [codec]  default "msgpack"; of named streams "raw"
 * @property {boolean} [frames]  streams: messages come as { data, seq, wallTime }
 */

/**
 * @typedef {object} ReconnectOptions
 * @property {number} [first]  milliseconds; the first pause is a random part of it (100)
 * @property {number} [factor]  each further pause is at most so many times longer (2)
 * @property {number} [cap]  milliseconds that a pause is at most (5,000)
 * @property {number} [attempts]  in a row, after which it gives up (as long as it takes)
 */

/**
 * @typedef {object} ConnectOptions
 * @property {any[] | (() => any[] | Promise<any[]>)} [serverCertificateHashes]  as WebTransport's, or SHA-256 in hexadecimal or base64; a function is asked for
 *   every connection, so that a server may renew its certificate
 * @property {string} [token]  goes with the credentials
 * @property {Metadata} [metadata]  credentials, which the server's on_connect and auth look at
 * @property {boolean | ReconnectOptions} [reconnect]  comes back when the connection is lost (false)
 * @property {number} [timeout]  milliseconds for a connection to be made (30,000)
 * @property {number} [heartbeat]  milliseconds without a word from the server after which it is asked; three times that, and the connection is given
 *   up; 0: never (10,000)
 * @property {number} [maxMessage]  the longest message that is taken, in bytes (4 MiB)
 * @property {number} [maxCalls]  handlers that run at once (100)
 * @property {"default" | "low-latency" | "throughput"} [congestionControl]
 * @property {(url: string, options: any) => any} [open]  makes the WebTransport; for tests
 */

/** @typedef {{ kind: "plain" | "streaming method" | "stream", fn: Function, idempotent: boolean, codec?: number }} Method */

/** What decides for good: who answered so will answer so again. */
const FINAL = new Set(["unauthenticated", "permission_denied"]);

/** A client of one server. Made by `connect`. */
export class Client {
  /** @param {string | URL} url @param {ConnectOptions} options */
  constructor(url, options) {
    this.url = String(url);
    this.options = options;
    this.maxMessage = options.maxMessage ?? 4 << 20;
    this.maxCalls = options.maxCalls ?? 100;
    this.instance = crypto.getRandomValues(new Uint8Array(16));
    this.credentials = options.token === undefined ? options.metadata : { ...options.metadata, token: options.token };
    /** "connecting", "connected", "reconnecting" or "closed" */
    this.state = "connecting";
    /** @type {EchoError | undefined} why it is not connected */
    this.error = undefined;
    /** @type {Session | undefined} */
    this.session = undefined;
    /** How often it came back. */
    this.reconnections = 0;
    /** @type {Map<string, Set<Function>>} */
    this._events = new Map();
    /** @type {Map<string, Method>} */
    this._methods = new Map();
    /** @type {Set<(state: string, detail?: any) => void>} */
    this._watchers = new Set();
    /** @type {Set<() => void>} */
    this._waiting = new Set();
    this._ids = 0;
    /** @type {(error: EchoError) => void} */
    this._tellClosed = () => {};
    /** Resolves with the reason when it is closed for good. @type {Promise<EchoError>} */
    this.closed = new Promise((resolve) => (this._tellClosed = resolve));
  }

  /** @param {string} state @param {any} [detail] */
  _become(state, detail) {
    this.state = state;
    for (const watcher of [...this._watchers]) {
      try {
        watcher(state, detail);
      } catch (error) {
        console.error("echostream: a function of onState failed:", error);
      }
    }
    const waiting = [...this._waiting];
    this._waiting.clear();
    for (const tell of waiting) tell();
  }

  /**
   * Tells of "connected", "reconnecting" error, "waiting" milliseconds, "goaway" { graceMs, reason }, and "closed" error.
   * @param {(state: string, detail?: any) => void} fn
   * @returns {() => void} takes it away
   */
  onState(fn) {
    this._watchers.add(fn);
    return () => void this._watchers.delete(fn);
  }

  /** @param {Session} session @param {Frame} frame */
  _goaway(session, frame) {
    if (session === this.session) this._watchers.forEach((watcher) => watcher("goaway", frame));
  }

  _nextId() {
    return ++this._ids;
  }

  async _dial() {
    const { options } = this;
    const hashes = typeof options.serverCertificateHashes === "function" ? await options.serverCertificateHashes() : options.serverCertificateHashes;
    /** @type {any} */
    const native = { congestionControl: options.congestionControl ?? "default" };
    if (hashes?.length) native.serverCertificateHashes = hashes.map(certificateHash);
    const open = options.open ?? ((/** @type {string} */ url, /** @type {any} */ o) => new (/** @type {any} */ (globalThis).WebTransport)(url, o));
    const session = new Session(open(this.url, native), this);
    await session.start(options.timeout ?? 30000);
    this.session = session;
    this.error = undefined;
    session.over.then((error) => this._lost(session, error));
    this._watch(session);
    this._become("connected", session);
  }

  /** Notices a server that is gone without a word. @param {Session} session */
  _watch(session) {
    const interval = this.options.heartbeat ?? 10000;
    if (!interval || !session._has(CLOCK)) return;
    let silent = 0;
    const timer = setInterval(() => {
      if (performance.now() - session.lastHeard < interval) return void (silent = 0);
      if (++silent > 2) return session.close(Code.NONE, "no answer", new EchoError("connection_closed", `nothing came for ${3 * interval} ms`));
      session.ping(interval).catch(() => {});
    }, interval);
    session.over.then(() => clearInterval(timer));
  }

  /** @param {Session} session @param {EchoError} error */
  _lost(session, error) {
    if (session !== this.session) return;
    this.session = undefined;
    this.error = error;
    if (this.state === "closed") return;
    if (!this.options.reconnect || FINAL.has(error.code)) return this._finish(error);
    this._become("reconnecting", error);
    this._comeBack(error);
  }

  /** @param {EchoError} error */
  _finish(error) {
    this.error = error;
    this._become("closed", error);
    this._tellClosed(error);
  }

  /** @param {EchoError} error */
  async _comeBack(error) {
    const { first = 100, factor = 2, cap = 5000, attempts = Infinity } = typeof this.options.reconnect === "object" ? this.options.reconnect : {};
    for (let tried = 0, most = first; tried < attempts; tried++, most = Math.min(cap, most * factor)) {
      const pause = Math.random() * most;
      this._watchers.forEach((watcher) => watcher("waiting", pause));
      await new Promise((resolve) => setTimeout(resolve, pause));
      if (this.state === "closed") return;
      try {
        await this._dial();
        this.reconnections++;
        return;
      } catch (failure) {
        error = failure instanceof EchoError ? failure : new EchoError("unavailable", messageOf(failure));
        this.error = error;
        if (FINAL.has(error.code)) break;
      }
    }
    if (this.state !== "closed") this._finish(error);
  }

  /** The session, after waiting for it. @param {CallOptions} options @param {number} [deadline] @returns {Promise<Session>} */
  async _connected(options, deadline) {
    options.signal?.throwIfAborted?.();
    while (this.state !== "connected" || !this.session) {
      if (this.state === "closed") {
        throw new EchoError(this.error?.code ?? "connection_closed", this.error?.message ?? "closed", { details: this.error?.details });
      }
      await new Promise((resolve, reject) => {
        const { signal } = options;
        /** @type {any} */
        let timer;
        const done = (/** @type {() => void} */ tell) => {
          clearTimeout(timer);
          this._waiting.delete(changed);
          signal?.removeEventListener("abort", gone);
          tell();
        };
        const changed = () => done(() => resolve(undefined));
        const gone = () => done(() => reject(aborted(/** @type {AbortSignal} */ (signal))));
        if (deadline !== undefined) {
          timer = setTimeout(() => done(() => reject(new EchoError("timeout", "not connected in time"))), Math.min(Math.max(0, deadline - performance.now()), MAX_TIMER));
        }
        signal?.addEventListener("abort", gone);
        this._waiting.add(changed);
      });
    }
    return this.session;
  }

  /** @param {string} method @param {any[]} args @param {CallOptions} options */
  async _request(method, args, options) {
    checkName("request: the method", method);
    const timeout = options.timeout ?? DEFAULT_TIMEOUT;
    const deadline = timeout > 0 && timeout < Infinity ? performance.now() + timeout : undefined;
    if (options.signal?.aborted) throw aborted(options.signal);
    const session = await this._connected(options, deadline);
    return session.request(method, args, options, deadline);
  }

  /** Calls a method of the server: its first result. While the connection is away, waits for it within its time. @param {string} method @param {any[]} args @returns {Promise<any>} */
  async request(method, ...args) {
    return (await this._request(method, args, {}))[0];
  }

  /** All results of a method. @param {string} method @param {any[]} args @returns {Promise<any[]>} */
  requestAll(method, ...args) {
    return this._request(method, args, {});
  }

  /** Sends an event; resolves when there is room for the next. @param {string} name @param {any[]} args @returns {Promise<void>} */
  emit(name, ...args) {
    return this._emit(name, args, {});
  }

  /** @param {string} name @param {any[]} args @param {CallOptions} options */
  async _emit(name, args, options) {
    checkName("emit: the event", name);
    const session = await this._connected(options, performance.now() + (options.timeout ?? DEFAULT_TIMEOUT));
    return session.emit(name, args, options);
  }

  /** Calls a streaming method. A refusal shows at the first read, or in `result()`. @param {string} method @param {any[]} args @returns {Promise<Channel>} */
  stream(method, ...args) {
    return this._open(method, args, {});
  }

  /** Opens a named stream, of bytes unless `codec` says otherwise. @param {string} name @param {CallOptions} [options] @returns {Promise<Channel>} */
  createStream(name, options = {}) {
    return this._open(name, undefined, options);
  }

  /** @param {string} name @param {any[] | undefined} args @param {CallOptions} options */
  async _open(name, args, options) {
    checkName("stream: the name", name);
    const session = await this._connected(options, performance.now() + (options.timeout || DEFAULT_TIMEOUT));
    return session.open(name, args, options);
  }

  /** The same calls with other options. @param {CallOptions} options */
  with(options) {
    return {
      request: async (/** @type {string} */ method, /** @type {any[]} */ ...args) => (await this._request(method, args, options))[0],
      requestAll: (/** @type {string} */ method, /** @type {any[]} */ ...args) => this._request(method, args, options),
      emit: (/** @type {string} */ name, /** @type {any[]} */ ...args) => this._emit(name, args, options),
      stream: (/** @type {string} */ method, /** @type {any[]} */ ...args) => this._open(method, args, options),
      createStream: (/** @type {string} */ name, /** @type {CallOptions} */ more = {}) => this._open(name, undefined, { ...options, ...more }),
      with: (/** @type {CallOptions} */ more) => this.with({ ...options, ...more }),
    };
  }

  /**
   * Handles an event of the server. Events of a lane come one after another: the next one waits for what the function returns.
   * @param {string} name @param {(info: EventInfo, ...args: any[]) => any} fn
   * @returns {() => void} takes it away
   */
  on(name, fn) {
    checkName("on: the event", name);
    const handlers = this._events.get(name) ?? new Set();
    this._events.set(name, handlers.add(fn));
    return () => {
      handlers.delete(fn);
      if (handlers.size === 0 && this._events.get(name) === handlers) this._events.delete(name);
    };
  }

  /**
   * Answers calls of the server. With `stream` the function gets a Channel before the arguments.
   * @param {string} method @param {(info: CallInfo, ...args: any[]) => any} fn
   * @param {{ idempotent?: boolean, stream?: boolean }} [options]
   * @returns {() => void} takes it away
   */
  handle(method, fn, { idempotent = false, stream = false } = {}) {
    checkName("handle: the method", method);
    return this._add(method, { kind: stream ? "streaming method" : "plain", fn, idempotent });
  }

  /**
   * Serves named streams that the server opens; the stream ends with the function.
   * @param {string} name @param {(info: CallInfo, channel: Channel) => any} fn @param {{ codec?: "raw" | "msgpack" | "json" }} [options]
   * @returns {() => void} takes it away
   */
  handleStream(name, fn, { codec = "raw" } = {}) {
    checkName("handleStream: the name", name);
    return this._add(name, { kind: "stream", fn, idempotent: false, codec: CODECS[codec] });
  }

  /** @param {string} name @param {Method} method */
  _add(name, method) {
    if (this._methods.has(name)) throw new TypeError(`${name} has a handler already`);
    this._methods.set(name, method);
    return () => void (this._methods.get(name) === method && this._methods.delete(name));
  }

  /**
   * Subscribes to a topic of the server, again after each reconnection.
   * @param {string} topic @param {(...published: any[]) => any} fn @param {(error: EchoError) => void} [onError]
   * @returns {() => void} ends it
   */
  subscribe(topic, fn, onError = () => {}) {
    const controller = new AbortController();
    const { signal } = controller;
    const run = async () => {
      while (!signal.aborted) {
        try {
          const channel = await this._open(`topic:${topic}`, undefined, { codec: "msgpack", signal });
          for await (const published of iterate(channel.readable)) await fn(...published);
          return;
        } catch (error) {
          if (signal.aborted) return;
          onError(asEchoError(error));
          const code = /** @type {any} */ (error)?.code;
          if (!this.options.reconnect || this.state === "closed" || !["connection_closed", "unavailable", "timeout"].includes(code)) return;
          await new Promise((resolve) => setTimeout(resolve, 100));
        }
      }
    };
    run();
    return () => controller.abort();
  }

  /** Round trip and difference of the clocks. @returns {Promise<{ rtt: number, offset: number }>} milliseconds */
  async ping(timeout = 5000) {
    return (await this._connected({}, performance.now() + timeout)).ping(timeout);
  }

  /** Figures of the connection: datagrams, and what the browser knows. */
  async stats() {
    const native = await this.session?.transport.getStats?.().catch(() => undefined);
    return { state: this.state, reconnections: this.reconnections, datagrams: { ...this.session?.datagrams }, transport: native };
  }

  /** Closes for good. @param {number} [code] an application's own, 0 or more @param {string} [reason] */
  close(code, reason = "") {
    if (this.state === "closed") return;
    const error = new EchoError("connection_closed", "closed here");
    const { session } = this;
    this._finish(error);
    session?.close(code === undefined ? Code.NONE : Code.OWN + code, reason, error);
  }
}

/** Messages of a ReadableStream; not every browser iterates over them by itself. @param {ReadableStream} readable */
export async function* iterate(readable) {
  const reader = readable.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.releaseLock();
    readable.cancel().catch(() => {});
  }
}

/** @param {any} hash */
function certificateHash(hash) {
  if (typeof hash !== "string") return hash;
  const text = hash.replace(/^sha-?256:/, "").replace(/:/g, "");
  const value = /^[0-9a-f]{64}$/i.test(text) ? Uint8Array.from(text.match(/../g) ?? [], (pair) => parseInt(pair, 16))
    : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  if (value.length !== 32) throw new TypeError("serverCertificateHashes: a SHA-256 has 32 bytes");
  return { algorithm: "sha-256", value };
}

/**
 * Connects to a server: resolves when it has greeted. With `reconnect`, the first connection is tried once all the same.
 * @param {string | URL} url  "https://HOST:PORT/PATH"
 * @param {ConnectOptions & { prepare?: (client: Client) => void }} [options]  `prepare` registers handlers before the server can call them
 * @returns {Promise<Client>}
 */
export async function connect(url, options = {}) {
  const client = new Client(url, options);
  options.prepare?.(client);
  try {
    await client._dial();
  } catch (error) {
    const failure = error instanceof EchoError ? error : new EchoError("unavailable", messageOf(error));
    client._finish(failure);
    throw failure;
  }
  return client;
}
