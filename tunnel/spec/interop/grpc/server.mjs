// A gRPC server of @grpc/grpc-js. Prints "ready PORT"; ends when its standard input does.
import { grpc, service, decode } from "./service.mjs";

let cancelled = 0, begun = 0;
const answer = (size) => Buffer.alloc(size, "r");
const echo = (call) => {
  const initial = call.metadata.get("x-grpc-test-echo-initial")[0];
  if (initial) {
    const m = new grpc.Metadata();
    m.set("x-grpc-test-echo-initial", initial);
    call.sendMetadata(m);
  }
  const trailing = new grpc.Metadata();
  const value = call.metadata.get("x-grpc-test-echo-trailing-bin")[0];
  if (value) trailing.set("x-grpc-test-echo-trailing-bin", value);
  return trailing;
};
const failure = (status, metadata) => ({ code: status.code, details: status.message, metadata });

const server = new grpc.Server({ "grpc.max_receive_message_length": -1, "grpc.default_compression_algorithm": process.argv[2] === "gzip" ? 2 : 0 });
server.addService(service, {
  EmptyCall: (call, done) => done(null, Buffer.alloc(0)),
  Stats: (call, done) => done(null, Buffer.from(JSON.stringify({ cancelled, begun }))),
  UnaryCall(call, done) {
    const wish = decode(call.request), trailing = echo(call);
    if (wish.status) return done(failure(wish.status, trailing));
    done(null, answer(wish.size ?? 0), trailing);
  },
  StreamingInput(call, done) {
    let n = 0;
    begun++;
    call.on("data", (m) => (n += decode(m).payload)).on("cancelled", () => cancelled++).on("end", () => done(null, Buffer.from(String(n)), echo(call)));
  },
  StreamingOutput(call) {
    const trailing = echo(call);
    for (const size of decode(call.request).sizes) call.write(answer(size));
    call.end(trailing);
  },
  FullDuplex(call) {
    const trailing = echo(call);
    call.on("cancelled", () => cancelled++);
    call.on("data", (m) => {
      const wish = decode(m);
      if (wish.status) return call.emit("error", failure(wish.status, trailing));
      for (const size of wish.sizes ?? []) call.write(answer(size));
    });
    call.on("end", () => call.end(trailing));
  },
});
server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (err, port) => {
  if (err) throw err;
  console.log("ready " + port);
});
process.stdin.resume().on("end", () => process.exit(0));
