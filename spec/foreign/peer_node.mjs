// The conversation of spec/foreign/README.md on quiche (npm @matrixai/quic).
// Runs from a folder where `npm install` put what package.json names.

import { readFileSync } from 'node:fs';
import { webcrypto } from 'node:crypto';
import Logger, { LogLevel } from '@matrixai/logger';
import { QUICServer, QUICClient, events } from '@matrixai/quic';

const ALPN = 'foreign/1';
const PATIENCE = 10_000;
const text = (bytes) => Buffer.from(bytes).toString('latin1');
const bytes = (string) => new Uint8Array(Buffer.from(string, 'latin1'));
const say = (line) => process.stdout.write(line + '\n');
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${PATIENCE} ms`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

class Coded extends Error {
  constructor(code) {
    super(`code ${code}`);
    this.code = code;
  }
}

const common = {
  logger: new Logger('foreign', LogLevel.SILENT),
  reasonToCode: (_type, reason) => reason?.code ?? 0,
  codeToReason: (_type, code) => new Coded(code),
};

// The code that a reset or a stop came with, however deep the library hides it.
function codeOf(error) {
  for (let e = error; e != null; e = e.cause) {
    if (e.code !== undefined && Number.isInteger(e.code)) return e.code;
  }
  return undefined;
}

const config = {
  verifyPeer: false,
  applicationProtos: [ALPN],
  enableDgram: [true, 100, 100],
  maxIdleTimeout: 30_000,
  initialMaxStreamsBidi: 100,
  initialMaxStreamsUni: 100,
};

// A connection as the conversation sees it.
class Peer {
  constructor(connection) {
    this.connection = connection;
    this.incoming = { bidi: [], uni: [] };
    this.waiting = { bidi: [], uni: [] };
    this.datagrams = [];
    this.closed = new Promise((resolve) => {
      connection.addEventListener(events.EventQUICConnectionClose.name, (event) => resolve(event.detail));
    });
    connection.addEventListener(events.EventQUICConnectionStream.name, (event) => {
      const stream = event.detail;
      const waiter = this.waiting[stream.type].shift();
      if (waiter) waiter(stream);
      else this.incoming[stream.type].push(stream);
    });
  }

  accept(type) {
    const stream = this.incoming[type].shift();
    return stream ? Promise.resolve(stream) : new Promise((resolve) => this.waiting[type].push(resolve));
  }

  open(type = 'bidi') {
    return this.connection.newStream(type);
  }

  // The binding has datagrams below its own connection class only.
  async sendDatagram(data) {
    this.connection.conn.dgramSend(data);
    await this.connection.send();
  }

  async receiveDatagram(ms) {
    for (let waited = 0; waited < ms; waited += 5) {
      const data = this.connection.conn.dgramRecvVec();
      if (data != null) return data;
      await sleep(5);
    }
    return undefined;
  }
}

async function answer(stream, data) {
  const writer = stream.writable.getWriter();
  if (data.length > 0) await writer.write(typeof data === 'string' ? bytes(data) : data);
  await writer.close();
}

async function readAll(reader) {
  const parts = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return Buffer.concat(parts);
    parts.push(Buffer.from(value));
  }
}

const readToEnd = (stream) => within(readAll(stream.readable.getReader()), 'read');

// The acceptor.

const commands = {
  async echo({ stream, reader, rest }) {
    const writer = stream.writable.getWriter();
    if (rest.length > 0) await writer.write(rest);
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      await writer.write(new Uint8Array(value)); // the library reads on into the same memory
    }
    await writer.close();
  },
  async uni({ peer, stream }) {
    await answer(peer.open('uni'), 'from the acceptor');
    await answer(stream, '');
  },
  async open({ peer, stream }) {
    const own = peer.open();
    await answer(own, 'question');
    await answer(stream, await readToEnd(own));
  },
  async reset({ stream, argument }) {
    await stream.writable.abort(new Coded(Number(argument)));
  },
  async stop({ stream, reader, argument }) {
    await reader.cancel(new Coded(Number(argument)));
    await answer(stream, 'stopped');
  },
  async hold({ stream, reader, seen }) {
    seen.hold = 1;
    try {
      await readAll(reader);
    } catch (error) {
      seen.reset = codeOf(error);
    }
    await answer(stream, '').catch(() => {});
  },
  async pour({ stream, seen }) {
    const writer = stream.writable.getWriter();
    try {
      for (;;) await writer.write(bytes('x'.repeat(10_000)));
    } catch (error) {
      seen.stop = codeOf(error);
    }
  },
  async seen({ stream, argument, seen }) {
    await answer(stream, String(seen[argument] ?? 'none'));
  },
  async resumed({ peer, stream }) {
    // The binding makes a TLS context for each connection, with a ticket key of its own: no ticket holds twice.
    await answer(stream, peer.connection.conn.isResumed() ? 'yes' : 'never');
  },
  async close({ peer, argument }) {
    const [, code, why] = /^(\d+) (.*)$/.exec(argument);
    await peer.connection.stop({ isApp: true, errorCode: Number(code), reason: bytes(why) });
  },
};

async function serveStream(peer, stream, seen) {
  const reader = stream.readable.getReader();
  let head = Buffer.alloc(0);
  while (!head.includes(10)) {
    const { done, value } = await reader.read();
    if (done) return;
    head = Buffer.concat([head, Buffer.from(value)]);
  }
  const end = head.indexOf(10);
  const [, word, argument] = /^(\S+) ?(.*)$/.exec(text(head.subarray(0, end)));
  const rest = new Uint8Array(head.subarray(end + 1));
  await commands[word]({ peer, stream, reader, argument, rest, seen });
}

function serveConnection(connection) {
  const peer = new Peer(connection);
  const seen = {};
  let over = false;
  const ignore = () => {};
  (async () => {
    for (;;) serveStream(peer, await peer.accept('bidi'), seen).catch(ignore);
  })();
  (async () => {
    for (;;) {
      const stream = await peer.accept('uni');
      readToEnd(stream).then((data) => answer(peer.open('uni'), text(data).toUpperCase())).catch(ignore);
    }
  })();
  (async () => {
    while (!over) {
      const data = await peer.receiveDatagram(1000);
      if (data != null) await peer.sendDatagram(bytes(text(data).toUpperCase()));
    }
  })().catch(ignore);
  peer.closed.then((error) => {
    over = true;
    const { isApp, errorCode, reason } = error.data ?? {};
    if (isApp && error.constructor.name.includes('Peer')) say(`closed ${errorCode} ${text(reason)}`);
  });
}

async function accept(cert, key) {
  const secret = await webcrypto.subtle.importKey('raw', webcrypto.getRandomValues(new Uint8Array(32)),
    { name: 'HMAC', hash: 'SHA-256' }, true, ['sign', 'verify']);
  const server = new QUICServer({
    crypto: {
      key: await webcrypto.subtle.exportKey('raw', secret),
      ops: {
        sign: (_key, data) => webcrypto.subtle.sign('HMAC', secret, data),
        verify: (_key, data, mac) => webcrypto.subtle.verify('HMAC', secret, mac, data),
      },
    },
    config: { ...config, key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') },
    ...common,
  });
  server.addEventListener(events.EventQUICServerConnection.name, (event) => serveConnection(event.detail));
  await server.start({ host: '127.0.0.1', port: 0 });
  say(`ready 127.0.0.1:${server.port}`);
  setTimeout(() => process.exit(3), 120_000);
}

// The dialler.

async function dial(address) {
  const [host, port] = address.split(':');
  const client = await within(QUICClient.createQUICClient({
    host,
    port: Number(port),
    localHost: '127.0.0.1',
    crypto: { ops: { randomBytes: async (data) => void webcrypto.getRandomValues(new Uint8Array(data)) } },
    config,
    ...common,
  }), 'connect');
  return new Peer(client.connection);
}

function expect(wanted, got) {
  if (wanted !== got) throw new Error(`wanted ${wanted}, got ${got}`);
}

async function command(peer, line) {
  const stream = peer.open();
  const writer = stream.writable.getWriter();
  await writer.write(bytes(line + '\n'));
  return { stream, writer };
}

async function ask(peer, line) {
  const { stream, writer } = await command(peer, line);
  await writer.close();
  return text(await readToEnd(stream));
}

async function expectSeen(peer, what, code) {
  let got = 'none';
  for (let i = 0; i < 100 && got === 'none'; i++) {
    await sleep(20);
    got = await ask(peer, `seen ${what}`);
  }
  expect(String(code), got);
}

const checks = {
  async 'echo'(peer) {
    const data = '0123456789abcdef'.repeat(65536);
    const { stream, writer } = await command(peer, 'echo');
    const sent = writer.write(bytes(data)).then(() => writer.close());
    expect(true, data === text(await readToEnd(stream)));
    await sent;
  },
  async 'ten streams at once'(peer) {
    const all = [];
    for (let i = 0; i < 10; i++) {
      all.push(await command(peer, 'echo'));
      await all[i].writer.write(bytes(`stream ${i}`));
    }
    for (let i = 9; i >= 0; i--) {
      await all[i].writer.close();
      expect(`stream ${i}`, text(await readToEnd(all[i].stream)));
    }
  },
  async 'one-way streams'(peer) {
    await ask(peer, 'uni');
    expect('from the acceptor', text(await readToEnd(await within(peer.accept('uni'), 'accept'))));
    await answer(peer.open('uni'), 'one way');
    expect('ONE WAY', text(await readToEnd(await within(peer.accept('uni'), 'accept'))));
  },
  async 'a stream of the acceptor'(peer) {
    const { stream, writer } = await command(peer, 'open');
    await writer.close();
    const theirs = await within(peer.accept('bidi'), 'accept');
    expect('question', text(await readToEnd(theirs)));
    await answer(theirs, 'answer');
    expect('answer', text(await readToEnd(stream)));
  },
  async 'a reset is told'(peer) {
    const { stream } = await command(peer, 'reset 7');
    const error = await readToEnd(stream).then(() => undefined, (e) => e);
    expect(7, codeOf(error));
  },
  async 'a stop is told'(peer) {
    const { stream, writer } = await command(peer, 'stop 9');
    let error;
    while (error === undefined) {
      await within(writer.write(bytes('x'.repeat(10_000))), 'write').catch((e) => { error = e; });
    }
    expect(9, codeOf(error));
    expect('stopped', text(await readToEnd(stream)));
  },
  async 'a reset arrives'(peer) {
    const { writer } = await command(peer, 'hold');
    await expectSeen(peer, 'hold', 1);
    await writer.abort(new Coded(5));
    await expectSeen(peer, 'reset', 5);
  },
  async 'a stop arrives'(peer) {
    const { stream } = await command(peer, 'pour');
    const reader = stream.readable.getReader();
    await reader.read();
    await reader.cancel(new Coded(6));
    await expectSeen(peer, 'stop', 6);
  },
  async 'datagram'(peer) {
    for (let i = 0; i < 20; i++) {
      await peer.sendDatagram(bytes('ping'));
      const data = await peer.receiveDatagram(500);
      if (data != null) return expect('PING', text(data));
    }
    throw new Error('no answer');
  },
  async 'close is told'(peer) {
    await command(peer, 'close 42 enough');
    const error = await within(peer.closed, 'close');
    expect('42 enough', `${error.data.errorCode} ${text(error.data.reason)}`);
  },
};

async function runChecks(address) {
  let failures = 0;
  const attempt = async (name, run) => {
    try {
      await run();
      say(`ok ${name}`);
    } catch (error) {
      failures++;
      say(`failed ${name}: ${error}`);
    }
  };
  const peer = await dial(address);
  for (const [name, check] of Object.entries(checks)) await attempt(name, () => check(peer));
  say('skipped resumption: the binding takes no session before it connects');
  await attempt('close arrives', async () => {
    const last = await dial(address);
    await ask(last, 'seen stop');
    await last.connection.stop({ isApp: true, errorCode: 43, reason: bytes('done') });
  });
  process.exit(failures === 0 ? 0 : 1);
}

process.on('unhandledRejection', () => {}); // of streams that end with their connection
const [role, first, second] = process.argv.slice(2);
if (role === 'accept') {
  await accept(first, second);
} else {
  setTimeout(() => process.exit(3), 60_000);
  await runChecks(first);
}
