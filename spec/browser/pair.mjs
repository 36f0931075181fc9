// Two ends of a WebTransport without a network: what one opens, the other finds among its incoming streams. Bytes arrive in
// other pieces than they were sent in.

class End {
  constructor(seed) {
    this.other = undefined;
    this.random = seed;
    this.streams = new Set();
    this.ready = Promise.resolve();
    this.closed = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.closed.catch(() => {});
    const incoming = () => {
      let controller;
      const readable = new ReadableStream({ start: (c) => void (controller = c) });
      return { readable, give: (value) => controller.enqueue(value), end: () => controller.close() };
    };
    this.bidirectional = incoming();
    this.unidirectional = incoming();
    this.arriving = incoming();
    this.incomingBidirectionalStreams = this.bidirectional.readable;
    this.incomingUnidirectionalStreams = this.unidirectional.readable;
    this.lose = () => false; // which datagrams are lost
    this.datagrams = {
      readable: this.arriving.readable,
      writable: new WritableStream({ write: (bytes) => void (this.lose(bytes) || this.other.arriving.give(bytes.slice())) }),
      maxDatagramSize: 1200,
    };
  }

  next(below) {
    this.random = (this.random * 1103515245 + 12345) & 0x7fffffff;
    return this.random % below;
  }

  direction() {
    const cut = new TransformStream({
      transform: (bytes, controller) => {
        for (let at = 0; at < bytes.length;) {
          const n = Math.min(bytes.length - at, 1 + this.next(bytes.length > 100 ? 5000 : 7));
          controller.enqueue(bytes.slice(at, at + n));
          at += n;
        }
      },
    }, new ByteLengthQueuingStrategy({ highWaterMark: 65536 }), { highWaterMark: 0 });
    const writer = cut.writable;
    this.streams.add(writer);
    this.other.streams.add(writer);
    return cut;
  }

  async createUnidirectionalStream() {
    this.check();
    const { readable, writable } = this.direction();
    this.other.unidirectional.give(readable);
    return writable;
  }

  async createBidirectionalStream() {
    this.check();
    const there = this.direction(), back = this.direction();
    this.other.bidirectional.give({ readable: there.readable, writable: back.writable });
    return { readable: back.readable, writable: there.writable };
  }

  check() {
    if (this.over) throw new Error("the session is closed");
  }

  end(info, error) {
    if (this.over) return;
    this.over = true;
    if (error) this.reject(error);
    else this.resolve(info);
    for (const part of [this.bidirectional, this.unidirectional, this.arriving]) part.end();
  }

  close(info = {}) {
    if (this.over) return;
    const told = { closeCode: info.closeCode ?? 0, reason: info.reason ?? "" };
    this.info = told;
    this.finish(told);
  }

  /** The network goes away. */
  cut() {
    this.finish(undefined, new Error("the network is gone"));
  }

  finish(info, error) {
    if (this.over) return;
    this.end(info, error);
    this.other.end(info, error);
    for (const writer of this.streams) abort(writer);
  }
}

function abort(writable) {
  // A writer that is locked cannot be aborted from here: the stream fails at its next use, as `closed` does at once.
  if (!writable.locked) writable.abort(new Error("the session is closed")).catch(() => {});
}

/** Two ends that belong to each other. */
export function pair(seed = 1) {
  const a = new End(seed), b = new End(seed + 1);
  a.other = b;
  b.other = a;
  return [a, b];
}
